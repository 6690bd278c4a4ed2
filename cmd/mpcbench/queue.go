package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/session"
)

// Burst is what callers get that all call at once and wait in the queue. Times are in seconds.
type Burst struct {
	Who        string    `json:"who"`
	Provisions int       `json:"provisions"`
	Seconds    float64   `json:"seconds"`   // until all of the run were served, including its other group
	Latencies  []float64 `json:"latencies"` // from the call to the confirmed share set, including refusals and waits
	Latency    Summary   `json:"latency"`
	Refused    int64     `json:"refused"`   // how often a call was told to retry, with RetryInfo
	PeakBytes  int64     `json:"peakBytes"` // resident, of the service and its callers, which are one process
}

// group is a group of callers in a burst.
type group struct {
	who     string
	callers int // each with its own name and connection
	each    int // how many provisions each requests at once
}

// burstRuns are the runs of the section, each with one or more groups, which are lines of the table.
var burstRuns = [][]group{
	{{"25 callers with one each", 25, 1}},
	{{"50 callers with one each", 50, 1}},
	{{"100 callers with one each", 100, 1}},
	{{"200 callers with one each", 200, 1}},
	{{"100 callers with one each, next to:", 100, 1}, {"one caller with 100", 1, 100}},
	{{"400 callers with one each, more than the queue's 256", 400, 1}},
}

// queue measures bursts on ED25519 wallets, whose runs are short, since only the waiting is of interest.
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
	runs := burstRuns
	if b.report.Quick {
		runs = [][]group{{{"4 callers with one each, next to:", 4, 1}, {"one caller with 2", 1, 2}}}
	}
	for _, run := range runs {
		bursts, err := r.bursts(ctx, run, backups)
		if err != nil {
			return err
		}
		for _, c := range bursts {
			b.log.step("queue: %s: p50 %s s, p99 %s s, refused %d times", c.Who, number(c.Latency.Median),
				number(c.Latency.P99), c.Refused)
		}
		b.report.Bursts = append(b.report.Bursts, bursts...)
	}
	return nil
}

// bursts lets all callers of a run call at the same moment. Their connections are made before.
func (r *rig) bursts(ctx context.Context, run []group, backups []string) (bursts []*Burst, err error) {
	type member struct {
		dev   *caller
		burst *Burst
		each  int
	}
	var all []member
	for i, g := range run {
		c := &Burst{Who: g.who, Provisions: g.callers * g.each}
		bursts = append(bursts, c)
		for j := range g.callers {
			dev, err := r.dialAs(ctx, fmt.Sprintf("caller-%d-%d", i, j))
			if err != nil {
				return nil, err
			}
			defer func() { _ = dev.conn.Close() }() // its calls are over
			all = append(all, member{dev, c, g.each})
		}
	}
	var mu sync.Mutex // guards the bursts' latencies, and failed
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
				g.burst.Latencies = append(g.burst.Latencies, time.Since(began).Seconds())
				failed = errors.Join(failed, err)
			})
		}
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	most, err := peak()
	for _, g := range all {
		g.burst.Refused += g.dev.meter.refused.Load()
	}
	for _, c := range bursts {
		c.Seconds, c.PeakBytes, c.Latency = took, most, summarize(c.Latencies)
	}
	return bursts, errors.Join(failed, err)
}

// callerKeyName is the metadata key with which a caller of the rig names itself, without authentication: the rig
// listens on loopback, for one run of the benchmark.
const callerKeyName = "bench-caller"

// namedCaller is an Authenticator that trusts a call's metadata.
func namedCaller(ctx context.Context) (session.Caller, error) {
	c, err := app.DevCaller(ctx)
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
