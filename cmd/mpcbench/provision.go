package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"

	"github.com/mpcd/mpcd/client"
)

// bare is what bare tss-lib reshares: a key on each curve.
type bare struct {
	ecdsa *bareECDSA
	eddsa *bareEdDSA
	pre   [parties]*eckeygen.LocalPreParams // for the next resharing; nil if it generates its own
}

// newBare generates the keys of the curves.
func newBare(ctx context.Context, curves []client.Curve) (*bare, error) {
	k := new(bare)
	var err error
	if slices.Contains(curves, client.CurveSecp256k1) {
		pre, err := givenPair(ctx)
		if err != nil {
			return nil, err
		}
		if k.ecdsa, err = newBareECDSA(ctx, pre); err != nil {
			return nil, err
		}
	}
	if slices.Contains(curves, client.CurveEd25519) {
		k.eddsa, err = newBareEdDSA(ctx)
	}
	return k, err
}

// give generates the pre-params of the next resharing.
func (k *bare) give(ctx context.Context) (err error) {
	if k.ecdsa != nil {
		k.pre, err = givenPair(ctx)
	}
	return err
}

// reshare reshares one key after the other.
func (k *bare) reshare(ctx context.Context) error {
	if k.ecdsa != nil {
		if err := k.ecdsa.reshare(ctx, k.pre); err != nil {
			return err
		}
	}
	if k.eddsa != nil {
		return k.eddsa.reshare(ctx)
	}
	return nil
}

// needs returns how many sets of pre-params one side of a run on the curves takes.
func needs(curves []client.Curve) int {
	if slices.Contains(curves, client.CurveSecp256k1) {
		return setsPerRun
	}
	return 0
}

func named(curves []client.Curve) string {
	names := make([]string, len(curves))
	for i, c := range curves {
		names[i] = string(c)
	}
	return strings.Join(names, " + ")
}

// oppose sets up both parts of a contest: a wallet of mpcd's to provision, and keys of bare tss-lib. end must be
// called.
func (b *bench) oppose(ctx context.Context, r *rig, c *contest,
	curves []client.Curve) (k *bare, end func(), err error) {
	b.log.step("%s: makes a wallet and its backup, and the keys of bare tss-lib", c.name)
	cipherText, err := r.wallet(ctx, curves)
	if err != nil {
		return nil, nil, err
	}
	if k, err = newBare(ctx, curves); err != nil {
		return nil, nil, err
	}
	dev, err := r.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	c.title += ", " + named(curves)
	c.ours = func(ctx context.Context) error { return dev.provision(ctx, cipherText) }
	c.theirs = k.reshare
	return k, func() { _ = dev.conn.Close() }, nil // its calls are over
}

// warm compares with a pool that has exactly what a sample needs, and is not being filled.
func (b *bench) warm(ctx context.Context, name string, n int, curves []client.Curve) error {
	r, err := b.idleRig(ctx)
	if err != nil {
		return err
	}
	c := &contest{name: name, title: "warm provision", n: n}
	k, end, err := b.oppose(ctx, r, c, curves)
	if err != nil {
		return err
	}
	defer end()
	c.prepareOurs = func(ctx context.Context) error { return r.stock(ctx, needs(curves)) }
	c.prepareTheirs = k.give
	return b.pair(ctx, c)
}

// cold compares with an empty pool, and with tss-lib's parties that generate their own.
func (b *bench) cold(ctx context.Context) error {
	r, err := b.idleRig(ctx)
	if err != nil {
		return err
	}
	c := &contest{name: "cold", title: "cold provision", n: b.plan.slow}
	_, end, err := b.oppose(ctx, r, c, b.plan.curves)
	if err != nil {
		return err
	}
	defer end()
	c.prepareOurs = func(ctx context.Context) error { return r.stock(ctx, 0) }
	return b.pair(ctx, c)
}

// endless is a depth that no filler reaches while a benchmark runs.
const endless = 1 << 20

// filling compares while the service fills its pool. The filler pauses while bare tss-lib, which has none, runs.
func (b *bench) filling(ctx context.Context) (err error) {
	r, err := openRig(ctx, endless)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	c := &contest{name: "filling", title: "provision while the pool is filled", n: b.plan.samples}
	k, end, err := b.oppose(ctx, r, c, b.plan.curves)
	if err != nil {
		return err
	}
	defer end()
	r.svc.Pool.Pause()
	time.Sleep(fillerRests)
	before, err := r.depth(ctx)
	if err != nil {
		return err
	}
	c.prepareOurs = func(ctx context.Context) error {
		r.svc.Pool.Resume()
		return r.filled(ctx, needs(b.plan.curves))
	}
	c.prepareTheirs = func(ctx context.Context) error {
		r.svc.Pool.Pause()
		time.Sleep(fillerRests)
		return k.give(ctx)
	}
	if err := b.pair(ctx, c); err != nil {
		return err
	}
	after, err := r.depth(ctx)
	if err != nil {
		return err
	}
	made := after - before + c.n*needs(b.plan.curves)
	b.report.last().Note = fmt.Sprintf("the filler completed %d sets between and during the samples", made)
	return nil
}

const (
	fillerRests = 200 * time.Millisecond // more than a filler takes to stop
	fillerWorks = 200 * time.Millisecond // so that a sample interrupts it during a search
)

// filled waits until the filler has made at least n sets, and works on the next.
func (r *rig) filled(ctx context.Context, n int) error {
	for {
		have, err := r.depth(ctx)
		if err != nil {
			return err
		}
		time.Sleep(fillerWorks)
		if have >= n {
			return ctx.Err()
		}
	}
}
