package custodian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// Store keeps shares and ciphertexts in an SQLite file of mode 0600. Changes are durable when a method returns nil.
type Store struct{ db *sql.DB }

var (
	errReplayed = errors.New("the message came before")
	errOther    = errors.New("another share is kept under this backupSharePairId")
	errDeleted  = errors.New("the share of this backupSharePairId was deleted")
	errNothing  = errors.New("there is none")
)

const schema = `
CREATE TABLE IF NOT EXISTS shares (
    seq       INTEGER PRIMARY KEY, -- order of arrival
    pair_id   TEXT NOT NULL UNIQUE,
    client_id TEXT NOT NULL,
    method    TEXT NOT NULL,
    share     BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS shares_by_client ON shares (client_id, seq);
CREATE TABLE IF NOT EXISTS messages (
    id   TEXT NOT NULL PRIMARY KEY,
    body BLOB NOT NULL, -- its SHA-256
    time INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS messages_by_time ON messages (time);
CREATE TABLE IF NOT EXISTS deleted (
    pair_id TEXT NOT NULL PRIMARY KEY -- a deposit that was on its way for longer than the deletion must not bring it back
) STRICT;
CREATE TABLE IF NOT EXISTS cipher_texts (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT, -- rises with every change
    user_id TEXT NOT NULL,
    method  TEXT NOT NULL, -- '' where it came without one
    text    TEXT NOT NULL,
    UNIQUE (user_id, method)
) STRICT;`

// Open opens the file, and creates it if it does not exist.
func Open(ctx context.Context, path string) (*Store, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, and holds shares: chmod 600 it", path, mode)
	}
	absolute, err := filepath.Abs(path) // in a URL the first element of a relative path would be a host
	if err != nil {
		return nil, err
	}
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "secure_delete(1)", "synchronous(FULL)"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: absolute, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), db.Close())
	}
	return &Store{db: db}, nil
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

func (s *Store) write(ctx context.Context, change func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing, and after an error it adds nothing
	if err := change(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// remember is how long a message's id is kept: longer than its timestamp is valid.
const remember = 15 * time.Minute

// first records a message. It returns errReplayed if its id was seen before, and then again = true if the body was
// the same.
func first(ctx context.Context, tx *sql.Tx, id string, body []byte, now time.Time) (again bool, err error) {
	if _, err := tx.ExecContext(ctx, "DELETE FROM messages WHERE time < ?", now.Add(-remember).Unix()); err != nil {
		return false, err
	}
	sum := sha256.Sum256(body)
	var before []byte
	err = tx.QueryRowContext(ctx, "SELECT body FROM messages WHERE id = ?", id).Scan(&before)
	if err == nil {
		return bytes.Equal(before, sum[:]), errReplayed
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO messages (id, body, time) VALUES (?, ?, ?)", id, sum[:], now.Unix())
	return false, err
}

// deposit stores a share. Repeating a message changes nothing, since its response may have been lost. A stored share
// is never replaced: errOther.
func (s *Store) deposit(ctx context.Context, messageID string, body []byte, m *deposit, share []byte) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		again, err := first(ctx, tx, messageID, body, time.Now())
		if again {
			return nil
		}
		if err != nil {
			return err
		}
		var client, method string
		var there []byte
		err = tx.QueryRowContext(ctx, "SELECT pair_id FROM deleted WHERE pair_id = ?", m.PairID).Scan(new(string))
		if err == nil {
			return errDeleted
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		err = tx.QueryRowContext(ctx, "SELECT client_id, method, share FROM shares WHERE pair_id = ?", m.PairID).Scan(&client, &method, &there)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			_, err = tx.ExecContext(ctx, "INSERT INTO shares (pair_id, client_id, method, share) VALUES (?, ?, ?, ?)", m.PairID, m.ClientID, m.Method, share)
			return err
		case err != nil:
			return err
		case client != m.ClientID || method != m.Method || !bytes.Equal(there, share):
			return errOther
		}
		return nil
	})
}

// shares returns the share of the set that a query names, or all of its client's shares in the order they arrived. A
// fetch is answered only once, so that replaying it returns nothing.
func (s *Store) shares(ctx context.Context, messageID string, body []byte, q query) (all [][]byte, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		if _, err := first(ctx, tx, messageID, body, time.Now()); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, "SELECT share FROM shares WHERE client_id = ?1 AND (?2 = '' OR pair_id = ?2) ORDER BY seq",
			q.ClientID, q.PairID)
		if err != nil {
			return err
		}
		defer rows.Close() //nolint:errcheck // rows.Err reports it
		for rows.Next() {
			var b []byte
			if err := rows.Scan(&b); err != nil {
				return err
			}
			all = append(all, b)
		}
		return rows.Err()
	})
	return all, err
}

// delete erases a client's share of one set, and records that it was deleted. Deleting a missing share succeeds. It
// returns errNothing if the set is another client's.
func (s *Store) delete(ctx context.Context, messageID string, body []byte, q query) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		again, err := first(ctx, tx, messageID, body, time.Now())
		if again {
			return nil
		}
		if err != nil {
			return err
		}
		var client string
		err = tx.QueryRowContext(ctx, "SELECT client_id FROM shares WHERE pair_id = ?", q.PairID).Scan(&client)
		switch {
		case err == nil && client != q.ClientID:
			return errNothing
		case err != nil && !errors.Is(err, sql.ErrNoRows):
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM shares WHERE pair_id = ?", q.PairID); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT OR IGNORE INTO deleted (pair_id) VALUES (?)", q.PairID)
		return err
	})
	if err == nil { // the log still has the page from before
		_, err = s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	}
	return err
}

// putText stores the ciphertext of a user's backup of one method, replacing an older one.
func (s *Store) putText(ctx context.Context, userID, method, text string) error {
	_, err := s.db.ExecContext(ctx, "INSERT OR REPLACE INTO cipher_texts (user_id, method, text) VALUES (?, ?, ?)", userID, method, text)
	return err
}

// text returns a ciphertext, or errNothing. Without a method it is the newest one.
func (s *Store) text(ctx context.Context, userID, method string) (text string, err error) {
	query, args := "SELECT text FROM cipher_texts WHERE user_id = ? AND method = ?", []any{userID, method}
	if method == "" {
		query, args = "SELECT text FROM cipher_texts WHERE user_id = ? ORDER BY seq DESC LIMIT 1", []any{userID}
	}
	err = s.db.QueryRowContext(ctx, query, args...).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return "", errNothing
	}
	return text, err
}
