package client_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The SDK's constants are exactly the service's reasons.
func TestReasonsAreTheServices(t *testing.T) {
	t.Parallel()
	ofService := texts(t, "../internal/session/errors.go", "Err", func(value ast.Expr) ast.Expr {
		address, ok := value.(*ast.UnaryExpr)
		if !ok {
			return nil
		}
		lit, ok := address.X.(*ast.CompositeLit)
		if !ok || len(lit.Elts) != 1 {
			return nil
		}
		return lit.Elts[0]
	})
	require.Greater(t, len(ofService), 20)
	require.Equal(t, ofService, texts(t, "reasons.go", "Reason", func(value ast.Expr) ast.Expr { return value }))
}

// texts returns the string values that a file declares for names with a prefix, by the rest of the name. textOf returns
// the string in a declaration's value, or nil.
func texts(t *testing.T, file, prefix string, textOf func(ast.Expr) ast.Expr) map[string]string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	require.NoError(t, err)
	all := map[string]string{}
	for _, d := range parsed.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range group.Specs {
			value, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for i, v := range value.Values {
				text, ok := textOf(v).(*ast.BasicLit)
				name, has := strings.CutPrefix(value.Names[i].Name, prefix)
				if !ok || !has {
					continue
				}
				all[name], err = strconv.Unquote(text.Value)
				require.NoError(t, err)
			}
		}
	}
	return all
}
