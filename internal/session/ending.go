package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ending is the end of an attempt that did not succeed, as it is to be stored, with its charge.
type ending struct {
	rec    Session
	entry  Entry
	refund bool // see Budget
}

// recordFailure stores the end of an attempt that did not succeed, and returns the error for its callers.
func (s *runner) recordFailure(ctx context.Context, r *Run, rec *Session, err error) error {
	// A shutdown must not prevent the end from being stored.
	ctx = context.WithoutCancel(ctx)
	log := s.ports.Log.With("session_id", rec.ID, "operation", rec.Operation, "wallet_id", rec.WalletID,
		"reason", Reason(err), "error", err)
	if s.dropDraft(r) {
		log.Warn("session failed before it was recorded")
		s.noteRefusal(ctx, rec, err)
		return err
	}
	rec.State, rec.Failure = Failed, failure(err)
	if p := r.lastProgress(); p.Sequence > 0 { // otherwise keep the stored one: sequences rise over all attempts
		rec.Progress = p
	}
	switch {
	case errors.Is(err, ErrSessionCancelled): // while it was being recorded
		rec.State = Cancelled
	case isTemporary(err), r.device != nil && !r.authorised: // the next attempt, or the next device, may succeed
		rec.State = Interrupted
	}
	end := &ending{rec: *rec, entry: s.failureEntry(rec, "session.end", err), refund: errors.Is(err, errClosing)}
	superseded, uerr := s.storeEnd(ctx, end)
	if superseded { // by a cancellation, whose callers may not have been told yet
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
		// A final end is not reported before it is durable: until then the request may be repeated.
		end.rec.State = Interrupted
		err = fmt.Errorf("%w: its end could not be stored: %w", ErrInterrupted, uerr)
	}
	s.ports.Log.Error("a failed session could not be stored; the sweeper tries again", "session_id", rec.ID, "error", uerr)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unstored = append(s.unstored, end)
	return err
}

// storeEnd stores the end of an attempt and charges it. If the attempt had already ended, it still charges a client
// that broke it. It is idempotent.
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

// unstoredEnd returns the end of an attempt that could not be stored yet, or nil.
func (s *runner) unstoredEnd(rec *Session) *ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, end := range s.unstored {
		if end.rec.ID == rec.ID && end.rec.Attempt == rec.Attempt {
			return end
		}
	}
	return nil
}

func (s *runner) dropUnstored(end *ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unstored = slices.DeleteFunc(s.unstored, func(x *ending) bool { return x == end })
}

// storeEnds retries the ends that could not be stored. Until one is stored, its session is shown as running or armed,
// and its client is not charged.
func (s *runner) storeEnds(ctx context.Context) {
	s.mu.Lock()
	all := slices.Clone(s.unstored)
	s.mu.Unlock()
	for _, end := range all {
		_, err := s.storeEnd(ctx, end)
		switch {
		case err == nil || errors.Is(err, ErrSessionNotFound): // the session was swept
			s.dropUnstored(end)
			s.ports.Log.Info("the end of a session was stored late", "session_id", end.rec.ID)
		case ctx.Err() != nil:
			return
		default:
			const again = "the end of a session could still not be stored; it is tried again"
			s.ports.Log.Error(again, "session_id", end.rec.ID, "error", err)
		}
	}
}
