package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/mpcd/mpcd/internal/session"
)

// Store is an open database. Its methods are safe for concurrent use, but must not be called from within a function
// that was passed to one of them.
type Store struct {
	// db has a single connection, which serialises all callers. SQLite has one writer at a time anyway; a run that
	// takes seconds of CPU makes some ten calls of less than a millisecond each; and with no concurrent reader a
	// checkpoint after an erasure can always truncate the log.
	db *sql.DB

	beside *FileLock // records claims, after Recognise; may be nil

	trouble trouble
}

var (
	_ session.Wallets  = (*Store)(nil)
	_ session.Sessions = (*Store)(nil)

	_ session.Budgets     = (*Store)(nil)
	_ session.Housekeeper = (*Store)(nil)
	_ session.Deletions   = (*Store)(nil)
)

// Close closes the database after the calls in progress.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("store: close: %w", err)
	}
	return nil
}

// write runs change in a transaction that excludes all other writers from its start (BEGIN IMMEDIATE, see dsn). If
// change returns no error, it commits durably.
func (s *Store) write(ctx context.Context, what string, change func(*sql.Tx) error) error {
	err := s.transact(ctx, what, nil, change)
	if err == nil {
		s.trouble.over()
	}
	return err
}

// read runs look on a snapshot of the database.
func (s *Store) read(ctx context.Context, what string, look func(*sql.Tx) error) error {
	return s.transact(ctx, what, &sql.TxOptions{ReadOnly: true}, look)
}

func (s *Store) transact(ctx context.Context, what string, opts *sql.TxOptions, f func(*sql.Tx) error) error {
	conn, err := s.acquire(ctx)
	if err != nil {
		return s.fail(ctx, what, err)
	}
	defer conn.Close() //nolint:errcheck // returns the connection to the pool
	tx, err := conn.BeginTx(ctx, opts)
	if err != nil {
		return s.fail(ctx, what, err)
	}
	// Deferred also for a panic in f, which would otherwise keep the connection. After a commit it does nothing, and
	// after an error of f its own error adds nothing.
	defer tx.Rollback() //nolint:errcheck // as above
	if err := f(tx); err != nil {
		return s.fail(ctx, what, err)
	}
	if err := tx.Commit(); err != nil {
		return s.fail(ctx, what, err)
	}
	return nil
}

// longestTurn is how long a call waits for those before it. Each of them may in turn wait for another process's lock
// (busy_timeout), so waiting longer is pointless.
const longestTurn = 10 * time.Second

var errNoTurn = errors.New("the database was busy")

// acquire waits for the connection.
func (s *Store) acquire(ctx context.Context) (*sql.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, longestTurn)
	defer cancel()
	conn, err := s.db.Conn(wait)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		return nil, errNoTurn
	}
	return conn, err
}

// fail adds what was tried to an error, and the context's error if that is the real cause. It marks damage with its
// sentinel, and errors that may pass with ErrInterrupted.
func (s *Store) fail(ctx context.Context, what string, err error) error {
	if end := ctx.Err(); end != nil && !errors.Is(err, end) {
		return fmt.Errorf("store: %s: %w: %w", what, end, err)
	}
	switch code(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("store: %s: %w: %w", what, session.ErrDataCorrupted, err)
	}
	if do := advice(err); do != "" {
		s.trouble.note(what, do, err)
		return fmt.Errorf("store: %s: %w: %s: %w", what, session.ErrInterrupted, do, err)
	}
	return fmt.Errorf("store: %s: %w", what, err)
}

// code returns SQLite's primary result code of err, or SQLITE_OK if err is not SQLite's.
func code(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return sqlite3.SQLITE_OK
	}
	return e.Code() & 0xff
}

// scrub truncates the write-ahead log, which still contains the pages from before an erasure. The erasure itself is
// durable already, so a failure is not the caller's error: the next scrub removes what is left, at the latest when
// the store is closed or opened. The only cause is another process that is reading the file: a backup tool may do so
// for hours, so scrub waits only briefly.
func (s *Store) scrub(ctx context.Context) {
	// Cancelling the call must not leave traces of what was erased.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
}

// collect runs a query and scans each row.
func collect[T any](ctx context.Context, tx *sql.Tx, scan func(row, *T) error, query string, args ...any) ([]T, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err reports it
	var all []T
	for rows.Next() {
		var one T
		if err := scan(rows, &one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// exec runs a statement and returns how many rows it changed.
func exec(ctx context.Context, tx *sql.Tx, query string, args ...any) (int64, error) {
	res, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// row is a *sql.Row, or a *sql.Rows positioned at a row.
type row interface{ Scan(dest ...any) error }

// micros encodes a time as microseconds since 1970, or as NULL if it is zero.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// timeColumn scans what micros encoded.
type timeColumn struct{ t *time.Time }

// Scan implements sql.Scanner.
func (c timeColumn) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*c.t = time.Time{}
	case int64:
		*c.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a %T in place of a time", v)
	}
	return nil
}

// nullable encodes the empty string as NULL.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
