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

// errLocked says that another service has the database.
var errLocked = errors.New("another mpcd serve uses it: stop that one first, or name another database")

// FileLock is held by the one service of a database. The file beside the database also holds
// how far the database has come (see incarnation.go).
type FileLock struct {
	path       string // of the database
	db, beside *os.File

	mu   sync.Mutex // guards what follows, and the content of beside
	last mark       // what stands there
}

// Lock makes this process the one service of a database, until Unlock or its end: a service
// that starts takes the sessions that it finds unfinished for those of one that died, so that
// a second one would end the runs of the first. Commands that only look, or fill the pool,
// need no lock. Where there is no database yet, its empty file is made.
//
// There are two locks. One is on the database itself (see lockFile), so that it holds under
// whatever name the file is opened, also when it was renamed. The other is on a file beside
// it, for systems without the first, and for releases that knew this one alone.
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
	return &FileLock{path: path, db: db, beside: beside}, nil
}

// Unlock ends the lock.
func (l *FileLock) Unlock() error { return errors.Join(l.beside.Close(), l.db.Close()) }

// identity tells the database's file from any other.
func (l *FileLock) identity() (string, error) { return identity(l.path) }

// maxMark is more than a mark takes.
const maxMark = 1 << 10

// noted reads the mark that stands beside the database: none where the file is new. It is not
// intact where the file holds something else.
func (l *FileLock) noted() (m mark, intact bool, err error) {
	b, err := io.ReadAll(io.NewSectionReader(l.beside, 0, maxMark))
	if err != nil {
		return m, false, err
	}
	if len(b) == 0 {
		return m, true, nil
	}
	if json.Unmarshal(b, &m) != nil || m.Incarnation == "" {
		return mark{}, false, nil //nolint:nilerr // that it cannot be read is the answer
	}
	return m, true, nil
}

// note writes a mark that is durable when it returns nil. A mark of fewer claims than the one
// that is there, of two claimants that race, changes nothing.
func (l *FileLock) note(m mark) error {
	if l == nil { // whoever has no lock, such as a benchmark, has its database to itself
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
