package main

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// TestPreParamsDir checks the folder against the contract of client.PreParamsStore.
func TestPreParamsDir(t *testing.T) {
	t.Parallel()
	d, ctx := preParamsDir(t.TempDir()), t.Context()
	sets, err := d.PreParams(ctx)
	require.NoError(t, err)
	require.Empty(t, sets)
	one, two := uuid.NewString(), uuid.NewString()
	require.NoError(t, d.PutPreParams(ctx, one, []byte("one")))
	require.NoError(t, d.PutPreParams(ctx, two, []byte("two")))
	require.Error(t, d.PutPreParams(ctx, "no/folder", nil))
	info, err := os.Stat(d.path(one))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	// Files that are still being written, and other files, are not listed.
	for _, name := range []string{one + ".age.new", "notes.age", one, uuid.NewString()} {
		require.NoError(t, os.WriteFile(filepath.Join(string(d), name), nil, 0o600))
	}
	require.NoError(t, os.Mkdir(d.path(uuid.NewString()), 0o700))
	require.NoError(t, os.Symlink(d.path(one), d.path(uuid.NewString())))
	sets, err = preParamsDir(string(d)).PreParams(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{one: []byte("one"), two: []byte("two")}, sets)

	// Of concurrent deletions of a set, one returns true.
	var wg sync.WaitGroup
	deleted, errs := make([]bool, 16), make([]error, 16)
	for i := range deleted {
		wg.Go(func() { deleted[i], errs[i] = d.DeletePreParams(ctx, one) })
	}
	wg.Wait()
	n := 0
	for i := range deleted {
		require.NoError(t, errs[i])
		if deleted[i] {
			n++
		}
	}
	require.Equal(t, 1, n)
	sets, err = d.PreParams(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{two: []byte("two")}, sets)

	gone := preParamsDir(filepath.Join(string(d), "none"))
	_, err = gone.PreParams(ctx)
	require.ErrorIs(t, err, os.ErrNotExist)
}
