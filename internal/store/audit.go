package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mpcd/mpcd/internal/session"
)

// AuditLine is an entry of the audit log with its position.
type AuditLine struct {
	session.Entry
	N    int64 // position in its wallet's chain, from 1
	Hash [sha256.Size]byte
}

// chain returns the hash of an entry at position n: over the previous hash, and over every field with its length, so
// that no two entries have the same preimage.
func chain(before []byte, n int64, e *session.Entry) [sha256.Size]byte {
	h := sha256.New()
	field := func(b []byte) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(b)))
		h.Write(size[:])
		h.Write(b)
	}
	number := func(v int64) {
		field(binary.BigEndian.AppendUint64(nil, uint64(v))) //nolint:gosec // G115: the bits, not the value
	}
	field([]byte("mpcd audit 1"))
	field(before)
	number(n)
	number(e.Time.UnixMicro())
	for _, s := range []string{e.WalletID, e.Caller, e.Action, e.ShareSetID, e.SessionID, e.Outcome, e.Reason, e.Detail} {
		field([]byte(s))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// record appends an entry to its wallet's chain, in the transaction of the change it describes.
func record(ctx context.Context, tx *sql.Tx, e session.Entry) error {
	var n int64
	var before []byte
	err := tx.QueryRowContext(ctx, "SELECT n, hash FROM audit WHERE wallet_id = ? ORDER BY n DESC LIMIT 1",
		e.WalletID).Scan(&n, &before)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("audit: %w", err)
	}
	n++
	hash := chain(before, n, &e)
	_, err = exec(ctx, tx, `INSERT INTO audit (
			wallet_id, n, time, caller, action, share_set_id, session_id, outcome, reason, detail, hash)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.WalletID, n, e.Time.UnixMicro(), e.Caller, e.Action, e.ShareSetID, e.SessionID, e.Outcome, e.Reason,
		e.Detail, hash[:])
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// Record implements session.Housekeeper.
func (s *Store) Record(ctx context.Context, e session.Entry) error {
	return s.write(ctx, "write audit entry", func(tx *sql.Tx) error { return record(ctx, tx, e) })
}

// Audit returns the entries of one wallet, or with "" those without a wallet, in order.
func (s *Store) Audit(ctx context.Context, walletID string) ([]AuditLine, error) {
	var lines []AuditLine
	err := s.read(ctx, "read audit log", func(tx *sql.Tx) (err error) {
		lines, err = auditLines(ctx, tx, walletID)
		return err
	})
	return lines, err
}

func auditLines(ctx context.Context, tx *sql.Tx, walletID string) ([]AuditLine, error) {
	return collect(ctx, tx, scanLine, `
		SELECT wallet_id, n, time, caller, action, share_set_id, session_id, outcome, reason, detail, hash
		FROM audit WHERE wallet_id = ? ORDER BY n`, walletID)
}

func scanLine(r row, l *AuditLine) error {
	var hash []byte
	err := r.Scan(&l.WalletID, &l.N, timeColumn{&l.Time}, &l.Caller, &l.Action, &l.ShareSetID, &l.SessionID, &l.Outcome,
		&l.Reason, &l.Detail, &hash)
	copy(l.Hash[:], hash) // 32 bytes: the table checks it
	return err
}

// AuditBreakError is the first place at which a chain of the audit log fails to verify.
type AuditBreakError struct {
	WalletID string
	N        int64 // the faulty entry, or the missing one
	What     string
}

// Error implements error.
func (b *AuditBreakError) Error() string {
	chain := "the chain without a wallet"
	if b.WalletID != "" {
		chain = "the chain of wallet " + b.WalletID
	}
	return fmt.Sprintf("%s breaks at entry %d: %s", chain, b.N, b.What)
}

// VerifyAudit verifies every chain. It returns how many entries and chains it read, and an *AuditBreakError if one
// fails to verify. It cannot detect that the newest entries of a chain are missing: for that, keep the newest hashes
// elsewhere.
func (s *Store) VerifyAudit(ctx context.Context) (entries, chains int, err error) {
	err = s.read(ctx, "verify audit log", func(tx *sql.Tx) error {
		wallets, err := collect(ctx, tx, func(r row, id *string) error { return r.Scan(id) },
			"SELECT DISTINCT wallet_id FROM audit ORDER BY wallet_id")
		if err != nil {
			return err
		}
		for _, id := range wallets {
			lines, err := auditLines(ctx, tx, id)
			if err != nil {
				return err
			}
			if err := verifyChain(id, lines); err != nil {
				return err
			}
			entries += len(lines)
			chains++
		}
		return nil
	})
	return entries, chains, err
}

func verifyChain(walletID string, lines []AuditLine) error {
	var before []byte
	for i := range lines {
		l := &lines[i]
		if n := int64(i) + 1; l.N != n {
			return &AuditBreakError{walletID, n, "it is missing"}
		}
		if hash := chain(before, l.N, &l.Entry); !bytes.Equal(hash[:], l.Hash[:]) {
			return &AuditBreakError{walletID, l.N, "its hash does not match its content and the previous entry"}
		}
		before = l.Hash[:]
	}
	return nil
}
