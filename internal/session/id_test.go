package session_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// The ids of wallets, share sets and sessions increase, and wallets are listed in order of creation.
func TestIDsIncrease(t *testing.T) {
	t.Parallel()
	p := servertest.Open(t, servertest.Config{})
	var wallets, sets, sessions []string
	for range 4 {
		r, err := p.Sessions.Create(t.Context(), alice,
			session.CreateRequest{Start: start(), Owner: "alice", Curves: []session.Curve{session.Ed25519}})
		h := made(t, r, err)
		wallets, sets, sessions = append(wallets, h.wallet), append(sets, h.set), append(sessions, r.SessionID())
	}
	for what, ids := range map[string][]string{"wallets": wallets, "sets": sets, "sessions": sessions} {
		require.IsIncreasing(t, ids, what)
		for _, id := range ids {
			require.Equal(t, uuid.Version(7), uuid.MustParse(id).Version(), what)
		}
	}
	list, next, err := p.Sessions.List(t.Context(), alice, "", session.Position{}, 3)
	require.NoError(t, err)
	rest, end, err := p.Sessions.List(t.Context(), alice, "", next, 3)
	require.NoError(t, err)
	require.Zero(t, end)
	var listed []string
	for _, w := range append(list, rest...) {
		listed = append(listed, w.ID)
	}
	require.Equal(t, wallets, listed)
}
