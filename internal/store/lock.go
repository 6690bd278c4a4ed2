package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// errLocked says that another service is using the database.
var errLocked = errors.New("another mpcd serve uses it: stop that one first, or name another database")

// FileLock is held by the one service of a database. The file next to the database also holds the database's mark
// (see incarnation.go).
type FileLock struct {
	path       string // of the database
	db, beside *os.File

	mu   sync.Mutex // guards last, and the content of beside
	last mark       // the file's content
}

// Lock makes this process the only service of a database, until Unlock or its end. A service that starts treats
// unfinished sessions as those of one that died, so a second service would end the first one's runs. Commands that
// only read, or fill the pool, need no lock. If there is no database yet, Lock creates an empty file.
//
// There are two locks. One is on the database itself (see lockFile), so that it works under any name of the file,
// even after a rename. The other is on a file next to it, for systems without the first kind, and for earlier
// releases, which know only this one.
func Lock(dbURL string) (*FileLock, error) {
	path, err := Path(dbURL)
	if err != nil {
		return nil, err
	}
	var held *FileLock
	if path, err = resolve(path); err == nil {
		held, err = lock(path)
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	return held, nil
}

func lock(path string) (*FileLock, error) {
	_, linked := create(path)
	if linked != nil && !errors.Is(linked, errHardLinks) {
		return nil, linked
	}
	db, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return nil, explain(err)
	}
	if err := errors.Join(lockFile(db), linked); err != nil {
		if errors.Is(err, errLocked) { // more useful than that it has hard links
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
	return &FileLock{path: path, db: db, beside: beside}, nil
}

// Unlock releases the lock.
func (l *FileLock) Unlock() error { return errors.Join(l.beside.Close(), l.db.Close()) }

// identity identifies the database's file.
func (l *FileLock) identity() (string, error) { return identity(l.path) }

// maxMark bounds an encoded mark in bytes.
const maxMark = 1 << 10

// noted reads the mark from the file next to the database: a zero mark if the file is new. intact is false if the
// file contains anything else.
func (l *FileLock) noted() (m mark, intact bool, err error) {
	b, err := io.ReadAll(io.NewSectionReader(l.beside, 0, maxMark))
	if err != nil {
		return m, false, err
	}
	if len(b) == 0 {
		return m, true, nil
	}
	if json.Unmarshal(b, &m) != nil || m.Incarnation == "" {
		return mark{}, false, nil //nolint:nilerr // an unreadable mark is a result, not an error
	}
	return m, true, nil
}

// note writes a mark, durably when it returns nil. A mark with fewer claims than the one in the file, from two
// concurrent claimants, changes nothing.
func (l *FileLock) note(m mark) error {
	if l == nil { // without a lock, as in a benchmark, no other process uses the database
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Claims < l.last.Claims {
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if _, err := l.beside.WriteAt(b, 0); err != nil {
		return err
	}
	if err := errors.Join(l.beside.Truncate(int64(len(b))), l.beside.Sync()); err != nil {
		return err
	}
	l.last = m
	return nil
}
