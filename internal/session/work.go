package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// work is the context of an operation: its run, its session, and what still computes for it.
type work struct {
	run  *Run
	rec  *Session
	busy *sync.WaitGroup // counts computations of tss-lib, also after a cancellation
}

// made is the result of an operation: what the store commits, the audit log records, and the caller gets.
type made struct {
	Made
	audit   func(Entry) Entry // may be nil
	outcome *Outcome
}

// run runs a session to its end. Only it and the functions that it calls change the state of a session that has begun,
// except for Cancel and settle.
func (s *runner) run(r *Run, rec *Session, p *plan, t *ticket) {
	ctx, stop := context.WithCancelCause(s.ctx)
	defer stop(nil)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RunTimeout)
	defer cancel()
	defer s.releaseRun(r)
	defer r.device.close()
	r.setStop(stop)
	var busy sync.WaitGroup
	w := &work{run: r, rec: rec, busy: &busy}

	out, err := s.attempt(ctx, w, p, t)
	if err == nil {
		r.end(out, nil)
		return
	}
	r.end(nil, s.recordFailure(ctx, r, rec, s.classify(err, r.device == nil)))
}

// attempt waits for a slot, executes the operation, and commits the result.
func (s *runner) attempt(ctx context.Context, w *work, p *plan, t *ticket) (out *Outcome, err error) {
	defer func() {
		if v := recover(); v != nil {
			// Only the type: the value may contain a secret.
			err = fmt.Errorf("%w: a session panicked with a %T", ErrInternal, v)
		}
	}()
	defer p.wipe()
	if t, err = s.awaitSlot(ctx, w, p, t); err != nil {
		return nil, err
	}
	// tss-lib cannot be stopped: after a cancellation the slot stays occupied until the computation has ended.
	hosted := w.run.device == nil // a slow device must not keep the pool from being filled
	if hosted {
		s.ports.PreParams.Pause()
	}
	defer s.wg.Go(func() {
		w.busy.Wait()
		t.leave()
		if hosted {
			s.ports.PreParams.Resume()
		}
	})
	// Other runs may have locked the set meanwhile.
	if p.uses != "" {
		if err := s.reserveSet(ctx, w.run, p); err != nil {
			return nil, err
		}
	}
	w.rec.State = Running
	if err := s.ports.Sessions.Update(ctx, w.rec, s.budget(), s.auditEntry(w.rec, "session.run")); err != nil {
		return nil, err
	}
	m, err := p.execute(ctx, s, w, p)
	if err != nil {
		return nil, err
	}
	return s.commit(ctx, w, m)
}

// reserveSet checks that the set that a run uses is still usable. A set, and its wallet, may have no more device-held
// runs at once than hard aborts left, so that parallel runs cannot exceed the limit. A run that will be armed needs
// capacity for that too, before it computes.
func (s *runner) reserveSet(ctx context.Context, r *Run, p *plan) error {
	var ofSet, ofWallet []*Run
	if r.device != nil {
		// Before reading the set: an abort is stored before its run is removed.
		ofSet, ofWallet = s.setInUse(r, p.walletID, p.uses)
	}
	set, err := s.usableSet(ctx, p.walletID, p.uses)
	b := s.budget()
	switch {
	case err != nil || r.device == nil:
	case int(set.Aborts)+len(ofSet)+1 > b.Set:
		err = &BusyError{ShareSetID: set.ID, RetryAfter: estimateFree(ofSet)}
	case int(set.WalletHard)+len(ofWallet)+1 > b.Wallet:
		err = &BusyError{ShareSetID: set.ID, RetryAfter: estimateFree(ofWallet)}
	case p.arms:
		err = b.CheckArmed(&set.ShareSet, 1, set.WalletSoft, 1)
	}
	if err != nil {
		s.setInUse(r, "", "")
	}
	return err
}

// usableSet returns a set if it may be used.
func (s *runner) usableSet(ctx context.Context, walletID, setID string) (*StoredSet, error) {
	set, err := s.ports.Wallets.Set(ctx, walletID, setID)
	if err != nil {
		return nil, err
	}
	return set, set.checkUsable()
}

// setInUse records the set that a run uses, and returns the other runs that use the same set, and those that use one
// of the same wallet.
func (s *runner) setInUse(r *Run, walletID, uses string) (ofSet, ofWallet []*Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.uses, r.ofWallet = uses, walletID
	for _, other := range s.live {
		if other == r || other.ofWallet != walletID {
			continue
		}
		ofWallet = append(ofWallet, other)
		if other.uses == uses {
			ofSet = append(ofSet, other)
		}
	}
	return ofSet, ofWallet
}

// When a run may retry whose set was busy.
const (
	recentlyHeard = 5 * time.Second  // a device that sent something within this time is active
	minBusyRetry  = 2 * time.Second  // a run with an active device takes some seconds
	maxBusyRetry  = 30 * time.Second // a run with a silent device may end early: cancelled, or its device reconnects
)

// estimateFree estimates when the first of device-held runs ends.
func estimateFree(runs []*Run) time.Duration {
	wait := maxBusyRetry
	for _, r := range runs {
		r.mu.Lock()
		d := r.device
		r.mu.Unlock()
		if d == nil {
			continue
		}
		if quiet := d.silentFor(); quiet < recentlyHeard {
			wait = min(wait, minBusyRetry)
		} else {
			wait = min(wait, max(d.silence-quiet, time.Second))
		}
	}
	return wait
}

// commit ends the session with success: its end, the new set, and the wallet if it is new are stored in one
// transaction before any caller is told.
func (s *runner) commit(ctx context.Context, w *work, m *made) (*Outcome, error) {
	done := w.run.stamp(Progress{Status: StatusDone, Done: true, Percent: 100})
	w.rec.State, w.rec.Progress = Succeeded, done
	e := s.auditEntry(w.rec, "session.commit")
	if m.audit != nil {
		e = m.audit(e)
	}
	if err := s.ports.Sessions.Commit(ctx, w.rec, m.Made, e); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	w.run.append(done)
	return m.outcome, nil
}

// classify wraps an error of a run in its sentinel. In a hosted run both sides are the service's, and both shares were
// checked against the set's record: a protocol error is never the client's fault.
func (s *runner) classify(err error, hosted bool) error {
	err = fromTSS(err)
	if a := new(AbortedError); hosted && errors.As(err, &a) {
		return fmt.Errorf("%w: %v", ErrInternal, err) //nolint:errorlint // not wrapped: no party is blamed
	}
	if errors.Is(err, errClosing) || errors.Is(err, ErrSuperseded) {
		return fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	return err
}
