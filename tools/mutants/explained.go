package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// explained has the mutants that no test can find, as listed in docs/MUTANTS.md.
type explained struct {
	entries []*entry
}

// entry is an entry of the document. It is matched by the text of the code, not by its position.
type entry struct {
	file, function, code, piece, what string
	reason                            string
}

var (
	fileLine  = regexp.MustCompile("^#+ `?([\\w/]+\\.go)`?$")
	entryLine = regexp.MustCompile("^- `([^`]+)`: `([^`]+)`, `([^`]+)` (never|always|skipped|passes|empty): (.+)$")
)

// readExplained reads the document. Below a heading with a file's name there are entries of the form
//
//   - `function`: `statement`, `piece of it` never: the reason
//
// Indented lines continue an entry.
func readExplained(path string) (*explained, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	x := &explained{}
	file := ""
	var last *entry
	for i, line := range strings.Split(string(b), "\n") {
		switch {
		case fileLine.MatchString(line):
			file, last = fileLine.FindStringSubmatch(line)[1], nil
		case file != "" && strings.HasPrefix(line, "- "):
			found := entryLine.FindStringSubmatch(line)
			if found == nil {
				return nil, fmt.Errorf("%s:%d: not of the form - `function`: `statement`, `piece` mutation: reason",
					path, i+1)
			}
			last = &entry{file, found[1], found[2], found[3], found[4], found[5]}
			x.entries = append(x.entries, last)
		case last != nil && strings.HasPrefix(line, "  "):
			last.reason += " " + strings.TrimSpace(line)
		case line != "":
			last = nil
		}
	}
	return x, nil
}

// reason returns why no test can find a mutant, or "".
func (x *explained) reason(m *mutant) string {
	for _, e := range x.entries {
		if e.matches(m) {
			return e.reason
		}
	}
	return ""
}

// stale returns a package's entries that match none of its mutants.
func (x *explained) stale(mutants []*mutant, dir string) (lines []string) {
	for _, e := range x.entries {
		found := filepath.Dir(e.file) != dir
		for _, m := range mutants {
			found = found || e.matches(m)
		}
		if !found {
			lines = append(lines, fmt.Sprintf("%s: `%s`: `%s`, `%s` %s", e.file, e.function, e.code, e.piece, e.what))
		}
	}
	return lines
}

// matches reports whether the entry is about a mutant. The document has quotes instead of backquotes in its code.
func (e *entry) matches(m *mutant) bool {
	plain := func(s string) string { return strings.ReplaceAll(s, "`", "'") }
	return e.file == m.file && e.function == m.function && e.code == plain(m.code) && e.piece == plain(m.piece) &&
		e.what == m.what
}
