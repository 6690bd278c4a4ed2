package imports_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// longTag is how a file begins whose tests `make test-long` runs, by their name. There may be
// more: "long && linux".
const longTag = "//go:build long"

// A test that takes long is called TestLong... and stands in a file with the tag "long", whose
// name says so. Otherwise `make test` would run it too, or nothing would: `make test` builds
// without the tag, and `make test-long` runs what is called so.
func TestTagOfLongTests(t *testing.T) {
	long := 0
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		first := ""
		if file.Comments != nil {
			first = file.Comments[0].List[0].Text
		}
		tagged := first == longTag || strings.HasPrefix(first, longTag+" && ")
		require.Equal(t, strings.HasSuffix(path, "_long_test.go"), tagged, "%s: the name and the first line (%q) do not fit", path, longTag)
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !isTest(f.Name.Name) {
				continue
			}
			require.Equal(t, tagged, strings.HasPrefix(f.Name.Name, "TestLong"), "%s: %s", path, f.Name.Name)
			if tagged {
				long++
			}
		}
		return nil
	}))
	require.Positive(t, long, "there are long tests")
}

// isTest reports whether `go test` runs a function of that name.
func isTest(name string) bool {
	for _, prefix := range []string{"Test", "Fuzz", "Benchmark", "Example"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
