package store_test

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store/storetest"
)

// undo has the statements that revert each migration.
var undo = map[int][]string{
	4: {"ALTER TABLE share_sets DROP COLUMN lock_time", "ALTER TABLE share_sets DROP COLUMN aborts"},
	5: {"DROP TABLE custodian_deletions"},
	6: {
		"ALTER TABLE share_sets DROP COLUMN soft_full_time", "ALTER TABLE wallets DROP COLUMN lock_time",
		"ALTER TABLE wallets DROP COLUMN hard_aborts", "ALTER TABLE wallets DROP COLUMN soft_aborts",
		"DROP INDEX sessions_armed", "ALTER TABLE sessions DROP COLUMN armed",
		"ALTER TABLE sessions DROP COLUMN used_set_id", "DROP TABLE blames",
	},
	7: {
		"DROP INDEX wallet_moduli_by_sha256", "ALTER TABLE wallet_moduli DROP COLUMN maker",
		"DROP INDEX preparams_by_age", "ALTER TABLE preparams DROP COLUMN role",
		"ALTER TABLE preparams DROP COLUMN incarnation",
		"CREATE INDEX preparams_by_age ON preparams (make_time) WHERE id IS NOT NULL", "DROP TABLE incarnation",
	},
	8: {"DROP INDEX wallets_by_owner", "CREATE INDEX wallets_by_owner ON wallets (owner, id)"},
}

// olderSchema turns a database into that of an earlier release, whose last migration is version.
func olderSchema(t *testing.T, path string, version int) {
	t.Helper()
	db := sqlite(t, path)
	for _, v := range slices.Backward(slices.Sorted(maps.Keys(undo))) {
		if v <= version {
			break
		}
		for _, back := range undo[v] {
			_, err := db.ExecContext(t.Context(), back)
			require.NoError(t, err, back)
		}
	}
	_, err := db.ExecContext(t.Context(), "DELETE FROM goose_db_version WHERE version_id > ?", version)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

// Sets keep the aborts that an earlier release counted, and locked ones stay locked. A wallet starts with the sum
// over its sets, and is locked by the next abort at the earliest.
func TestMigrationCountsAbortsPerWallet(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	first := storetest.NewAborted(t, s, 3)
	_, other := storetest.NewWallet(t, s, "owner")
	before, err := s.Wallet(t.Context(), first.WalletID)
	require.NoError(t, err)
	require.True(t, before.Sets[0].Locked())
	require.NoError(t, s.Close())
	olderSchema(t, path, 5)
	_, err = sqlite(t, path).ExecContext(t.Context(), "UPDATE share_sets SET aborts = 7 WHERE id = ?", before.Sets[1].ID)
	require.NoError(t, err)

	s = open(t, path)
	after, err := s.Wallet(t.Context(), first.WalletID)
	require.NoError(t, err)
	require.Equal(t, uint32(10), after.HardAborts)
	require.Zero(t, after.SoftAborts)
	require.True(t, after.LockTime.IsZero())
	require.Equal(t, before.Sets[0], after.Sets[0])
	require.Equal(t, uint32(7), after.Sets[1].Aborts)
	none, err := s.Wallet(t.Context(), other.WalletID)
	require.NoError(t, err)
	require.Zero(t, none.HardAborts)
	n, err := s.InterruptAll(t.Context(), session.NewBudget(5, before.CreateTime))
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, s.Close())
}

// A wallet that reached its limit before wallets could be locked, with all aborts in sets that are revoked and so
// cannot be released, is locked at startup: releasing any other set unlocks it and resets the count.
func TestMigratedWalletAtItsLimitIsLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	revoked := storetest.NewAborted(t, s, 3)
	w, err := s.Wallet(t.Context(), revoked.WalletID)
	require.NoError(t, err)
	live := w.Sets[1].ID
	require.NoError(t, s.Close())
	olderSchema(t, path, 5)
	_, err = sqlite(t, path).ExecContext(t.Context(), "UPDATE share_sets SET state = 3, revoke_time = 1, aborts = 15 "+
		"WHERE id = ?", revoked.ID)
	require.NoError(t, err)

	s = open(t, path)
	b := session.NewBudget(5, w.CreateTime)
	for range 2 {
		_, err = s.InterruptAll(t.Context(), b)
		require.NoError(t, err)
	}
	set, err := s.Set(t.Context(), w.ID, live)
	require.NoError(t, err)
	require.True(t, set.Locked(), "otherwise it could never be used again")
	audit := storetest.Audit("share_set.release", w.ID)
	require.NoError(t, s.Release(t.Context(), w.ID, live, b, audit))
	set, err = s.Set(t.Context(), w.ID, live)
	require.NoError(t, err)
	require.False(t, set.Locked())
	require.Zero(t, set.WalletHard)
	require.NoError(t, s.Close())
}

// Wallets of an earlier release have random ids. They too are listed by creation time, using an index.
func TestMigratedWalletsAreListedByCreation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	var want []string
	for range 6 {
		_, set := storetest.NewWallet(t, s, "owner")
		want = append(want, set.WalletID)
	}
	require.NoError(t, s.Close())
	olderSchema(t, path, 7)
	db := sqlite(t, path)
	slices.Sort(want)
	slices.Reverse(want)
	for i, id := range want {
		_, err := db.ExecContext(t.Context(), "UPDATE wallets SET create_time = ? WHERE id = ?", i, id)
		require.NoError(t, err)
	}
	require.NoError(t, db.Close())

	s = open(t, path)
	list, err := s.List(t.Context(), "owner", session.Position{}, 10)
	require.NoError(t, err)
	var got []string
	for i := range list {
		got = append(got, list[i].ID)
	}
	require.Equal(t, want, got)
	require.NoError(t, s.Close())

	var columns string
	require.NoError(t, sqlite(t, path).QueryRowContext(t.Context(),
		"SELECT group_concat(name) FROM pragma_index_info('wallets_by_owner')").Scan(&columns))
	require.Equal(t, "owner,create_time,id", columns)
}
