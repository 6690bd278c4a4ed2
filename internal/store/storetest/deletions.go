package storetest

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// backingUp returns a running session of a wallet, and the BACKUP set that it is about to commit, with its server
// share at an external custodian.
func backingUp(t *testing.T, b Backend, from *session.StoredSet) (*session.Session, *session.StoredSet) {
	t.Helper()
	s := NewSession(from.WalletID, session.OpBackup)
	set := NewSet(s, from.ID)
	set.Purpose, set.Method, set.ServerShare = tss.Backup, session.Password, nil
	start(t, b, s)
	Succeed(s, set.ID, []byte("result of "+s.ID))
	return s, set
}

// elsewhere stores an ACTIVE wallet with a PENDING BACKUP set whose server share is with an external custodian.
func elsewhere(t *testing.T, b Backend) *session.StoredSet {
	t.Helper()
	s, set := backingUp(t, b, active(t, b))
	require.NoError(t, b.Commit(t.Context(), s, Making(set, nil), Audit("commit", s.WalletID)))
	return set
}

// NewRevokedElsewhere stores a wallet with two revoked BACKUP sets: the server share of the first is with an external
// custodian, that of the second was in the store. It returns the first one's id, and the due deletions.
func NewRevokedElsewhere(t *testing.T, b Backend) (string, []session.Deletion) {
	t.Helper()
	there := elsewhere(t, b)
	activate(t, b, there)
	s, here := backingUp(t, b, set(t, b, there.WalletID, there.ParentID))
	here.ServerShare = []session.Sealed{{Curve: tss.Ed25519, Ciphertext: random(100)}}
	require.NoError(t, b.Commit(t.Context(), s, Making(here, nil), Audit("commit", s.WalletID)))
	require.NoError(t, b.Revoke(t.Context(), there.WalletID, now(), pick(there.ID, here.ID),
		Audit("revoke", there.WalletID)))
	return there.ID, due(t, b, now())
}

func plan(t *testing.T, b Backend, set *session.StoredSet, due time.Time) session.Deletion {
	t.Helper()
	d := session.Deletion{ShareSetID: set.ID, WalletID: set.WalletID, Owner: "owner", Due: due}
	require.NoError(t, b.PlanDeletion(t.Context(), d))
	return d
}

func due(t *testing.T, b Backend, at time.Time) []session.Deletion {
	t.Helper()
	all, err := b.DueDeletions(t.Context(), at, 100)
	require.NoError(t, err)
	return all
}

// A deletion is due at its time, again at a later time if postponed, and no more once it is ended.
func deletions(t *testing.T, b Backend) {
	require.Empty(t, due(t, b, now().Add(time.Hour)))
	_, set := backingUp(t, b, active(t, b))
	at := now().Add(time.Minute)
	d := plan(t, b, set, at)
	require.Empty(t, due(t, b, at.Add(-time.Microsecond)))
	require.Equal(t, []session.Deletion{d}, due(t, b, at))
	require.Equal(t, []session.Deletion{d}, due(t, b, at), "until it is ended")

	d.Due, d.Tries = at.Add(time.Hour), 1
	require.NoError(t, b.PostponeDeletion(t.Context(), d.ShareSetID, d.Due))
	require.Empty(t, due(t, b, at))
	require.Equal(t, []session.Deletion{d}, due(t, b, d.Due))

	before, err := b.Audit(t.Context(), set.WalletID)
	require.NoError(t, err)
	for range 2 { // the second time it is not there any more
		require.NoError(t, b.EndDeletion(t.Context(), d.ShareSetID, Audit("delete", set.WalletID)))
		require.Empty(t, due(t, b, d.Due))
		after, err := b.Audit(t.Context(), set.WalletID)
		require.NoError(t, err)
		require.Len(t, after, len(before)+1)
		require.Equal(t, "test.delete", after[len(before)].Action)
	}
	require.NoError(t, b.PostponeDeletion(t.Context(), d.ShareSetID, now()))
	require.Empty(t, due(t, b, d.Due), "postponing adds nothing to the list")

	one, two := plan(t, b, NewSet(NewSession(uuid.NewString(), session.OpBackup), ""), at),
		plan(t, b, NewSet(NewSession(uuid.NewString(), session.OpBackup), ""), at.Add(-time.Second))
	require.Equal(t, []session.Deletion{two, one}, due(t, b, at), "in the order of their times")
	some, err := b.DueDeletions(t.Context(), at, 1)
	require.NoError(t, err)
	require.Equal(t, []session.Deletion{two}, some)
}

// Committing a set takes it off the list; planning it again changes its time; a committed set cannot be planned.
func deletionsPlanned(t *testing.T, b Backend) {
	s, set := backingUp(t, b, active(t, b))
	plan(t, b, set, now().Add(time.Hour))
	moved := plan(t, b, set, now().Add(time.Minute))
	require.Empty(t, due(t, b, now()))
	require.NoError(t, b.Commit(t.Context(), s, Making(set, nil), Audit("commit", s.WalletID)))
	require.Empty(t, due(t, b, now().Add(time.Hour)))
	require.Error(t, b.PlanDeletion(t.Context(), moved))
	require.Empty(t, due(t, b, now().Add(time.Hour)))
	require.Len(t, found(t, b, set.WalletID).Sets, 2)

	// A commit that fails leaves it there.
	s, set = backingUp(t, b, set)
	d := plan(t, b, set, now())
	require.ErrorIs(t, b.Commit(t.Context(), s, Making(set, nil), Audit("commit", s.WalletID)), session.ErrShareSetRevoked,
		"its parent is PENDING")
	require.Equal(t, []session.Deletion{d}, due(t, b, now()))
}

// Once its custodian may have been told, a set cannot be committed, not even after the deletion ended.
func deletionsLateCommit(t *testing.T, b Backend) {
	parent := active(t, b)
	s, set := backingUp(t, b, parent)
	d := plan(t, b, set, now())
	require.Equal(t, []session.Deletion{d}, due(t, b, now()))
	require.NoError(t, b.PostponeDeletion(t.Context(), d.ShareSetID, now().Add(time.Hour)))
	require.ErrorIs(t, b.Commit(t.Context(), s, Making(set, nil), Audit("commit", s.WalletID)), session.ErrInterrupted)
	require.Len(t, found(t, b, parent.WalletID).Sets, 1)
	require.Len(t, due(t, b, now().Add(time.Hour)), 1)
	// Planned again, as by a deposit that ends late, it stays begun.
	plan(t, b, set, now().Add(time.Hour))
	require.ErrorIs(t, b.Commit(t.Context(), s, Making(set, nil), Audit("commit", s.WalletID)), session.ErrInterrupted)
}

// Of a concurrent commit and deletion exactly one succeeds.
func deletionsRace(t *testing.T, b Backend) {
	parent := active(t, b)
	for range 8 {
		s, set := backingUp(t, b, parent)
		plan(t, b, set, now())
		begun := make(chan []session.Deletion, 1)
		go func() { // ends with the look
			all, err := b.DueDeletions(t.Context(), now(), 1)
			if err != nil {
				all = nil
			}
			begun <- all
		}()
		err := b.Commit(t.Context(), s, Making(set, nil), Audit("commit", s.WalletID))
		if all := <-begun; len(all) > 0 {
			require.ErrorIs(t, err, session.ErrInterrupted)
			_, err = b.Set(t.Context(), set.WalletID, set.ID)
			require.ErrorIs(t, err, session.ErrShareSetNotFound)
			require.NoError(t, b.EndDeletion(t.Context(), set.ID, Audit("delete", set.WalletID)))
			continue
		}
		require.NoError(t, err)
		require.Empty(t, due(t, b, now().Add(time.Hour)))
	}
}

// A revoked BACKUP set with an external custodian is on the list; one whose server share was in the store is not, nor
// is a SIGNING set. A refused revocation adds nothing.
func deletionsRevoke(t *testing.T, b Backend) {
	set := elsewhere(t, b)
	activate(t, b, set)
	s, here := backingUp(t, b, &session.StoredSet{ShareSet: session.ShareSet{ID: set.ParentID, WalletID: set.WalletID}})
	here.ServerShare = []session.Sealed{{Curve: tss.Ed25519, Ciphertext: random(100)}}
	require.NoError(t, b.Commit(t.Context(), s, Making(here, nil), Audit("commit", s.WalletID)))

	require.Error(t, b.Revoke(t.Context(), set.WalletID, now(), pick(set.ID, uuid.NewString()),
		Audit("revoke", set.WalletID)))
	require.Empty(t, due(t, b, now().Add(time.Hour)), "nothing was revoked")
	at := now()
	for range 2 {
		require.NoError(t, b.Revoke(t.Context(), set.WalletID, at, pick(set.ParentID, set.ID, here.ID),
			Audit("revoke", set.WalletID)))
		require.Equal(t, []session.Deletion{{ShareSetID: set.ID, WalletID: set.WalletID, Owner: "owner", Due: at}},
			due(t, b, at))
	}
	require.NoError(t, b.EndDeletion(t.Context(), set.ID, Audit("delete", set.WalletID)))
	require.NoError(t, b.Revoke(t.Context(), set.WalletID, at, pick(set.ID), Audit("revoke", set.WalletID)))
	require.Empty(t, due(t, b, now()), "it was revoked before, and deleted")
}

// An unconfirmed BACKUP set is on the list once it is swept.
func deletionsSweep(t *testing.T, b Backend) {
	set := elsewhere(t, b)
	_, _ = AddSet(t, b, set.WalletID, set.ParentID) // its server share is in the store
	_, err := b.Sweep(t.Context(), now(), month)
	require.NoError(t, err)
	require.Empty(t, due(t, b, now().Add(time.Hour)))
	at := now().Add(time.Hour)
	swept, err := b.Sweep(t.Context(), at, month)
	require.NoError(t, err)
	require.Equal(t, 2, swept.Sets)
	require.Equal(t, []session.Deletion{{ShareSetID: set.ID, WalletID: set.WalletID, Owner: "owner", Due: at}},
		due(t, b, at))
}

// After a restart no earlier run can commit, so its deposit is due for deletion; postponed deletions keep their time.
func deletionsRestart(t *testing.T, b Backend) {
	parent := active(t, b)
	_, left := backingUp(t, b, parent)
	_, vain := backingUp(t, b, parent)
	plan(t, b, vain, now())
	require.Len(t, due(t, b, now()), 1)
	require.NoError(t, b.PostponeDeletion(t.Context(), vain.ID, now().Add(time.Hour)))
	plan(t, b, left, now().Add(time.Hour))
	require.Empty(t, due(t, b, now()))
	_, err := b.InterruptAll(t.Context(), plenty())
	require.NoError(t, err)
	all := due(t, b, now())
	require.Len(t, all, 1)
	require.Equal(t, left.ID, all[0].ShareSetID)
}
