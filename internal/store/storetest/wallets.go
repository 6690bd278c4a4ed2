package storetest

import (
	"context"
	"errors"
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

// Every field is returned as it was stored; times in UTC, whatever zone they were in.
func walletRoundTrip(t *testing.T, b Backend) {
	zone := time.FixedZone("somewhere", 5*3600)
	s := NewSession(uuid.NewString(), session.OpCreate)
	first := NewSet(s, "")
	w := wallet(s.WalletID, "owner")
	start(t, b, s)
	Succeed(s, first.ID, []byte("result"))
	in := *w
	in.CreateTime = w.CreateTime.In(zone)
	require.NoError(t, b.Commit(t.Context(), s, Making(first, &in), Audit("commit", s.WalletID)))
	require.Equal(t, first, set(t, b, w.ID, first.ID))

	activate(t, b, first)
	first.State, first.ExpireTime = session.SetActive, time.Time{}
	require.Equal(t, first, set(t, b, w.ID, first.ID))

	s = NewSession(w.ID, session.OpBackup)
	backup := NewSet(s, first.ID)
	backup.Purpose, backup.Method, backup.DisplayName = tss.Backup, session.Custom, ""
	backup.ServerShare = backup.ServerShare[1:]
	start(t, b, s)
	Succeed(s, backup.ID, []byte("result"))
	require.NoError(t, b.Commit(t.Context(), s, Making(backup, nil), Audit("commit", s.WalletID)))
	require.Equal(t, backup, set(t, b, w.ID, backup.ID))

	elsewhere := NewSet(NewSession(w.ID, session.OpProvision), first.ID)
	elsewhere.ServerShare = nil // with an external custodian
	s = NewSession(w.ID, session.OpProvision)
	elsewhere.SessionID = s.ID
	start(t, b, s)
	Succeed(s, elsewhere.ID, []byte("result"))
	require.NoError(t, b.Commit(t.Context(), s, Making(elsewhere, nil), Audit("commit", s.WalletID)))
	require.Equal(t, elsewhere, set(t, b, w.ID, elsewhere.ID))

	w.Sets = []session.ShareSet{first.ShareSet, backup.ShareSet, elsewhere.ShareSet}
	require.Equal(t, w, found(t, b, w.ID))

	s = NewSession(uuid.NewString(), session.OpCreate)
	held := &session.Wallet{ID: s.WalletID, Owner: "another", CreateTime: now()} // device-held, keys not known
	only := NewSet(s, "")
	start(t, b, s)
	Succeed(s, only.ID, []byte("result"))
	require.NoError(t, b.Commit(t.Context(), s, Making(only, held), Audit("commit", s.WalletID)))
	held.Sets = []session.ShareSet{only.ShareSet}
	require.Equal(t, held, found(t, b, held.ID))
}

func notFound(t *testing.T, b Backend) {
	ctx := t.Context()
	mine, other := active(t, b), active(t, b)
	none := uuid.NewString()

	_, err := b.Wallet(ctx, none)
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	_, err = b.Wallet(ctx, "")
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	require.ErrorIs(t, b.Revoke(ctx, none, now(), pick(), Audit("revoke", none)), session.ErrWalletNotFound)

	for _, at := range [][2]string{{mine.WalletID, none}, {none, mine.ID}, {mine.WalletID, other.ID},
		{mine.WalletID, ""}} {
		_, err = b.Set(ctx, at[0], at[1])
		require.ErrorIs(t, err, session.ErrShareSetNotFound)
		_, err = b.Confirm(ctx, at[0], at[1], Audit("confirm", at[0]))
		require.ErrorIs(t, err, session.ErrShareSetNotFound)
	}

	_, err = b.Session(ctx, none)
	require.ErrorIs(t, err, session.ErrSessionNotFound)
	s := NewSession(none, session.OpSign)
	start(t, b, s)
	_, err = b.ByRequest(ctx, s.Caller, none)
	require.ErrorIs(t, err, session.ErrSessionNotFound)
	_, err = b.ByRequest(ctx, "another", s.RequestID)
	require.ErrorIs(t, err, session.ErrSessionNotFound)
	require.ErrorIs(t, b.Update(ctx, NewSession(none, session.OpSign), plenty(), Audit("update", none)),
		session.ErrSessionNotFound)
	gone := NewSession(none, session.OpSign)
	Succeed(gone, "", []byte("result"))
	require.ErrorIs(t, b.Commit(ctx, gone, Making(nil, nil), Audit("commit", gone.WalletID)), session.ErrSessionNotFound)
}

// Sets are ordered by commit, even if the clock went back between commits.
func setsInOrder(t *testing.T, b Backend) {
	first := active(t, b)
	want := []string{first.ID}
	for i := range 5 {
		s := NewSession(first.WalletID, session.OpProvision)
		next := NewSet(s, first.ID)
		next.CreateTime = now().Add(-time.Duration(i) * time.Hour)
		start(t, b, s)
		Succeed(s, next.ID, []byte("result"))
		require.NoError(t, b.Commit(t.Context(), s, Making(next, nil), Audit("commit", s.WalletID)))
		want = append(want, next.ID)
	}
	var got []string
	for _, s := range found(t, b, first.WalletID).Sets {
		got = append(got, s.ID)
	}
	require.Equal(t, want, got)
}

func list(t *testing.T, b Backend) {
	none, err := b.List(t.Context(), "", session.Position{}, 10)
	require.NoError(t, err)
	require.Empty(t, none)

	ids := make([]string, 6)
	for i := range ids {
		ids[i] = uuid.NewString()
	}
	slices.Sort(ids)
	created := now()
	inOrder := map[string][]string{}
	var later []func() // they are not stored in the order of their creation either
	for i, x := range []struct {
		id    string
		after int // microseconds
	}{{ids[3], 0}, {ids[1], 1}, {ids[4], 1}, {ids[0], 2}, {ids[5], 3}, {ids[2], 4}} {
		s := NewSession(x.id, session.OpCreate)
		set, w := NewSet(s, ""), wallet(x.id, fmt.Sprintf("owner %d", i%2))
		w.CreateTime = created.Add(time.Duration(x.after) * time.Microsecond)
		inOrder[w.Owner], inOrder[""] = append(inOrder[w.Owner], w.ID), append(inOrder[""], w.ID)
		later = append(later, func() {
			start(t, b, s)
			Succeed(s, set.ID, []byte("result"))
			require.NoError(t, b.Commit(t.Context(), s, Making(set, w), Audit("commit", w.ID)))
			if i == 3 {
				activate(t, b, set)
				AddSet(t, b, w.ID, set.ID)
			}
		})
	}
	for _, store := range slices.Backward(later) {
		store()
	}
	for owner, want := range inOrder {
		for limit := 1; limit <= len(want)+1; limit++ {
			var got []string
			for after := (session.Position{}); ; {
				page, err := b.List(t.Context(), owner, after, limit)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page), limit)
				if len(page) == 0 {
					break
				}
				for i := range page {
					require.Equal(t, found(t, b, page[i].ID), &page[i])
					got = append(got, page[i].ID)
				}
				after = page[len(page)-1].Position()
			}
			require.Equal(t, want, got)
		}
	}
	for _, owner := range []string{"nobody", "owner", "owner 1 "} {
		page, err := b.List(t.Context(), owner, session.Position{}, 10)
		require.NoError(t, err)
		require.Empty(t, page)
	}
	page, err := b.List(t.Context(), "", session.Position{}, 0)
	require.NoError(t, err)
	require.Empty(t, page)
}

func confirm(t *testing.T, b Backend) {
	s, made := NewWallet(t, b, "owner")
	_, other := NewWallet(t, b, "owner")
	require.NotNil(t, stored(t, b, s.ID).Result)
	activate(t, b, made)
	got := set(t, b, made.WalletID, made.ID)
	require.Equal(t, session.SetActive, got.State)
	require.True(t, got.ExpireTime.IsZero())
	require.Equal(t, made.ServerShare, got.ServerShare)
	require.Nil(t, stored(t, b, s.ID).Result)
	require.Equal(t, session.Succeeded, stored(t, b, s.ID).State)
	require.NotNil(t, stored(t, b, other.SessionID).Result)
	require.Equal(t, session.SetPending, set(t, b, other.WalletID, other.ID).State)

	for _, state := range []session.SetState{session.SetActive, session.SetRevoked} {
		changed, err := b.Confirm(t.Context(), made.WalletID, made.ID, Audit("confirm", made.WalletID))
		require.NoError(t, err)
		require.False(t, changed)
		require.Equal(t, state, set(t, b, made.WalletID, made.ID).State)
		require.NoError(t, b.Revoke(t.Context(), made.WalletID, now(), pick(made.ID), Audit("revoke", made.WalletID)))
	}
}

func confirmRace(t *testing.T, b Backend) {
	_, made := NewWallet(t, b, "owner")
	require.Equal(t, 1, race(t, func(int) bool {
		changed, err := b.Confirm(t.Context(), made.WalletID, made.ID, Audit("confirm", made.WalletID))
		assert.NoError(t, err)
		return changed
	}))
}

func revoke(t *testing.T, b Backend) {
	first := active(t, b)
	_, second := AddSet(t, b, first.WalletID, first.ID)
	activate(t, b, second)
	before := found(t, b, first.WalletID)
	at := now().Add(time.Minute)

	var seen []session.ShareSet
	require.NoError(t, b.Revoke(t.Context(), first.WalletID, at, func(sets []session.ShareSet) ([]string, error) {
		seen = slices.Clone(sets)
		clear(sets) // pick's changes to its argument have no effect
		return []string{second.ID, second.ID}, nil
	}, Audit("revoke", first.WalletID)))
	require.Equal(t, before.Sets, seen)
	got := set(t, b, first.WalletID, second.ID)
	require.Equal(t, session.SetRevoked, got.State)
	require.Equal(t, at, got.RevokeTime)
	require.Nil(t, got.ServerShare)
	require.Equal(t, second.Record, got.Record)
	require.Equal(t, before.Sets[0], found(t, b, first.WalletID).Sets[0])
	require.Equal(t, first.ServerShare, set(t, b, first.WalletID, first.ID).ServerShare)

	// Again, together with another set: a revoked set stays as it is.
	require.NoError(t, b.Revoke(t.Context(), first.WalletID, at.Add(time.Hour), pick(second.ID, first.ID),
		Audit("revoke", first.WalletID)))
	require.Equal(t, at, set(t, b, first.WalletID, second.ID).RevokeTime)
	require.Equal(t, at.Add(time.Hour), set(t, b, first.WalletID, first.ID).RevokeTime)
	require.Nil(t, set(t, b, first.WalletID, first.ID).ServerShare)
	require.NoError(t, b.Revoke(t.Context(), first.WalletID, at, pick(), Audit("revoke", first.WalletID)))
}

// Revoking a PENDING set erases the result that waits for its client.
func revokePending(t *testing.T, b Backend) {
	s, made := NewWallet(t, b, "owner")
	require.NoError(t, b.Revoke(t.Context(), made.WalletID, now(), pick(made.ID), Audit("revoke", made.WalletID)))
	got := set(t, b, made.WalletID, made.ID)
	require.Equal(t, session.SetRevoked, got.State)
	require.True(t, got.ExpireTime.IsZero())
	require.Nil(t, got.ServerShare)
	require.Nil(t, stored(t, b, s.ID).Result)
	require.Equal(t, session.Succeeded, stored(t, b, s.ID).State)
}

// If pick fails, or names a set that does not exist, nothing changes.
func revokeRefused(t *testing.T, b Backend) {
	mine, other := active(t, b), active(t, b)
	before := found(t, b, mine.WalletID)
	why := errors.New("because")
	err := b.Revoke(t.Context(), mine.WalletID, now(), func([]session.ShareSet) ([]string, error) {
		return []string{mine.ID}, why
	}, Audit("revoke", mine.WalletID))
	require.Same(t, why, err)
	for _, id := range []string{other.ID, uuid.NewString(), ""} {
		require.ErrorIs(t, b.Revoke(t.Context(), mine.WalletID, now(), pick(mine.ID, id), Audit("revoke", mine.WalletID)),
			session.ErrShareSetNotFound)
	}
	require.Equal(t, before, found(t, b, mine.WalletID))
	require.Equal(t, mine.ServerShare, set(t, b, mine.WalletID, mine.ID).ServerShare)
	require.Equal(t, other.ServerShare, set(t, b, other.WalletID, other.ID).ServerShare)
	require.PanicsWithValue(t, "pick", func() {
		_ = b.Revoke(t.Context(), mine.WalletID, now(), func([]session.ShareSet) ([]string, error) { panic("pick") },
			Audit("revoke", mine.WalletID))
	})
	require.Equal(t, before, found(t, b, mine.WalletID)) // and the store still works
}

// Callers that each may revoke all but the last ACTIVE set leave exactly one.
func revokeRace(t *testing.T, b Backend) {
	first := active(t, b)
	ids := []string{first.ID}
	for len(ids) < racers {
		_, s := AddSet(t, b, first.WalletID, first.ID)
		activate(t, b, s)
		ids = append(ids, s.ID)
	}
	revoked := race(t, func(i int) bool {
		err := b.Revoke(t.Context(), first.WalletID, now(), func(sets []session.ShareSet) ([]string, error) {
			w := session.Wallet{Sets: sets}
			if len(w.Active(tss.Signing)) == 1 {
				return nil, session.ErrLastShareSet
			}
			return ids[i : i+1], nil
		}, Audit("revoke", first.WalletID))
		if err != nil {
			assert.ErrorIs(t, err, session.ErrLastShareSet)
		}
		return err == nil
	})
	require.Equal(t, racers-1, revoked)
	require.Len(t, found(t, b, first.WalletID).Active(tss.Signing), 1)
}

// A set cannot escape the revocation of its parent: either pick sees it, or it is never committed.
func revokeCommitRace(t *testing.T, b Backend) {
	first := active(t, b)
	made := make([]*session.StoredSet, racers)
	runs := make([]*session.Session, racers)
	for i := range runs {
		runs[i] = NewSession(first.WalletID, session.OpProvision)
		made[i] = NewSet(runs[i], first.ID)
		start(t, b, runs[i])
		Succeed(runs[i], made[i].ID, []byte("result"))
	}
	race(t, func(i int) bool {
		if i == racers/2 {
			return assert.NoError(t, b.Revoke(t.Context(), first.WalletID, now(),
				func(sets []session.ShareSet) (ids []string, err error) {
					for _, s := range sets {
						ids = append(ids, s.ID)
					}
					return ids, nil
				}, Audit("revoke", first.WalletID)))
		}
		err := b.Commit(t.Context(), runs[i], Making(made[i], nil), Audit("commit", runs[i].WalletID))
		if err != nil {
			assert.ErrorIs(t, err, session.ErrShareSetRevoked)
		}
		return err == nil
	})
	for _, s := range found(t, b, first.WalletID).Sets {
		require.Equal(t, session.SetRevoked, s.State)
		require.Nil(t, set(t, b, s.WalletID, s.ID).ServerShare)
	}
}

// A cancelled call returns its context's error and changes nothing.
func cancelled(t *testing.T, b Backend) {
	s, made := NewWallet(t, b, "owner")
	before := found(t, b, made.WalletID)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Confirm(ctx, made.WalletID, made.ID, Audit("confirm", made.WalletID))
	require.ErrorIs(t, err, context.Canceled)
	_, _, err = b.Begin(ctx, NewSession(made.WalletID, session.OpSign), Audit("begin", made.WalletID))
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Wallet(ctx, made.WalletID)
	require.ErrorIs(t, err, context.Canceled)

	ctx, cancel = context.WithCancel(t.Context())
	err = b.Revoke(ctx, made.WalletID, now(), func([]session.ShareSet) ([]string, error) {
		cancel()
		return []string{made.ID}, nil
	}, Audit("revoke", made.WalletID))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, before, found(t, b, made.WalletID))
	require.NotNil(t, stored(t, b, s.ID).Result)
}

// Changing arguments or results afterwards affects no other caller.
func noAliasing(t *testing.T, b Backend) {
	_, made := NewWallet(t, b, "owner")
	want := set(t, b, made.WalletID, made.ID)
	clear(made.ServerShare[0].Ciphertext)
	clear(made.Record)
	clear(set(t, b, made.WalletID, made.ID).ServerShare[0].Ciphertext)
	found(t, b, made.WalletID).Sets[0].State = session.SetRevoked
	require.Equal(t, want, set(t, b, made.WalletID, made.ID))
	require.Equal(t, session.SetPending, found(t, b, made.WalletID).Sets[0].State)
}
