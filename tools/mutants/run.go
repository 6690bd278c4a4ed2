package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// suite is a package's tests, built once with all its mutants.
type suite struct {
	target  target
	root    string
	tmp     string
	mutants []*mutant
	binary  string
	tests   []*test // those that are quick enough
}

type test struct {
	name    string
	took    time.Duration
	reaches map[int]bool
}

// verdict is what became of a mutant.
type verdict struct {
	killer string // a test; empty: it lives
	hangs  bool   // no test fails, but one does not end
	tests  int    // that reach it
}

// build mutates the package's files in an overlay, and builds its tests.
func (s *suite) build() error {
	m := &mutator{root: s.root, calls: s.target.calls}
	replace := map[string]string{}
	dir := filepath.Join(s.root, s.target.dir)
	put := func(name string, code []byte) error {
		to := filepath.Join(s.tmp, name)
		replace[filepath.Join(dir, name)] = to
		return os.WriteFile(to, code, 0o600)
	}
	for _, name := range s.target.files {
		code, err := m.mutate(filepath.Join(s.target.dir, name))
		if err != nil {
			return err
		}
		if err := put(name, code); err != nil {
			return err
		}
	}
	s.mutants = m.mutants
	if err := put("mutants_switch.go", switchCode(filepath.Base(s.target.dir), len(m.mutants))); err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	file := filepath.Join(s.tmp, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return err
	}
	s.binary = filepath.Join(s.tmp, "tests")
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay", file, "-o", s.binary, "./"+s.target.dir)
	cmd.Dir = s.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests of %s: %w\n%s", s.target.dir, err, out)
	}
	return nil
}

// run runs tests with some environment, and returns what they print.
func (s *suite) run(pattern string, limit time.Duration, env ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit+5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.binary, "-test.run", pattern, "-test.failfast", "-test.timeout", limit.String())
	cmd.Dir = filepath.Join(s.root, s.target.dir)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	return out.String(), err
}

// survey runs each test alone without a mutant: how long it takes, and what it reaches. Fuzz
// targets, and tests that are not quick, are left out.
func (s *suite) survey(quick time.Duration) error {
	cmd := exec.Command(s.binary, "-test.list", "^Test")
	cmd.Dir = filepath.Join(s.root, s.target.dir)
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var faults []error
	each(strings.Fields(string(out)), func(name string) {
		file := filepath.Join(s.tmp, name+".reached")
		begin := time.Now()
		out, err := s.run("^"+name+"$", quick, reachedVariable+"="+file)
		t := &test{name: name, took: time.Since(begin), reaches: map[int]bool{}}
		b, _ := os.ReadFile(file)
		for id := range strings.FieldsSeq(string(b)) {
			n, _ := strconv.Atoi(id)
			t.reaches[n] = true
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			s.tests = append(s.tests, t)
		case t.took >= quick:
			fmt.Printf("%s: %s takes more than %v: left out\n", s.target.dir, name, quick)
		default:
			faults = append(faults, fmt.Errorf("%s: %s fails without a mutant: %w\n%s", s.target.dir, name, err, out))
		}
	})
	slices.SortFunc(s.tests, func(a, b *test) int { return cmp.Compare(a.took, b.took) })
	return errors.Join(faults...)
}

// batchTime is how long the tests take together that are tried in one go.
const batchTime = 2 * time.Second

// try runs the tests that reach a mutant with it, the quickest first, until one fails.
func (s *suite) try(m *mutant) (v verdict) {
	var batch []*test
	var took time.Duration
	run := func(batch []*test, took time.Duration) {
		var names []string
		for _, t := range batch {
			names = append(names, t.name)
		}
		out, err := s.run("^("+strings.Join(names, "|")+")$", 10*time.Second+5*took, onVariable+"="+strconv.Itoa(m.id))
		if err == nil {
			return
		}
		if timedOut(out, err) {
			v.hangs = true
			return
		}
		v.killer = cmp.Or(failed(out), strings.Join(names, " or "))
	}
	flush := func() {
		if len(batch) == 0 || v.killer != "" {
			return
		}
		hung := v.hangs
		if run(batch, took); v.hangs && !hung && len(batch) > 1 { // the others may fail
			for _, t := range batch {
				if v.killer == "" {
					run([]*test{t}, t.took)
				}
			}
		}
		batch, took = nil, 0
	}
	for _, t := range s.tests {
		if !t.reaches[m.id] {
			continue
		}
		v.tests++
		if took+t.took > batchTime {
			flush()
		}
		batch, took = append(batch, t), took+t.took
	}
	flush()
	return v
}

var (
	failLine  = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	panicLine = regexp.MustCompile(`(?m)\.(Test[A-Z]\w*)[.(]`)
)

func timedOut(out string, err error) bool {
	return strings.Contains(out, "panic: test timed out") || errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "signal: killed")
}

// failed returns the test that failed, or panicked.
func failed(out string) string {
	for _, line := range []*regexp.Regexp{failLine, panicLine} {
		if found := line.FindStringSubmatch(out); found != nil {
			return found[1]
		}
	}
	return ""
}

// each calls f for all, as many at once as -workers says.
func each[T any](all []T, f func(T)) {
	var wg sync.WaitGroup
	places := make(chan struct{}, *workers)
	for _, x := range all {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			f(x)
		})
	}
	wg.Wait()
}
