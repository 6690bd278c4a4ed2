package store_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/tss"
)

// The pool of an earlier release cannot be attributed to a role: it is erased without a trace. The moduli which that
// release recorded count for every wallet.
func TestPoolFromBeforeThereWereRoles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	require.NoError(t, open(t, path).Close())
	db := sqlite(t, path)
	run := func(statement string, args ...any) {
		_, err := db.ExecContext(t.Context(), statement, args...)
		require.NoError(t, err, statement)
	}
	olderSchema(t, path, 6)
	sealed, wallet, device := random(5000), uuid.NewString(), [32]byte{7}
	for i := range 3 {
		run("INSERT INTO preparams (id, sealed, make_time) VALUES (?, ?, ?)", uuid.NewString(), sealed,
			time.Now().UnixMicro()+int64(i))
	}
	for _, w := range []string{wallet, uuid.NewString()} { // the same modulus in two wallets, which that release allowed
		run("INSERT INTO wallet_moduli (wallet_id, sha256) VALUES (?, ?)", w, device[:])
	}
	require.True(t, trace(files(t, path), sealed), "the control")
	require.NoError(t, db.Close())

	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	n, _, err := s.CountPreParams(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	require.False(t, trace(files(t, path), sealed))
	for _, maker := range []session.Maker{session.MadeByDevice, session.MadeHere} {
		for _, w := range []string{wallet, uuid.NewString()} {
			require.ErrorIs(t, s.ReserveModuli(t.Context(), w, maker, device), session.ErrModulusUsed)
		}
	}
	require.NoError(t, s.AddPreParams(t.Context(), "new", tss.Client, random(10), time.Now()))
}

// copyFile copies a file's content over another, which is created if it does not exist.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	require.NoError(t, err)
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	require.NoError(t, in.Close())
}

// life is a database on which services start and stop.
type life struct {
	t    *testing.T
	path string
	sets int // how many were added
}

// serve does what a service does at its start, then calls f, then stops. It returns why the pool was dropped, if it
// was.
func (l *life) serve(f func(*store.Store)) store.Renewal {
	l.t.Helper()
	lock, err := store.Lock(dbURL(l.path))
	require.NoError(l.t, err)
	s := open(l.t, l.path)
	r, err := s.Recognise(l.t.Context(), lock)
	require.NoError(l.t, err)
	if f != nil {
		f(s)
	}
	require.NoError(l.t, s.Close())
	require.NoError(l.t, lock.Unlock())
	return r
}

func (l *life) add(s *store.Store) {
	l.sets++
	require.NoError(l.t, s.AddPreParams(l.t.Context(), uuid.NewString(), tss.Server, random(10), time.Now()))
}

func (l *life) claim(s *store.Store) {
	id, _, err := s.ClaimPreParams(l.t.Context(), tss.Server, time.Time{})
	require.NoError(l.t, err)
	require.NotEmpty(l.t, id)
}

func (l *life) beside(f func(*store.Store)) {
	s := open(l.t, l.path)
	f(s)
	require.NoError(l.t, s.Close())
}

// Copies and older states of a database drop its pre-params; anything else keeps them. Each case starts with a
// database of three sets, whose service has claimed a fourth, and a backup from before that claim.
func TestCopiesAndOlderStatesDropTheirPool(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(l *life, backup string)
		want string // in the reason; "" if the pool is kept
	}{
		"a restart": {func(*life, string) {}, ""},
		"a kill between a claim and its note": {func(l *life, _ string) {
			l.beside(l.claim) // without a lock the claim is not recorded
			l.beside(l.add)
		}, ""},
		"another name in the file system": {func(l *life, _ string) {
			to := filepath.Join(filepath.Dir(l.path), "moved.db")
			require.NoError(l.t, os.Rename(l.path, to))
			require.NoError(l.t, os.Rename(l.path+".lock", to+".lock"))
			l.path = to
		}, ""},
		"a backup, copied over the file": {func(l *life, backup string) { copyFile(l.t, backup, l.path) },
			"older than its lock file"},
		"a backup, copied over the file, whose release knew no incarnations": {func(l *life, backup string) {
			copyFile(l.t, backup, l.path)
			olderSchema(l.t, l.path, 6)
			for range 3 {
				l.beside(l.add)
			}
		}, "of another state"},
		"a backup in the file's place": {func(l *life, backup string) {
			require.NoError(l.t, os.Rename(backup, l.path))
		}, "a copy"},
		"a backup where the file was removed": {func(l *life, backup string) {
			require.NoError(l.t, os.Remove(l.path))
			copyFile(l.t, backup, l.path) // may get the same inode
		}, "a copy|older than"},
		"a copy elsewhere": {func(l *life, _ string) {
			to := filepath.Join(l.t.TempDir(), "mpcd.db")
			copyFile(l.t, l.path, to)
			l.path = to
		}, "a copy"},
		"a copy elsewhere, with its lock file": {func(l *life, _ string) {
			to := filepath.Join(l.t.TempDir(), "mpcd.db")
			copyFile(l.t, l.path, to)
			copyFile(l.t, l.path+".lock", to+".lock")
			l.path = to
		}, "a copy"},
		"a lock file that is gone": {func(l *life, _ string) { require.NoError(l.t, os.Remove(l.path+".lock")) }, "is gone"},
		"a lock file that is empty": {func(l *life, _ string) {
			require.NoError(l.t, os.Truncate(l.path+".lock", 0))
		}, "is gone"},
		"a lock file that is cut": {func(l *life, _ string) { require.NoError(l.t, os.Truncate(l.path+".lock", 20)) },
			"cannot be read"},
		"a lock file of another database": {func(l *life, _ string) {
			other := &life{t: l.t, path: filepath.Join(l.t.TempDir(), "other.db")}
			require.Empty(l.t, other.serve(nil).Why)
			copyFile(l.t, other.path+".lock", l.path+".lock")
		}, "of another state"},
		"a restored backup, after the one that was found out": {func(l *life, backup string) {
			copyFile(l.t, l.path, backup) // the current state
			copyFile(l.t, backup, l.path)
			db := sqlite(l.t, l.path)
			_, err := db.ExecContext(l.t.Context(), "UPDATE incarnation SET claims = 0")
			require.NoError(l.t, err)
			require.NoError(l.t, db.Close())
			require.Contains(l.t, l.serve(l.add).Why, "older than its lock file")
			copyFile(l.t, backup, l.path)
		}, "of another state"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &life{t: t, path: filepath.Join(t.TempDir(), "mpcd.db")}
			backup := filepath.Join(filepath.Dir(l.path), "backup")
			require.Empty(t, l.serve(func(s *store.Store) {
				for range 4 {
					l.add(s)
				}
			}).Why, "the first start")
			copyFile(t, l.path, backup)
			require.Empty(t, l.serve(l.claim).Why)
			c.do(l, backup)
			r := l.serve(func(s *store.Store) {
				n, _, err := s.CountPreParams(t.Context())
				require.NoError(t, err)
				require.Equal(t, c.want == "", n[tss.Server] == 3, n)
				require.Equal(t, c.want != "", n[tss.Server] == 0, n)
				l.add(s)
			})
			require.Equal(t, c.want == "", r.Why == "", r.Why)
			require.Regexp(t, c.want, r.Why)
			if c.want != "" {
				require.Positive(t, r.Dropped)
			}
			require.Equal(t, store.Renewal{}, l.serve(l.claim), "it is this database's own state now")
			require.Equal(t, store.Renewal{}, l.serve(nil))
		})
	}
}

// A pool that was filled before its service first started belongs to the service; a copy of it does not.
func TestPoolThatWasFilledBeforeTheFirstStart(t *testing.T) {
	t.Parallel()
	l := &life{t: t, path: filepath.Join(t.TempDir(), "mpcd.db")}
	l.beside(l.add)
	copied := &life{t: t, path: filepath.Join(t.TempDir(), "mpcd.db")}
	copyFile(t, l.path, copied.path)
	require.Equal(t, store.Renewal{}, l.serve(l.claim))
	r := copied.serve(nil)
	require.Contains(t, r.Why, "a copy")
	require.Equal(t, 1, r.Dropped)
	l.beside(l.add)
	require.Equal(t, store.Renewal{}, l.serve(nil))
}

// Pre-params dropped while a service is running are not claimed by it, and the next start does not take the drop for
// an older state, with a claim in between or without.
func TestDropBesideAService(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(*life, *store.Store){
		"nothing more": func(*life, *store.Store) {},
		"another drop": func(l *life, s *store.Store) {
			l.add(s)
			l.beside(func(other *store.Store) {
				_, err := other.Renew(l.t.Context(), "by hand")
				require.NoError(l.t, err)
			})
		},
		"a claim": func(l *life, s *store.Store) {
			l.add(s)
			l.claim(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &life{t: t, path: filepath.Join(t.TempDir(), "mpcd.db")}
			l.serve(func(s *store.Store) {
				l.add(s)
				l.add(s)
				l.claim(s)
				l.beside(func(other *store.Store) {
					n, err := other.Renew(t.Context(), "by hand")
					require.NoError(t, err)
					require.Equal(t, 1, n)
				})
				id, _, err := s.ClaimPreParams(t.Context(), tss.Server, time.Time{})
				require.NoError(t, err)
				require.Empty(t, id)
				then(l, s)
			})
			l.beside(l.add)
			require.Equal(t, store.Renewal{}, l.serve(l.claim))
		})
	}
}

// A row with another incarnation than the database's is ignored.
func TestRowOfAnotherIncarnation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	require.NoError(t, s.AddPreParams(t.Context(), "x", tss.Client, random(10), time.Now()))
	_, err := sqlite(t, path).ExecContext(t.Context(), "UPDATE preparams SET incarnation = randomblob(16)")
	require.NoError(t, err)
	n, _, err := s.CountPreParams(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	id, _, err := s.ClaimPreParams(t.Context(), tss.Client, time.Time{})
	require.NoError(t, err)
	require.Empty(t, id)
}

// A set is handed out only once its claim is recorded in the lock file.
func TestClaimThatCannotBeNoted(t *testing.T) {
	t.Parallel()
	l := &life{t: t, path: filepath.Join(t.TempDir(), "mpcd.db")}
	lock, err := store.Lock(dbURL(l.path))
	require.NoError(t, err)
	s := open(t, l.path)
	defer func() { require.NoError(t, s.Close()) }()
	_, err = s.Recognise(t.Context(), lock)
	require.NoError(t, err)
	l.add(s)
	require.NoError(t, lock.Unlock()) // the file is closed: nothing can be written to it
	id, sealed, err := s.ClaimPreParams(t.Context(), tss.Server, time.Time{})
	require.Error(t, err)
	require.Empty(t, id)
	require.Nil(t, sealed)
}
