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

// Store is an open database. Its methods may be called from many goroutines; none may
// be called from within a function that was passed to one of them.
type Store struct {
	// db has one connection, which orders all callers. SQLite has one writer at a time
	// anyway, a run that takes seconds of CPU makes some ten calls of less than a
	// millisecond each, and with no reader beside it a checkpoint after an erasure can
	// always truncate the log.
	db *sql.DB

	beside *FileLock // where claims are noted too, from Recognise on; nil: nowhere

	trouble trouble
}

var (
	_ session.Wallets  = (*Store)(nil)
	_ session.Sessions = (*Store)(nil)

	_ session.Budgets     = (*Store)(nil)
	_ session.Housekeeper = (*Store)(nil)
	_ session.Deletions   = (*Store)(nil)
)

// Close ends the store's use of its file, after the calls that are under way.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("store: close: %w", err)
	}
	return nil
}

// write runs change in a transaction that excludes every other writer from its start on
// (BEGIN IMMEDIATE, see dsn). Without an error from change it commits, which is durable.
func (s *Store) write(ctx context.Context, what string, change func(*sql.Tx) error) error {
	err := s.transact(ctx, what, nil, change)
	if err == nil {
		s.trouble.over()
	}
	return err
}

// read runs look on one snapshot of the database.
func (s *Store) read(ctx context.Context, what string, look func(*sql.Tx) error) error {
	return s.transact(ctx, what, &sql.TxOptions{ReadOnly: true}, look)
}

func (s *Store) transact(ctx context.Context, what string, opts *sql.TxOptions, f func(*sql.Tx) error) error {
	conn, err := s.turn(ctx)
	if err != nil {
		return s.fail(ctx, what, err)
	}
	defer conn.Close() //nolint:errcheck // it gives the connection back
	tx, err := conn.BeginTx(ctx, opts)
	if err != nil {
		return s.fail(ctx, what, err)
	}
	// Deferred for a panic in f too, which would otherwise take the connection with it.
	// After a commit it does nothing, and beside an error of f its own says nothing new.
	defer tx.Rollback() //nolint:errcheck // as above
	if err := f(tx); err != nil {
		return s.fail(ctx, what, err)
	}
	if err := tx.Commit(); err != nil {
		return s.fail(ctx, what, err)
	}
	return nil
}

// longestTurn is how long a call waits for those before it. Each of them may wait for
// another process's lock (busy_timeout): a queue of such calls is not worth standing in.
const longestTurn = 10 * time.Second

var errNoTurn = errors.New("the database was in use all the time")

// turn waits for the connection.
func (s *Store) turn(ctx context.Context) (*sql.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, longestTurn)
	defer cancel()
	conn, err := s.db.Conn(wait)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		return nil, errNoTurn
	}
	return conn, err
}

// fail says what was tried, adds the context's end where that is the reason behind the
// driver's words, names damage by its sentinel, and calls ErrInterrupted what may work
// later.
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

// code returns SQLite's primary result code of err, or SQLITE_OK for an error that is
// not SQLite's.
func code(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return sqlite3.SQLITE_OK
	}
	return e.Code() & 0xff
}

// scrub empties the write-ahead log, which still holds the pages as they were before an
// erasure. The erasure itself is durable already, so a failure is no error of the
// caller's: what is left goes with the next scrub, at the latest when the store is
// closed or opened. The one way to get there is another process that is in the middle
// of reading the file: a backup tool may stay there for hours, so scrub waits a moment
// only.
func (s *Store) scrub(ctx context.Context) {
	// The caller's end must not leave traces of what was erased.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
}

// collect runs a query and returns what scan makes of each row.
func collect[T any](ctx context.Context, tx *sql.Tx, scan func(row, *T) error, query string, args ...any) ([]T, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
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

// row is a *sql.Row, or *sql.Rows at one.
type row interface{ Scan(dest ...any) error }

// micros stores a time: as microseconds since 1970, or NULL for the zero time.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// timeColumn scans what micros stored.
type timeColumn struct{ t *time.Time }

// Scan implements sql.Scanner.
func (c timeColumn) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*c.t = time.Time{}
	case int64:
		*c.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a %T stands where a time should", v)
	}
	return nil
}

// nullable stores the empty string as NULL.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
