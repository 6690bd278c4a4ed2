package session

import (
	"context"
	"errors"
	"fmt"
)

// remember notes a run whose session stands in no database. Its callers find it here.
func (s *runner) remember(r *Run, rec *Session) {
	draft := *rec
	s.mu.Lock()
	defer s.mu.Unlock()
	r.draft, s.unrecorded[rec.ID] = &draft, r
}

// forget ends that, and reports whether it was so.
func (s *runner) forget(r *Run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := r.draft != nil
	if r.draft = nil; was && s.unrecorded[r.id] == r {
		delete(s.unrecorded, r.id)
	}
	return was
}

// session finds a session by its id, recorded or not.
func (s *runner) session(ctx context.Context, sessionID string) (*Session, error) {
	if rec := s.draft(sessionID); rec != nil {
		return rec, nil
	}
	// It is in memory until it is in the store.
	return s.ports.Sessions.Session(ctx, sessionID)
}

// draft returns a session that is not recorded, or nil.
func (s *runner) draft(sessionID string) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.unrecorded[sessionID]
	if r == nil || r.failed() {
		return nil
	}
	rec := *r.draft
	return &rec
}

// cancelUnrecorded cancels a session that is not recorded, and reports whether there was one.
func (s *runner) cancelUnrecorded(sessionID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.unrecorded[sessionID]
	if r == nil {
		return false
	}
	r.cancel(ErrSessionCancelled) // under mu: enrol sees it when it has recorded the session after all
	return true
}

// enrol records a run's session where it is not: the device has shown its share, and what it asks
// for is allowed.
func (s *runner) enrol(ctx context.Context, r *Run, rec *Session) error {
	s.mu.Lock()
	recorded := r.draft == nil
	s.mu.Unlock()
	if recorded {
		return nil
	}
	defer s.recording.take(rec.Caller)()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	rec.ExpireTime = s.expiry()
	_, created, err := s.ports.Sessions.Begin(context.WithoutCancel(ctx), rec, s.entry(rec, "session.begin"))
	switch {
	case err != nil:
		return err
	case !created:
		return fmt.Errorf("%w: another process has recorded the request", ErrInterrupted)
	}
	s.forget(r)
	if ctx.Err() != nil { // cancelled in the meantime
		return context.Cause(ctx)
	}
	return nil
}

// turnedAway notes why a session was not recorded, where that was a decision against the caller:
// that there is no room is none.
func (s *runner) turnedAway(ctx context.Context, rec *Session, err error) {
	if rec.Used == "" || errors.Is(err, ErrOverloaded) || errors.Is(err, ErrSessionCancelled) {
		return
	}
	defer s.recording.take(rec.Caller)()
	s.refused(ctx, Entry{
		Caller: rec.Caller, Action: "session.begin", WalletID: rec.WalletID, ShareSetID: rec.Used, SessionID: rec.ID,
		Detail: rec.Operation.String(),
	}, err)
}
