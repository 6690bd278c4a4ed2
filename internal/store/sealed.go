package store

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"

	"github.com/mpcd/mpcd/internal/session"
)

// sealedTable describes where values of one kind, sealed under the keyset, are stored. What is sealed to a caller (a
// result with seal_to) is not among them.
type sealedTable struct {
	page    string // rows after ?1, at most ?2: row, wallet, id, curve, party, ciphertext
	replace string // replaces ?3 by ?1 in row ?2
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
		// Rows are reused: the old ciphertext shows whether the row still holds the same set.
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

// SealedRows returns up to limit rows of a kind with a sealed value, in order, starting after the given row (0: from
// the first). If there are none it returns an empty list and no error.
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

// Reseal replaces rows[i].Ciphertext by to[i], in one transaction, and returns how many it replaced. A row that has
// another value by now, or none, is left alone. The replaced bytes are nowhere in the files when the method returns:
// a value of the same length overwrites the old one (see doc.go), and any other length is refused.
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
