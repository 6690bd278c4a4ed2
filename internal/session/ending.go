package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ending is how an attempt ended that did not succeed, as it is to be stored: with what it costs.
type ending struct {
	rec    Session
	entry  Entry
	refund bool // see Budget
}

// failed ends an attempt that did not succeed, and returns what its callers are told.
func (s *runner) failed(ctx context.Context, r *Run, rec *Session, err error) error {
	// The state is stored under a context of its own: a shutdown must not keep a session
	// from being closed properly.
	ctx = context.WithoutCancel(ctx)
	log := s.ports.Log.With("session_id", rec.ID, "operation", rec.Operation, "wallet_id", rec.WalletID,
		"reason", Reason(err), "error", err)
	if s.forget(r) {
		log.Warn("session failed before it was recorded")
		s.turnedAway(ctx, rec, err)
		return err
	}
	rec.State, rec.Failure = Failed, failure(err)
	if p := r.last(); p.Sequence > 0 { // else what is stored stays, so that sequences rise over all attempts
		rec.Progress = p
	}
	switch {
	case errors.Is(err, ErrSessionCancelled): // while it was being recorded
		rec.State = Cancelled
	case mayPass(err), r.device != nil && !r.entitled: // the next attempt may do better, or another device
		rec.State = Interrupted
	}
	end := &ending{rec: *rec, entry: s.ended(rec, "session.end", err), refund: errors.Is(err, errClosing)}
	superseded, uerr := s.storeEnd(ctx, end)
	if superseded { // somebody cancelled it, and may not have told everybody yet
		if rec.Broken() {
			log.Warn("a client broke a session that had already been ended")
		}
		if there, gerr := s.ports.Sessions.Session(ctx, rec.ID); gerr == nil && there.State == Cancelled {
			err = there.Err()
		}
	} else {
		log.Warn("session failed")
	}
	if uerr == nil {
		return err
	}
	if !superseded {
		// Nobody hears of a final end that is not durable: the same request may come again.
		end.rec.State = Interrupted
		err = fmt.Errorf("%w: its end could not be stored: %w", ErrInterrupted, uerr)
	}
	s.ports.Log.Error("a failed session could not be stored; the sweeper tries again", "session_id", rec.ID, "error", uerr)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unstored = append(s.unstored, end)
	return err
}

// storeEnd stores an attempt's end and charges it. Where somebody else has ended the attempt, it
// charges the client that broke it all the same. To store it again changes nothing.
func (s *runner) storeEnd(ctx context.Context, end *ending) (superseded bool, err error) {
	b := s.budget()
	b.Refund = end.refund
	err = s.ports.Sessions.Update(ctx, &end.rec, b, end.entry)
	if !errors.Is(err, ErrSuperseded) {
		return false, err
	}
	if !end.rec.Broken() {
		return true, nil
	}
	e := end.entry
	e.Action = "session.blame"
	return true, s.ports.Budgets.Blame(ctx, &end.rec, b, e)
}

// endOf returns the end of an attempt that could not be stored, or nil.
func (s *runner) endOf(rec *Session) *ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, end := range s.unstored {
		if end.rec.ID == rec.ID && end.rec.Attempt == rec.Attempt {
			return end
		}
	}
	return nil
}

// stored ends the memory of an end.
func (s *runner) stored(end *ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unstored = slices.DeleteFunc(s.unstored, func(x *ending) bool { return x == end })
}

// storeEnds stores what could not be stored when it ended: until then the session stands as
// running, and as armed, and its client is not charged.
func (s *runner) storeEnds(ctx context.Context) {
	s.mu.Lock()
	all := slices.Clone(s.unstored)
	s.mu.Unlock()
	for _, end := range all {
		_, err := s.storeEnd(ctx, end)
		switch {
		case err == nil || errors.Is(err, ErrSessionNotFound): // there is nothing to end
			s.stored(end)
			s.ports.Log.Info("the end of a session was stored late", "session_id", end.rec.ID)
		case ctx.Err() != nil:
			return
		default:
			const again = "the end of a session could still not be stored; it is tried again"
			s.ports.Log.Error(again, "session_id", end.rec.ID, "error", err)
		}
	}
}
