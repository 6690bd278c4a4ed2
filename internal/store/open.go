package store

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pressly/goose/v3"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks a file as mpcd's (https://www.sqlite.org/pragma.html#pragma_application_id).
const applicationID = 0x6d706364 // "mpcd"

// ErrNewerSchema is wrapped by Open for a database that a later release has migrated.
var ErrNewerSchema = errors.New("the database was written by a newer mpcd")

// Open opens the database at a URL, sqlite:///path/to/file.db, creates the file if it does not exist (mode 0600;
// never its directory), and migrates its schema. Its errors are for the operator: they say what to do, and do not
// quote the URL, which may contain a password.
func Open(ctx context.Context, dbURL string) (*Store, error) {
	path, err := Path(dbURL)
	if err != nil {
		return nil, err
	}
	fresh := false
	if path, err = resolve(path); err == nil {
		fresh, err = create(path)
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	db, err := sql.Open("sqlite", dsn(path, fresh))
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	s := &Store{db: db}
	err = s.prepare(ctx)
	if err == nil {
		err = s.recordFile(ctx, path)
	}
	if err != nil {
		_ = db.Close() // the first error says more
		return nil, fmt.Errorf("database %s: %w", path, explain(err))
	}
	s.scrub(ctx)
	return s, nil
}

// Path returns the path in a database URL. Its errors do not quote the URL, which may contain a password.
func Path(dbURL string) (string, error) {
	const want = "use sqlite:///path/to/file.db"
	scheme, _, ok := strings.Cut(dbURL, "://")
	switch {
	case !ok:
		return "", fmt.Errorf("the database is not named by a URL: %s", want)
	case scheme == "postgres" || scheme == "postgresql":
		return "", fmt.Errorf("PostgreSQL comes with a later release; %s", want)
	case scheme != "sqlite":
		return "", fmt.Errorf("unknown kind of database %q: %s", scheme, want)
	}
	u, err := url.Parse(dbURL)
	switch {
	case err != nil:
		return "", fmt.Errorf("the database's URL cannot be read: %s, with %%25 for a percent sign", want)
	case u.Host != "" || u.User != nil:
		return "", fmt.Errorf("the database's path is not absolute: %s, with three slashes", want)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("the database's URL has options, and there are none: %s, with %%3F for a question mark and "+
			"%%23 for a hash", want)
	case u.Path == "" || strings.HasSuffix(u.Path, "/"):
		return "", fmt.Errorf("the database's URL names no file: %s", want)
	}
	return filepath.Clean(u.Path), nil
}

// File returns Path with symbolic links resolved. SQLite keeps its log next to the name it is given, so that two
// names would have two logs.
func File(dbURL string) (string, error) {
	path, err := Path(dbURL)
	if err != nil {
		return "", err
	}
	if path, err = resolve(path); err != nil {
		return "", fmt.Errorf("database %s: %w", path, err)
	}
	return path, nil
}

// resolve resolves the symbolic links in a path, whose file need not exist. On an error it returns the path
// unchanged.
func resolve(path string) (string, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target, nil
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return path, errors.New("it is a symbolic link to a file that cannot be reached: name the file itself")
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return path, errors.New("its directory does not exist: create it first, writable for the service's user alone")
	}
	if err != nil {
		return path, explain(err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// create creates an empty file that only its owner can read, or inspects the one that is there. SQLite gives its log
// and shared memory the file's mode, and would leave all three to the umask.
func create(path string) (fresh bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: the operator's own path
	if errors.Is(err, fs.ErrExist) {
		return inspect(path)
	}
	if err != nil {
		return false, explain(err)
	}
	err = errors.Join(f.Chmod(0o600), f.Sync(), f.Close(), syncDir(filepath.Dir(path)))
	if err != nil {
		return false, fmt.Errorf("create: %w", err)
	}
	return true, nil
}

var (
	errNotOurs = errors.New("it is another program's database: name another file")
	errDamaged = errors.New("it is damaged: restore it from a backup")

	// https://www.sqlite.org/howtocorrupt.html, section 2.5.
	errHardLinks = errors.New("it has more than one name (hard links), and SQLite keeps a log for each, which destroys " +
		"it: remove the other names, and copy a database with mpcd stopped")
)

// inspect checks that a file is writable and contains an mpcd database before SQLite touches it: opening another
// program's file would already change its journal mode. An empty file is fresh.
func inspect(path string) (fresh bool, err error) {
	// Opening a device or a pipe can have side effects.
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return false, errors.Join(errors.New("it is not a regular file"), err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return false, explain(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		return false, fmt.Errorf("%w: it has %d, found by find -xdev / -inum %d", errHardLinks, stat.Nlink, stat.Ino)
	}
	if info.Size() == 0 {
		return true, nil
	}
	var h [100]byte // https://www.sqlite.org/fileformat2.html#the_database_header
	if _, err := io.ReadFull(f, h[:]); err != nil || !bytes.HasPrefix(h[:], []byte("SQLite format 3\x00")) {
		return false, errors.New("it is not an SQLite database, or its start is damaged: name another file, or restore it " +
			"from a backup")
	}
	if binary.BigEndian.Uint32(h[68:]) != applicationID {
		return false, errNotOurs
	}
	// SQLite would pad a truncated last page with zeros. After a crash the end of the file may be missing but in the
	// log, which SQLite handles.
	if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
		return false, nil
	}
	pageSize, pages := int64(binary.BigEndian.Uint16(h[16:])), int64(binary.BigEndian.Uint32(h[28:]))
	if info.Size() < pageSize*pages {
		return false, errDamaged
	}
	return false, nil
}

func syncDir(path string) error {
	d, err := os.Open(path) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// dsn returns the driver's data source name for the file at path, with the settings of every connection.
func dsn(path string, fresh bool) string {
	pragmas := []string{
		"busy_timeout(5000)", // if another process has the file locked
		"foreign_keys(1)",
		"journal_mode(WAL)",
		"secure_delete(1)",
		"synchronous(FULL)", // every commit is on disk when it returns
		"temp_store(MEMORY)",
		"trusted_schema(0)",
	}
	if fresh {
		// The driver sets these in order of name: this one before there is a log, so that it is in the file itself
		// from the first page on.
		pragmas = append(pragmas, fmt.Sprintf("application_id(%d)", applicationID))
	}
	q := url.Values{
		"mode":    {"rw"},        // the file was created by create
		"_txlock": {"immediate"}, // a transaction that upgrades from reading to writing could only fail
		"_dqs":    {"0"}, "_defensive": {"1"}, "_pragma": pragmas,
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// prepare migrates the schema.
func (s *Store) prepare(ctx context.Context) error {
	var mode string
	if err := s.db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("SQLite cannot keep a write-ahead log here (journal mode %q): put it on a local file system", mode)
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.db, dir, goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	have, know, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("schema version: %w", err)
	}
	if have > know {
		return fmt.Errorf("%w: its schema has version %d, this release knows %d; run the newer release, or restore the "+
			"backup from before the upgrade", ErrNewerSchema, have, know)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate the schema: %w", err)
	}
	return nil
}

// explain adds advice for the operator to an error of the file system or of SQLite.
func explain(err error) error {
	switch code(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if do := advice(err); do != "" {
		return fmt.Errorf("%s: %w", do, err)
	}
	return err
}
