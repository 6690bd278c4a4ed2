package store

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
)

// If the database cannot be written, each change returns ErrInterrupted, and one line is logged. Reads still work,
// and changes work again once the fault is gone.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "mpcd.db"))
	require.NoError(t, err)
	defer s.Close() //nolint:errcheck // the test has ended
	var log bytes.Buffer
	s.LogTo(slog.New(slog.NewTextHandler(&log, nil)))
	_, err = s.SetMetaOnce(t.Context(), "key", []byte("value"))
	require.NoError(t, err)
	require.Empty(t, log.String())

	// SQLite then returns SQLITE_READONLY, as on a file system that the kernel has remounted read-only after a fault.
	_, err = s.db.ExecContext(t.Context(), "PRAGMA query_only = 1")
	require.NoError(t, err)
	for range 50 {
		_, err = s.SetMetaOnce(t.Context(), "another", []byte("x"))
		require.ErrorIs(t, err, session.ErrInterrupted)
		require.ErrorContains(t, err, "cannot be written")
		there, err := s.Meta(t.Context(), "key")
		require.NoError(t, err)
		require.Equal(t, "value", string(there))
	}
	require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), log.String())
	require.Contains(t, log.String(), "the service's user needs to write the file")

	_, err = s.db.ExecContext(t.Context(), "PRAGMA query_only = 0")
	require.NoError(t, err)
	for range 2 {
		there, err := s.SetMetaOnce(t.Context(), "another", []byte("y"))
		require.NoError(t, err)
		require.Equal(t, "y", string(there), "failed changes left nothing")
	}
	require.Equal(t, 1, strings.Count(log.String(), "can be used again"), log.String())
	require.Contains(t, log.String(), "failed_calls=50")
}
