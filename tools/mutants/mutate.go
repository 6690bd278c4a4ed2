package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutant is one condition of the code that is put out of action: it never holds, or always.
type mutant struct {
	id       int // from 1, in the order of the files
	file     string
	line     int
	function string // with its receiver's type: "side.accept"
	code     string // the statement, up to its body
	cond     string
	always   bool
}

func (m *mutant) what() string {
	if m.always {
		return "always"
	}
	return "never"
}

// mutator finds the conditions of one package's files, and writes the code in which each can
// be put out of action.
type mutator struct {
	root    string // of the repository
	mutants []*mutant

	// Of the file that is read:
	file     string
	src      []byte
	set      *token.FileSet
	function string
	before   map[*ast.IfStmt]ast.Stmt // the statement before it
	edits    []edit
}

// edit puts an expression into a call that may put another value in its place.
type edit struct {
	from, to int // offsets
	suffix   string
}

// mutate returns the file's code with a switch in each condition.
func (m *mutator) mutate(file string) ([]byte, error) {
	src, err := os.ReadFile(filepath.Join(m.root, file))
	if err != nil {
		return nil, err
	}
	m.file, m.src, m.set, m.edits = file, src, token.NewFileSet(), nil
	m.before = map[*ast.IfStmt]ast.Stmt{}
	tree, err := parser.ParseFile(m.set, file, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, d := range tree.Decls {
		m.function = "package"
		if f, ok := d.(*ast.FuncDecl); ok {
			m.function = f.Name.Name
			if f.Recv != nil {
				m.function = strings.TrimLeft(m.text(f.Recv.List[0].Type), "*") + "." + m.function
			}
		}
		m.walk(d)
	}
	return m.rewritten(), nil
}

// walk finds the conditions below a declaration.
func (m *mutator) walk(d ast.Node) {
	done := map[ast.Expr]bool{} // the operands of what was found
	found := func(e ast.Expr, code string) {
		m.condition(e, code)
		ast.Inspect(e, func(n ast.Node) bool {
			if b, ok := n.(*ast.BinaryExpr); ok {
				done[b] = true
			}
			_, literal := n.(*ast.FuncLit)
			return !literal
		})
	}
	ast.Inspect(d, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
			m.note(n.List)
		case *ast.CaseClause:
			m.note(n.Body)
		case *ast.IfStmt:
			found(n.Cond, m.header(n))
		case *ast.SwitchStmt:
			if n.Tag != nil {
				break
			}
			for _, c := range n.Body.List {
				c := c.(*ast.CaseClause)
				for _, e := range c.List {
					found(e, m.between(c.Case, c.Colon))
				}
			}
		case *ast.ReturnStmt:
			for _, e := range n.Results {
				if isBool(e) {
					found(e, m.text(n))
				}
			}
		case *ast.BinaryExpr: // elsewhere: what is assigned, or an argument
			if !done[n] && (n.Op == token.LAND || n.Op == token.LOR) {
				found(n, m.text(n))
			}
		}
		return true
	})
}

func (m *mutator) note(list []ast.Stmt) {
	for i, s := range list {
		if f, ok := s.(*ast.IfStmt); ok && i > 0 {
			m.before[f] = list[i-1]
		}
	}
}

// header is the code of an if up to its body; where that says little, such as "if err != nil",
// after the statement before it.
func (m *mutator) header(f *ast.IfStmt) string {
	code := m.between(f.If, f.Body.Lbrace)
	if before := m.before[f]; before != nil && f.Init == nil && len(code) < len("if err != nil")+6 {
		if _, also := before.(*ast.IfStmt); !also {
			code = m.text(before) + "; " + code
		}
	}
	return code
}

// isBool reports whether an expression is a condition by its looks.
func isBool(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.ParenExpr:
		return isBool(e.X)
	case *ast.UnaryExpr:
		return e.Op == token.NOT
	case *ast.BinaryExpr:
		switch e.Op {
		case token.LAND, token.LOR, token.EQL, token.NEQ, token.LSS, token.LEQ, token.GTR, token.GEQ:
			return true
		}
	}
	return false
}

// condition adds the mutants of one condition. Each operand of an || never holds, and each
// of an && always: then it is not there. The whole is the other way round. What is neither
// is both.
func (m *mutator) condition(e ast.Expr, code string) {
	inner := e
	for {
		if p, ok := inner.(*ast.ParenExpr); ok {
			inner = p.X
		} else if n, ok := inner.(*ast.UnaryExpr); ok && n.Op == token.NOT {
			if _, ok := n.X.(*ast.ParenExpr); !ok {
				break
			}
			inner = n.X
		} else {
			break
		}
	}
	b, ok := inner.(*ast.BinaryExpr)
	if !ok || b.Op != token.LAND && b.Op != token.LOR {
		m.add(e, code, false)
		m.add(e, code, true)
		return
	}
	and := b.Op == token.LAND
	for _, o := range operands(b, b.Op) {
		if compound(o) {
			m.condition(o, code)
		} else {
			m.add(o, code, and)
		}
	}
	m.add(inner, code, !and)
}

// operands returns those of a chain of one operator.
func operands(e ast.Expr, op token.Token) []ast.Expr {
	if b, ok := e.(*ast.BinaryExpr); ok && b.Op == op {
		return append(operands(b.X, op), operands(b.Y, op)...)
	}
	return []ast.Expr{e}
}

func compound(e ast.Expr) bool {
	for {
		switch x := e.(type) {
		case *ast.ParenExpr:
			e = x.X
		case *ast.UnaryExpr:
			if x.Op != token.NOT {
				return false
			}
			e = x.X
		case *ast.BinaryExpr:
			return x.Op == token.LAND || x.Op == token.LOR
		default:
			return false
		}
	}
}

func (m *mutator) add(e ast.Expr, code string, always bool) {
	n := &mutant{
		id: len(m.mutants) + 1, file: m.file, line: m.set.Position(e.Pos()).Line,
		function: m.function, code: code, cond: m.text(e), always: always,
	}
	m.mutants = append(m.mutants, n)
	suffix := fmt.Sprintf(" && !%s(%d))", switchName, n.id)
	if always {
		suffix = fmt.Sprintf(" || %s(%d))", switchName, n.id)
	}
	m.edits = append(m.edits, edit{m.offset(e.Pos()), m.offset(e.End()), suffix})
}

// rewritten applies the edits. What ends in one place ends from the inside outwards.
func (m *mutator) rewritten() []byte {
	before, after := map[int]int{}, map[int][]edit{}
	for _, e := range m.edits {
		before[e.from]++
		after[e.to] = append(after[e.to], e)
	}
	var out bytes.Buffer
	for i := range len(m.src) + 1 {
		slices.SortStableFunc(after[i], func(a, b edit) int { return cmp.Compare(b.from, a.from) })
		for _, e := range after[i] {
			out.WriteString(e.suffix)
		}
		out.WriteString(strings.Repeat("(", before[i]))
		if i < len(m.src) {
			out.WriteByte(m.src[i])
		}
	}
	return out.Bytes()
}

func (m *mutator) offset(p token.Pos) int { return m.set.Position(p).Offset }

func (m *mutator) text(n ast.Node) string { return m.between(n.Pos(), n.End()) }

// between returns code on one line.
func (m *mutator) between(from, to token.Pos) string {
	return strings.Join(strings.Fields(string(m.src[m.offset(from):m.offset(to)])), " ")
}

// switchName is the function that says whether a mutant is the one that is tried.
const switchName = "mutantIsOn"

// switchCode declares it.
func switchCode(pkg string, mutants int) []byte {
	return fmt.Appendf(nil, `package %s

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
)

var (
	mutantOn, _      = strconv.Atoi(os.Getenv(%q))
	mutantsReached   = os.Getenv(%q)
	mutantsSeen      [%d]atomic.Bool
)

func %s(n int) bool {
	if mutantsReached != "" && !mutantsSeen[n].Swap(true) {
		f, err := os.OpenFile(mutantsReached, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(f, n)
		f.Close()
	}
	return n == mutantOn
}
`, pkg, onVariable, reachedVariable, mutants+1, switchName)
}

const (
	onVariable      = "MUTANT"         // the mutant that is tried
	reachedVariable = "MUTANT_REACHED" // a file that says which a test reaches
)
