package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"time"

	"github.com/mpcd/mpcd/internal/session"
)

// A database has incarnations. Pre-params may only be used in the incarnation they were made in: a copy of the
// database, or one restored from a backup, still contains sets that the other copy will use too, or that were handed
// out since the backup.
//
// A database is recognised as a copy or an older state if
//   - it is in a different file than before, which its row of incarnation records (see identity);
//   - its service's lock file is gone or does not match. After each claim the service records the incarnation and the
//     number of claims there; a database with fewer claims is older than its lock file.
//
// It is not detected if both files were restored together, as by a snapshot of a virtual machine: see
// docs/RESTORING.md.

// mark is a point in a database's life.
type mark struct {
	Incarnation string `json:"incarnation"` // its nonce, in hex
	Claims      int64  `json:"claims"`      // of sets of pre-params, over all incarnations
}

// Renew begins the next incarnation of the database: it erases the pool of pre-params, so that no other process can
// claim from it any more, and records why in the audit log. It returns how many sets were erased.
func (s *Store) Renew(ctx context.Context, why string) (dropped int, err error) {
	err = s.write(ctx, "renew the incarnation", func(tx *sql.Tx) (err error) {
		dropped, err = renew(ctx, tx, why)
		return err
	})
	if err != nil {
		return 0, err
	}
	s.scrub(ctx)
	return dropped, nil
}

func renew(ctx context.Context, tx *sql.Tx, why string) (dropped int, err error) {
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails
	if _, err := exec(ctx, tx, "UPDATE incarnation SET nonce = ?", nonce); err != nil {
		return 0, err
	}
	n, err := exec(ctx, tx, empty)
	if err != nil {
		return 0, err
	}
	return int(n), record(ctx, tx, session.Entry{
		Time: time.Now(), Action: "preparams.drop", Outcome: "ok", Detail: fmt.Sprintf("%d sets: %s", n, why),
	})
}

// claimed counts one more claim.
func claimed(ctx context.Context, tx *sql.Tx) (mark, error) {
	if _, err := exec(ctx, tx, "UPDATE incarnation SET claims = claims + 1, noted = nonce"); err != nil {
		return mark{}, err
	}
	l, err := lifeOf(ctx, tx)
	return l.mark, err
}

// Renewal says why a database has begun another incarnation.
type Renewal struct {
	Why     string // empty: it has not
	Dropped int    // sets of pre-params erased because of it
}

// Recognise checks whether the database is still the one that its service's lock file describes, and begins another
// incarnation if it is a copy or an older state. From then on claims are recorded in the lock file. Call it once,
// before anything is claimed.
func (s *Store) Recognise(ctx context.Context, lock *FileLock) (r Renewal, err error) {
	const what = "recognise the database"
	file, err := lock.identity()
	if err != nil {
		return r, s.fail(ctx, what, err)
	}
	noted, intact, err := lock.noted()
	if err != nil {
		return r, s.fail(ctx, what, err)
	}
	var now mark
	err = s.write(ctx, what, func(tx *sql.Tx) error {
		l, err := lifeOf(ctx, tx)
		if err != nil {
			return err
		}
		if r.Why = l.differs(file, noted, intact); r.Why != "" {
			if r.Dropped, err = renew(ctx, tx, r.Why); err != nil {
				return err
			}
		}
		if _, err = exec(ctx, tx, "UPDATE incarnation SET file = ?, noted = nonce", file); err != nil {
			return err
		}
		l, err = lifeOf(ctx, tx)
		now = l.mark
		return err
	})
	if err != nil {
		return Renewal{}, err
	}
	if r.Why != "" {
		s.scrub(ctx)
	}
	if err := lock.note(now); err != nil {
		return Renewal{}, s.fail(ctx, what, err)
	}
	s.beside = lock
	return r, nil
}

// life is the row of the table incarnation.
type life struct {
	mark
	noted string // the incarnation that the lock file has; "" if no service has used the database yet
	file  string
}

func lifeOf(ctx context.Context, tx *sql.Tx) (l life, err error) {
	const row = "SELECT lower(hex(nonce)), lower(hex(coalesce(noted, ''))), claims, coalesce(file, '') FROM incarnation"
	err = tx.QueryRowContext(ctx, row).
		Scan(&l.Incarnation, &l.noted, &l.Claims, &l.file)
	return l, err
}

// differs returns the evidence that the database is a copy or an older state, or "". Incarnations begun by hand since
// the last note do not matter: nothing was claimed in them.
func (l *life) differs(file string, noted mark, intact bool) string {
	switch {
	case l.file != file:
		return "the database is a copy: it is in a different file than before"
	case !intact:
		return "the lock file next to the database cannot be read"
	case noted == mark{} && l.noted != "":
		return "the lock file next to the database is gone"
	case noted.Incarnation != l.noted: // both are empty before the first start
		return "the lock file next to the database is of another state of it"
	case l.Claims < noted.Claims:
		return "the database is older than its lock file: it was restored"
	}
	return ""
}

// recordFile records which file the database is in, if that is not recorded yet, so that a copy is recognised whichever
// process opens it first.
func (s *Store) recordFile(ctx context.Context, path string) error {
	var noted bool
	if err := s.db.QueryRowContext(ctx, "SELECT file IS NOT NULL FROM incarnation").Scan(&noted); err != nil || noted {
		return err
	}
	file, err := identity(path)
	if err != nil {
		return err
	}
	_, err = s.db.ExecContext(ctx, "UPDATE incarnation SET file = ? WHERE file IS NULL", file)
	return err
}
