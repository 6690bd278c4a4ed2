package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// explained are the mutants that no test can find, as docs/MUTANTS.md has them.
type explained struct {
	entries []*entry
}

// entry is one line of the document, with its reason: it is found by what the code says, not
// by where that stands.
type entry struct {
	file, function, code, piece, what string
	reason                            string
}

var (
	fileLine  = regexp.MustCompile("^#+ `?([\\w/]+\\.go)`?$")
	entryLine = regexp.MustCompile("^- `([^`]+)`: `([^`]+)`, `([^`]+)` (never|always|skipped|passes|empty): (.+)$")
)

// readExplained reads the document. Below a heading with a file's name stand lines of the form
//
//   - `function`: `statement`, `piece of it` never: the reason
//
// each continued by lines that are indented.
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
				return nil, fmt.Errorf("%s:%d: not of the form - `function`: `statement`, `piece` what becomes of it: reason", path, i+1)
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

// reason returns why no test can find a mutant, or nothing.
func (x *explained) reason(m *mutant) string {
	for _, e := range x.entries {
		if e.is(m) {
			return e.reason
		}
	}
	return ""
}

// stale returns the entries for a package that are of none of its mutants.
func (x *explained) stale(mutants []*mutant, dir string) (lines []string) {
	for _, e := range x.entries {
		found := filepath.Dir(e.file) != dir
		for _, m := range mutants {
			found = found || e.is(m)
		}
		if !found {
			lines = append(lines, fmt.Sprintf("%s: `%s`: `%s`, `%s` %s", e.file, e.function, e.code, e.piece, e.what))
		}
	}
	return lines
}

// is reports whether an entry is about a mutant. A backquote cannot stand in the document's
// code, which has a quote in its place.
func (e *entry) is(m *mutant) bool {
	plain := func(s string) string { return strings.ReplaceAll(s, "`", "'") }
	return e.file == m.file && e.function == m.function && e.code == plain(m.code) && e.piece == plain(m.piece) && e.what == m.what
}
