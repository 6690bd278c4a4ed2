package imports_test

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	// URLs may have "docs/" or "README.md" in them, and are no business of these tests.
	urls      = regexp.MustCompile(`[a-z]+://[^\s)"'` + "`" + `>]+`)
	documents = regexp.MustCompile(`[\w./-]*[\w-]+\.md\b|\bdocs/[\w/-]+(\.[\w]+)*`)
	links     = regexp.MustCompile(`\]\(([^)\s#]*)(?:#([^)\s]+))?\)`)
	decisions = regexp.MustCompile(`\bADRs? 0*(\d{1,4})\b`)
	headings  = regexp.MustCompile(`(?m)^#+ +(.+)$`)
)

// made are documents that programs write where they are told to, or into directories that
// .gitignore names.
var made = []string{".bench/bench.md", ".bench/device.md", ".load/load.md", "bench.md", "load.md", "out/load.md", "work/load.md", "b.md", "TABLE.md"}

// Every document that a comment or another document names is in the repository: in its root,
// in docs/, or beside what names it. Links lead to files, and their anchors to headings.
func TestDocumentsThatAreNamedExist(t *testing.T) {
	named := 0
	require.NoError(t, filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci" || d.Name() == "node_modules"):
			return fs.SkipDir
		case !d.Type().IsRegular() || d.Name() == "go.sum":
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			return err
		}
		for _, wrong := range dangling(name, string(text)) {
			t.Errorf("%s names %s, which is not in the repository", name, wrong)
		}
		named += len(documents.FindAllString(string(text), -1))
		return nil
	}))
	require.Greater(t, named, 200)
}

func TestDanglingNamesAreFound(t *testing.T) {
	gone, decision := "no-such"+".md", "0099"
	for text, want := range map[string][]string{
		"see docs/DESIGN.md, DESIGN.md and README.md":          nil,
		"docs/adr/0007, docs/adr, ADR 7 and ADR 0007":          nil,
		"https://example.org/docs/" + gone:                     nil,
		"`" + gone + "` and docs/" + gone + ".":                {gone, "docs/" + gone},
		"docs/adr/" + decision + " and ADR " + decision:        {"docs/adr/" + decision, "ADR " + decision[2:]},
		"[a](docs/DESIGN.md#words) [b](#read-on) [c](LICENSE)": nil,
		"[a](docs/DESIGN.md#no" + "where)":                     {"docs/DESIGN.md#no" + "where"},
		"[a](cmd/no" + "where)":                                {"cmd/no" + "where"},
	} {
		require.Equal(t, want, dangling("README.md", text), text)
	}
}

// dangling returns what the text of the named file names, and is not there.
func dangling(name, text string) (all []string) {
	markdown := strings.HasSuffix(name, ".md")
	text = urls.ReplaceAllString(text, "")
	for _, m := range documents.FindAllString(text, -1) {
		if !slices.Contains(made, m) && !exists(name, m) {
			all = append(all, m)
		}
	}
	for _, m := range decisions.FindAllStringSubmatch(text, -1) {
		if !exists(name, "docs/adr/"+("0000" + m[1])[len(m[1]):]) {
			all = append(all, "ADR "+m[1])
		}
	}
	if !markdown {
		return all
	}
	for _, m := range links.FindAllStringSubmatch(text, -1) {
		to := name
		if m[1] != "" {
			to = path.Join(path.Dir(name), m[1])
		}
		if _, err := os.Stat(to); err != nil || m[2] != "" && !slices.Contains(anchors(to), m[2]) {
			all = append(all, strings.Trim(m[1]+"#"+m[2], "#"))
		}
	}
	return all
}

// exists reports whether a document is in the root, in docs/ or beside the file that names it.
// One that is named without its extension, as docs/adr/0007 is, may go on behind a dash.
func exists(by, document string) bool {
	for _, dir := range []string{".", "docs", path.Dir(by)} {
		if _, err := os.Stat(path.Join(dir, document)); err == nil {
			return true
		}
		if found, _ := filepath.Glob(path.Join(dir, document) + "-*.md"); len(found) > 0 && path.Ext(document) == "" {
			return true
		}
	}
	return false
}

// anchors returns what the headings of a document are linked by.
func anchors(document string) (all []string) {
	text, err := os.ReadFile(document)
	if err != nil {
		return nil
	}
	for _, h := range headings.FindAllStringSubmatch(string(text), -1) {
		a := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(h[1]), "")
		all = append(all, strings.ReplaceAll(a, " ", "-"))
	}
	return all
}

// Every test that the two lists of guards name is there, so that no row stands on nothing,
// and so is every function that docs/tss-lib.md links to.
func TestListsOfGuardsNameWhatThereIs(t *testing.T) {
	var code bytes.Buffer
	require.NoError(t, filepath.WalkDir(".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		b, err := os.ReadFile(name)
		code.Write(b)
		return err
	}))
	guards := 0
	for _, document := range []string{"docs/THREAT-MODEL.md", "docs/tss-lib.md"} {
		text, err := os.ReadFile(document)
		require.NoError(t, err)
		tests := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`").FindAllStringSubmatch(string(text), -1)
		require.Greater(t, len(tests), 40)
		for _, m := range tests {
			if !strings.Contains(code.String(), "\nfunc "+m[1]+"(") { // not require.Contains, which would print all code
				t.Errorf("%s is named in %s, and is no test", m[1], document)
			}
		}
		for _, m := range regexp.MustCompile("\\[`(?:\\w+\\.)?(\\w+)`\\]\\(\\.\\./([^)]+\\.go)\\)").FindAllStringSubmatch(string(text), -1) {
			b, err := os.ReadFile(m[2])
			require.NoError(t, err, document)
			declared := regexp.MustCompile(`(?m)^(func (\([^)]+\) )?|const |var |type |\t)` + m[1] + `\b`)
			require.True(t, declared.Match(b), "%s links to %s in %s, which is not there", document, m[1], m[2])
			guards++
		}
	}
	require.Greater(t, guards, 30)
}
