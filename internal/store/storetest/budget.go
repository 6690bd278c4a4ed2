package storetest

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
)

// budget is how many aborts lock a set in these tests.
const budget = 3

// plenty returns a budget that locks no wallet in these tests.
func plenty() session.Budget {
	return session.Budget{Now: now(), Set: budget, Wallet: 1 << 20, WalletSoft: 1 << 20}
}

// using returns a running session that uses a set.
func using(t *testing.T, b Backend, set *session.StoredSet) *session.Session {
	t.Helper()
	s := NewSession(set.WalletID, session.OpSign)
	s.Used = set.ID
	start(t, b, s)
	return s
}

// broken returns a session that used a set and was broken by its client, ready to be stored.
func broken(t *testing.T, b Backend, set *session.StoredSet) *session.Session {
	t.Helper()
	s := using(t, b, set)
	s.State, s.Failure = session.Failed, &session.Failure{Reason: "PROTOCOL_ABORTED", Culprit: "CLIENT", Round: 2}
	return s
}

// end returns the audit entry of a session's end.
func end(s *session.Session) session.Entry {
	e := Audit("end", s.WalletID)
	e.SessionID = s.ID
	return e
}

// abort stores the end of one such session, and returns the entry of a resulting lock.
func abort(t *testing.T, b Backend, set *session.StoredSet) (lock session.Entry) {
	t.Helper()
	s := broken(t, b, set)
	e := end(s)
	require.NoError(t, b.Update(t.Context(), s, plenty(), e))
	require.Equal(t, s, stored(t, b, s.ID))
	e.Action, e.ShareSetID = "share_set.lock", set.ID
	return e
}

// NewAborted stores a wallet with two sets, of which the first has this many aborts.
func NewAborted(t *testing.T, b Backend, aborts int) *session.StoredSet {
	t.Helper()
	first := active(t, b)
	AddSet(t, b, first.WalletID, first.ID)
	for range aborts {
		abort(t, b, first)
	}
	return first
}

// locks returns the entries of locks.
func locks(t *testing.T, b Backend, walletID string) []session.Entry {
	t.Helper()
	return entries(t, b, walletID, "share_set.lock")
}

func entries(t *testing.T, b Backend, walletID, action string) (all []session.Entry) {
	t.Helper()
	lines, err := b.Audit(t.Context(), walletID)
	require.NoError(t, err)
	for _, l := range lines {
		if l.Action == action {
			all = append(all, l.Entry)
		}
	}
	return all
}

// A set is locked by the abort that exhausts its budget, and not before; successes in between do not restore it; each
// set has its own.
func aborts(t *testing.T, b Backend) {
	first := active(t, b)
	_, second := AddSet(t, b, first.WalletID, first.ID)
	activate(t, b, second)
	other := found(t, b, first.WalletID).Sets[1]
	for n := uint32(1); n < budget; n++ {
		abort(t, b, first)
		got := set(t, b, first.WalletID, first.ID)
		require.Equal(t, n, got.Aborts)
		require.False(t, got.Locked())
		s := NewSession(first.WalletID, session.OpSign) // with a set that is still usable
		start(t, b, s)
		Succeed(s, first.ID, []byte("result"))
		require.NoError(t, b.Commit(t.Context(), s, session.Made{Used: first.ID}, Audit("commit", s.WalletID)))
	}
	require.Empty(t, locks(t, b, first.WalletID))
	last := abort(t, b, first)
	got := set(t, b, first.WalletID, first.ID)
	require.Equal(t, uint32(budget), got.Aborts)
	require.Equal(t, last.Time, got.LockTime)
	require.Equal(t, session.SetActive, got.State)
	require.Equal(t, first.ServerShare, got.ServerShare, "nothing is erased")
	require.Equal(t, []session.Entry{last}, locks(t, b, first.WalletID))

	abort(t, b, first) // of a concurrent session
	again := set(t, b, first.WalletID, first.ID)
	require.Equal(t, uint32(budget+1), again.Aborts)
	require.Equal(t, got.LockTime, again.LockTime)
	require.Len(t, locks(t, b, first.WalletID), 1, "it was locked once")
	require.Equal(t, []session.ShareSet{again.ShareSet, other}, found(t, b, first.WalletID).Sets)

	// Revoked or missing sets are not locked, and the session's end is still stored.
	require.NoError(t, b.Revoke(t.Context(), first.WalletID, now(), pick(second.ID), Audit("revoke", first.WalletID)))
	for range budget {
		abort(t, b, second)
	}
	gone := *second
	gone.ID = uuid.NewString()
	abort(t, b, &gone)
	require.False(t, set(t, b, second.WalletID, second.ID).Locked())
	require.Len(t, locks(t, b, first.WalletID), 1)
}

// The count changes only together with the session's end.
func abortsAtomic(t *testing.T, b Backend) {
	first := active(t, b)
	for range budget - 1 {
		abort(t, b, first)
	}
	before := set(t, b, first.WalletID, first.ID)
	s := broken(t, b, first)
	running := stored(t, b, s.ID)
	bad := end(s)
	bad.Outcome = "good"
	require.Error(t, b.Update(t.Context(), s, plenty(), bad))
	require.Equal(t, running, stored(t, b, s.ID))
	require.Equal(t, before, set(t, b, first.WalletID, first.ID))
	late := *s
	late.Attempt++
	require.ErrorIs(t, b.Update(t.Context(), &late, plenty(), end(s)), session.ErrSuperseded)
	require.Equal(t, before, set(t, b, first.WalletID, first.ID), "another attempt's")
	require.NoError(t, b.Update(t.Context(), s, plenty(), end(s)))
	after := set(t, b, first.WalletID, first.ID)
	require.True(t, after.Locked())
	require.ErrorIs(t, b.Update(t.Context(), s, plenty(), end(s)), session.ErrSuperseded)
	require.Equal(t, after, set(t, b, first.WalletID, first.ID), "a session ends once")
}

// Concurrent ends of sessions are each counted, and one of them locks the set.
func abortsRace(t *testing.T, b Backend) {
	first := active(t, b)
	sessions := make([]*session.Session, racers)
	for i := range sessions {
		sessions[i] = broken(t, b, first)
	}
	race(t, func(i int) bool {
		return assert.NoError(t, b.Update(t.Context(), sessions[i], plenty(), end(sessions[i])))
	})
	require.Equal(t, uint32(racers), set(t, b, first.WalletID, first.ID).Aborts)
	require.Len(t, locks(t, b, first.WalletID), 1)
}

// A session that used a locked set cannot commit.
func commitLocked(t *testing.T, b Backend) {
	first := active(t, b)
	sign, reshare := NewSession(first.WalletID, session.OpSign), NewSession(first.WalletID, session.OpBackup)
	start(t, b, sign)
	start(t, b, reshare)
	for range budget {
		abort(t, b, first)
	}
	made := NewSet(reshare, first.ID)
	for s, m := range map[*session.Session]session.Made{sign: {Used: first.ID}, reshare: Making(made, nil)} {
		end := *s
		Succeed(&end, first.ID, []byte("result"))
		if m.Set != nil {
			end.ShareSetID = m.Set.ID
		}
		require.ErrorIs(t, b.Commit(t.Context(), &end, m, Audit("commit", s.WalletID)), session.ErrShareSetLocked)
		require.Equal(t, s, stored(t, b, s.ID))
		require.Len(t, found(t, b, first.WalletID).Sets, 1)
	}
	require.NoError(t, b.Release(t.Context(), first.WalletID, first.ID, plenty(), Audit("release", first.WalletID)))
	Succeed(sign, first.ID, []byte("result"))
	require.NoError(t, b.Commit(t.Context(), sign, session.Made{Used: first.ID}, Audit("commit", sign.WalletID)),
		"it runs on")
}

// A released set has its whole budget again. Nothing else about it changes.
func release(t *testing.T, b Backend) {
	first, other := active(t, b), active(t, b)
	let := func(id string) error {
		return b.Release(t.Context(), first.WalletID, id, plenty(), Audit("release", first.WalletID))
	}
	fresh := set(t, b, first.WalletID, first.ID)
	for aborted := range budget + 2 { // none, some, locked
		for range aborted {
			abort(t, b, first)
		}
		require.Equal(t, aborted >= budget, set(t, b, first.WalletID, first.ID).Locked())
		require.NoError(t, let(first.ID))
		require.Equal(t, fresh, set(t, b, first.WalletID, first.ID))
		require.Len(t, entries(t, b, first.WalletID, "test.release"), aborted, "each but the first changed something")
	}
	for _, id := range []string{uuid.NewString(), other.ID, ""} {
		require.ErrorIs(t, let(id), session.ErrShareSetNotFound)
	}
	_, pending := AddSet(t, b, first.WalletID, first.ID)
	require.NoError(t, let(pending.ID))
	require.Equal(t, pending, set(t, b, first.WalletID, pending.ID))

	for range budget {
		abort(t, b, first)
	}
	locked := set(t, b, first.WalletID, first.ID)
	at := now().Add(time.Minute)
	require.NoError(t, b.Revoke(t.Context(), first.WalletID, at, pick(first.ID), Audit("revoke", first.WalletID)))
	require.ErrorIs(t, let(first.ID), session.ErrShareSetRevoked)
	locked.State, locked.RevokeTime, locked.ServerShare = session.SetRevoked, at, nil
	require.Equal(t, locked, set(t, b, first.WalletID, first.ID), "the log shows why it was locked")
}
