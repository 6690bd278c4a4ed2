package storetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
)

const day = 24 * time.Hour

// softOf returns how many soft aborts a set has.
func softOf(t *testing.T, b Backend, of *session.StoredSet) int {
	t.Helper()
	budget := plenty()
	return budget.Soft(&set(t, b, of.WalletID, of.ID).ShareSet)
}

// ending stores one end of a session.
func ending(t *testing.T, b Backend, s *session.Session, state session.State, budget session.Budget) {
	t.Helper()
	s.State, s.Failure = state, &session.Failure{Reason: "INTERRUPTED"}
	require.NoError(t, b.Update(t.Context(), s, budget, end(s)))
}

// An armed attempt costs a soft abort however it ends, except that a client's fault costs a hard abort instead, and a
// shutdown of the service nothing. An attempt that was disarmed, or never armed, costs nothing.
func armed(t *testing.T, b Backend) {
	first := active(t, b)
	ctx := t.Context()
	for n, state := range []session.State{session.Failed, session.Interrupted, session.Cancelled} {
		s := using(t, b, first)
		require.NoError(t, b.Arm(ctx, s, plenty()))
		require.NoError(t, b.Arm(ctx, s, plenty()), "it is armed already")
		require.Equal(t, n, softOf(t, b, first))
		ending(t, b, s, state, plenty())
		require.Equal(t, n+1, softOf(t, b, first))
		require.ErrorIs(t, b.Arm(ctx, s, plenty()), session.ErrSuperseded)
		require.ErrorIs(t, b.Disarm(ctx, s, Audit("pass", s.WalletID)), session.ErrSuperseded)
		charged := entries(t, b, first.WalletID, "share_set.charge")
		require.Len(t, charged, n+1)
		require.Equal(t, s.ID, charged[n].SessionID)
		require.Equal(t, first.ID, charged[n].ShareSetID)
	}
	require.NoError(t, b.Release(ctx, first.WalletID, first.ID, plenty(), Audit("release", first.WalletID)))
	require.Zero(t, softOf(t, b, first))
	w := found(t, b, first.WalletID)
	require.Equal(t, uint32(3), w.SoftAborts, "a release resets the set's count, not the wallet's")
	require.Zero(t, w.HardAborts)

	s := using(t, b, first)
	require.NoError(t, b.Arm(ctx, s, plenty()))
	signed := *s
	Succeed(&signed, first.ID, []byte("result"))
	err := b.Commit(ctx, &signed, session.Made{Used: first.ID}, Audit("commit", s.WalletID))
	require.ErrorContains(t, err, "no signature may leave")
	require.Equal(t, s, stored(t, b, s.ID))
	passed := using(t, b, first)
	require.NoError(t, b.Arm(ctx, passed, plenty()))
	require.NoError(t, b.Disarm(ctx, passed, Audit("pass", s.WalletID)))
	Succeed(passed, first.ID, []byte("result"))
	require.NoError(t, b.Commit(ctx, passed, session.Made{Used: first.ID}, Audit("commit", s.WalletID)))
	for range budget {
		abort(t, b, first)
	}
	require.ErrorIs(t, b.Disarm(ctx, s, Audit("pass", s.WalletID)), session.ErrShareSetLocked)
	require.Len(t, entries(t, b, first.WalletID, "test.pass"), 1)
	ending(t, b, s, session.Interrupted, plenty())
	require.Equal(t, 1, softOf(t, b, first), "it stayed armed")
}

// Hard aborts, soft aborts and armed runs together must stay within the budget. Time pays soft ones back.
func armedLimits(t *testing.T, b Backend) {
	first := active(t, b)
	ctx := t.Context()
	at := plenty()
	arm := func() (*session.Session, error) {
		s := using(t, b, first)
		return s, b.Arm(ctx, s, at)
	}
	abort(t, b, first)
	one, err := arm()
	require.NoError(t, err)
	two, err := arm()
	require.NoError(t, err)
	three, err := arm()
	require.ErrorIs(t, err, session.ErrShareSetBusy)
	ending(t, b, three, session.Interrupted, at)
	require.Zero(t, softOf(t, b, first), "a refused session is not armed")

	drained := at
	drained.Refund = true
	ending(t, b, two, session.Interrupted, drained)
	require.Zero(t, softOf(t, b, first))
	two, err = arm()
	require.NoError(t, err)
	require.NoError(t, b.Disarm(ctx, two, Audit("pass", first.WalletID)))
	require.Len(t, entries(t, b, first.WalletID, "test.pass"), 1)
	ending(t, b, two, session.Cancelled, at)
	require.Zero(t, softOf(t, b, first))

	ending(t, b, one, session.Cancelled, at)
	two, err = arm()
	require.NoError(t, err)
	ending(t, b, two, session.Interrupted, at)
	_, err = arm()
	var limited *session.BudgetError
	require.ErrorAs(t, err, &limited)
	require.Equal(t, day, limited.RetryAfter)
	require.Equal(t, first.ID, limited.ShareSetID)

	at.Now = at.Now.Add(day)
	one, err = arm()
	require.NoError(t, err)
	ending(t, b, one, session.Interrupted, at)
	at.Now = at.Now.Add(day - time.Hour)
	_, err = arm()
	require.ErrorAs(t, err, &limited)
	require.Equal(t, time.Hour, limited.RetryAfter)
	at.Now = at.Now.Add(5 * day)
	for range budget - 1 {
		one, err = arm()
		require.NoError(t, err)
		ending(t, b, one, session.Interrupted, at)
	}
	require.False(t, set(t, b, first.WalletID, first.ID).Locked())
	require.Empty(t, locks(t, b, first.WalletID))
}

// Of runs that arm concurrently, as many succeed as the budget allows.
func armedRace(t *testing.T, b Backend) {
	first := active(t, b)
	sessions := make([]*session.Session, racers)
	for i := range sessions {
		sessions[i] = using(t, b, first)
	}
	require.Equal(t, budget, race(t, func(i int) bool {
		err := b.Arm(t.Context(), sessions[i], plenty())
		if err != nil {
			assert.ErrorIs(t, err, session.ErrShareSetBusy)
		}
		return err == nil
	}))
	for _, s := range sessions {
		ending(t, b, s, session.Interrupted, plenty())
	}
	require.Equal(t, budget, softOf(t, b, first))
}

// A client that broke a run is charged for that only, and only once, whoever ended the session.
func armedBlame(t *testing.T, b Backend) {
	first := active(t, b)
	ctx := t.Context()
	s := broken(t, b, first)
	require.NoError(t, b.Arm(ctx, s, plenty()))
	require.NoError(t, b.Update(ctx, s, plenty(), end(s)))
	require.Zero(t, softOf(t, b, first))
	require.Equal(t, uint32(1), set(t, b, first.WalletID, first.ID).Aborts)
	for range 2 {
		require.NoError(t, b.Blame(ctx, s, plenty(), Audit("blame", s.WalletID)))
	}
	require.Equal(t, uint32(1), set(t, b, first.WalletID, first.ID).Aborts)
	require.Empty(t, entries(t, b, first.WalletID, "test.blame"))
	var beside []*session.Session
	for range budget - 1 { // the budget allows them: the charged session is no longer armed
		s = using(t, b, first)
		require.NoError(t, b.Arm(ctx, s, plenty()))
		beside = append(beside, s)
	}
	drained := plenty()
	drained.Refund = true
	for _, s := range beside {
		ending(t, b, s, session.Interrupted, drained)
	}

	for i, armed := range []bool{true, false} {
		s = using(t, b, first)
		if armed {
			require.NoError(t, b.Arm(ctx, s, plenty()))
		}
		cancelled := *s
		ending(t, b, &cancelled, session.Cancelled, plenty())
		require.Equal(t, armed, softOf(t, b, first) == 1)
		s.State, s.Failure = session.Failed, &session.Failure{Reason: "PROTOCOL_ABORTED", Culprit: "CLIENT"}
		require.ErrorIs(t, b.Update(ctx, s, plenty(), end(s)), session.ErrSuperseded)
		for range 2 {
			require.NoError(t, b.Blame(ctx, s, plenty(), Audit("blame", s.WalletID)))
		}
		require.Equal(t, &cancelled, stored(t, b, s.ID), "it was cancelled")
		require.Zero(t, softOf(t, b, first))
		require.Equal(t, uint32(2+i), set(t, b, first.WalletID, first.ID).Aborts)
		require.Len(t, entries(t, b, first.WalletID, "test.blame"), 1+i)
	}
	require.True(t, set(t, b, first.WalletID, first.ID).Locked())
	w := found(t, b, first.WalletID)
	require.Equal(t, uint32(3), w.HardAborts)
	require.Zero(t, w.SoftAborts)
	none := NewSession(first.WalletID, session.OpSign)
	require.ErrorIs(t, b.Blame(ctx, none, plenty(), end(s)), session.ErrSessionNotFound)
	start(t, b, none) // it uses no set
	require.NoError(t, b.Blame(ctx, none, plenty(), Audit("blame", first.WalletID)))
	none.State, none.Failure = s.State, s.Failure
	require.NoError(t, b.Update(ctx, none, plenty(), end(none)))
	require.Equal(t, uint32(3), found(t, b, first.WalletID).HardAborts)
	require.Len(t, entries(t, b, first.WalletID, "test.blame"), 2)
}

// Blame for an earlier attempt is charged while the next one runs, and leaves that one armed.
func armedBlameLater(t *testing.T, b Backend) {
	first := active(t, b)
	ctx := t.Context()
	s := using(t, b, first)
	require.NoError(t, b.Arm(ctx, s, plenty()))
	ending(t, b, s, session.Interrupted, plenty())
	again := next(stored(t, b, s.ID))
	require.NoError(t, b.Restart(ctx, again, Audit("restart", first.WalletID)))
	require.NoError(t, b.Arm(ctx, again, plenty()))
	require.NoError(t, b.Blame(ctx, s, plenty(), Audit("blame", first.WalletID)))
	require.Equal(t, uint32(1), set(t, b, first.WalletID, first.ID).Aborts)
	require.Equal(t, 1, softOf(t, b, first))
	ending(t, b, again, session.Interrupted, plenty())
	require.Equal(t, 2, softOf(t, b, first))
}

// The soft aborts of all sets lock the wallet. Time does not unlock it; a release does.
func armedWallet(t *testing.T, b Backend) {
	first := active(t, b)
	_, second := AddSet(t, b, first.WalletID, first.ID)
	activate(t, b, second)
	ctx, at := t.Context(), plenty()
	at.WalletSoft = 3
	var armed []*session.Session
	for i := range 4 {
		s := using(t, b, []*session.StoredSet{first, second}[i%2])
		err := b.Arm(ctx, s, at)
		require.Equal(t, i == 3, err != nil)
		if err != nil {
			require.ErrorIs(t, err, session.ErrShareSetBusy)
			continue
		}
		armed = append(armed, s)
	}
	for i, s := range armed {
		require.True(t, found(t, b, first.WalletID).LockTime.IsZero())
		at.Now = at.Now.Add(30 * day)
		ending(t, b, s, session.Interrupted, at)
		require.Equal(t, uint32(i+1), found(t, b, first.WalletID).SoftAborts)
	}
	w := found(t, b, first.WalletID)
	require.False(t, w.LockTime.IsZero())
	require.Len(t, entries(t, b, first.WalletID, "wallet.lock"), 1)
	for _, of := range []*session.StoredSet{first, second} {
		require.Equal(t, w.LockTime, set(t, b, of.WalletID, of.ID).LockTime)
		require.ErrorIs(t, b.Arm(ctx, using(t, b, of), at), session.ErrShareSetLocked)
	}
	require.NoError(t, b.Release(ctx, first.WalletID, second.ID, at, Audit("release", first.WalletID)))
	w = found(t, b, first.WalletID)
	require.True(t, w.LockTime.IsZero())
	require.Zero(t, w.SoftAborts)
	require.NoError(t, b.Arm(ctx, using(t, b, first), at))
	released := entries(t, b, first.WalletID, "test.release")
	require.Equal(t, "had aborts 0, soft aborts 0; the wallet 0, soft 3, and was locked", released[0].Detail)
}

// The hard aborts of all sets lock the wallet, including those of revoked sets.
func abortsWallet(t *testing.T, b Backend) {
	first := active(t, b)
	_, second := AddSet(t, b, first.WalletID, first.ID)
	activate(t, b, second)
	at := plenty()
	at.Wallet = 4
	for range 2 {
		s := broken(t, b, first)
		require.NoError(t, b.Update(t.Context(), s, at, end(s)))
	}
	require.NoError(t, b.Revoke(t.Context(), first.WalletID, now(), pick(first.ID), Audit("revoke", first.WalletID)))
	for range 2 {
		require.False(t, set(t, b, second.WalletID, second.ID).Locked())
		s := broken(t, b, second)
		require.NoError(t, b.Update(t.Context(), s, at, end(s)))
	}
	require.Empty(t, locks(t, b, first.WalletID))
	require.Len(t, entries(t, b, first.WalletID, "wallet.lock"), 1)
	got := set(t, b, second.WalletID, second.ID)
	require.True(t, got.Locked())
	require.Equal(t, uint32(2), got.Aborts)
	require.Equal(t, uint32(4), got.WalletHard)
}

// Killing the process counts as ending what it had armed.
func armedInterruptAll(t *testing.T, b Backend) {
	first := active(t, b)
	one, two, passed := using(t, b, first), using(t, b, first), using(t, b, first)
	for _, s := range []*session.Session{one, passed} {
		require.NoError(t, b.Arm(t.Context(), s, plenty()))
	}
	require.NoError(t, b.Disarm(t.Context(), passed, Audit("pass", first.WalletID)))
	for n := range 2 {
		count, err := b.InterruptAll(t.Context(), plenty())
		require.NoError(t, err)
		require.Equal(t, 3-3*n, count)
		require.Equal(t, 1, softOf(t, b, first))
	}
	require.Equal(t, session.Interrupted, stored(t, b, two.ID).State)

	again := next(stored(t, b, one.ID))
	require.NoError(t, b.Restart(t.Context(), again, Audit("restart", first.WalletID)))
	ending(t, b, again, session.Failed, plenty())
	require.Equal(t, 1, softOf(t, b, first), "the next attempt is armed anew")
}
