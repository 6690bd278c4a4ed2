package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// errLocked says that another service has the database.
var errLocked = errors.New("another mpcd serve uses it: stop that one first, or name another database")

// Lock makes this process the one service of a database, until unlock or its end: a service
// that starts takes the sessions that it finds unfinished for those of one that died, so that
// a second one would end the runs of the first. Commands that only look, or fill the pool,
// need no lock. Where there is no database yet, its empty file is made.
//
// There are two locks. One is on the database itself (see lockFile), so that it holds under
// whatever name the file is opened, also when it was renamed. The other is on a file beside
// it, for systems without the first, and for releases that knew this one alone.
func Lock(dbURL string) (unlock func() error, err error) {
	path, err := Path(dbURL)
	if err != nil {
		return nil, err
	}
	if path, err = resolve(path); err == nil {
		unlock, err = lock(path)
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	return unlock, nil
}

func lock(path string) (unlock func() error, err error) {
	_, linked := create(path)
	if linked != nil && !errors.Is(linked, errHardLinks) {
		return nil, linked
	}
	db, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return nil, explain(err)
	}
	if err := errors.Join(lockFile(db), linked); err != nil {
		if errors.Is(err, errLocked) { // says more than that it has two names
			err = errLocked
		}
		return nil, errors.Join(err, db.Close())
	}
	beside, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return nil, errors.Join(explain(err), db.Close())
	}
	if err := syscall.Flock(int(beside.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errLocked
		}
		return nil, errors.Join(err, beside.Close(), db.Close())
	}
	return func() error { return errors.Join(beside.Close(), db.Close()) }, nil
}
