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

// suite is a package's tests, built with all of its mutants.
type suite struct {
	target  target
	root    string
	tmp     string
	mutants []*mutant
	binary  string
	tests   []*test // the quick tests
}

type test struct {
	name    string
	cpu     time.Duration
	took    time.Duration // when it ran in the survey
	reaches map[int]bool  // ids of mutants
}

// verdict is the result for a mutant.
type verdict struct {
	killer string // the test that failed; empty: the mutant survived
	hangs  bool   // no test failed, but one did not end
	tests  int    // how many tests reached the mutant
}

// mutate mutates the package's files, and returns the overlay with them.
func (s *suite) mutate() (overlay string, err error) {
	m := &mutator{root: s.root, calls: s.target.calls, parts: s.target.parts}
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
			return "", err
		}
		if err := put(name, code); err != nil {
			return "", err
		}
	}
	s.mutants = m.mutants
	if err := put("mutants_switch.go", switchCode(filepath.Base(s.target.dir), len(m.mutants))); err != nil {
		return "", err
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(s.tmp, "overlay.json")
	return overlay, os.WriteFile(overlay, b, 0o600)
}

// build builds the package's tests with the mutants.
func (s *suite) build(overlay string) error {
	s.binary = filepath.Join(s.tmp, "tests")
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", s.binary, "./"+s.target.dir)
	cmd.Dir = s.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests of %s: %w\n%s", s.target.dir, err, out)
	}
	return nil
}

// run runs tests with additional environment variables, and returns their output and processor time. It kills them when
// they take more processor time than cpu, or more time than limit.
func (s *suite) run(pattern string, cpu, limit time.Duration, env ...string) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit+5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", `ulimit -t "$0" && exec "$@"`, strconv.Itoa(int(cpu/time.Second)+1),
		s.binary, "-test.run", pattern, "-test.failfast", "-test.timeout", limit.String())
	cmd.Dir = filepath.Join(s.root, s.target.dir)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	return out.String(), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
}

// survey runs each test alone without a mutant, to measure how long it takes and which mutants it reaches. It skips
// fuzz targets and slow tests.
func (s *suite) survey(quick time.Duration) error {
	cmd := exec.Command(s.binary, "-test.list", "^Test")
	cmd.Dir = filepath.Join(s.root, s.target.dir)
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards s.tests
	each(strings.Fields(string(out)), func(name string) {
		file := filepath.Join(s.tmp, name+".reached")
		begin := time.Now()
		out, cpu, err := s.run("^"+name+"$", quick, 20*quick, reachedVariable+"="+file)
		t := &test{name: name, cpu: cpu, took: time.Since(begin), reaches: map[int]bool{}}
		b, _ := os.ReadFile(file)
		for id := range strings.FieldsSeq(string(b)) {
			n, _ := strconv.Atoi(id)
			t.reaches[n] = true
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case cpu >= quick:
			fmt.Printf("%s: %s takes more than %v of processor time: skipped\n", s.target.dir, name, quick)
		case err == nil:
			s.tests = append(s.tests, t)
		default:
			fmt.Printf("%s: %s fails alone, without a mutant: skipped: %.300s\n", s.target.dir, name, out)
		}
	})
	// Quick tests that reach few mutants come first: they are the most specific.
	cost := func(t *test) time.Duration { return t.cpu * time.Duration(len(t.reaches)) }
	slices.SortFunc(s.tests, func(a, b *test) int { return cmp.Compare(cost(a), cost(b)) })
	return nil
}

// batchTime is the processor time of the tests that are run together.
const batchTime = time.Second

// try runs the tests that reach a mutant with that mutant, the cheapest first, until one fails.
func (s *suite) try(m *mutant) (v verdict) {
	run := func(batch []*test) {
		var names []string
		var cpu, took time.Duration
		for _, t := range batch {
			names, cpu, took = append(names, t.name), cpu+t.cpu, took+t.took
		}
		out, _, err := s.run("^("+strings.Join(names, "|")+")$", 10*time.Second+5*cpu, 30*time.Second+5*took,
			onVariable+"="+strconv.Itoa(m.id))
		switch {
		case err == nil:
		case timedOut(out, err):
			v.hangs = true
		default:
			v.killer = cmp.Or(failed(out), strings.Join(names, " or "))
		}
	}
	for _, batch := range s.batches(m) {
		v.tests += len(batch)
		before := v.hangs
		if run(batch); v.hangs && !before && len(batch) > 1 { // another test of the batch may fail
			for _, t := range batch {
				if v.killer == "" {
					run([]*test{t})
				}
			}
		}
		if v.killer != "" {
			break
		}
	}
	return v
}

// batches returns the tests that reach a mutant, in batches.
func (s *suite) batches(m *mutant) (all [][]*test) {
	var batch []*test
	var cpu time.Duration
	for _, t := range s.tests {
		if !t.reaches[m.id] {
			continue
		}
		if len(batch) > 0 && cpu+t.cpu > batchTime {
			all, batch, cpu = append(all, batch), nil, 0
		}
		batch, cpu = append(batch, t), cpu+t.cpu
	}
	if len(batch) > 0 {
		all = append(all, batch)
	}
	return all
}

var (
	failLine  = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	panicLine = regexp.MustCompile(`(?m)\.(Test[A-Z]\w*)[.(]`)
)

func timedOut(out string, err error) bool {
	return strings.Contains(out, "panic: test timed out") || errors.Is(err, context.DeadlineExceeded) ||
		strings.Contains(err.Error(), "signal: ")
}

// failed returns the test that failed or panicked, or "".
func failed(out string) string {
	for _, line := range []*regexp.Regexp{failLine, panicLine} {
		if found := line.FindStringSubmatch(out); found != nil {
			return found[1]
		}
	}
	return ""
}

// each calls f for all elements, with at most -workers calls at once.
func each[T any](all []T, f func(T)) {
	var wg sync.WaitGroup
	running := make(chan struct{}, *workers)
	for _, x := range all {
		running <- struct{}{}
		wg.Go(func() {
			defer func() { <-running }()
			f(x)
		})
	}
	wg.Wait()
}
