package session

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A run that is not recorded is found by its session id, unless it has failed, and until another run replaces it.
func TestUnrecorded(t *testing.T) {
	t.Parallel()
	st := new(stub)
	s := st.runner(t, Config{})
	r, next := onDevice(s, Device{}), onDevice(s, Device{})
	rec := signing(r)
	require.Nil(t, s.draftOf("session"))
	require.False(t, s.cancelUnrecorded("session"))
	require.False(t, s.dropDraft(r), "it never was")
	s.keepDraft(r, rec)
	rec.State = Running // the draft is a copy
	found, err := s.findSession(t.Context(), "session")
	require.NoError(t, err)
	require.Equal(t, Queued, found.State)

	require.True(t, s.cancelUnrecorded("session"))
	require.ErrorIs(t, r.err, ErrSessionCancelled)
	require.Nil(t, s.draftOf("session"), "it has failed")
	st.onSession = func() (*Session, error) { return nil, ErrSessionNotFound }
	_, err = s.findSession(t.Context(), "session")
	require.ErrorIs(t, err, ErrSessionNotFound)

	s.keepDraft(next, rec)
	require.True(t, s.dropDraft(r))
	require.Same(t, next, s.unrecorded["session"], "another run has replaced it")
	require.False(t, s.dropDraft(r))
	require.True(t, s.dropDraft(next))
	require.Empty(t, s.unrecorded)
	s.unrecorded["session"] = next
	require.False(t, s.dropDraft(next), "its session is recorded")
	require.Len(t, s.unrecorded, 1)
}

// A session is recorded once, unless it was cancelled before. If it is cancelled meanwhile, it is recorded, and its
// run ends.
func TestRecordDraft(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		recorded, cancelled bool // before
		meanwhile           bool
		there               bool
		fault               error
		begins              int
		want                error
		left                bool // in memory
	}{
		"recorded":            {begins: 1},
		"recorded already":    {recorded: true, cancelled: true},
		"cancelled":           {cancelled: true, want: ErrSessionCancelled, left: true},
		"cancelled meanwhile": {meanwhile: true, begins: 1, want: ErrSessionCancelled},
		"the store fails":     {fault: errStub, begins: 1, want: errStub, left: true},
		"there is another":    {there: true, begins: 1, want: ErrInterrupted, left: true},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		begins := 0
		st := &stub{onBegin: func(*Session) (bool, error) {
			begins++
			if x.meanwhile {
				cancel(ErrSessionCancelled)
			}
			return !x.there, x.fault
		}}
		s := st.runner(t, Config{})
		r := onDevice(s, Device{})
		rec := signing(r)
		if !x.recorded {
			s.keepDraft(r, rec)
		}
		if x.cancelled {
			cancel(ErrSessionCancelled)
		}
		err := s.recordDraft(ctx, r, rec)
		if x.want == nil {
			require.NoError(t, err, name)
		} else {
			require.ErrorIs(t, err, x.want, name)
		}
		require.Equal(t, x.begins, begins, name)
		require.Equal(t, x.left, s.unrecorded["session"] == r, name)
		require.Empty(t, s.recording.of, name)
		cancel(nil)
	}
}
