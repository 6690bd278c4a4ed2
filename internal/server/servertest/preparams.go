package servertest

import (
	"context"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// PreParams calls a function of the test's before a real source hands out a set. The
// function may wait, fail, or panic. A wallet of SECP256K1 whose pre-params wait or fail
// makes a run that computes nothing.
type PreParams struct {
	Source session.PreParams
	Before func(context.Context) error
}

// PreParams implements session.PreParams.
func (p *PreParams) PreParams(ctx context.Context) (*tss.PreParams, error) {
	if err := p.Before(ctx); err != nil {
		return nil, err
	}
	return p.Source.PreParams(ctx)
}

// Pause implements session.PreParams.
func (p *PreParams) Pause() { p.Source.Pause() }

// Resume implements session.PreParams.
func (p *PreParams) Resume() { p.Source.Resume() }
