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
	"regexp"
	"slices"
	"strings"
)

// mutant is a mutation of one piece of a check.
type mutant struct {
	id       int // from 1, in the order of the files
	file     string
	line     int
	function string // with its receiver's type: "side.accept"
	code     string // the statement, up to its body
	piece    string // of the statement: a condition, a call or an argument
	what     string // the mutation of the piece
}

// The mutations.
const (
	never   = "never"   // a condition never holds
	always  = "always"  // a condition always holds
	skipped = "skipped" // a call is not made
	passes  = "passes"  // a call's error is not returned
	empty   = "empty"   // an argument of a hash is empty
)

// mutator finds the mutants in one package's files, and writes code with a switch for each.
type mutator struct {
	root    string         // of the repository
	calls   *regexp.Regexp // as in target
	parts   *regexp.Regexp // as in target
	mutants []*mutant

	// Of the current file:
	file     string
	src      []byte
	set      *token.FileSet
	function string
	before   map[*ast.IfStmt]ast.Stmt // the statement before each if
	done     map[ast.Expr]bool        // expressions within conditions that were found already
	edits    []edit
}

// edit inserts code before and after a piece.
type edit struct {
	from, to       int // offsets
	prefix, suffix string
}

// mutate returns the file's code with a switch for each mutant.
func (m *mutator) mutate(file string) ([]byte, error) {
	src, err := os.ReadFile(filepath.Join(m.root, file))
	if err != nil {
		return nil, err
	}
	m.file, m.src, m.set, m.edits = file, src, token.NewFileSet(), nil
	m.before, m.done = map[*ast.IfStmt]ast.Stmt{}, map[ast.Expr]bool{}
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
		if m.parts == nil || m.parts.MatchString(filepath.Base(file)+" "+m.function) {
			ast.Inspect(d, m.visit)
		}
	}
	return m.rewritten(), nil
}

func (m *mutator) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FuncDecl:
		m.returned(n.Type, n.Body)
	case *ast.FuncLit:
		m.returned(n.Type, n.Body)
	case *ast.BlockStmt:
		m.note(n.List)
	case *ast.CaseClause:
		m.note(n.Body)
	case *ast.IfStmt:
		m.found(n.Cond, m.header(n), false)
	case *ast.SwitchStmt:
		if n.Tag == nil {
			m.cases(n.Body)
		}
	case *ast.ReturnStmt:
		for _, e := range n.Results {
			if isBool(e) {
				m.found(e, m.text(n), true)
			}
		}
	case *ast.BinaryExpr: // anywhere else, such as in an assignment or argument
		if !m.done[n] && (n.Op == token.LAND || n.Op == token.LOR) {
			m.found(n, m.text(n), true)
		}
	case *ast.ExprStmt:
		if m.calls != nil && m.calls.MatchString(m.text(n)) {
			m.add(n.X, m.text(n), skipped)
		}
	case *ast.CallExpr:
		m.hashed(n)
	case *ast.CompositeLit:
		if n.Type != nil && m.text(n.Type) == "[][]byte" {
			m.empty(n.Elts, m.text(n))
		}
	}
	return true
}

// found adds the mutants of a condition, once.
func (m *mutator) found(e ast.Expr, code string, predicate bool) {
	m.condition(e, code, predicate)
	ast.Inspect(e, func(n ast.Node) bool {
		if b, ok := n.(*ast.BinaryExpr); ok {
			m.done[b] = true
		}
		_, literal := n.(*ast.FuncLit)
		return !literal
	})
}

func (m *mutator) cases(body *ast.BlockStmt) {
	for _, s := range body.List {
		if c, ok := s.(*ast.CaseClause); ok {
			for _, e := range c.List {
				m.found(e, m.between(c.Case, c.Colon), false)
			}
		}
	}
}

// returned finds the calls whose errors a function returns unchanged. Calls that make or wrap an error are not checks.
func (m *mutator) returned(typ *ast.FuncType, body *ast.BlockStmt) {
	if body == nil || typ.Results == nil {
		return
	}
	last := typ.Results.List[len(typ.Results.List)-1]
	if m.text(last.Type) != "error" {
		return
	}
	ast.Inspect(body, func(n ast.Node) bool {
		r, ok := n.(*ast.ReturnStmt)
		if ok && len(r.Results) == typ.Results.NumFields() {
			if call, ok := r.Results[len(r.Results)-1].(*ast.CallExpr); ok && !makesError.MatchString(m.text(call.Fun)) {
				m.add(call, m.text(r), passes)
			}
		}
		_, literal := n.(*ast.FuncLit)
		return !literal
	})
}

var makesError = regexp.MustCompile(`^(fmt\.Errorf|errors\.\w+|context\.Cause|\w+Error|badAnswer|blame|` +
	`\w+\.blame(In)?|failed|withoutPath|notThere|cmp\.Or)$`)

// hashed finds the arguments that are hashed, each prefixed with its length.
func (m *mutator) hashed(call *ast.CallExpr) {
	name := m.text(call.Fun)
	switch {
	case call.Ellipsis.IsValid():
	case name == "put", strings.HasSuffix(name, ".fingerprint"),
		name == "append" && strings.HasSuffix(m.text(call.Args[0]), ".fields()"):
		m.empty(call.Args[1:], m.text(call))
	}
}

func (m *mutator) empty(all []ast.Expr, code string) {
	for _, e := range all {
		m.add(e, code, empty)
	}
}

func (m *mutator) note(list []ast.Stmt) {
	for i, s := range list {
		if f, ok := s.(*ast.IfStmt); ok && i > 0 {
			m.before[f] = list[i-1]
		}
	}
}

// header returns the code of an if up to its body. If that is short, such as "if err != nil", it is preceded by the
// statement before it.
func (m *mutator) header(f *ast.IfStmt) string {
	code := m.between(f.If, f.Body.Lbrace)
	if before := m.before[f]; before != nil && f.Init == nil && len(code) < 20 {
		if _, also := before.(*ast.IfStmt); !also {
			code = m.text(before) + "; " + code
		}
	}
	return code
}

// isBool reports whether an expression is a condition, as far as its syntax shows.
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

// condition adds the mutants of one condition: it never holds, each operand of an || never holds, and each operand of
// an && always holds. A predicate may be used as a check either way, so it also always holds.
func (m *mutator) condition(e ast.Expr, code string, predicate bool) {
	b := compound(e)
	if b == nil {
		m.add(e, code, never)
		if predicate {
			m.add(e, code, always)
		}
		return
	}
	gone, whole := never, always
	if b.Op == token.LAND {
		gone, whole = always, never
	}
	for _, o := range operands(b, b.Op) {
		if compound(o) != nil {
			m.condition(o, code, predicate)
		} else {
			m.add(o, code, gone)
		}
	}
	if predicate || whole == never {
		m.add(b, code, whole)
	}
}

// operands returns the operands of a chain of one operator.
func operands(e ast.Expr, op token.Token) []ast.Expr {
	if b, ok := e.(*ast.BinaryExpr); ok && b.Op == op {
		return append(operands(b.X, op), operands(b.Y, op)...)
	}
	return []ast.Expr{e}
}

// compound returns the && or || expression in e, without parentheses and negations, or nil.
func compound(e ast.Expr) *ast.BinaryExpr {
	switch x := e.(type) {
	case *ast.ParenExpr:
		return compound(x.X)
	case *ast.UnaryExpr:
		if x.Op == token.NOT {
			return compound(x.X)
		}
	case *ast.BinaryExpr:
		if x.Op == token.LAND || x.Op == token.LOR {
			return x
		}
	}
	return nil
}

func (m *mutator) add(e ast.Expr, code, what string) {
	n := &mutant{
		id: len(m.mutants) + 1, file: m.file, line: m.set.Position(e.Pos()).Line,
		function: m.function, code: code, piece: m.text(e), what: what,
	}
	m.mutants = append(m.mutants, n)
	at := edit{from: m.offset(e.Pos()), to: m.offset(e.End())}
	switch what {
	case never:
		at.prefix, at.suffix = "(", fmt.Sprintf(" && !mutantIsOn(%d))", n.id)
	case always:
		at.prefix, at.suffix = "(", fmt.Sprintf(" || mutantIsOn(%d))", n.id)
	case skipped:
		at.prefix, at.suffix = fmt.Sprintf("func() { if !mutantIsOn(%d) { ", n.id), " } }()"
	case passes:
		at.prefix, at.suffix = fmt.Sprintf("mutantPasses(%d, ", n.id), ")"
	case empty:
		typ := ""
		if lit, ok := e.(*ast.CompositeLit); ok && lit.Type == nil {
			typ = "[]byte" // an element of a composite literal may omit its type
		}
		at.prefix, at.suffix = fmt.Sprintf("mutantEmpty(%d, %s", n.id, typ), ")"
	}
	m.edits = append(m.edits, at)
}

// rewritten applies the edits. Edits that begin or end in the same place are nested.
func (m *mutator) rewritten() []byte {
	before, after := map[int][]edit{}, map[int][]edit{}
	for _, e := range m.edits {
		before[e.from] = append([]edit{e}, before[e.from]...) // of the same piece, the first is innermost
		after[e.to] = append(after[e.to], e)
	}
	var out bytes.Buffer
	for i := range len(m.src) + 1 {
		slices.SortStableFunc(after[i], func(a, b edit) int { return cmp.Compare(b.from, a.from) })
		for _, e := range after[i] {
			out.WriteString(e.suffix)
		}
		slices.SortStableFunc(before[i], func(a, b edit) int { return cmp.Compare(b.to, a.to) })
		for _, e := range before[i] {
			out.WriteString(e.prefix)
		}
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

// switchCode returns a file that declares the functions that the edits call.
func switchCode(pkg string, mutants int) []byte {
	return fmt.Appendf(nil, `package %s

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
)

var (
	mutantOn, _    = strconv.Atoi(os.Getenv(%q))
	mutantsReached = os.Getenv(%q)
	mutantsSeen    [%d]atomic.Bool
)

func mutantIsOn(n int) bool {
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

func mutantPasses(n int, err error) error {
	if mutantIsOn(n) {
		return nil
	}
	return err
}

func mutantEmpty(n int, b []byte) []byte {
	if mutantIsOn(n) {
		return nil
	}
	return b
}
`, pkg, onVariable, reachedVariable, mutants+1)
}

const (
	onVariable      = "MUTANT"         // the id of the active mutant
	reachedVariable = "MUTANT_REACHED" // the file to which a test writes the ids of the mutants that it reaches
)
