package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Level is what a number of concurrent callers get, each of which provisions again as soon as it has its answer.
// Times are in seconds.
type Level struct {
	Callers      int       `json:"callers"`
	Provisions   int       `json:"provisions"`
	Seconds      float64   `json:"seconds"`
	PerMinute    float64   `json:"perMinute"`
	Latencies    []float64 `json:"latencies"` // from the ciphertext to the confirmed share set
	Firsts       []float64 `json:"firsts"`    // from the call to its first progress message
	Latency      Summary   `json:"latency"`
	FirstMessage Summary   `json:"firstMessage"`
	PeakBytes    int64     `json:"peakBytes"` // resident, of the service and its callers, which are one process
}

// concurrency measures one level after the other, each with a warm pool.
func (b *bench) concurrency(ctx context.Context) error {
	r, err := b.idleRig(ctx)
	if err != nil {
		return err
	}
	var backups []string
	for i := range b.plan.wallets {
		b.log.step("concurrency: makes wallet %d of %d, and its backup", i+1, b.plan.wallets)
		cipherText, err := r.wallet(ctx, b.plan.curves)
		if err != nil {
			return err
		}
		backups = append(backups, cipherText)
	}
	b.report.Curves = named(b.plan.curves)
	for _, callers := range b.plan.callers {
		l, err := b.level(ctx, r, backups, callers)
		if err != nil {
			return fmt.Errorf("%d callers: %w", callers, err)
		}
		b.report.Levels = append(b.report.Levels, l)
		b.log.step("concurrency %d: %.1f a minute, p50 %s s, p99 %s s", callers, l.PerMinute, number(l.Latency.Median),
			number(l.Latency.P99))
	}
	return nil
}

// rounds is the minimum number of provisions per caller.
const rounds = 2

func (b *bench) level(ctx context.Context, r *rig, backups []string, callers int) (l *Level, err error) {
	l = &Level{Callers: callers, Provisions: max(b.plan.perLevel, rounds*callers)}
	b.log.step("concurrency %d: fills the pool for %d provisions", callers, l.Provisions)
	if err := r.stock(ctx, l.Provisions*needs(b.plan.curves)); err != nil {
		return nil, err
	}
	devices := make([]*caller, callers)
	for i := range devices {
		if devices[i], err = r.dial(ctx); err != nil {
			return nil, err
		}
		defer func() { _ = devices[i].conn.Close() }() // its calls are over
	}
	peak := watchMemory()
	start := time.Now()
	l.Latencies, err = provisionAll(ctx, devices, backups, l.Provisions)
	l.Seconds = time.Since(start).Seconds()
	most, memErr := peak()
	if err := errors.Join(err, memErr); err != nil {
		return nil, err
	}
	for _, d := range devices {
		for _, c := range d.meter.take() {
			l.Firsts = append(l.Firsts, c.first.Seconds())
		}
	}
	l.PerMinute = float64(l.Provisions) / l.Seconds * 60
	l.Latency, l.FirstMessage, l.PeakBytes = summarize(l.Latencies), summarize(l.Firsts), most
	return l, nil
}

// provisionAll lets all devices provision until there are n provisions, and returns how long each took. The first
// failure ends it.
func provisionAll(ctx context.Context, devices []*caller, backups []string, n int) ([]float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	took := make([]float64, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for _, d := range devices {
		wg.Go(func() { // ends when all are done, or with the first failure
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				start := time.Now()
				if err := d.provision(ctx, backups[i%len(backups)]); err != nil {
					cancel(err)
					return
				}
				took[i] = time.Since(start).Seconds()
			}
		})
	}
	wg.Wait()
	return took, context.Cause(ctx)
}
