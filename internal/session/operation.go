package session

import (
	"context"
)

// operation is what a request asks for.
type operation interface {
	// prepare checks the request against the store, before anything is recorded. Its error goes to
	// the caller, and leaves no session behind.
	prepare(ctx context.Context, s *runner) (*plan, error)
	// execute does the work of a run that has its place, and returns what is to be committed.
	execute(ctx context.Context, s *runner, w *work, p *plan) (*made, error)
}

// job is one request on its way to becoming a session.
type job struct {
	operation
	op          Operation
	caller      Caller
	requestID   string
	walletID    string // empty for a new wallet
	fingerprint []byte
	device      *Device // runs the client's side; nil: hosted
}

// plan is a request that may run.
type plan struct {
	operation
	walletID string
	owner    string  // of the wallet
	uses     string  // the set that is reshared or signs; empty for a new wallet
	source   *source // the same; nil for a new wallet
	payload  []byte  // what is signed: what a device's hello is about
	curves   []Curve // of the keys that are made, or the one that is signed with
	arms     bool    // the run is armed on its way, see Budget
	// question is for the policy, of a device-held run: it is asked when the device has shown its
	// share. nil: there is none to ask.
	question *Question
}

// end wipes the secrets that the plan holds.
func (p *plan) end() {
	if p.source != nil {
		p.source.client.Wipe()
	}
}

// prepared checks the request, and notes where it is refused.
func (s *runner) prepared(ctx context.Context, j job) (*plan, error) {
	p, err := j.prepare(ctx, s)
	if err != nil {
		s.refused(ctx, Entry{Caller: j.caller.Name, Action: "session.begin", WalletID: j.walletID, Detail: j.op.String()}, err)
	}
	return p, err
}

// allowed asks the policy, where there is one.
func (s *runner) allowed(ctx context.Context, q Question) error {
	if s.ports.Policy == nil {
		return nil
	}
	return s.ports.Policy.Allow(ctx, q)
}
