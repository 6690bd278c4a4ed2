package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

func begin(t *testing.T, b Backend) {
	ctx := t.Context()
	s := NewSession(uuid.NewString(), session.OpProvision)
	s.ExpireTime = now().Add(time.Hour)
	s.Progress = session.Progress{
		Status: session.StatusGeneratingShare, Done: true, Percent: 100, Curve: tss.Ed25519, Round: 4, Rounds: 5,
		Elapsed: 1234567 * time.Microsecond, Sequence: 1<<32 - 1, QueuePosition: 7, Attempt: 3,
	}
	there, created, err := b.Begin(ctx, s, Audit("begin", s.WalletID))
	require.NoError(t, err)
	require.True(t, created)
	require.Equal(t, s, there)
	require.Equal(t, s, stored(t, b, s.ID))
	got, err := b.ByRequest(ctx, s.Caller, s.RequestID)
	require.NoError(t, err)
	require.Equal(t, s, got)

	again := NewSession(uuid.NewString(), session.OpSign)
	again.Caller, again.RequestID, again.Fingerprint = s.Caller, s.RequestID, []byte("another")
	there, created, err = b.Begin(ctx, again, Audit("begin", again.WalletID))
	require.NoError(t, err)
	require.False(t, created)
	require.Equal(t, s, there)
	_, err = b.Session(ctx, again.ID)
	require.ErrorIs(t, err, session.ErrSessionNotFound)

	other := NewSession(s.WalletID, session.OpProvision)
	other.RequestID = s.RequestID // of another caller
	there, created, err = b.Begin(ctx, other, Audit("begin", other.WalletID))
	require.NoError(t, err)
	require.True(t, created)
	require.Equal(t, other, there)

	// Reusing a session's id is an error, unlike repeating a request.
	clash := NewSession(s.WalletID, session.OpProvision)
	clash.ID = s.ID
	_, created, err = b.Begin(ctx, clash, Audit("begin", clash.WalletID))
	require.Error(t, err)
	require.False(t, created)
	require.Equal(t, s, stored(t, b, s.ID))
}

func beginRace(t *testing.T, b Backend) {
	caller, request := "caller", uuid.NewString()
	ids := make([]string, racers)
	require.Equal(t, 1, race(t, func(i int) bool {
		s := NewSession(uuid.NewString(), session.OpProvision)
		s.Caller, s.RequestID = caller, request
		there, created, err := b.Begin(t.Context(), s, Audit("begin", s.WalletID))
		if assert.NoError(t, err) {
			ids[i] = there.ID
			assert.Equal(t, created, there.ID == s.ID)
		}
		return created
	}))
	require.Len(t, slices.Compact(ids), 1)
}

func update(t *testing.T, b Backend) {
	s, other := NewSession(uuid.NewString(), session.OpProvision), NewSession(uuid.NewString(), session.OpProvision)
	start(t, b, s)
	start(t, b, other)
	s.Progress = session.Progress{Status: session.StatusParsingShare, Percent: 10, Elapsed: time.Second,
		Sequence: 3, Attempt: 1}
	require.NoError(t, b.Update(t.Context(), s, plenty(), Audit("update", s.WalletID)))
	require.Equal(t, s, stored(t, b, s.ID))
	s.State, s.Failure = session.Failed, &session.Failure{Reason: "PROTOCOL_ABORTED", Culprit: "CLIENT", Round: 3}
	require.NoError(t, b.Update(t.Context(), s, plenty(), Audit("update", s.WalletID)))
	require.Equal(t, s, stored(t, b, s.ID))
	require.Equal(t, other, stored(t, b, other.ID))
	got, err := b.ByRequest(t.Context(), s.Caller, s.RequestID)
	require.NoError(t, err)
	require.Equal(t, s, got)
}

// A session that has ended, or is at another attempt, cannot be updated.
func updateSuperseded(t *testing.T, b Backend) {
	for state := session.Failed; state <= session.Expired; state++ {
		s := NewSession(uuid.NewString(), session.OpSign)
		start(t, b, s)
		s.State, s.Failure = state, &session.Failure{Reason: "INTERNAL"}
		require.NoError(t, b.Update(t.Context(), s, plenty(), Audit("update", s.WalletID)))
		late := *s
		late.State, late.Failure, late.Progress.Percent = session.Running, nil, 50
		require.ErrorIs(t, b.Update(t.Context(), &late, plenty(), Audit("update", late.WalletID)), session.ErrSuperseded)
		require.Equal(t, s, stored(t, b, s.ID))
	}
	s, _ := NewWallet(t, b, "owner")
	late := *s
	late.State, late.Failure = session.Failed, &session.Failure{Reason: "INTERNAL"}
	require.ErrorIs(t, b.Update(t.Context(), &late, plenty(), Audit("update", late.WalletID)), session.ErrSuperseded)
	require.Equal(t, s, stored(t, b, s.ID))

	for _, attempt := range []uint32{0, 1, 3} {
		s := NewSession(uuid.NewString(), session.OpSign)
		s.Attempt = 2
		start(t, b, s)
		late := *s
		late.Attempt = attempt
		require.ErrorIs(t, b.Update(t.Context(), &late, plenty(), Audit("update", late.WalletID)), session.ErrSuperseded)
		Succeed(&late, "", []byte("result"))
		require.ErrorIs(t, b.Commit(t.Context(), &late, Making(nil, nil), Audit("commit", late.WalletID)),
			session.ErrSuperseded)
		require.Equal(t, s, stored(t, b, s.ID))
	}
}

// A signing session makes no set, but its result is kept.
func commitSigning(t *testing.T, b Backend) {
	made := active(t, b)
	for _, sealedTo := range []bool{false, true} {
		s := NewSession(made.WalletID, session.OpSign)
		start(t, b, s)
		Succeed(s, "", []byte{0, 1, 255})
		s.Result.SealedTo = sealedTo
		require.NoError(t, b.Commit(t.Context(), s, Making(nil, nil), Audit("commit", s.WalletID)))
		require.Equal(t, s, stored(t, b, s.ID))
		got, err := b.ByRequest(t.Context(), s.Caller, s.RequestID)
		require.NoError(t, err)
		require.Equal(t, s, got)
		there, created, err := b.Begin(t.Context(), s, Audit("begin", s.WalletID))
		require.NoError(t, err)
		require.False(t, created)
		require.Equal(t, s, there)
	}
	s := NewSession(made.WalletID, session.OpSign)
	start(t, b, s)
	Succeed(s, "", nil)
	s.Result = nil
	require.NoError(t, b.Commit(t.Context(), s, Making(nil, nil), Audit("commit", s.WalletID)))
	require.Equal(t, s, stored(t, b, s.ID))
	require.Len(t, found(t, b, made.WalletID).Sets, 1)
}

// A superseded attempt cannot commit.
func commitSuperseded(t *testing.T, b Backend) {
	s := NewSession(uuid.NewString(), session.OpCreate)
	start(t, b, s)
	late := *s
	s.State, s.Failure = session.Cancelled, &session.Failure{Reason: "SESSION_CANCELLED"}
	require.NoError(t, b.Update(t.Context(), s, plenty(), Audit("update", s.WalletID)))
	made := NewSet(s, "")
	Succeed(&late, made.ID, []byte("result"))
	require.ErrorIs(t, b.Commit(t.Context(), &late, Making(made, wallet(s.WalletID, "owner")),
		Audit("commit", late.WalletID)), session.ErrSuperseded)
	require.Equal(t, s, stored(t, b, s.ID))
	_, err := b.Wallet(t.Context(), s.WalletID)
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	_, err = b.Set(t.Context(), s.WalletID, made.ID)
	require.ErrorIs(t, err, session.ErrShareSetNotFound)

	done, set := NewWallet(t, b, "owner")
	more := NewSet(done, "")
	again := *done
	Succeed(&again, more.ID, []byte("another result"))
	require.ErrorIs(t, b.Commit(t.Context(), &again, Making(more, nil), Audit("commit", again.WalletID)),
		session.ErrSuperseded)
	require.Equal(t, done, stored(t, b, done.ID))
	require.Equal(t, []session.ShareSet{set.ShareSet}, found(t, b, set.WalletID).Sets)
}

func commitRace(t *testing.T, b Backend) {
	s := NewSession(uuid.NewString(), session.OpCreate)
	start(t, b, s)
	require.Equal(t, 1, race(t, func(int) bool {
		mine := *s
		made := NewSet(&mine, "")
		Succeed(&mine, made.ID, []byte("result"))
		err := b.Commit(t.Context(), &mine, Making(made, wallet(s.WalletID, "owner")), Audit("commit", mine.WalletID))
		if err != nil {
			assert.ErrorIs(t, err, session.ErrSuperseded)
		}
		return err == nil
	}))
	w := found(t, b, s.WalletID)
	require.Len(t, w.Sets, 1)
	require.Equal(t, w.Sets[0].ID, stored(t, b, s.ID).ShareSetID)
}

// A commit that fails at its last step leaves nothing of its first.
func commitAtomic(t *testing.T, b Backend) {
	there := active(t, b)
	for name, spoil := range map[string]func(s *session.Session, made *session.StoredSet, w *session.Wallet){
		"set id exists": func(s *session.Session, made *session.StoredSet, _ *session.Wallet) {
			made.ID, s.ShareSetID = there.ID, there.ID
		},
		"wallet id exists": func(s *session.Session, made *session.StoredSet, w *session.Wallet) {
			made.WalletID, w.ID = there.WalletID, there.WalletID
		},
		"curve twice": func(_ *session.Session, made *session.StoredSet, _ *session.Wallet) {
			made.ServerShare[0].Curve = made.ServerShare[1].Curve
		},
		"unknown curve": func(_ *session.Session, made *session.StoredSet, _ *session.Wallet) { made.ServerShare[1].Curve = 9 },
		"unknown parent": func(_ *session.Session, made *session.StoredSet, _ *session.Wallet) {
			made.ParentID = uuid.NewString()
		},
		"parent of another wallet": func(_ *session.Session, made *session.StoredSet, _ *session.Wallet) {
			made.ParentID = there.ID
		},
		"signing set with a method": func(_ *session.Session, made *session.StoredSet, _ *session.Wallet) {
			made.Method = session.Password
		},
		"backup set without a method": func(_ *session.Session, made *session.StoredSet, _ *session.Wallet) {
			made.Purpose = tss.Backup
		},
		"unknown state": func(_ *session.Session, made *session.StoredSet, _ *session.Wallet) { made.State = 0 },
		"not succeeded": func(s *session.Session, _ *session.StoredSet, _ *session.Wallet) {
			s.State = session.Running
		},
		"of another session": func(_ *session.Session, made *session.StoredSet, _ *session.Wallet) {
			made.SessionID = there.SessionID
		},
		"set of another wallet": func(_ *session.Session, made *session.StoredSet, _ *session.Wallet) {
			made.WalletID = there.WalletID
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSession(uuid.NewString(), session.OpCreate)
			start(t, b, s)
			made, w := NewSet(s, ""), wallet(s.WalletID, "owner")
			end := *s
			Succeed(&end, made.ID, []byte("result"))
			spoil(&end, made, w)
			require.Error(t, b.Commit(t.Context(), &end, Making(made, w), Audit("commit", end.WalletID)))
			require.Equal(t, s, stored(t, b, s.ID))
			_, err := b.Wallet(t.Context(), s.WalletID)
			require.ErrorIs(t, err, session.ErrWalletNotFound)
			require.Equal(t, there.ServerShare, set(t, b, there.WalletID, there.ID).ServerShare)
			require.Len(t, found(t, b, there.WalletID).Sets, 1)

			// The run can still succeed.
			made = NewSet(s, "")
			Succeed(s, made.ID, []byte("result"))
			require.NoError(t, b.Commit(t.Context(), s, Making(made, wallet(s.WalletID, "owner")), Audit("commit", s.WalletID)))
		})
	}
	s := NewSession(uuid.NewString(), session.OpProvision) // a wallet that does not exist
	start(t, b, s)
	made := NewSet(s, "")
	Succeed(s, made.ID, []byte("result"))
	require.Error(t, b.Commit(t.Context(), s, Making(made, nil), Audit("commit", s.WalletID)))
}

// A set whose parent was revoked meanwhile cannot be committed.
func commitParent(t *testing.T, b Backend) {
	first := active(t, b)
	_, pending := AddSet(t, b, first.WalletID, first.ID)
	_, revoked := AddSet(t, b, first.WalletID, first.ID)
	require.NoError(t, b.Revoke(t.Context(), first.WalletID, now(), pick(revoked.ID), Audit("revoke", first.WalletID)))
	for _, parent := range []string{pending.ID, revoked.ID} {
		s := NewSession(first.WalletID, session.OpProvision)
		start(t, b, s)
		end := *s
		made := NewSet(s, parent)
		Succeed(&end, made.ID, []byte("result"))
		require.ErrorIs(t, b.Commit(t.Context(), &end, Making(made, nil), Audit("commit", end.WalletID)),
			session.ErrShareSetRevoked)
		require.Equal(t, s, stored(t, b, s.ID))
		require.Len(t, found(t, b, first.WalletID).Sets, 3)
	}
}

func interruptAll(t *testing.T, b Backend) {
	n, err := b.InterruptAll(t.Context(), plenty())
	require.NoError(t, err)
	require.Zero(t, n)

	queued, running, failed := NewSession("w", session.OpSign), NewSession("w", session.OpBackup),
		NewSession("w", session.OpSign)
	_, _, err = b.Begin(t.Context(), queued, Audit("begin", queued.WalletID))
	require.NoError(t, err)
	start(t, b, running)
	start(t, b, failed)
	failed.State, failed.Failure = session.Failed, &session.Failure{Reason: "SHARE_MALFORMED"}
	require.NoError(t, b.Update(t.Context(), failed, plenty(), Audit("update", failed.WalletID)))
	done, _ := NewWallet(t, b, "owner")

	n, err = b.InterruptAll(t.Context(), plenty())
	require.NoError(t, err)
	require.Equal(t, 2, n)
	for _, s := range []*session.Session{queued, running} {
		s.State, s.Failure = session.Interrupted, &session.Failure{Reason: "INTERRUPTED"}
	}
	for _, s := range []*session.Session{queued, running, failed, done} {
		require.Equal(t, s, stored(t, b, s.ID))
	}
	require.ErrorIs(t, b.Update(t.Context(), running, plenty(), Audit("update", running.WalletID)), session.ErrSuperseded)
	n, err = b.InterruptAll(t.Context(), plenty())
	require.NoError(t, err)
	require.Zero(t, n)
}

func meta(t *testing.T, b Backend) {
	v, err := b.Meta(t.Context(), "key")
	require.NoError(t, err)
	require.Nil(t, v)
	for range 2 {
		v, err = b.SetMetaOnce(t.Context(), "key", []byte{0, 1, 2})
		require.NoError(t, err)
		require.Equal(t, []byte{0, 1, 2}, v)
	}
	v, err = b.SetMetaOnce(t.Context(), "key", []byte("another"))
	require.NoError(t, err)
	require.Equal(t, []byte{0, 1, 2}, v)
	v, err = b.Meta(t.Context(), "key")
	require.NoError(t, err)
	require.Equal(t, []byte{0, 1, 2}, v)
	v, err = b.Meta(t.Context(), "Key")
	require.NoError(t, err)
	require.Nil(t, v)
}

func metaRace(t *testing.T, b Backend) {
	require.Equal(t, 1, race(t, func(i int) bool {
		mine := fmt.Append(nil, i)
		v, err := b.SetMetaOnce(t.Context(), "key", mine)
		assert.NoError(t, err)
		return slices.Equal(mine, v)
	}))
}

// Changes survive closing and reopening the store.
func durable(t *testing.T, open Open) {
	dir := t.TempDir()
	b := open(t, dir)
	reopen := func() {
		require.NoError(t, b.Close())
		b = open(t, dir)
	}
	s := NewSession(uuid.NewString(), session.OpCreate)
	_, _, err := b.Begin(t.Context(), s, Audit("begin", s.WalletID))
	require.NoError(t, err)
	reopen()
	require.Equal(t, s, stored(t, b, s.ID))
	s.State, s.Progress.Percent = session.Running, 12
	require.NoError(t, b.Update(t.Context(), s, plenty(), Audit("update", s.WalletID)))
	reopen()
	require.Equal(t, s, stored(t, b, s.ID))
	made, w := NewSet(s, ""), wallet(s.WalletID, "owner")
	Succeed(s, made.ID, []byte("result"))
	require.NoError(t, b.Commit(t.Context(), s, Making(made, w), Audit("commit", s.WalletID)))
	_, err = b.SetMetaOnce(t.Context(), "key", []byte("value"))
	require.NoError(t, err)
	reopen()
	require.Equal(t, s, stored(t, b, s.ID))
	require.Equal(t, made, set(t, b, w.ID, made.ID))
	v, err := b.Meta(t.Context(), "key")
	require.NoError(t, err)
	require.Equal(t, []byte("value"), v)
	activate(t, b, made)
	var locked session.Entry
	for range budget {
		reopen()
		locked = abort(t, b, made)
	}
	reopen()
	require.Equal(t, uint32(budget), set(t, b, w.ID, made.ID).Aborts)
	require.Equal(t, locked.Time, set(t, b, w.ID, made.ID).LockTime)
	require.NoError(t, b.Release(t.Context(), w.ID, made.ID, plenty(), Audit("release", w.ID)))
	reopen()
	require.False(t, set(t, b, w.ID, made.ID).Locked())
	_, second := AddSet(t, b, w.ID, made.ID)
	at := now()
	require.NoError(t, b.Revoke(t.Context(), w.ID, at, pick(made.ID), Audit("revoke", w.ID)))
	left := NewSession(w.ID, session.OpSign)
	start(t, b, left)
	reopen()
	require.Nil(t, stored(t, b, s.ID).Result)
	require.Nil(t, set(t, b, w.ID, made.ID).ServerShare)
	made.State, made.ExpireTime, made.RevokeTime = session.SetRevoked, time.Time{}, at
	w.Sets = []session.ShareSet{made.ShareSet, second.ShareSet}
	require.Equal(t, w, found(t, b, w.ID))
	n, err := b.InterruptAll(t.Context(), plenty())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	reopen()
	require.Equal(t, session.Interrupted, stored(t, b, left.ID).State)
	require.NoError(t, b.Close())
}
