package session

import (
	"context"
	"errors"
	"fmt"
)

// keepDraft keeps the session of a run that is not in the store yet, so that it is found by its id.
func (s *runner) keepDraft(r *Run, rec *Session) {
	draft := *rec
	s.mu.Lock()
	defer s.mu.Unlock()
	r.draft, s.unrecorded[rec.ID] = &draft, r
}

// dropDraft reverses keepDraft, and reports whether there was a draft.
func (s *runner) dropDraft(r *Run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := r.draft != nil
	if r.draft = nil; was && s.unrecorded[r.id] == r {
		delete(s.unrecorded, r.id)
	}
	return was
}

// findSession returns a session by its id, recorded or not.
func (s *runner) findSession(ctx context.Context, sessionID string) (*Session, error) {
	if rec := s.draftOf(sessionID); rec != nil {
		return rec, nil
	}
	// In this order: a draft is dropped only after it was recorded.
	return s.ports.Sessions.Session(ctx, sessionID)
}

// draftOf returns a copy of a session that is not recorded, or nil.
func (s *runner) draftOf(sessionID string) *Session {
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
	r.cancel(ErrSessionCancelled) // under mu: recordDraft sees it after recording the session
	return true
}

// recordDraft records a run's session unless it is already recorded. Its device has proved its share, and the policy
// has agreed.
func (s *runner) recordDraft(ctx context.Context, r *Run, rec *Session) error {
	s.mu.Lock()
	recorded := r.draft == nil
	s.mu.Unlock()
	if recorded {
		return nil
	}
	defer s.recording.acquire(rec.Caller)()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	rec.ExpireTime = s.expiry()
	_, created, err := s.ports.Sessions.Begin(context.WithoutCancel(ctx), rec, s.auditEntry(rec, "session.begin"))
	switch {
	case err != nil:
		return err
	case !created:
		return fmt.Errorf("%w: another process has recorded the request", ErrInterrupted)
	}
	s.dropDraft(r)
	if ctx.Err() != nil { // cancelled meanwhile
		return context.Cause(ctx)
	}
	return nil
}

// noteRefusal audits why a session was not recorded, if that was a decision against the caller, unlike an overload.
func (s *runner) noteRefusal(ctx context.Context, rec *Session, err error) {
	if rec.Used == "" || errors.Is(err, ErrOverloaded) || errors.Is(err, ErrSessionCancelled) {
		return
	}
	defer s.recording.acquire(rec.Caller)()
	s.auditRefusal(ctx, Entry{
		Caller: rec.Caller, Action: "session.begin", WalletID: rec.WalletID, ShareSetID: rec.Used, SessionID: rec.ID,
		Detail: rec.Operation.String(),
	}, err)
}
