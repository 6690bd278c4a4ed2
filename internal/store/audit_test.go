package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/store/storetest"
)

const untie = "DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete; "

// Tampering with the log outside the service is detected, and where.
func TestTamperedAudit(t *testing.T) {
	t.Parallel()
	const wallet, other = "b0000000-0000-0000-0000-000000000000", "a0000000-0000-0000-0000-000000000000"
	for name, c := range map[string]struct {
		tamper string
		n      int64
	}{
		"time":              {"UPDATE audit SET time = time + 1 WHERE n = 3 AND wallet_id = ?1", 3},
		"caller":            {"UPDATE audit SET caller = 'bob' WHERE n = 1 AND wallet_id = ?1", 1},
		"action":            {"UPDATE audit SET action = 'x' WHERE n = 5 AND wallet_id = ?1", 5},
		"share set":         {"UPDATE audit SET share_set_id = 'x' WHERE n = 2 AND wallet_id = ?1", 2},
		"session":           {"UPDATE audit SET session_id = 'x' WHERE n = 2 AND wallet_id = ?1", 2},
		"outcome":           {"UPDATE audit SET outcome = 'failed' WHERE n = 4 AND wallet_id = ?1", 4},
		"reason":            {"UPDATE audit SET reason = 'x' WHERE n = 4 AND wallet_id = ?1", 4},
		"detail":            {"UPDATE audit SET detail = '' WHERE n = 4 AND wallet_id = ?1", 4},
		"a field's border":  {"UPDATE audit SET caller = 'alicet', action = 'est.entry' WHERE n = 4 AND wallet_id = ?1", 4},
		"hash":              {"UPDATE audit SET hash = zeroblob(32) WHERE n = 3 AND wallet_id = ?1", 3},
		"the first is gone": {"DELETE FROM audit WHERE n = 1 AND wallet_id = ?1", 1},
		"a middle one":      {"DELETE FROM audit WHERE n = 3 AND wallet_id = ?1", 3},
		"gone and renumbered": {"DELETE FROM audit WHERE n = 3 AND wallet_id = ?1; UPDATE audit SET n = n - 1 WHERE n > 3 " +
			"AND wallet_id = ?1", 3},
		"swapped": {"UPDATE audit SET n = 99 WHERE n = 2 AND wallet_id = ?1; UPDATE audit SET n = 2 WHERE n = 3 " +
			"AND wallet_id = ?1; UPDATE audit SET n = 3 WHERE n = 99 AND wallet_id = ?1", 2},
		"another wallet's": {"DELETE FROM audit WHERE wallet_id = ?1; UPDATE audit SET wallet_id = ?1 WHERE wallet_id = '" +
			other + "'", 1},
		"repeated": {`
			INSERT INTO audit (wallet_id, n, time, caller, action, share_set_id, session_id, outcome, reason, detail, hash)
			SELECT wallet_id, 6, time, caller, action, share_set_id, session_id, outcome, reason, detail, hash
			FROM audit WHERE n = 5 AND wallet_id = ?1`, 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "mpcd.db")
			s := open(t, path)
			defer func() { require.NoError(t, s.Close()) }()
			for i := range 5 {
				for _, w := range []string{"", other, wallet} {
					e := storetest.Audit("entry", w)
					e.ShareSetID, e.SessionID, e.Reason, e.Detail = uuid.NewString(), uuid.NewString(), "WHY", "what "+
						string(rune('0'+i))
					require.NoError(t, s.Record(t.Context(), e))
				}
			}
			entries, chains, err := s.VerifyAudit(t.Context())
			require.NoError(t, err)
			require.Equal(t, []int{15, 3}, []int{entries, chains})

			_, err = sqlite(t, path).ExecContext(t.Context(), untie+c.tamper, wallet)
			require.NoError(t, err)
			_, _, err = s.VerifyAudit(t.Context())
			var broken *store.AuditBreakError
			require.ErrorAs(t, err, &broken)
			require.Equal(t, wallet, broken.WalletID)
			require.Equal(t, c.n, broken.N)
			require.ErrorContains(t, err, wallet)
		})
	}
}

// Triggers prevent accidental changes to the log.
func TestAuditIsAppendOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	require.NoError(t, s.Record(t.Context(), storetest.Audit("entry", "")))
	for _, do := range []string{
		"UPDATE audit SET caller = 'bob'", "DELETE FROM audit", "UPDATE audit SET n = n",
		"INSERT OR REPLACE INTO audit SELECT wallet_id, n, time, 'bob', action, share_set_id, session_id, outcome, reason, " +
			"detail, hash FROM audit",
	} {
		_, err := sqlite(t, path).ExecContext(t.Context(), do)
		require.ErrorContains(t, err, "append-only", do)
	}
	entries, _, err := s.VerifyAudit(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, entries)
}

// What Sweep erases is nowhere in the files when it returns, and rows that held such bytes are not deleted.
func TestSweptBytesAreGone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	var gone [][]byte
	for range 12 {
		n := storetest.NewSession(uuid.NewString(), session.OpCreate)
		_, _, err := s.Begin(t.Context(), n, storetest.Audit("begin", n.WalletID))
		require.NoError(t, err)
		set, result := storetest.NewSet(n, ""), random(3000)
		storetest.Succeed(n, set.ID, result)
		require.NoError(t, s.Commit(t.Context(), n,
			storetest.Making(set, &session.Wallet{ID: n.WalletID, Owner: "owner", CreateTime: time.Now()}),
			storetest.Audit("commit", n.WalletID)))
		gone = append(gone, result, set.ServerShare[0].Ciphertext, set.ServerShare[1].Ciphertext)
	}
	_, kept := storetest.NewWallet(t, s, "owner")
	changed, err := s.Confirm(t.Context(), kept.WalletID, kept.ID, storetest.Audit("confirm", kept.WalletID))
	require.NoError(t, err)
	require.True(t, changed)
	for _, b := range gone {
		require.True(t, trace(files(t, path), b), "the control")
	}
	swept, err := s.Sweep(t.Context(), time.Now().Add(time.Hour), time.Hour)
	require.NoError(t, err)
	require.Equal(t, 12, swept.Sets)
	_, err = s.Sweep(t.Context(), time.Now().Add(3*time.Hour), time.Hour)
	require.NoError(t, err)
	after := files(t, path)
	for _, b := range gone {
		require.False(t, trace(after, b))
	}
	require.True(t, trace(after, kept.ServerShare[0].Ciphertext))
	for _, table := range []string{"share_set_halves", "session_results"} {
		var last, rows int
		require.NoError(t, sqlite(t, path).QueryRowContext(t.Context(), "SELECT max(id), count(*) FROM "+
			table).Scan(&last, &rows))
		require.Equal(t, last, rows, table)
	}
}

// Pool rows are emptied and reused; what was claimed or dropped is nowhere in the files.
func TestPreParamsLeaveNoTrace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	for round := range 5 {
		sealed := map[string][]byte{}
		for range 4 {
			id := uuid.NewString()
			sealed[id] = random(5000)
			require.NoError(t, s.AddPreParams(t.Context(), id, 1, sealed[id], time.Now()))
		}
		for id, b := range sealed {
			require.True(t, trace(files(t, path), b), "the control: %s", id)
		}
		for range 3 {
			id, b, err := s.ClaimPreParams(t.Context(), 1, time.Time{})
			require.NoError(t, err)
			require.Equal(t, sealed[id], b)
			require.False(t, trace(files(t, path), b))
		}
		n, err := s.DropPreParams(t.Context(), time.Now().Add(time.Hour))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		after := files(t, path)
		for _, b := range sealed {
			require.False(t, trace(after, b), "round %d", round)
		}
		var rows int
		require.NoError(t, sqlite(t, path).QueryRowContext(t.Context(), "SELECT count(*) FROM preparams").Scan(&rows))
		require.Equal(t, 4, rows)
	}
}
