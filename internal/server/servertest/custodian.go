package servertest

import (
	"context"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// Custodian calls a test's function before a real custodian does its work. The function may wait, fail, or panic; nil
// is ignored.
type Custodian struct {
	session.Custodian
	BeforeFetch, BeforeDeposit func(context.Context) error
}

// Fetch implements session.Custodian.
func (c *Custodian) Fetch(ctx context.Context, owner string, set *session.StoredSet) (*tss.Share, error) {
	if c.BeforeFetch != nil {
		if err := c.BeforeFetch(ctx); err != nil {
			return nil, err
		}
	}
	return c.Custodian.Fetch(ctx, owner, set)
}

// Deposit implements session.Custodian.
func (c *Custodian) Deposit(
	ctx context.Context, owner string, set *session.ShareSet, share *tss.Share,
) ([]session.Sealed, error) {
	if c.BeforeDeposit != nil {
		if err := c.BeforeDeposit(ctx); err != nil {
			return nil, err
		}
	}
	return c.Custodian.Deposit(ctx, owner, set, share)
}

// Gate blocks calls: each one announces itself, and waits until the gate opens.
type Gate struct {
	Came chan struct{} // one value for each call that arrived
	open chan struct{}
}

// NewGate returns a closed gate.
func NewGate() *Gate { return &Gate{Came: make(chan struct{}, 64), open: make(chan struct{})} }

// Open lets through all current and future calls. It may be called once.
func (g *Gate) Open() { close(g.open) }

// Wait announces a call and waits until the gate opens; for a Custodian's BeforeFetch or BeforeDeposit, for example.
// It returns ctx's cause once ctx is done.
func (g *Gate) Wait(ctx context.Context) error {
	select {
	case g.Came <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
