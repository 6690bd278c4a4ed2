package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Lock makes this process the one service of a database, until unlock or its end: a service
// that starts takes the sessions that it finds unfinished for those of one that died, so that
// a second one would end the runs of the first. Commands that only look, or fill the pool,
// need no lock.
//
// The lock is on a file of its own, since SQLite's locks on its file end with any descriptor
// of it.
func Lock(dbURL string) (unlock func() error, err error) {
	path, err := Path(dbURL)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: the operator's own path
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("database %s: its directory does not exist: create it first, writable for the service's user alone", path)
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, explain(err))
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another mpcd serve uses it: stop that one first, or name another database")
		}
		return nil, errors.Join(fmt.Errorf("database %s: %w", path, err), f.Close())
	}
	return f.Close, nil
}
