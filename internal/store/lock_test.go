package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/store"
)

const held = "another mpcd serve uses it"

// names returns the path of a database and other names for it.
func names(t *testing.T) (path string, others map[string]string) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "data", "mpcd.db")
	require.NoError(t, os.Mkdir(filepath.Dir(path), 0o700))
	others = map[string]string{
		"a symbolic link":              filepath.Join(dir, "link.db"),
		"a link to a link":             filepath.Join(dir, "links.db"),
		"a symbolic link of its place": filepath.Join(dir, "place", "mpcd.db"),
		"a relative link":              filepath.Join(dir, "data", "relative.db"),
		"dots":                         dir + "/data/../data/./mpcd.db",
	}
	require.NoError(t, os.Symlink(path, others["a symbolic link"]))
	require.NoError(t, os.Symlink("link.db", others["a link to a link"]))
	require.NoError(t, os.Symlink("data", filepath.Join(dir, "place")))
	require.NoError(t, os.Symlink("mpcd.db", others["a relative link"]))
	return path, others
}

// The lock is on the file, under whichever name it is opened.
func TestLockIsOnTheFile(t *testing.T) {
	t.Parallel()
	path, others := names(t)
	lock, err := store.Lock(dbURL(path))
	require.NoError(t, err)
	refused := func(name, why string) {
		t.Helper()
		_, err := store.Lock(dbURL(name))
		require.ErrorContains(t, err, why)
	}
	// Opening and closing the database by a store in this process does not release the lock.
	s := open(t, path)
	require.NoError(t, s.Close())
	s = open(t, path)
	for what, name := range others {
		_, err := store.Lock(dbURL(name))
		require.ErrorContains(t, err, held, what)
	}
	hard := filepath.Join(t.TempDir(), "hard.db")
	require.NoError(t, os.Link(path, hard))
	refused(hard, held)
	refused(path, held)
	require.NoError(t, os.Remove(hard))
	require.NoError(t, os.Remove(path+".lock"), "as an operator may, thinking it is left over")
	refused(path, held)
	moved := path + ".moved"
	require.NoError(t, os.Rename(path, moved))
	refused(moved, held)
	require.NoError(t, os.Rename(moved, path))
	_, err = s.SetMetaOnce(t.Context(), "key", []byte("value"))
	require.NoError(t, err, "SQLite's own locks are unaffected")
	require.NoError(t, s.Close())
	require.NoError(t, lock.Unlock())

	for _, name := range others {
		lock, err := store.Lock(dbURL(name))
		require.NoError(t, err, name)
		refused(path, held)
		require.NoError(t, lock.Unlock())
	}
}

// The lock does not conflict with SQLite's own, and is not released by what other programs do.
func TestLockBesideSQLite(t *testing.T) {
	t.Parallel()
	path, _ := names(t)
	lock, err := store.Lock(dbURL(path))
	require.NoError(t, err)
	defer func() { require.NoError(t, lock.Unlock()) }()
	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	db := sqlite(t, path) // another connection, as of an audit command
	_, err = db.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	_, err = s.SetMetaOnce(t.Context(), "key", []byte("value"))
	require.NoError(t, err)
	_, err = store.Lock(dbURL(path))
	require.ErrorContains(t, err, held)
}

// SQLite keeps one log per name of a file, so a database with hard links is not opened.
func TestDatabaseWithHardLinks(t *testing.T) {
	t.Parallel()
	path, others := names(t)
	s := open(t, path)
	_, err := s.SetMetaOnce(t.Context(), "key", []byte("value"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	hard := filepath.Join(t.TempDir(), "hard.db")
	require.NoError(t, os.Link(path, hard))
	for _, name := range []string{path, hard, others["a symbolic link"]} {
		_, err := store.Open(t.Context(), dbURL(name))
		require.ErrorContains(t, err, "more than one name (hard links)")
		_, err = store.Lock(dbURL(name))
		require.ErrorContains(t, err, "more than one name (hard links)")
	}
	require.NoFileExists(t, hard+"-wal")
	require.NoFileExists(t, hard+".lock")
	require.NoError(t, os.Remove(hard))

	// A symbolic link is resolved: the log is next to the file itself.
	s = open(t, others["a link to a link"])
	defer func() { require.NoError(t, s.Close()) }()
	value, err := s.Meta(t.Context(), "key")
	require.NoError(t, err)
	require.Equal(t, "value", string(value))
	require.FileExists(t, path+"-wal")
	require.NoFileExists(t, others["a link to a link"]+"-wal")
	file, err := store.File(dbURL(others["a symbolic link of its place"]))
	require.NoError(t, err)
	want, err := filepath.EvalSymlinks(path)
	require.NoError(t, err)
	require.Equal(t, want, file)
}

// The first start may also be through a link; a dangling one creates no file.
func TestNewDatabaseThroughSymbolicLink(t *testing.T) {
	t.Parallel()
	path, others := names(t)
	_, err := store.Open(t.Context(), dbURL(others["a symbolic link"]))
	require.ErrorContains(t, err, "symbolic link to a file that cannot be reached")
	_, err = store.Lock(dbURL(others["a symbolic link"]))
	require.ErrorContains(t, err, "symbolic link to a file that cannot be reached")
	require.NoFileExists(t, path)
	lock, err := store.Lock(dbURL(others["a symbolic link of its place"]))
	require.NoError(t, err)
	require.FileExists(t, path)
	for _, file := range []string{path, path + ".lock"} {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	require.NoError(t, open(t, path).Close())
	require.NoError(t, lock.Unlock())
	_, err = store.Lock(dbURL(filepath.Join(filepath.Dir(path), "none", "mpcd.db")))
	require.ErrorContains(t, err, "its directory does not exist")
	_, err = store.Lock(dbURL(filepath.Dir(path)))
	require.ErrorContains(t, err, "not a regular file")
}
