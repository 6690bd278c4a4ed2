// Command mpcbench compares mpcd with bare tss-lib, alternating in one process, so that both run on the same machine
// under the same conditions: safe primes, pre-params, provisions through a running service, and concurrent callers.
//
// It prints tables; with --json it keeps every sample. It prints only what it measured. It is the only program
// besides internal/tss that imports tss-lib.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	played, err := role(ctx, os.Args[1:])
	if !played {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(usageError)):
		os.Exit(2) // already printed
	case err != nil:
		fmt.Fprintf(os.Stderr, "mpcbench: %v\n", err)
		os.Exit(1)
	}
}

// settings is the command line.
type settings struct {
	json, plot, markdown, profile, only string
	quick                               bool
}

// usageError is an invalid command line.
type usageError struct{ error }

func parse(args []string, stderr io.Writer) (*settings, error) {
	var s settings
	f := flag.NewFlagSet("mpcbench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.json, "json", "", "write every sample to this `file`; "+
		"with --only, its results of other sections are kept")
	f.StringVar(&s.plot, "plot", "", "draw the concurrency curve into this PNG `file`, if that section is run")
	f.StringVar(&s.markdown, "markdown", "", "write the tables in Markdown to this `file`")
	f.StringVar(&s.profile, "cpuprofile", "", "write a CPU profile to this `file`; bare tss-lib's part has the label "+
		"side=tss-lib")
	f.StringVar(&s.only, "only", "", "run only these `sections`, separated by commas: "+
		strings.Join(sectionNames(), ", "))
	f.BoolVar(&s.quick, "quick", false, "a smoke run of some seconds, whose figures are meaningless")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, usageError{err}
	}
	if f.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q", f.Arg(0))
		f.Usage()
		return nil, usageError{err}
	}
	return &s, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	todo, err := chosen(s.only, s.quick)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "mpcbench: %v\n", err)
		return usageError{err}
	}
	p := fullPlan
	if s.quick {
		p = quickPlan
	}
	r := &Report{Machine: thisMachine(), Started: time.Now(), Quick: s.quick, Begun: map[string]time.Time{},
		Pairs: []*Pair{}}
	b := &bench{plan: p, log: &progress{out: stderr, start: r.Started}, report: r}
	stop, err := profile(s.profile)
	if err != nil {
		return err
	}
	err = errors.Join(b.run(ctx, todo), stop())
	r.Seconds = time.Since(r.Started).Seconds()
	if err == nil && s.only != "" && s.json != "" {
		err = r.keep(s.json)
	}
	r.judge()
	if err != nil {
		// Show what was measured so far, without touching files of an earlier run.
		r.Early = true
		return errors.Join(err, r.writeText(stdout))
	}
	return s.write(r, stdout)
}

// profile starts a CPU profile if requested.
func profile(path string) (stop func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// write writes the report to all requested places.
func (s *settings) write(r *Report, stdout io.Writer) error {
	err := r.writeText(stdout)
	if s.json != "" {
		err = errors.Join(err, r.writeJSON(s.json))
	}
	if s.markdown != "" {
		err = errors.Join(err, r.writeMarkdown(s.markdown))
	}
	if s.plot != "" && len(r.Levels) > 0 {
		err = errors.Join(err, r.plot(s.plot))
	}
	return err
}
