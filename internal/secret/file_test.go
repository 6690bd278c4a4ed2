package secret_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
)

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(path, []byte("hunter2"), 0o600))
	b, info, err := secret.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "hunter2", string(b.Reveal()))
	require.Equal(t, fs.FileMode(0o600), info.Mode())

	link := filepath.Join(dir, "link") // Kubernetes puts a secret behind two symlinks
	require.NoError(t, os.Symlink("secret", link))
	_, _, err = secret.ReadFile(link)
	require.NoError(t, err)
}

// Files of another owner are tested in package seal: TestModeForAnotherOwner.
func TestReadRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, _, err := secret.ReadFile(filepath.Join(dir, "none"))
	require.Equal(t, fs.ErrNotExist, err)
	_, _, err = secret.ReadFile(dir)
	require.EqualError(t, err, "it is not a regular file")
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777} {
		path := filepath.Join(dir, mode.String())
		require.NoError(t, os.WriteFile(path, []byte("hunter2"), 0o600))
		require.NoError(t, os.Chmod(path, mode))
		b, _, err := secret.ReadFile(path)
		require.ErrorContains(t, err, "users other than its owner may access it", mode)
		require.NotContains(t, err.Error(), dir)
		require.Zero(t, b.Len())
	}
	large := filepath.Join(dir, "large")
	require.NoError(t, os.WriteFile(large, nil, 0o600))
	require.NoError(t, os.Truncate(large, secret.MaxFileBytes+1))
	_, _, err = secret.ReadFile(large)
	require.ErrorContains(t, err, "too large")
	require.NoError(t, os.Truncate(large, secret.MaxFileBytes))
	_, _, err = secret.ReadFile(large)
	require.NoError(t, err)

	pipe := filepath.Join(dir, "pipe") // opened for writing as well, since opening a pipe to read waits for a writer
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	w, err := os.OpenFile(pipe, os.O_RDWR, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	_, _, err = secret.ReadFile(pipe)
	require.EqualError(t, err, "it is not a regular file")
}
