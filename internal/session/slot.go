package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mpcd/mpcd/internal/tss"
)

const (
	// proofTime is how long a device has for its hello, where it may be silent for so long: it
	// needs one round trip, on a bad network some seconds.
	proofTime = 30 * time.Second

	// maxUnproven is how many sessions of one caller wait for their devices' hellos: so many
	// begin in a round trip of a service that calls for many users. One more ends the oldest.
	maxUnproven = 1024

	// maxBadProofs is how many hellos of one caller may prove nothing at once, and refillProofs
	// when there is one more.
	maxBadProofs = 10
	refillProofs = 30 * time.Second

	// refillCreates is when a caller may begin one more wallet that takes pre-params; a hosted one
	// has its own made otherwise.
	// The pool's filler makes a set in less, on two cores.
	refillCreates = 10 * time.Second

	// maxHello is more than a hello takes. While a run waits for its place, it is held.
	maxHello = 1 << 10

	// maxWaiting bounds the bytes of what devices sent and no run has taken yet, over all runs.
	maxWaiting = 64 << 20
)

// place gets a run its place, and returns when it has it. A hosted run's ticket stands in the
// queue already: its request has the share. A device-held run gets its ticket when its device
// has shown that it has the share, and nothing is taken or computed for it before.
func (s *runner) place(ctx context.Context, w *work, p *plan, t *ticket) (*ticket, error) {
	r := w.run
	if r.device != nil {
		if err := s.entitle(ctx, r, w.rec, p); err != nil {
			return nil, err
		}
		if err := s.checkSet(ctx, r, w.rec, p); err != nil {
			return nil, err
		}
		err := s.enrol(ctx, r, w.rec)
		if err != nil {
			return nil, err
		}
		if t, err = s.devices.enqueue(w.rec.Caller, w.rec.Operation); err != nil {
			return nil, err
		}
		if position := t.at(); position > 0 {
			r.queued(position)
		}
	}
	if err := t.wait(ctx, r.queued); err != nil {
		t.leave()
		return nil, fmt.Errorf("wait for a slot: %w", err)
	}
	if r.device != nil {
		r.device.setPlace(t)
	}
	return t, nil
}

// entitle waits until a run's device has shown that it has its share, and asks the policy: who has a
// token alone must not use up a customer's webhook.
func (s *runner) entitle(ctx context.Context, r *Run, rec *Session, p *plan) error {
	if r.entitled { // it has taken over
		return nil
	}
	if err := s.awaitProof(ctx, r, rec, p); err != nil {
		return err
	}
	if p.question != nil {
		if err := s.allowed(ctx, *p.question); err != nil {
			return err
		}
	}
	r.entitled = true
	return nil
}

var errNoHello = errors.New("a first part that is no hello")

// awaitProof waits for the hello of a run's device, and holds its proof against the client's share of
// the set that the run uses. A device that makes a new wallet has nothing to prove.
func (s *runner) awaitProof(ctx context.Context, r *Run, rec *Session, p *plan) error {
	s.unproven.add(r)
	defer s.unproven.remove(r)
	within := min(proofTime, s.cfg.DeviceSilence)
	late := fmt.Errorf("%w: no hello of the device within %v", ErrInterrupted, within)
	ctx, cancel := context.WithTimeoutCause(ctx, within, late)
	defer cancel()
	hello, err := r.device.awaitHello(ctx)
	if err != nil {
		return err
	}
	switch {
	case p.source == nil && hello == nil:
		return fromTSS(&tss.ProtocolError{Culprit: tss.Client, Err: errNoHello})
	case hello == nil:
		err = fmt.Errorf("%w: %w", tss.ErrShareMismatch, errNoHello)
	case p.source != nil:
		err = hello.VerifyProof(&tss.HelloContext{
			Operation: rec.Operation.String(), SessionID: rec.ID, Attempt: r.attempt, WalletID: p.walletID, ShareSetID: p.uses,
			RecordHash: tss.Hash(p.source.set.Record), Payload: p.payload, Instance: r.device.instance,
		}, p.source.record)
	}
	if err != nil {
		// Who has the share is let in whatever came before; who has not learns no more by trying.
		if wait := s.proofs.Take(rec.Caller); wait > 0 {
			return &LimitedError{Proofs: true, RetryAfter: wait}
		}
		return fromTSS(err)
	}
	return nil
}

// checkSet looks at what only who has the share is told: whether the set may be used now, and
// whether there may be one more.
func (s *runner) checkSet(ctx context.Context, r *Run, rec *Session, p *plan) error {
	// Who is refused for want of a place, and comes again, has begun nothing.
	if err := s.devices.hasPlace(rec.Caller, rec.Operation); err != nil {
		return err
	}
	if p.uses == "" {
		if usesPreParams(p.curves) {
			return s.mayTakeForNew(ctx, rec.Caller)
		}
		return nil
	}
	if _, err := s.usable(ctx, p.walletID, p.uses); err != nil {
		return err
	}
	if rec.Operation == OpSign {
		return nil
	}
	s.mu.Lock()
	r.walletID = p.walletID // it counts from now on
	s.mu.Unlock()
	wallet, err := s.ports.Wallets.Wallet(ctx, p.walletID)
	if err != nil {
		return err
	}
	return s.mayPend(wallet, r.key)
}

// mayTakeForNew says why a caller's new device-held wallet must not take pre-params from the
// pool; nil: it may. A new wallet needs no share, and whoever has a token alone must leave half of
// the pool to others: the first quarter is for everybody, the second for so many of each caller,
// see Config.Creates.
func (s *runner) mayTakeForNew(ctx context.Context, caller string) error {
	plenty, err := s.ports.PreParams.Ready(ctx, tss.Server)
	if plenty || err != nil {
		return err
	}
	if wait := s.creates.Take(caller); wait > 0 {
		return &LimitedError{RetryAfter: wait}
	}
	return nil
}

// SendMessages hands a live device-held session what its device sent, each part once, and
// returns the last sequence that is there.
func (s *Service) SendMessages(
	ctx context.Context, c Caller, sessionID, instance string, attempt uint32, parts []Numbered,
) (ack uint32, err error) {
	rec, err := s.Session(ctx, c, sessionID)
	if err != nil {
		return 0, err
	}
	d, live := s.deviceOf(rec, instance, attempt)
	switch {
	case d != nil:
		ack, err = d.take(parts)
		return ack, s.classify(err, false)
	case !live && rec.State == Succeeded: // its last part, again: the session has it
		return lastOf(parts), nil
	case !live && rec.State.Ended():
		return 0, rec.Err()
	}
	return 0, fmt.Errorf("%w: session %s has no attempt %d of this instance", ErrInterrupted, sessionID, attempt)
}

func lastOf(parts []Numbered) (last uint32) {
	for _, p := range parts {
		last = max(last, p.Sequence)
	}
	return last
}

// deviceOf returns the device of a session that is this instance at this attempt, or nil; and
// whether the session is live with any.
func (s *runner) deviceOf(rec *Session, instance string, attempt uint32) (found *device, live bool) {
	s.mu.Lock()
	runs := []*Run{s.live[runKey{rec.Caller, rec.RequestID}], s.takeovers[instanceKey{rec.ID, instance}]}
	s.mu.Unlock()
	for _, r := range runs {
		if r == nil {
			continue
		}
		r.mu.Lock()
		d := r.device
		if r.ended {
			d = nil
		}
		r.mu.Unlock()
		live = live || d != nil
		if d != nil && d.instance == instance && d.attempt == attempt {
			found = d
		}
	}
	return found, live
}
