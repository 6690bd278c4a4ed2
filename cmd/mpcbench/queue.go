package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/service"
	"github.com/mpcd/mpcd/internal/session"
)

// Crowd is what callers get who all come at once and wait for their turn. Times are in
// seconds.
type Crowd struct {
	Who        string    `json:"who"`
	Provisions int       `json:"provisions"`
	Seconds    float64   `json:"seconds"`   // until all of the run were served, its other crowd included
	Latencies  []float64 `json:"latencies"` // from the call to the confirmed share set, refusals and waits included
	Latency    Summary   `json:"latency"`
	Refused    int64     `json:"refused"`   // how often a call was told to come again, with RetryInfo
	PeakBytes  int64     `json:"peakBytes"` // resident, of the service and its callers, who are one process
}

// guests are callers of one crowd.
type guests struct {
	who     string
	callers int // each with a name and a connection of its own
	each    int // how many provisions one asks for, all at once
}

// crowdRuns are the runs of the section: one line or more in the table for each.
var crowdRuns = [][]guests{
	{{"25 callers with one each", 25, 1}},
	{{"50 callers with one each", 50, 1}},
	{{"100 callers with one each", 100, 1}},
	{{"200 callers with one each", 200, 1}},
	{{"100 callers with one each, beside:", 100, 1}, {"one caller with 100", 1, 100}},
	{{"400 callers with one each, beyond the queue's 256 places", 400, 1}},
}

// queue measures crowds on ED25519 wallets, whose runs are short: what is looked at is the
// waiting.
func (b *bench) queue(ctx context.Context) (err error) {
	r, err := openRig(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	var backups []string
	for range b.plan.wallets {
		cipherText, err := r.wallet(ctx, bothCurves[1:])
		if err != nil {
			return err
		}
		backups = append(backups, cipherText)
	}
	runs := crowdRuns
	if b.report.Quick {
		runs = [][]guests{{{"4 callers with one each, beside:", 4, 1}, {"one caller with 2", 1, 2}}}
	}
	for _, run := range runs {
		crowds, err := r.crowds(ctx, run, backups)
		if err != nil {
			return err
		}
		for _, c := range crowds {
			b.log.step("queue: %s: p50 %s s, p99 %s s, refused %d times", c.Who, number(c.Latency.Median),
				number(c.Latency.P99), c.Refused)
		}
		b.report.Crowds = append(b.report.Crowds, crowds...)
	}
	return nil
}

// crowds lets all guests of a run call at the same moment. Each connection is made before.
func (r *rig) crowds(ctx context.Context, run []guests, backups []string) (crowds []*Crowd, err error) {
	type guest struct {
		dev   *caller
		crowd *Crowd
		each  int
	}
	var all []guest
	for i, g := range run {
		c := &Crowd{Who: g.who, Provisions: g.callers * g.each}
		crowds = append(crowds, c)
		for j := range g.callers {
			dev, err := r.dialAs(ctx, fmt.Sprintf("guest-%d-%d", i, j))
			if err != nil {
				return nil, err
			}
			defer func() { _ = dev.conn.Close() }() // its calls are over
			all = append(all, guest{dev, c, g.each})
		}
	}
	var mu sync.Mutex // guards the crowds' latencies, and failed
	var failed error
	var wg sync.WaitGroup
	peak := watchMemory()
	start := time.Now()
	for i, g := range all {
		for j := range g.each {
			wg.Go(func() { // ends with its call
				began := time.Now()
				err := g.dev.provision(ctx, backups[(i+j)%len(backups)])
				mu.Lock()
				defer mu.Unlock()
				g.crowd.Latencies = append(g.crowd.Latencies, time.Since(began).Seconds())
				failed = errors.Join(failed, err)
			})
		}
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	most, err := peak()
	for _, g := range all {
		g.crowd.Refused += g.dev.meter.refused.Load()
	}
	for _, c := range crowds {
		c.Seconds, c.PeakBytes, c.Latency = took, most, summarize(c.Latencies)
	}
	return crowds, errors.Join(failed, err)
}

// callerKeyName is the metadata in which a caller of the rig says who it is. The rig
// believes it: it listens on loopback, for one run of the benchmark.
const callerKeyName = "bench-caller"

// whoever names a call by what it says.
func whoever(ctx context.Context) (session.Caller, error) {
	c, err := service.DevCaller(ctx)
	if name := metadata.ValueFromIncomingContext(ctx, callerKeyName); len(name) == 1 {
		c.Name = name[0]
	}
	return c, err
}

// callerName is sent with each call.
type callerName string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (n callerName) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{callerKeyName: string(n)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (n callerName) RequireTransportSecurity() bool { return false }

// dial connects a device, whose calls are metered.
func (r *rig) dial(ctx context.Context, opts ...client.Option) (*caller, error) {
	return r.dialAs(ctx, "bench", opts...)
}
