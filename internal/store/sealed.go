package store

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"

	"github.com/mpcd/mpcd/internal/session"
)

// sealedTable says where one kind of sealed values stands. What was sealed to somebody
// else (a result with seal_to) is not the keyset's business.
type sealedTable struct {
	page    string // rows after ?1, at most ?2: row, wallet, id, curve, party, ciphertext
	replace string // puts ?1 in the place of ?3 in row ?2
	label   func(wallet, id string, c session.Curve, p session.Party) session.Label
}

var sealedTables = map[string]sealedTable{
	session.KindServerShare: {
		page: `SELECT h.id, s.wallet_id, s.id, h.curve, 0, h.ciphertext
			FROM share_set_halves h JOIN share_sets s ON s.id = h.share_set_id
			WHERE h.id > ?1 AND h.ciphertext IS NOT NULL ORDER BY h.id LIMIT ?2`,
		replace: "UPDATE share_set_halves SET ciphertext = ?1 WHERE id = ?2 AND ciphertext = ?3",
		label: func(wallet, id string, c session.Curve, _ session.Party) session.Label {
			return session.ServerShareLabel(wallet, id, c)
		},
	},
	session.KindResult: {
		page: `SELECT r.id, s.wallet_id, s.id, 0, 0, r.data FROM session_results r JOIN sessions s ON s.id = r.session_id
			WHERE r.id > ?1 AND r.sealed_to = 0 AND r.data IS NOT NULL ORDER BY r.id LIMIT ?2`,
		replace: "UPDATE session_results SET data = ?1 WHERE id = ?2 AND data = ?3",
		label: func(wallet, id string, _ session.Curve, _ session.Party) session.Label {
			return session.ResultLabel(wallet, id)
		},
	},
	session.KindPreParams: {
		page: `SELECT seq, '', id, 0, role, sealed FROM preparams WHERE seq > ?1 AND id IS NOT NULL ORDER BY seq LIMIT ?2`,
		// The row is used again: the ciphertext says whether it is still the same set's.
		replace: "UPDATE preparams SET sealed = ?1 WHERE seq = ?2 AND sealed = ?3",
		label: func(_, id string, _ session.Curve, p session.Party) session.Label {
			return session.PreParamsLabel(id, p)
		},
	},
	session.KindMAC: {
		page: `SELECT rowid, '', '', 0, 0, value FROM meta
			WHERE rowid > ?1 AND key = 'mac keyset' ORDER BY rowid LIMIT ?2`,
		replace: "UPDATE meta SET value = ?1 WHERE rowid = ?2 AND value = ?3",
		label:   func(string, string, session.Curve, session.Party) session.Label { return session.MACLabel() },
	},
}

// SealedRows returns up to limit rows of a kind that hold a sealed value, in order, those
// after a given row (0: from the first). None is an empty list, no error.
func (s *Store) SealedRows(ctx context.Context, kind string, after int64, limit int) ([]session.SealedRow, error) {
	t, ok := sealedTables[kind]
	if !ok {
		return nil, fmt.Errorf("store: there is no kind %q of sealed values", kind)
	}
	var found []session.SealedRow
	err := s.read(ctx, "read sealed rows", func(tx *sql.Tx) (err error) {
		found, err = collect(ctx, tx, func(r row, one *session.SealedRow) error {
			var wallet, id string
			var c session.Curve
			var p session.Party
			if err := r.Scan(&one.Row, &wallet, &id, &c, &p, &one.Ciphertext); err != nil {
				return err
			}
			one.Label = t.label(wallet, id, c, p)
			return nil
		}, t.page, after, limit)
		return err
	})
	return found, err
}

// Reseal puts to[i] in the place of rows[i].Ciphertext, in one transaction, and says how
// many it replaced. A row that holds another value by now, or none, stays as it is. What
// was replaced is nowhere in the files when the method returns: a value of the same
// length is written over the old one (see doc.go), and any other length is refused.
func (s *Store) Reseal(ctx context.Context, kind string, rows []session.SealedRow,
	to [][]byte) (changed int, err error) {
	t, ok := sealedTables[kind]
	if !ok || len(rows) != len(to) {
		return 0, fmt.Errorf("store: reseal %d rows of kind %q to %d values", len(rows), kind, len(to))
	}
	err = s.write(ctx, "reseal", func(tx *sql.Tx) error {
		changed = 0
		for i, r := range rows {
			if len(to[i]) != len(r.Ciphertext) || bytes.Equal(to[i], r.Ciphertext) {
				return fmt.Errorf("row %d (%s) would not be written over", r.Row, kind)
			}
			n, err := exec(ctx, tx, t.replace, to[i], r.Row, r.Ciphertext)
			if err != nil {
				return err
			}
			changed += int(n)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if changed > 0 {
		s.scrub(ctx)
	}
	return changed, nil
}
