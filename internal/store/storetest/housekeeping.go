package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

const month = 30 * 24 * time.Hour

// errNothing stands for a change that changed nothing, which is no error.
var errNothing = errors.New("nothing was changed")

// interrupted stores a session whose first attempt was interrupted.
func interrupted(t *testing.T, b Backend) *session.Session {
	t.Helper()
	s := NewSession(uuid.NewString(), session.OpCreate)
	start(t, b, s)
	s.State, s.Failure = session.Interrupted, &session.Failure{Reason: "INTERRUPTED"}
	require.NoError(t, b.Update(t.Context(), s, plenty(), Audit("end", s.WalletID)))
	return s
}

// next gives a session the fields of its next attempt.
func next(s *session.Session) *session.Session {
	n := *s
	n.State, n.Failure, n.Attempt, n.ExpireTime = session.Queued, nil, s.Attempt+1, now().Add(time.Hour)
	n.Progress = session.Progress{Status: session.StatusQueued, Sequence: s.Progress.Sequence + 100, Attempt: n.Attempt}
	return &n
}

// Only an INTERRUPTED session at the previous attempt can begin the next one; after that the previous attempt cannot
// change anything.
func restart(t *testing.T, b Backend) {
	s := interrupted(t, b)
	n := next(s)
	require.NoError(t, b.Restart(t.Context(), n, Audit("restart", n.WalletID)))
	require.Equal(t, n, stored(t, b, s.ID))
	require.ErrorIs(t, b.Restart(t.Context(), n, Audit("restart", n.WalletID)), session.ErrSuperseded,
		"it is not INTERRUPTED")
	late := *s
	late.State = session.Failed
	require.ErrorIs(t, b.Update(t.Context(), &late, plenty(), Audit("end", s.WalletID)), session.ErrSuperseded,
		"it is another attempt's")
	set := NewSet(&late, "")
	late.Failure = nil
	Succeed(&late, set.ID, []byte("result"))
	require.ErrorIs(t, b.Commit(t.Context(), &late, Making(set, wallet(s.WalletID, "owner")), Audit("commit", s.WalletID)),
		session.ErrSuperseded)
	require.Equal(t, n, stored(t, b, s.ID))

	skip := next(interrupted(t, b))
	skip.Attempt++
	require.ErrorIs(t, b.Restart(t.Context(), skip, Audit("restart", skip.WalletID)), session.ErrSuperseded)
	none := next(NewSession(uuid.NewString(), session.OpCreate))
	require.ErrorIs(t, b.Restart(t.Context(), none, Audit("restart", none.WalletID)), session.ErrSuperseded)
	for _, state := range []session.State{session.Failed, session.Cancelled, session.Expired} {
		s := NewSession(uuid.NewString(), session.OpSign)
		start(t, b, s)
		s.State, s.Failure = state, &session.Failure{Reason: "INTERNAL"}
		require.NoError(t, b.Update(t.Context(), s, plenty(), Audit("end", s.WalletID)))
		n := next(s)
		require.ErrorIs(t, b.Restart(t.Context(), n, Audit("restart", n.WalletID)), session.ErrSuperseded,
			"%v is final", state)
		require.Equal(t, s, stored(t, b, s.ID))
	}
}

func restartRace(t *testing.T, b Backend) {
	s := interrupted(t, b)
	require.Equal(t, 1, race(t, func(int) bool {
		err := b.Restart(t.Context(), next(s), Audit("restart", s.WalletID))
		if err != nil {
			assert.ErrorIs(t, err, session.ErrSuperseded)
		}
		return err == nil
	}))
	require.Equal(t, uint32(2), stored(t, b, s.ID).Attempt)
}

// A set's session is the one that made it, not one that signed with it, before and after a sweep.
func byShareSet(t *testing.T, b Backend) {
	s, made := NewWallet(t, b, "owner")
	activate(t, b, made)
	signing := NewSession(made.WalletID, session.OpSign)
	start(t, b, signing)
	Succeed(signing, made.ID, []byte("signature"))
	require.NoError(t, b.Commit(t.Context(), signing, session.Made{Used: made.ID}, Audit("commit", signing.WalletID)))
	got, err := b.ByShareSet(t.Context(), made.ID)
	require.NoError(t, err)
	require.Equal(t, s.ID, got.ID)
	for _, id := range []string{uuid.NewString(), ""} {
		_, err = b.ByShareSet(t.Context(), id)
		require.ErrorIs(t, err, session.ErrSessionNotFound)
	}
	s, made = NewWallet(t, b, "owner")
	_, err = b.Sweep(t.Context(), made.ExpireTime, month)
	require.NoError(t, err)
	got, err = b.ByShareSet(t.Context(), made.ID)
	require.NoError(t, err)
	require.Equal(t, s.ID, got.ID)
	require.Equal(t, session.Expired, got.State)
}

// What was not confirmed is erased when its time is up, and not before; what was confirmed stays.
func sweep(t *testing.T, b Backend) {
	kept := active(t, b)
	lateRun, late := AddSet(t, b, kept.WalletID, kept.ID)
	firstRun, first := NewWallet(t, b, "owner")
	revoked := active(t, b)
	require.NoError(t, b.Revoke(t.Context(), revoked.WalletID, now(), pick(revoked.ID), Audit("revoke", revoked.WalletID)))
	before := found(t, b, kept.WalletID)

	swept, err := b.Sweep(t.Context(), now(), month)
	require.NoError(t, err)
	require.Zero(t, swept, "nothing has expired")
	require.Equal(t, before, found(t, b, kept.WalletID))

	due := now().Add(time.Hour)
	swept, err = b.Sweep(t.Context(), due, month)
	require.NoError(t, err)
	require.Equal(t, session.Swept{Sets: 2, Wallets: 1}, swept)
	w := found(t, b, kept.WalletID)
	require.Len(t, w.Sets, 1, "the wallet's other set is gone")
	require.Equal(t, session.SetActive, w.Sets[0].State)
	require.Equal(t, kept.ServerShare, set(t, b, kept.WalletID, kept.ID).ServerShare)
	_, err = b.Wallet(t.Context(), first.WalletID)
	require.ErrorIs(t, err, session.ErrWalletNotFound, "a wallet whose only set is gone")
	require.Len(t, found(t, b, revoked.WalletID).Sets, 1, "a revoked set is not an unconfirmed one")
	for _, gone := range []*session.StoredSet{late, first} {
		_, err = b.Set(t.Context(), gone.WalletID, gone.ID)
		require.ErrorIs(t, err, session.ErrShareSetNotFound)
		_, err = b.Confirm(t.Context(), gone.WalletID, gone.ID, Audit("confirm", gone.WalletID))
		require.ErrorIs(t, err, session.ErrShareSetNotFound)
	}
	for _, run := range []*session.Session{lateRun, firstRun} {
		got := stored(t, b, run.ID)
		require.Equal(t, session.Expired, got.State)
		require.Nil(t, got.Result)
		require.Nil(t, got.Failure)
		there, created, err := b.Begin(t.Context(), run, Audit("begin", run.WalletID))
		require.NoError(t, err)
		require.False(t, created, "it is remembered")
		require.Equal(t, got, there)
	}
	swept, err = b.Sweep(t.Context(), due, month)
	require.NoError(t, err)
	require.Zero(t, swept, "a second sweep finds nothing")

	// The wallet still works.
	_, more := AddSet(t, b, kept.WalletID, kept.ID)
	activate(t, b, more)
	require.Len(t, found(t, b, kept.WalletID).Sets, 2)
}

// A signature waits as long as a share does.
func sweepSigning(t *testing.T, b Backend) {
	made := active(t, b)
	s := NewSession(made.WalletID, session.OpSign)
	start(t, b, s)
	Succeed(s, made.ID, []byte("signature"))
	require.NoError(t, b.Commit(t.Context(), s, session.Made{Used: made.ID}, Audit("commit", s.WalletID)))
	_, err := b.Sweep(t.Context(), s.ExpireTime.Add(-time.Second), month)
	require.NoError(t, err)
	require.Equal(t, s, stored(t, b, s.ID))
	swept, err := b.Sweep(t.Context(), s.ExpireTime, month)
	require.NoError(t, err)
	require.Equal(t, session.Swept{Results: 1}, swept)
	got := stored(t, b, s.ID)
	require.Equal(t, session.Expired, got.State)
	require.Nil(t, got.Result)
	require.Equal(t, session.SetActive, set(t, b, made.WalletID, made.ID).State)
	require.Equal(t, session.Succeeded, stored(t, b, made.SessionID).State, "a confirmed set's session succeeded")
}

// Sessions are deleted after the retention time, except those that are running or whose result waits.
func sweepSessions(t *testing.T, b Backend) {
	made := active(t, b)
	old := func(op session.Operation) *session.Session {
		s := NewSession(uuid.NewString(), op)
		s.CreateTime = now().Add(-month - time.Hour)
		return s
	}
	running, queued, failed, young := old(session.OpBackup), old(session.OpBackup), old(session.OpCreate),
		NewSession("w", session.OpCreate)
	start(t, b, running)
	_, _, err := b.Begin(t.Context(), queued, Audit("begin", queued.WalletID))
	require.NoError(t, err)
	for _, s := range []*session.Session{failed, young} {
		start(t, b, s)
		s.State, s.Failure = session.Failed, &session.Failure{Reason: "SHARE_MALFORMED"}
		require.NoError(t, b.Update(t.Context(), s, plenty(), Audit("end", s.WalletID)))
	}
	waiting := old(session.OpProvision)
	waiting.WalletID = made.WalletID
	start(t, b, waiting)
	pending := NewSet(waiting, made.ID)
	Succeed(waiting, pending.ID, []byte("result"))
	require.NoError(t, b.Commit(t.Context(), waiting, Making(pending, nil), Audit("commit", waiting.WalletID)))

	swept, err := b.Sweep(t.Context(), now(), month)
	require.NoError(t, err)
	require.Equal(t, session.Swept{Sessions: 1}, swept)
	_, err = b.Session(t.Context(), failed.ID)
	require.ErrorIs(t, err, session.ErrSessionNotFound)
	for _, s := range []*session.Session{running, queued, young, waiting} {
		require.Equal(t, s, stored(t, b, s.ID))
	}
	swept, err = b.Sweep(t.Context(), now().Add(time.Hour), month)
	require.NoError(t, err)
	require.Equal(t, session.Swept{Sets: 1, Sessions: 1}, swept, "without a waiting result it can be deleted")
	require.Equal(t, session.SetActive, set(t, b, made.WalletID, made.ID).State, "a set outlives its session")
}

// Of a concurrent confirmation and sweep exactly one wins.
func sweepRace(t *testing.T, b Backend) {
	for range 5 {
		_, made := NewWallet(t, b, "owner")
		confirmed, swept := make(chan bool, 1), 0
		race(t, func(i int) bool {
			switch i {
			case 0:
				changed, err := b.Confirm(t.Context(), made.WalletID, made.ID, Audit("confirm", made.WalletID))
				if err != nil {
					assert.ErrorIs(t, err, session.ErrShareSetNotFound) //nolint:testifylint // require: not in a goroutine
				}
				confirmed <- changed
			case 1:
				s, err := b.Sweep(t.Context(), made.ExpireTime, month)
				assert.NoError(t, err)
				swept = s.Sets
			}
			return false
		})
		if <-confirmed {
			require.Zero(t, swept)
			require.Equal(t, session.SetActive, set(t, b, made.WalletID, made.ID).State)
			require.NotNil(t, set(t, b, made.WalletID, made.ID).ServerShare)
		} else {
			require.Equal(t, 1, swept)
			_, err := b.Set(t.Context(), made.WalletID, made.ID)
			require.ErrorIs(t, err, session.ErrShareSetNotFound)
		}
	}
}

// A signature of a set that is no longer ACTIVE does not leave.
func commitUsed(t *testing.T, b Backend) {
	made := active(t, b)
	sign := func(used string) error {
		s := NewSession(made.WalletID, session.OpSign)
		start(t, b, s)
		end := *s
		Succeed(&end, used, []byte("signature"))
		err := b.Commit(t.Context(), &end, session.Made{Used: used}, Audit("commit", s.WalletID))
		if err != nil {
			require.Equal(t, s, stored(t, b, s.ID))
		}
		return err
	}
	require.NoError(t, sign(made.ID))
	_, pending := AddSet(t, b, made.WalletID, made.ID)
	require.ErrorIs(t, sign(pending.ID), session.ErrShareSetRevoked)
	require.Error(t, sign(uuid.NewString()))
	require.Error(t, sign(active(t, b).ID), "another wallet's")
	require.NoError(t, b.Revoke(t.Context(), made.WalletID, now(), pick(made.ID), Audit("revoke", made.WalletID)))
	require.ErrorIs(t, sign(made.ID), session.ErrShareSetRevoked)
}

// audited runs a change and requires exactly these entries of it, by action and share set; none if the change fails.
func audited(t *testing.T, b Backend, walletID string, change func(session.Entry) error, want ...string) {
	t.Helper()
	before, err := b.Audit(t.Context(), walletID)
	require.NoError(t, err)
	total, _, err := b.VerifyAudit(t.Context())
	require.NoError(t, err)
	e := session.Entry{
		Time: now(), Caller: "alice", Action: "test.change", WalletID: walletID, SessionID: "s", Outcome: "refused",
		Reason: "WHY", Detail: "what",
	}
	err = change(e)
	require.Equal(t, len(want) == 0, err != nil, "%v", err)
	after, err := b.Audit(t.Context(), walletID)
	require.NoError(t, err)
	for i := range before {
		require.Equal(t, before[i], after[i])
	}
	for i, id := range want {
		e.ShareSetID = id
		got := after[len(before)+i]
		require.Equal(t, e, got.Entry)
		require.Equal(t, int64(len(before)+i+1), got.N)
	}
	require.Len(t, after, len(before)+len(want))
	entries, _, err := b.VerifyAudit(t.Context())
	require.NoError(t, err)
	require.Equal(t, total+len(want), entries, "and in no other chain")
}

// Every change writes its entry once, in its own transaction; a change that fails or has no effect writes none.
func audit(t *testing.T, b Backend) {
	ctx := t.Context()
	s := NewSession(uuid.NewString(), session.OpCreate)
	nothing := func(change func(session.Entry) error) func(session.Entry) error {
		return func(e session.Entry) error {
			require.NoError(t, change(e))
			return errNothing
		}
	}
	begin := func(e session.Entry) error { _, _, err := b.Begin(ctx, s, e); return err }
	update := func(e session.Entry) error { return b.Update(ctx, s, plenty(), e) }
	audited(t, b, s.WalletID, begin, "")
	audited(t, b, s.WalletID, nothing(begin))
	s.State = session.Running
	audited(t, b, s.WalletID, update, "")
	s.State, s.Failure = session.Interrupted, &session.Failure{Reason: "INTERRUPTED"}
	audited(t, b, s.WalletID, update, "")
	audited(t, b, s.WalletID, update)
	n := next(s)
	audited(t, b, s.WalletID, func(e session.Entry) error { return b.Restart(ctx, n, e) }, "")
	audited(t, b, s.WalletID, func(e session.Entry) error { return b.Restart(ctx, n, e) })

	made, w := NewSet(n, ""), wallet(n.WalletID, "owner")
	Succeed(n, made.ID, []byte("result"))
	commit := func(e session.Entry) error { return b.Commit(ctx, n, Making(made, w), e) }
	made.ServerShare[0].Curve = 9
	audited(t, b, s.WalletID, commit) // it fails at its last step
	made.ServerShare[0].Curve = tss.Secp256k1
	audited(t, b, s.WalletID, commit, "")
	audited(t, b, s.WalletID, commit)

	confirm := func(e session.Entry) error { _, err := b.Confirm(ctx, w.ID, made.ID, e); return err }
	audited(t, b, s.WalletID, confirm, "")
	audited(t, b, s.WalletID, nothing(confirm))
	_, second := AddSet(t, b, w.ID, made.ID)
	release := func(e session.Entry) error { return b.Release(ctx, w.ID, made.ID, plenty(), e) }
	audited(t, b, w.ID, nothing(release))
	broken := broken(t, b, made)
	audited(t, b, w.ID, func(e session.Entry) error { return b.Update(ctx, broken, plenty(), e) }, "")
	require.NoError(t, release(Audit("release", w.ID)))
	released := entries(t, b, w.ID, "test.release")
	require.Len(t, released, 1)
	require.Equal(t, "had aborts 1, soft aborts 0; the wallet 1, soft 0", released[0].Detail)
	revoke := func(ids ...string) func(session.Entry) error {
		return func(e session.Entry) error { return b.Revoke(ctx, w.ID, now(), pick(ids...), e) }
	}
	audited(t, b, w.ID, revoke(made.ID, uuid.NewString()))
	audited(t, b, w.ID, revoke(made.ID, second.ID), made.ID, second.ID)
	audited(t, b, w.ID, nothing(revoke(made.ID, second.ID)))

	record := func(e session.Entry) error { return b.Record(ctx, e) }
	audited(t, b, w.ID, record, "")
	audited(t, b, "", record, "")
	audited(t, b, "", record, "")
	audited(t, b, w.ID, func(e session.Entry) error { e.Outcome = "good"; return b.Record(ctx, e) })
	audited(t, b, w.ID, func(e session.Entry) error { e.Action = ""; return b.Record(ctx, e) })
}

// Timed changes, and those at startup, are logged too.
func auditByTheClock(t *testing.T, b Backend) {
	_, made := NewWallet(t, b, "owner")
	at := made.ExpireTime.Add(time.Minute)
	_, err := b.Sweep(t.Context(), at, month)
	require.NoError(t, err)
	lines, err := b.Audit(t.Context(), made.WalletID)
	require.NoError(t, err)
	require.Equal(t, session.Entry{
		Time: at, Action: "share_set.expire", WalletID: made.WalletID, ShareSetID: made.ID, SessionID: made.SessionID,
		Outcome: "ok",
	}, lines[len(lines)-1].Entry)

	s := NewSession(uuid.NewString(), session.OpSign)
	start(t, b, s)
	_, err = b.InterruptAll(t.Context(), plenty())
	require.NoError(t, err)
	lines, err = b.Audit(t.Context(), s.WalletID)
	require.NoError(t, err)
	last := lines[len(lines)-1]
	require.Equal(t, []string{s.Caller, "session.end", s.ID, "failed", "INTERRUPTED"},
		[]string{last.Caller, last.Action, last.SessionID, last.Outcome, last.Reason})
	_, _, err = b.VerifyAudit(t.Context())
	require.NoError(t, err)
}

// Concurrent writers, in one chain and in several, break none.
func auditRace(t *testing.T, b Backend) {
	race(t, func(i int) bool {
		for _, wallet := range []string{"", "one", uuid.NewString()} {
			assert.NoError(t, b.Record(t.Context(), Audit("race", wallet)))
		}
		return true
	})
	entries, chains, err := b.VerifyAudit(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3*racers, entries)
	require.Equal(t, 2+racers, chains)
	none, err := b.Audit(t.Context(), "nobody's")
	require.NoError(t, err)
	require.Empty(t, none)
}
