package main

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"time"
)

// Sample is the cost of one measurement, in seconds. CPU is the whole process's, on all cores, user and system,
// including the garbage collector.
type Sample struct {
	Wall float64 `json:"wall"`
	CPU  float64 `json:"cpu"`
}

// measure runs f once. Earlier garbage is collected first, so that it does not count.
func measure(f func() error) (Sample, error) {
	runtime.GC()
	cpu, err := cpuTime()
	if err != nil {
		return Sample{}, err
	}
	start := time.Now()
	if err := f(); err != nil {
		return Sample{}, err
	}
	wall := time.Since(start)
	end, err := cpuTime()
	return Sample{Wall: wall.Seconds(), CPU: (end - cpu).Seconds()}, err
}

// cpuTime returns what the process has used so far.
func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// Pair compares a figure of mpcd's with one of tss-lib's, measured alternately: A B A B.
type Pair struct {
	Name   string   `json:"name"`
	Title  string   `json:"title"`
	Ours   []Sample `json:"ours"`
	Theirs []Sample `json:"theirs"` // of bare tss-lib; Theirs[i] was measured right after Ours[i]
	Note   string   `json:"note,omitempty"`

	Wall Comparison `json:"wall"`
	CPU  Comparison `json:"cpu"`
}

// Comparison is one dimension of a Pair.
type Comparison struct {
	Ours   Summary `json:"ours"`
	Theirs Summary `json:"theirs"`
	Ratio  Ratio   `json:"ratio"`
}

// compare computes the comparisons from the samples.
func (p *Pair) compare() {
	p.Wall = compared(p.Ours, p.Theirs, func(s Sample) float64 { return s.Wall })
	p.CPU = compared(p.Ours, p.Theirs, func(s Sample) float64 { return s.CPU })
}

func compared(ours, theirs []Sample, dimension func(Sample) float64) Comparison {
	a, b := values(ours, dimension), values(theirs, dimension)
	return Comparison{Ours: summarize(a), Theirs: summarize(b), Ratio: ratio(a, b)}
}

func values(samples []Sample, dimension func(Sample) float64) []float64 {
	out := make([]float64, len(samples))
	for i, s := range samples {
		out[i] = dimension(s)
	}
	return out
}

// contest says how a Pair is measured. The prepare functions are not measured; they may be nil.
type contest struct {
	name, title   string
	n             int
	prepareOurs   func(context.Context) error
	ours          func(context.Context) error
	prepareTheirs func(context.Context) error
	theirs        func(context.Context) error
}

// measure takes the samples of both, alternately.
func (c *contest) measure(ctx context.Context, log *progress) (*Pair, error) {
	p := &Pair{Name: c.name, Title: c.title}
	for i := range c.n {
		a, err := sample(ctx, c.prepareOurs, c.ours)
		if err != nil {
			return nil, fmt.Errorf("%s, mpcd: %w", c.title, err)
		}
		b, err := sample(ctx, c.prepareTheirs, c.theirs)
		if err != nil {
			return nil, fmt.Errorf("%s, tss-lib: %w", c.title, err)
		}
		p.Ours, p.Theirs = append(p.Ours, a), append(p.Theirs, b)
		log.step("%s %d/%d: mpcd %s s, tss-lib %s s", c.name, i+1, c.n, number(a.Wall), number(b.Wall))
	}
	p.compare()
	return p, nil
}

func sample(ctx context.Context, prepare, run func(context.Context) error) (Sample, error) {
	if err := ctx.Err(); err != nil {
		return Sample{}, err
	}
	if prepare != nil {
		if err := prepare(ctx); err != nil {
			return Sample{}, err
		}
	}
	return measure(func() error { return run(ctx) })
}
