package store_test

import (
	"bytes"
	"crypto/rand"
	"database/sql"
	mrand "math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/store/storetest"
	"github.com/mpcd/mpcd/internal/tss"
)

func TestMain(m *testing.M) {
	syscall.Umask(0) // files must get their modes from the code, not the umask
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

func TestSuite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, dir string) storetest.Backend { return open(t, filepath.Join(dir, "mpcd.db")) })
}

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dbURL(path))
	require.NoError(t, err)
	return s
}

func dbURL(path string) string { return (&url.URL{Scheme: "sqlite", Path: path}).String() }

// sqlite opens the file directly, bypassing the store.
func sqlite(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"postgres://user:hunter2@host/db":   "PostgreSQL comes with a later release; use sqlite:///path/to/file.db",
		"postgresql://user:hunter2@host/db": "PostgreSQL comes with a later release; use sqlite:///path/to/file.db",
		"mysql://user:hunter2@host/db":      `unknown kind of database "mysql": use sqlite:///path/to/file.db`,
		"user:hunter2@tcp(host)/db":         "not named by a URL: use sqlite:///path/to/file.db",
		"/var/lib/mpcd.db":                  "not named by a URL",
		"":                                  "not named by a URL",
		"sqlite://relative.db":              "not absolute: use sqlite:///path/to/file.db, with three slashes",
		"sqlite://dir/relative.db":          "not absolute",
		"sqlite://:memory:":                 "not absolute",
		"sqlite://user:hunter2@/file.db":    "not absolute",
		"sqlite:///file.db?mode=memory":     "has options",
		"sqlite:///file.db?":                "has options",
		"sqlite:///file.db#x":               "has options",
		"sqlite:///file%.db":                "cannot be read",
		"sqlite://":                         "names no file",
		"sqlite:///":                        "names no file",
		"sqlite:///dir/":                    "names no file",
		"sqlite:///no/such/dir/file.db":     "directory does not exist",
		"sqlite:///dev/null":                "not a regular file",
		"sqlite:///proc":                    "not a regular file",
	} {
		_, err := store.Open(t.Context(), in)
		require.ErrorContains(t, err, want, in)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// The file and those that SQLite puts next to it are accessible to their owner only, whatever the umask.
func TestFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a b?c%41#d&_pragma=x.db")
	s := open(t, path)
	storetest.NewWallet(t, s, "owner")
	for _, f := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(f)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode())
	}
	require.NoError(t, s.Close())
	there, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, there, 1)
}

// files returns the content of the database's files.
func files(t *testing.T, path string) []byte {
	t.Helper()
	var all []byte
	for _, f := range []string{path, path + "-wal", path + "-shm"} {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		all = append(all, b...)
	}
	return all
}

// trace reports whether files contain b: twenty bytes from its middle are enough.
func trace(files, b []byte) bool { return bytes.Contains(files, b[len(b)/2-10:len(b)/2+10]) }

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// A revoked server share and a confirmed result are nowhere in the files when the method has returned, in a database
// of many whose rows come and go in any order and size; all others are still there.
func TestErasedBytesAreGone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	var live []*session.StoredSet
	var gone [][]byte
	for range 120 {
		n := storetest.NewSession(uuid.NewString(), session.OpCreate)
		_, _, err := s.Begin(t.Context(), n, storetest.Audit("begin", n.WalletID))
		require.NoError(t, err)
		set, result := storetest.NewSet(n, ""), random(100+mrand.IntN(6000))
		for i := range set.ServerShare {
			set.ServerShare[i].Ciphertext = random(100 + mrand.IntN(800)*(1+i*mrand.IntN(10)))
		}
		storetest.Succeed(n, set.ID, result)
		require.NoError(t, s.Commit(t.Context(), n,
			storetest.Making(set, &session.Wallet{ID: n.WalletID, Owner: "owner", CreateTime: time.Now()}),
			storetest.Audit("commit", n.WalletID)))
		before := files(t, path) // the control
		require.True(t, trace(before, result) && trace(before, set.ServerShare[0].Ciphertext) &&
			trace(before, set.ServerShare[1].Ciphertext))

		ok, err := s.Confirm(t.Context(), set.WalletID, set.ID, storetest.Audit("confirm", set.WalletID))
		require.NoError(t, err)
		require.True(t, ok)
		gone = append(gone, result)
		require.False(t, trace(files(t, path), result))
		live = append(live, set)
		if mrand.IntN(3) > 0 {
			i := mrand.IntN(len(live))
			set, live[i], live = live[i], live[len(live)-1], live[:len(live)-1]
			require.NoError(t, s.Revoke(t.Context(), set.WalletID, time.Now(), func([]session.ShareSet) ([]string, error) {
				return []string{set.ID}, nil
			}, storetest.Audit("revoke", set.WalletID)))
			after := files(t, path)
			for _, h := range set.ServerShare {
				require.False(t, trace(after, h.Ciphertext))
				gone = append(gone, h.Ciphertext)
			}
		}
	}
	after := files(t, path)
	for _, b := range gone {
		require.False(t, trace(after, b))
	}
	// Keeping the rows is what prevents traces (see doc.go). A delete leaves one so rarely that the scan above would
	// seldom find it.
	for _, table := range []string{"share_set_halves", "session_results"} {
		var last, rows int
		require.NoError(t, sqlite(t, path).QueryRowContext(t.Context(), "SELECT max(id), count(*) FROM "+
			table).Scan(&last, &rows))
		require.Equal(t, last, rows, table)
	}
	for _, set := range live {
		got, err := s.Set(t.Context(), set.WalletID, set.ID)
		require.NoError(t, err)
		require.Equal(t, set.ServerShare, got.ServerShare)
	}
}

// Another process that reads the file keeps old pages in the log. The erasure does not wait for it, and the next one
// that finds the file free removes the traces.
func TestErasureBesideAReader(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	_, first := storetest.NewWallet(t, s, "owner")
	_, second := storetest.NewWallet(t, s, "owner")
	reader, err := sqlite(t, path).BeginTx(t.Context(), nil)
	require.NoError(t, err)
	var n int
	require.NoError(t, reader.QueryRowContext(t.Context(), "SELECT count(*) FROM wallets").Scan(&n))

	revoke := func(set *session.StoredSet) {
		require.NoError(t, s.Revoke(t.Context(), set.WalletID, time.Now(), func([]session.ShareSet) ([]string, error) {
			return []string{set.ID}, nil
		}, storetest.Audit("revoke", set.WalletID)))
		got, err := s.Set(t.Context(), set.WalletID, set.ID)
		require.NoError(t, err)
		require.Nil(t, got.ServerShare)
	}
	begin := time.Now()
	revoke(first)
	require.Less(t, time.Since(begin), 4*time.Second)
	require.True(t, trace(files(t, path), first.ServerShare[0].Ciphertext))
	require.NoError(t, reader.Rollback())
	revoke(second)
	for _, h := range append(first.ServerShare, second.ServerShare...) {
		require.False(t, trace(files(t, path), h.Ciphertext))
	}
}

// What a killed process left in the log is removed when the file is opened.
func TestOpenScrubs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "mpcd.db")
	s := open(t, path)
	_, set := storetest.NewWallet(t, s, "owner")
	kill := filepath.Join(dir, "killed.db")
	for _, suffix := range []string{"", "-wal"} { // the files as a kill would leave them
		b, err := os.ReadFile(path + suffix)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(kill+suffix, b, 0o600))
	}
	require.NoError(t, s.Close())
	wal, err := os.ReadFile(kill + "-wal")
	require.NoError(t, err)
	require.Contains(t, string(wal), string(set.ServerShare[0].Ciphertext))

	s = open(t, kill)
	defer func() { require.NoError(t, s.Close()) }()
	got, err := s.Set(t.Context(), set.WalletID, set.ID)
	require.NoError(t, err)
	require.Equal(t, set.ServerShare, got.ServerShare)
	info, err := os.Stat(kill + "-wal")
	require.NoError(t, err)
	require.Zero(t, info.Size())
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	good := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "mpcd.db")
		s := open(t, path)
		for range 20 {
			storetest.NewWallet(t, s, "owner")
		}
		require.NoError(t, s.Close())
		return path
	}
	for name, test := range map[string]struct {
		spoil func(t *testing.T, path string)
		want  string
	}{
		"garbage": {func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, random(1<<16), 0o600)) },
			"it is not an SQLite database"},
		"short garbage": {func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, []byte("x"), 0o600)) },
			"it is not an SQLite database"},
		"truncated": {func(t *testing.T, path string) { truncate(t, path, 1) },
			"it is damaged: restore it from a backup"},
		"halved": {func(t *testing.T, path string) { truncate(t, path, 1<<15) },
			"it is damaged: restore it from a backup"},
		"one page": {func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 4096)) },
			"it is damaged: restore it from a backup"},
		"a part of one": {func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 1000)) },
			"it is damaged: restore it from a backup"},
		"no header": {func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 50)) },
			"it is not an SQLite database"},
		"newer schema": {func(t *testing.T, path string) {
			_, err := sqlite(t, path).ExecContext(t.Context(),
				"INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)")
			require.NoError(t, err)
		}, "newer mpcd: its schema has version 99, this release knows "},
		"another program's": {func(t *testing.T, path string) {
			_, err := sqlite(t, path).ExecContext(t.Context(), "PRAGMA application_id = 7; PRAGMA wal_checkpoint(TRUNCATE)")
			require.NoError(t, err)
		}, "another program's database"},
		"no program's": {func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			_, err := sqlite(t, path).ExecContext(t.Context(), "CREATE TABLE mail (x)")
			require.NoError(t, err)
		}, "another program's database"},
		"locked": {func(t *testing.T, path string) {
			db := sqlite(t, path)
			db.SetMaxOpenConns(1)
			_, err := db.ExecContext(t.Context(), "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT")
			require.NoError(t, err)
		}, "another process has it locked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := good(t)
			test.spoil(t, path)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			s, err := store.Open(t.Context(), dbURL(path))
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, path)
			require.Nil(t, s)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(before, after), "the file was changed")
		})
	}
}

func truncate(t *testing.T, path string, by int64) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, info.Size()-by))
}

func TestNewerSchemaIsASentinel(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	require.NoError(t, open(t, path).Close())
	_, err := sqlite(t, path).ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES "+
		"(1000, 1)")
	require.NoError(t, err)
	_, err = store.Open(t.Context(), dbURL(path))
	require.ErrorIs(t, err, store.ErrNewerSchema)
}

// Sets stored by an earlier release have their whole budget.
func TestMigratedSetsHaveTheirBudget(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	_, set := storetest.NewWallet(t, s, "owner")
	before, err := s.Wallet(t.Context(), set.WalletID)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	olderSchema(t, path, 3)
	s = open(t, path)
	after, err := s.Wallet(t.Context(), set.WalletID)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Zero(t, after.Sets[0].Aborts)
	require.NoError(t, s.Close())
}

// Damage that shows only when a page is read is reported as damage, not as an outage.
func TestDamagedPages(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	_, set := storetest.NewWallet(t, s, "owner")
	require.NoError(t, s.Close())
	var root int64
	require.NoError(t, sqlite(t, path).QueryRowContext(t.Context(), "SELECT rootpage FROM sqlite_schema WHERE name = "+
		"'share_sets'").Scan(&root))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(random(4096), (root-1)*4096)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	s = open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	_, err = s.Wallet(t.Context(), set.WalletID)
	require.ErrorIs(t, err, session.ErrDataCorrupted)
	_, err = s.Confirm(t.Context(), set.WalletID, set.ID, storetest.Audit("confirm", set.WalletID))
	require.ErrorIs(t, err, session.ErrDataCorrupted)
}

// The error for unreadable progress names its session.
func TestDamagedProgress(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	n, _ := storetest.NewWallet(t, s, "owner")
	_, err := sqlite(t, path).ExecContext(t.Context(), `UPDATE sessions SET progress = '{"percent": -1}'`)
	require.NoError(t, err)
	_, err = s.Session(t.Context(), n.ID)
	require.ErrorIs(t, err, session.ErrDataCorrupted)
	require.ErrorContains(t, err, n.ID)
}

// Errors do not quote stored bytes.
func TestErrorsQuoteNoBytes(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "mpcd.db"))
	defer func() { require.NoError(t, s.Close()) }()
	n := storetest.NewSession(uuid.NewString(), session.OpCreate)
	_, _, err := s.Begin(t.Context(), n, storetest.Audit("begin", n.WalletID))
	require.NoError(t, err)
	set := storetest.NewSet(n, "")
	set.ServerShare[0] = session.Sealed{Curve: tss.Ed25519, Ciphertext: []byte("hunter2")}
	set.Record = []byte("hunter2")
	storetest.Succeed(n, set.ID, []byte("hunter2"))
	err = s.Commit(t.Context(), n, storetest.Making(set,
		&session.Wallet{ID: n.WalletID, Owner: "owner", CreateTime: time.Now()}), storetest.Audit("commit", n.WalletID))
	require.ErrorContains(t, err, set.ID)
	require.NotContains(t, err.Error(), "hunter2")
}

// In many containers root owns the files, and root may write everywhere: the test runs itself again as user nobody.
func TestNotWritable(t *testing.T) {
	t.Parallel()
	if dir, ok := os.LookupEnv("MPCD_TEST_NOT_WRITABLE"); ok {
		for file, want := range map[string]string{
			"dir/new.db": "it cannot be written", "dir/mpcd.db": "it cannot be written", "file/mpcd.db": "it cannot be written",
			"closed/mpcd.db": "it cannot be written",
		} {
			_, err := store.Open(t.Context(), dbURL(filepath.Join(dir, file)))
			require.ErrorContains(t, err, want, file)
		}
		s := open(t, filepath.Join(dir, "good/mpcd.db")) // the control
		require.NoError(t, s.Close())
		return
	}
	dir, err := os.MkdirTemp("", "mpcd") //nolint:usetesting // user nobody cannot read t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, os.Chmod(filepath.Join(dir, "dir"), 0o700))
		require.NoError(t, os.RemoveAll(dir))
	})
	for sub, modes := range map[string][2]os.FileMode{"dir": {0o555, 0o666}, "file": {0o777, 0o444},
		"closed": {0o700, 0o600}, "good": {0o777, 0o666}} {
		path := filepath.Join(dir, sub, "mpcd.db")
		require.NoError(t, os.Mkdir(filepath.Dir(path), 0o700))
		s := open(t, path)
		require.NoError(t, s.Close())
		require.NoError(t, os.Chmod(path, modes[1]))
		require.NoError(t, os.Chmod(filepath.Dir(path), modes[0]))
	}
	require.NoError(t, os.Chmod(dir, 0o755))
	binary, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), binary, "-test.run=^TestNotWritable$")
	cmd.Env = append(os.Environ(), "MPCD_TEST_NOT_WRITABLE="+dir)
	if os.Geteuid() == 0 {
		copied := filepath.Join(dir, "test") // nor go test's own directory
		b, err := os.ReadFile(binary)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(copied, b, 0o755))
		cmd.Path, cmd.Dir = copied, dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.True(t, strings.HasPrefix(string(out), "PASS"), string(out))
}

// Resealing leaves no trace of the old value, whatever its size.
func TestResealLeavesNoTrace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	defer func() { require.NoError(t, s.Close()) }()
	for i := range 60 {
		n := storetest.NewSession(uuid.NewString(), session.OpCreate)
		_, _, err := s.Begin(t.Context(), n, storetest.Audit("begin", n.WalletID))
		require.NoError(t, err)
		set := storetest.NewSet(n, "")
		storetest.Succeed(n, set.ID, random(50+i*100))
		require.NoError(t, s.Commit(t.Context(), n,
			storetest.Making(set, &session.Wallet{ID: n.WalletID, Owner: "owner", CreateTime: time.Now()}),
			storetest.Audit("commit", n.WalletID)))
		require.NoError(t, s.AddPreParams(t.Context(), uuid.NewString(), session.Party(i%2), random(100+i*150), time.Now()))
	}
	_, err := s.SetMetaOnce(t.Context(), "mac keyset", random(200))
	require.NoError(t, err)
	for _, kind := range session.SealedKinds() {
		found, err := s.SealedRows(t.Context(), kind, 0, 1000)
		require.NoError(t, err)
		require.NotEmpty(t, found)
		before := files(t, path)
		to := make([][]byte, len(found))
		for i, r := range found {
			require.True(t, trace(before, r.Ciphertext), "the control: %s", kind)
			to[i] = random(len(r.Ciphertext))
		}
		n, err := s.Reseal(t.Context(), kind, found, to)
		require.NoError(t, err)
		require.Equal(t, len(found), n)
		after := files(t, path)
		for i, r := range found {
			require.False(t, trace(after, r.Ciphertext), "%s, %d bytes", kind, len(r.Ciphertext))
			require.True(t, trace(after, to[i]))
		}
	}
}

// Every column that holds bytes is either sealed and known to SealedRows, or not secret.
func TestEverySealedColumnIsKnown(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	require.NoError(t, open(t, path).Close())
	rows, err := sqlite(t, path).QueryContext(t.Context(),
		`SELECT t.name || '.' || c.name FROM sqlite_schema t, pragma_table_info(t.name) c
		WHERE t.type = 'table' AND c.type = 'BLOB' ORDER BY 1`)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	var columns []string
	for rows.Next() {
		var c string
		require.NoError(t, rows.Scan(&c))
		columns = append(columns, c)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, []string{
		"audit.hash", "incarnation.nonce", "incarnation.noted", "meta.value", "preparams.incarnation", "preparams.sealed",
		"session_results.data", "sessions.fingerprint", "share_set_halves.ciphertext",
		"share_sets.client_share_sha256", "share_sets.record", "wallet_keys.public_key", "wallet_moduli.sha256",
	}, columns, "a new column: does the keyset seal it? Then add it to sealedTables")
}
