package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"time"

	"github.com/mpcd/mpcd/internal/session"
)

// A database lives in incarnations. A set of pre-params is used in the one that it was made
// in and in no other: a copy of the database, or one that was restored, still has sets that
// the other copy uses too, or that were handed out since the backup.
//
// What shows that a database is a copy, or older than it was:
//   - it stands in another file than before: its row notes which (see identity);
//   - its service's lock file does not belong to it, or is gone. After each claim the service
//     notes there the incarnation and how many claims there were; a database that knows of
//     fewer is older than its lock file.
//
// Nothing here sees that both files were set back together, as a snapshot of a virtual
// machine does: see docs/RESTORING.md.

// mark is how far a database has come.
type mark struct {
	Incarnation string `json:"incarnation"` // its nonce, in hex
	Claims      int64  `json:"claims"`      // of sets of pre-params, in all incarnations
}

// Renew begins the next incarnation of the database: what the pool of pre-params holds is
// erased, and no other process can claim it any more. It says how many sets that were. The
// audit log notes why.
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

// claimed counts one claim more.
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
	Dropped int    // sets of pre-params that were erased for it
}

// Recognise sees whether the database is still the one that its service's lock belongs to,
// and begins another incarnation where it is a copy or an older state. From then on what is
// claimed is noted in the lock's file. It is called once, before anything is claimed.
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

// life is the row of the incarnation.
type life struct {
	mark
	noted string // the incarnation that the lock file has; "" where no service has had the database
	file  string
}

func lifeOf(ctx context.Context, tx *sql.Tx) (l life, err error) {
	const row = "SELECT lower(hex(nonce)), lower(hex(coalesce(noted, ''))), claims, coalesce(file, '') FROM incarnation"
	err = tx.QueryRowContext(ctx, row).
		Scan(&l.Incarnation, &l.noted, &l.Claims, &l.file)
	return l, err
}

// differs says what shows that a database is a copy or an older state, or "". Incarnations that
// began since the last note, by hand, are no matter: nothing was claimed in them.
func (l *life) differs(file string, noted mark, intact bool) string {
	switch {
	case l.file != file:
		return "the database is a copy: it stands in another file than before"
	case !intact:
		return "the lock file beside the database cannot be read"
	case noted == mark{} && l.noted != "":
		return "the lock file that was beside the database is gone"
	case noted.Incarnation != l.noted: // both are empty before the first start
		return "the lock file beside the database is of another state of it"
	case l.Claims < noted.Claims:
		return "the database is older than its lock file: it was restored"
	}
	return ""
}

// place notes in which file a database stands, where that has not been noted yet, so that a
// copy is known for one whoever opens it first.
func (s *Store) place(ctx context.Context, path string) error {
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
