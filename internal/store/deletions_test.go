package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/store/storetest"
)

// Sets that an earlier release revoked, and whose shares an external custodian still has, are on the list of
// deletions.
func TestRevokedBeforeTheListOfDeletions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	revoked, due := storetest.NewRevokedElsewhere(t, s)
	require.NoError(t, s.Close())
	olderSchema(t, path, 4)
	s = open(t, path)
	after, err := s.DueDeletions(t.Context(), time.Now(), 10)
	require.NoError(t, err)
	require.Equal(t, due, after)
	require.Equal(t, revoked, after[0].ShareSetID)
	require.NoError(t, s.Close())
}
