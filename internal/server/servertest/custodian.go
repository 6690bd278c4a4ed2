package servertest

import (
	"context"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// Custodian calls a function of the test's before a real custodian does its work. The
// function may wait, fail, or panic; nil does nothing.
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
func (c *Custodian) Deposit(ctx context.Context, owner string, set *session.ShareSet, half *tss.Share) ([]session.Sealed, error) {
	if c.BeforeDeposit != nil {
		if err := c.BeforeDeposit(ctx); err != nil {
			return nil, err
		}
	}
	return c.Custodian.Deposit(ctx, owner, set, half)
}

// Gate holds calls up: each one says that it has come, and waits to be let through.
type Gate struct {
	Came chan struct{} // one value for each call that came
	open chan struct{}
}

// NewGate returns a gate that is closed.
func NewGate() *Gate { return &Gate{Came: make(chan struct{}, 64), open: make(chan struct{})} }

// Open lets through every call that waits or will come. It is called once.
func (g *Gate) Open() { close(g.open) }

// Wait is for a Custodian's BeforeFetch or BeforeDeposit, and for whatever else can wait.
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
