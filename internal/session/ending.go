package session

import (
	"context"
	"errors"
	"slices"
)

// ending is how an attempt ended that did not succeed, as it is to be stored: with what it costs.
type ending struct {
	rec    Session
	entry  Entry
	refund bool // see Budget
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
			s.ports.Log.Error("the end of a session could still not be stored; it is tried again", "session_id", end.rec.ID, "error", err)
		}
	}
}
