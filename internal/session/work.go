package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// work is what an operation works with: the session that they belong to, and a way
// to say how far they are.
type work struct {
	run  *Run
	rec  *Session
	busy *sync.WaitGroup // counts what tss-lib still computes, after a cancellation too
}

// made is what an operation made: what the store commits, what the audit log says of
// it, and what the caller gets.
type made struct {
	Made
	audit   func(Entry) Entry // may be nil
	outcome *Outcome
}

// run takes a session to its end. With what it calls, it is the one place where a session
// changes state after it began.
func (s *runner) run(r *Run, rec *Session, p *plan, t *ticket) {
	ctx, stop := context.WithCancelCause(s.ctx)
	defer stop(nil)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RunTimeout)
	defer cancel()
	defer s.release(r)
	defer r.device.close()
	r.stopWith(stop)
	var busy sync.WaitGroup
	w := &work{run: r, rec: rec, busy: &busy}

	out, err := s.attempt(ctx, w, p, t)
	if err == nil {
		r.end(out, nil)
		return
	}
	r.end(nil, s.failed(ctx, r, rec, s.classify(err, r.device == nil)))
}

// attempt waits for a place, executes the operation, and commits what it made.
func (s *runner) attempt(ctx context.Context, w *work, p *plan, t *ticket) (out *Outcome, err error) {
	defer func() {
		if v := recover(); v != nil {
			// The value may hold a secret; its type and the log's stack are enough.
			err = fmt.Errorf("%w: a session panicked with a %T", ErrInternal, v)
		}
	}()
	defer p.end()
	if t, err = s.place(ctx, w, p, t); err != nil {
		return nil, err
	}
	// tss-lib cannot be stopped: after a cancellation the slot stays taken until what it
	// computes has ended.
	hosted := w.run.device == nil // a device must not keep the pool from being filled by being slow
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
	// While it waited, the runs before it may have locked the set.
	if p.uses != "" {
		if err := s.reserveSet(ctx, w.run, p); err != nil {
			return nil, err
		}
	}
	w.rec.State = Running
	if err := s.ports.Sessions.Update(ctx, w.rec, s.budget(), s.entry(w.rec, "session.run")); err != nil {
		return nil, err
	}
	m, err := p.execute(ctx, s, w, p)
	if err != nil {
		return nil, err
	}
	return s.commit(ctx, w, m)
}

// reserveSet wants the set that a run uses to be usable even now. No more device-held runs of a
// set, and of its wallet, are under way than it has hard aborts left: else many at once would
// get around the limit. What will be armed needs room for that as well, before it computes.
func (s *runner) reserveSet(ctx context.Context, r *Run, p *plan) error {
	var ofSet, ofWallet []*Run
	if r.device != nil {
		ofSet, ofWallet = s.noteSet(r, p.walletID, p.uses) // before the set is read: an abort is stored before its run leaves
	}
	set, err := s.usable(ctx, p.walletID, p.uses)
	b := s.budget()
	switch {
	case err != nil || r.device == nil:
	case int(set.Aborts)+len(ofSet)+1 > b.Set:
		err = &BusyError{ShareSetID: set.ID, RetryAfter: placeIn(ofSet)}
	case int(set.WalletHard)+len(ofWallet)+1 > b.Wallet:
		err = &BusyError{ShareSetID: set.ID, RetryAfter: placeIn(ofWallet)}
	case p.arms:
		err = b.Room(&set.ShareSet, 1, set.WalletSoft, 1)
	}
	if err != nil {
		s.noteSet(r, "", "")
	}
	return err
}

// usable returns a set that may be used.
func (s *runner) usable(ctx context.Context, walletID, setID string) (*StoredSet, error) {
	set, err := s.ports.Wallets.Set(ctx, walletID, setID)
	if err != nil {
		return nil, err
	}
	return set, set.usable()
}

// noteSet notes the set that a run computes with, and returns the others that do with the same,
// and with one of the same wallet.
func (s *runner) noteSet(r *Run, walletID, uses string) (ofSet, ofWallet []*Run) {
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

// When a run that found its set busy may try again.
const (
	answering = 5 * time.Second  // a device that was heard so lately goes on
	soon      = 2 * time.Second  // a run whose device answers takes some seconds
	atMost    = 30 * time.Second // a silent run may end before its time: it is cancelled, or its device comes back
)

// placeIn estimates when the first of device-held runs is over.
func placeIn(runs []*Run) time.Duration {
	wait := atMost
	for _, r := range runs {
		r.mu.Lock()
		d := r.device
		r.mu.Unlock()
		if d == nil {
			continue
		}
		if quiet := d.quiet(); quiet < answering {
			wait = min(wait, soon)
		} else {
			wait = min(wait, max(d.silence-quiet, time.Second))
		}
	}
	return wait
}

// commit ends the session with success: its end, the new set and the wallet, where one
// is new, are stored in one transaction, and only then does anybody hear of it.
func (s *runner) commit(ctx context.Context, w *work, m *made) (*Outcome, error) {
	done := w.run.stamp(Progress{Status: StatusDone, Done: true, Percent: 100})
	w.rec.State, w.rec.Progress = Succeeded, done
	e := s.entry(w.rec, "session.commit")
	if m.audit != nil {
		e = m.audit(e)
	}
	if err := s.ports.Sessions.Commit(ctx, w.rec, m.Made, e); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	w.run.append(done)
	return m.outcome, nil
}

// classify gives every error of a run its sentinel. In a hosted run both sides are ours, and
// each share was held against its set's record before: whatever breaks it, it is not the client.
func (s *runner) classify(err error, hosted bool) error {
	err = fromTSS(err)
	if a := new(AbortedError); hosted && errors.As(err, &a) {
		return fmt.Errorf("%w: %v", ErrInternal, err) //nolint:errorlint // not with %w: nobody is to be blamed
	}
	if errors.Is(err, errClosing) || errors.Is(err, ErrSuperseded) {
		return fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	return err
}
