package store

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The store's guarantees depend on these settings; SQLite silently ignores a misspelt one.
func TestSettings(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "mpcd.db"))
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	for pragma, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "secure_delete": "1", "busy_timeout": "5000",
		"temp_store": "2", "trusted_schema": "0", "application_id": "1836082020",
	} {
		var got string
		require.NoError(t, s.db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got))
		require.Equal(t, want, got, pragma)
	}
	require.Equal(t, 1, s.db.Stats().MaxOpenConnections)
	var faults int
	require.NoError(t, s.db.QueryRowContext(t.Context(), "SELECT count(*) FROM pragma_foreign_key_check").Scan(&faults))
	require.Zero(t, faults)
}
