package session

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Temporary errors, and all errors before a device has proved its share, leave the session INTERRUPTED, so that
// another attempt is possible. Only a shutdown refunds.
func TestRecordFailure(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		err                error
		device, authorised bool
		want               State
		refund             bool
	}{
		"a fault":                         {err: errStub, want: Failed},
		"temporary":                       {err: ErrOverloaded, want: Interrupted},
		"cancelled while it was recorded": {err: ErrSessionCancelled, want: Cancelled},
		"a shutdown":                      {err: errors.Join(ErrInterrupted, errClosing), want: Interrupted, refund: true},
		"a device that proved its share":  {err: ErrShareSetLocked, device: true, authorised: true, want: Failed},
		"a device that did not":           {err: ErrShareSetMismatch, device: true, want: Interrupted},
	} {
		var got Session
		st := &stub{onUpdate: func(rec *Session, b Budget) error {
			got = *rec
			require.Equal(t, x.refund, b.Refund, name)
			return nil
		}}
		s := st.runner(t, Config{})
		r := newRun(runKey{"alice", "request"}, nil)
		if x.device {
			r = onDevice(s, Device{})
			r.authorised = x.authorised
		}
		rec := signing(r)
		rec.Progress = Progress{Sequence: 7}
		require.Equal(t, x.err, s.recordFailure(t.Context(), r, rec, x.err), name)
		require.Equal(t, x.want, got.State, name)
		require.Equal(t, failure(x.err), got.Failure, name)
		require.Equal(t, uint32(7), got.Progress.Sequence, "%s: it has reported nothing", name)
		r.first = 8
		r.report(Progress{})
		require.Equal(t, x.err, s.recordFailure(t.Context(), r, rec, x.err), name)
		require.Equal(t, uint32(9), got.Progress.Sequence, name)
		require.Empty(t, s.unstored, name)
	}
}

// A session that is not recorded leaves an audit entry if it was a decision against its caller, and otherwise nothing.
func TestFailureBeforeRecording(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		err  error
		used string
		want []string
	}{
		"no proof":     {ErrShareSetMismatch, "set", []string{"session.begin SHARE_SET_MISMATCH"}},
		"queue full":   {&OverloadedError{}, "set", nil},
		"cancelled":    {ErrSessionCancelled, "set", nil},
		"a new wallet": {ErrRateLimited, "", nil},
	} {
		st := new(stub) // any call of the store panics
		s := st.runner(t, Config{})
		r := onDevice(s, Device{})
		rec := signing(r)
		rec.Used = x.used
		s.keepDraft(r, rec)
		require.Equal(t, x.err, s.recordFailure(t.Context(), r, rec, x.err), name)
		require.Equal(t, x.want, st.noted(), name)
		require.Empty(t, s.unrecorded, name)
	}
}

// If an attempt had already ended, the client that broke it is still charged. Its callers are told of a cancellation,
// and otherwise their own error.
func TestFailureAfterTheEnd(t *testing.T) {
	t.Parallel()
	broken := &AbortedError{Culprit: "CLIENT", Round: 3}
	interrupted := &Session{State: Interrupted}
	cancelled := &Session{State: Cancelled, Failure: failure(ErrSessionCancelled)}
	for name, x := range map[string]struct {
		err     error
		there   *Session
		blame   error
		blamed  int
		want    error
		unheard int // ends to store later
	}{
		"a fault":              {err: errStub, there: interrupted, want: errStub},
		"cancelled":            {err: errStub, there: cancelled, want: ErrSessionCancelled},
		"unknown reason":       {err: errStub, want: errStub},
		"broken":               {err: broken, there: interrupted, blamed: 1, want: broken},
		"broken by the server": {err: &AbortedError{Culprit: "SERVER"}, there: interrupted, want: ErrProtocolAborted},
		"broken, not charged":  {err: broken, there: interrupted, blame: errStub, blamed: 1, want: broken, unheard: 1},
	} {
		var blamed []Entry
		st := &stub{
			onUpdate: func(*Session, Budget) error { return ErrSuperseded },
			onBlame: func(e Entry) error {
				blamed = append(blamed, e)
				return x.blame
			},
			onSession: func() (*Session, error) {
				if x.there == nil {
					return nil, errStub
				}
				return x.there, nil
			},
		}
		s := st.runner(t, Config{})
		r := newRun(runKey{}, nil)
		err := s.recordFailure(t.Context(), r, signing(r), x.err)
		require.ErrorIs(t, err, x.want, name)
		require.NotErrorIs(t, err, ErrInterrupted, name)
		require.Len(t, blamed, x.blamed, name)
		for _, e := range blamed {
			require.Equal(t, "session.blame", e.Action, name)
		}
		said := strings.Contains(st.logged(), "a client broke a session that had already been ended")
		require.Equal(t, x.blamed > 0, said, name)
		require.Len(t, s.unstored, x.unheard, name)
		for _, end := range s.unstored {
			require.Equal(t, Failed, end.rec.State, name)
		}
	}
}

// An end that could not be stored is kept by session and attempt until it is stored.
func TestUnstoredEnds(t *testing.T) {
	t.Parallel()
	fault, updates := errStub, 0
	st := &stub{onUpdate: func(*Session, Budget) error {
		updates++
		return fault
	}}
	s := st.runner(t, Config{})
	var recs []*Session
	for _, id := range []string{"one", "two"} {
		for attempt := range uint32(2) {
			r := newRun(runKey{}, nil)
			rec := signing(r)
			rec.ID, rec.Attempt = id, attempt+1
			recs = append(recs, rec)
			err := s.recordFailure(t.Context(), r, rec, ErrShareSetLocked)
			require.ErrorIs(t, err, ErrInterrupted, "a final end that is not durable is not reported")
			require.ErrorIs(t, err, errStub)
		}
	}
	ids := func() (all []string) {
		for _, end := range s.unstored {
			require.Equal(t, Interrupted, end.rec.State)
			all = append(all, end.rec.ID)
		}
		return all
	}
	require.Equal(t, []string{"one", "one", "two", "two"}, ids())
	for _, rec := range recs {
		end := s.unstoredEnd(rec)
		require.Equal(t, rec.ID, end.rec.ID)
		require.Equal(t, rec.Attempt, end.rec.Attempt)
	}
	require.Nil(t, s.unstoredEnd(&Session{ID: "three", Attempt: 1}))
	require.Nil(t, s.unstoredEnd(&Session{ID: "one", Attempt: 3}))

	updates = 0
	s.storeEnds(t.Context())
	require.Equal(t, 4, updates)
	require.Len(t, ids(), 4, "the store fails")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	s.storeEnds(over)
	require.Equal(t, 5, updates, "it stops when ctx is done")
	require.Len(t, ids(), 4)

	s.dropUnstored(s.unstoredEnd(recs[0]))
	require.Equal(t, []string{"one", "two", "two"}, ids())
	fault = ErrSessionNotFound // it was swept
	s.storeEnds(t.Context())
	require.Empty(t, ids())
	s.unstored = append(s.unstored, &ending{rec: *recs[0]})
	fault = nil
	s.storeEnds(t.Context())
	require.Empty(t, ids())
}

// An unfinished session without a run is ended when its request is repeated: with the end that could not be stored, if
// there is one.
func TestSettle(t *testing.T) {
	t.Parallel()
	var fault error
	var stored []*Session
	there := &Session{ID: "session", State: Cancelled}
	st := &stub{
		onUpdate: func(rec *Session, _ Budget) error {
			copied := *rec
			stored = append(stored, &copied)
			return fault
		},
		onSession: func() (*Session, error) { return there, nil },
	}
	s := st.runner(t, Config{})
	running := func() *Session { return &Session{ID: "session", Attempt: 1, State: Running} }

	got, err := s.settle(t.Context(), there)
	require.NoError(t, err)
	require.Same(t, there, got)
	require.Empty(t, stored)

	got, err = s.settle(t.Context(), running())
	require.NoError(t, err)
	require.Equal(t, Interrupted, got.State)
	require.Equal(t, Interrupted, stored[0].State)

	fault = ErrSuperseded
	got, err = s.settle(t.Context(), running())
	require.NoError(t, err)
	require.Same(t, there, got)
	fault = errStub
	_, err = s.settle(t.Context(), running())
	require.ErrorIs(t, err, errStub)

	end := &ending{rec: Session{ID: "session", Attempt: 1, State: Failed, ExpireTime: time.Now()}}
	s.unstored = []*ending{end}
	_, err = s.settle(t.Context(), running())
	require.ErrorIs(t, err, errStub)
	require.Len(t, s.unstored, 1)
	fault = nil
	got, err = s.settle(t.Context(), running())
	require.NoError(t, err)
	require.Same(t, there, got)
	require.Equal(t, Failed, stored[len(stored)-1].State)
	require.Empty(t, s.unstored)
}
