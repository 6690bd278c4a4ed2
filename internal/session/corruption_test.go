package session_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // to modify a database without the store

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// damaged opens a copy of the stock after running SQL on its database. Its BACKUP set is confirmed; the stored result,
// if any, is that of another backup.
func damaged(t *testing.T, statements ...string) (p *servertest.Parts) {
	t.Helper()
	p, _, _ = open(t, servertest.Config{})
	db, err := sql.Open("sqlite", "file:"+filepath.Join(p.Dir, "mpcd.db"))
	require.NoError(t, err)
	for _, s := range statements {
		res, err := db.ExecContext(t.Context(), s)
		require.NoError(t, err, s)
		n, err := res.RowsAffected()
		require.NoError(t, err)
		require.NotZero(t, n, s)
	}
	require.NoError(t, db.Close())
	return p
}

// flip returns an SQL expression for a blob with one byte altered.
func flip(column string, at string) string {
	hex := "hex(substr(" + column + ", " + at + ", 1))"
	other := "CASE " + hex + " WHEN '01' THEN x'02' ELSE x'01' END"
	return "CAST(substr(" + column + ", 1, (" + at + ")-1) || " + other + " || substr(" + column + ", (" + at + ")+1) AS BLOB)"
}

// A corrupted row is DATA_CORRUPTED, with its set in the log, and is never blamed on the client.
func TestCorruptedRows(t *testing.T) {
	t.Parallel()
	stocked(t)
	of := func(h held) string { return " WHERE share_set_id = '" + h.set + "'" }
	record := func(at string) string {
		return "UPDATE share_sets SET record = " + flip("record", at) + " WHERE id = '" + stock.first.set + "'"
	}
	for name, sql := range map[string]string{
		"server share: first byte":     "UPDATE share_set_halves SET ciphertext = " + flip("ciphertext", "1") + of(stock.first),
		"server share: a middle byte":  "UPDATE share_set_halves SET ciphertext = " + flip("ciphertext", "length(ciphertext)/2") + of(stock.first),
		"server share: last byte":      "UPDATE share_set_halves SET ciphertext = " + flip("ciphertext", "length(ciphertext)") + of(stock.first),
		"server share: cut short":      "UPDATE share_set_halves SET ciphertext = substr(ciphertext, 1, 40)" + of(stock.first),
		"server share: empty":          "UPDATE share_set_halves SET ciphertext = x''" + of(stock.first),
		"server share: erased":         "UPDATE share_set_halves SET ciphertext = NULL" + of(stock.first),
		"server share: of another set": "UPDATE share_set_halves SET ciphertext = (SELECT ciphertext FROM share_set_halves " + of(stock.backup) + ")" + of(stock.first),
		"server share: gone":           "DELETE FROM share_set_halves" + of(stock.first),
		"server share: other curve":    "UPDATE share_set_halves SET curve = 1" + of(stock.first),
		"record: empty":                "UPDATE share_sets SET record = x'' WHERE id = '" + stock.first.set + "'",
		"record: another's":            "UPDATE share_sets SET record = (SELECT record FROM share_sets WHERE id = '" + stock.backup.set + "') WHERE id = '" + stock.first.set + "'",
		"public key":                   "UPDATE wallet_keys SET public_key = " + flip("public_key", "5"),
		"record: wallet id":            record("instr(record, x'" + hexID(stock.first.wallet) + "') + 3"),
		"record: set id":               record("instr(record, x'" + hexID(stock.first.set) + "') + 3"),
		"record: first byte":           record("1"),
		"record: last byte":            record("length(record)"),
		"record: a middle one":         record("length(record)/2"),
		"record: a late one":           record("length(record)-40"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := damaged(t, sql)
			for range 2 { // a caller with the right share gets the same error every time
				r, err := p.Sessions.Sign(t.Context(), alice, signWith(stock.first))
				if err == nil {
					_, _, err = ended(t, r, nil)
				}
				require.ErrorIs(t, err, session.ErrDataCorrupted, err)
				require.NotErrorIs(t, err, session.ErrShareMalformed)
				require.NotErrorIs(t, err, session.ErrShareSetMismatch)
				require.Contains(t, err.Error(), stock.first.set, "the log names the row")
			}
			// A forged share is still refused.
			forged := append([]byte(nil), stock.first.share...)
			forged[len(forged)-1] ^= 1
			req := signWith(stock.first)
			req.SigningShare = secret.New(forged)
			r, err := p.Sessions.Sign(t.Context(), alice, req)
			if err == nil {
				_, _, err = ended(t, r, nil)
			}
			require.Error(t, err)
		})
	}
}

func hexID(id string) string {
	out := make([]byte, 0, 32)
	for _, c := range []byte(id) {
		if c != '-' {
			out = append(out, c)
		}
	}
	return string(out)
}

// A corrupted stored result is DATA_CORRUPTED too.
func TestCorruptedResult(t *testing.T) {
	t.Parallel()
	stocked(t)
	for _, at := range []string{"1", "length(data)/2", "length(data)"} {
		p := damaged(t, "UPDATE session_results SET data = "+flip("data", at)+" WHERE data IS NOT NULL")
		r, err := p.Sessions.Backup(t.Context(), alice, stock.backupReq)
		if err == nil {
			_, _, err = ended(t, r, nil)
		}
		require.ErrorIs(t, err, session.ErrDataCorrupted)
		confirmed(t, p, stock.backup) // a client that has its share already can still confirm
	}
}
