package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mpcd/mpcd/internal/tss"
)

const (
	// proofTime is how long a device has for its hello, if DeviceSilence is not shorter. It takes one round trip, or
	// some seconds on a bad network.
	proofTime = 30 * time.Second

	// maxUnproven is how many sessions of one caller may wait for their devices' hellos. A backend that calls for many
	// users starts many within a round trip. One more ends the oldest.
	maxUnproven = 1024

	// maxBadProofs is how many hellos of one caller may fail their proof in a burst; one more is allowed every
	// refillProofs.
	maxBadProofs = 10
	refillProofs = 30 * time.Second

	// refillCreates is the interval after which a caller may create one more device-held wallet that takes pre-params
	// from the pool. The pool's filler needs less for a set, on two cores. Hosted runs make their own if the pool is
	// empty.
	refillCreates = 10 * time.Second

	// maxHello is an upper bound of the size of a hello in bytes. A hello is kept in memory while its run waits for a
	// slot.
	maxHello = 1 << 10

	// maxWaiting bounds the bytes that devices sent and no run has processed yet, over all runs.
	maxWaiting = 64 << 20
)

// awaitSlot returns the run's ticket once it has a slot. A hosted run has its ticket t already, because its request
// contains the share. A device-held run is enqueued only after its device has proved its share; nothing is received or
// computed for it before.
func (s *runner) awaitSlot(ctx context.Context, w *work, p *plan, t *ticket) (*ticket, error) {
	r := w.run
	if r.device != nil {
		if err := s.authoriseDevice(ctx, r, w.rec, p); err != nil {
			return nil, err
		}
		if err := s.checkSet(ctx, r, w.rec, p); err != nil {
			return nil, err
		}
		err := s.recordDraft(ctx, r, w.rec)
		if err != nil {
			return nil, err
		}
		if t, err = s.devices.enqueue(w.rec.Caller, w.rec.Operation); err != nil {
			return nil, err
		}
		if position := t.currentPosition(); position > 0 {
			r.reportQueued(position)
		}
	}
	if err := t.wait(ctx, r.reportQueued); err != nil {
		t.leave()
		return nil, fmt.Errorf("wait for a slot: %w", err)
	}
	if r.device != nil {
		r.device.setTicket(t)
	}
	return t, nil
}

// authoriseDevice waits until the run's device has proved its share, and then asks the policy: a stolen token alone
// must not use up a customer's webhook.
func (s *runner) authoriseDevice(ctx context.Context, r *Run, rec *Session, p *plan) error {
	if r.authorised { // by takeOver
		return nil
	}
	if err := s.awaitProof(ctx, r, rec, p); err != nil {
		return err
	}
	if p.question != nil {
		if err := s.askPolicy(ctx, *p.question); err != nil {
			return err
		}
	}
	r.authorised = true
	return nil
}

var errNoHello = errors.New("the first part is not a hello")

// awaitProof waits for the hello of the run's device, and verifies its proof with the public record of the set that
// the run uses. A device that makes a new wallet has nothing to prove.
func (s *runner) awaitProof(ctx context.Context, r *Run, rec *Session, p *plan) error {
	s.unproven.add(r)
	defer s.unproven.remove(r)
	within := min(proofTime, s.cfg.DeviceSilence)
	late := fmt.Errorf("%w: no hello from the device within %v", ErrInterrupted, within)
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
		// Only failed proofs are limited, so a device with the share is always let in. Over the limit, the caller is no
		// longer told why a proof failed.
		if wait := s.proofs.Take(rec.Caller); wait > 0 {
			return &LimitedError{Proofs: true, RetryAfter: wait}
		}
		return fromTSS(err)
	}
	return nil
}

// checkSet makes the checks whose result only a client with the share may learn: whether the set may be used now, and
// whether its wallet may have one more set.
func (s *runner) checkSet(ctx context.Context, r *Run, rec *Session, p *plan) error {
	// First, so that a run that finds the queue full takes no token of the limits below.
	if err := s.devices.checkCapacity(rec.Caller, rec.Operation); err != nil {
		return err
	}
	if p.uses == "" {
		if usesPreParams(p.curves) {
			return s.checkPoolForCreate(ctx, rec.Caller)
		}
		return nil
	}
	if _, err := s.usableSet(ctx, p.walletID, p.uses); err != nil {
		return err
	}
	if rec.Operation == OpSign {
		return nil
	}
	s.mu.Lock()
	r.walletID = p.walletID // from now on countMaking counts it
	s.mu.Unlock()
	wallet, err := s.ports.Wallets.Wallet(ctx, p.walletID)
	if err != nil {
		return err
	}
	return s.checkPending(wallet, r.key)
}

// checkPoolForCreate returns nil if a caller's new device-held wallet may take pre-params from the pool. A new wallet
// needs no share, so a stolen token must leave half of the pool to others: the first quarter is free for all, the
// second is limited per caller (Config.Creates).
func (s *runner) checkPoolForCreate(ctx context.Context, caller string) error {
	plenty, err := s.ports.PreParams.Ready(ctx, tss.Server)
	if plenty || err != nil {
		return err
	}
	if wait := s.creates.Take(caller); wait > 0 {
		return &LimitedError{RetryAfter: wait}
	}
	return nil
}

// SendMessages passes parts from a device to its live session, each part once, and returns the last sequence number
// that was accepted. It fails with ErrInterrupted if the session is not live with this instance and attempt.
func (s *Service) SendMessages(
	ctx context.Context, c Caller, sessionID, instance string, attempt uint32, parts []Numbered,
) (ack uint32, err error) {
	rec, err := s.Session(ctx, c, sessionID)
	if err != nil {
		return 0, err
	}
	d, live := s.findDevice(rec, instance, attempt)
	switch {
	case d != nil:
		ack, err = d.receive(parts)
		return ack, s.classify(err, false)
	case !live && rec.State == Succeeded: // its last part was resent, but had been accepted
		return lastSequence(parts), nil
	case !live && rec.State.Ended():
		return 0, rec.Err()
	}
	return 0, fmt.Errorf("%w: session %s has no attempt %d of this instance", ErrInterrupted, sessionID, attempt)
}

func lastSequence(parts []Numbered) (last uint32) {
	for _, p := range parts {
		last = max(last, p.Sequence)
	}
	return last
}

// findDevice returns the device of a session if it is this instance at this attempt, or nil; live reports whether the
// session is live with any device.
func (s *runner) findDevice(rec *Session, instance string, attempt uint32) (found *device, live bool) {
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
