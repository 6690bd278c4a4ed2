package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mpcd/mpcd/client"
)

// plan says how much to measure.
type plan struct {
	bits     int // of the safe primes
	primes   int // found by mpcd's search
	samples  int // of each Pair
	slow     int // of the Pair that takes half a minute per sample
	fast     int // of the Pair that takes a tenth of a second
	curves   []client.Curve
	callers  []int
	perLevel int // minimum of provisions at each level of concurrency
	wallets  int // used for these provisions
	wire     int // provisions whose bytes are counted
}

var (
	bothCurves = []client.Curve{client.CurveSecp256k1, client.CurveEd25519}
	fullPlan   = plan{
		bits: 1024, primes: 300, samples: 10, slow: 8, fast: 50, curves: bothCurves,
		callers: []int{1, 2, 4, 8, 16}, perLevel: 10, wallets: 4, wire: 3,
	}
	// quickPlan shows that the program works. Its figures are meaningless, so they are not checked against targets.
	quickPlan = plan{
		bits: 256, primes: 4, samples: 2, slow: 1, fast: 2, curves: []client.Curve{client.CurveEd25519},
		callers: []int{1, 2}, perLevel: 4, wallets: 1, wire: 1,
	}
)

// bench runs sections in turn and fills a report.
type bench struct {
	plan   plan
	log    *progress
	report *Report
	rig    *rig // without a filler; nil until it is needed
}

// section is a part of the benchmark that can be run separately.
type section struct {
	name  string
	about string
	slow  bool // omitted from a quick run unless requested
	run   func(*bench, context.Context) error
}

var sections = []section{
	{"prime", "one safe prime", false, (*bench).safePrimes},
	{"preparams", "one set of pre-params", true, (*bench).preParamsSets},
	{"warm", "a provision with a warm pool, both curves", true, func(b *bench, ctx context.Context) error {
		return b.warm(ctx, "warm", b.plan.samples, bothCurves)
	}},
	{"ecdsa", "the same, SECP256K1 alone", true, func(b *bench, ctx context.Context) error {
		return b.warm(ctx, "ecdsa", b.plan.samples, bothCurves[:1])
	}},
	{"eddsa", "the same, ED25519 alone", false, func(b *bench, ctx context.Context) error {
		return b.warm(ctx, "eddsa", b.plan.fast, bothCurves[1:])
	}},
	{"overhead", "what a provision spends outside the protocol", false, (*bench).overhead},
	{"filling", "a provision while the pool is filled", false, (*bench).filling},
	{"cold", "a provision with an empty pool", true, (*bench).cold},
	{"concurrency", "several callers at once", false, (*bench).concurrency},
	{"queue", "many callers waiting in the queue", false, (*bench).queue},
	{"wire", "bytes of one provision", false, (*bench).wire},
	{"device", "a provision whose client's side runs on the device", true, (*bench).device},
}

// sectionNames lists all sections.
func sectionNames() []string {
	names := make([]string, len(sections))
	for i, s := range sections {
		names[i] = s.name
	}
	return names
}

// chosen returns the sections to run: those named in only, separated by commas, or the default ones.
func chosen(only string, quick bool) ([]section, error) {
	if only == "" {
		return slices.DeleteFunc(slices.Clone(sections), func(s section) bool { return quick && s.slow }), nil
	}
	names := strings.Split(only, ",")
	for _, n := range names {
		if !slices.Contains(sectionNames(), n) {
			return nil, fmt.Errorf("--only: there is no section %q; there are %s", n, strings.Join(sectionNames(), ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(sections), func(s section) bool { return !slices.Contains(names, s.name) }), nil
}

// run runs the sections in order.
func (b *bench) run(ctx context.Context, todo []section) (err error) {
	defer func() {
		if b.rig != nil {
			err = errors.Join(err, b.rig.stop())
		}
	}()
	for _, s := range todo {
		b.log.step("%s: %s", s.name, s.about)
		if err := s.run(b, ctx); err != nil {
			return fmt.Errorf("section %s: %w", s.name, err)
		}
		b.report.Begun[s.name] = b.report.Started
	}
	return nil
}

// pair measures a contest and adds it to the report.
func (b *bench) pair(ctx context.Context, c *contest) error {
	p, err := c.measure(ctx, b.log)
	if err == nil {
		b.report.Pairs = append(b.report.Pairs, p)
	}
	return err
}

// idleRig returns the service whose pool is filled only by stock.
func (b *bench) idleRig(ctx context.Context) (*rig, error) {
	if b.rig == nil {
		r, err := openRig(ctx, 0)
		if err != nil {
			return nil, err
		}
		b.rig = r
	}
	return b.rig, nil
}
