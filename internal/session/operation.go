package session

import (
	"context"
)

// operation is what a request asks for.
type operation interface {
	// prepare checks the request against the store, before anything is recorded. If it fails, the error goes to the
	// caller and there is no session.
	prepare(ctx context.Context, s *runner) (*plan, error)
	// execute does the work of a run that has its slot, and returns what to commit.
	execute(ctx context.Context, s *runner, w *work, p *plan) (*made, error)
}

// job is a request that may become a session.
type job struct {
	operation
	op          Operation
	caller      Caller
	requestID   string
	walletID    string // empty for a new wallet
	fingerprint []byte
	device      *Device // runs the client's side; nil: hosted
}

// plan is a request that passed its checks.
type plan struct {
	operation
	walletID string
	owner    string  // the wallet's
	uses     string  // the set to reshare or sign with; empty for a new wallet
	source   *source // the same set; nil for a new wallet
	payload  []byte  // what to sign; a device's proof covers it
	curves   []Curve // of the keys to make, or of the key to sign with
	arms     bool    // the run will be armed, see Budget
	// question is for the policy, which is asked about a device-held run after its device has proved its share; nil:
	// there is none.
	question *Question
}

// wipe wipes the secrets of the plan.
func (p *plan) wipe() {
	if p.source != nil {
		p.source.client.Wipe()
	}
}

// prepareJob calls j.prepare, and audits a refusal.
func (s *runner) prepareJob(ctx context.Context, j job) (*plan, error) {
	p, err := j.prepare(ctx, s)
	if err != nil {
		s.auditRefusal(ctx, Entry{
			Caller: j.caller.Name, Action: "session.begin", WalletID: j.walletID, Detail: j.op.String(),
		}, err)
	}
	return p, err
}

// askPolicy asks the policy, if there is one.
func (s *runner) askPolicy(ctx context.Context, q Question) error {
	if s.ports.Policy == nil {
		return nil
	}
	return s.ports.Policy.Allow(ctx, q)
}
