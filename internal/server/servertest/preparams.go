package servertest

import (
	"context"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// PreParams calls a test's function before a real source hands out a set. The function may wait, fail, or panic. A
// run on a wallet of SECP256K1 whose pre-params wait or fail computes nothing.
type PreParams struct {
	Source session.PreParams
	Before func(context.Context) error
}

// Claim implements session.PreParams.
func (p *PreParams) Claim(ctx context.Context, party tss.Party) (*tss.PreParams, error) {
	if err := p.Before(ctx); err != nil {
		return nil, err
	}
	return p.Source.Claim(ctx, party)
}

// ClaimReady implements session.PreParams.
func (p *PreParams) ClaimReady(ctx context.Context, party tss.Party) (*tss.PreParams, error) {
	if err := p.Before(ctx); err != nil {
		return nil, err
	}
	return p.Source.ClaimReady(ctx, party)
}

// Ready implements session.PreParams.
func (p *PreParams) Ready(ctx context.Context, party tss.Party) (plenty bool, err error) {
	return p.Source.Ready(ctx, party)
}

// Pause implements session.PreParams.
func (p *PreParams) Pause() { p.Source.Pause() }

// Resume implements session.PreParams.
func (p *PreParams) Resume() { p.Source.Resume() }
