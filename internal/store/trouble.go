package store

import (
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"syscall"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// advice returns what the operator can do about an error that may pass or be fixed without the database being at
// fault; "" for any other error.
func advice(err error) string {
	const cannotWrite = "it cannot be written: the service's user needs to write the file and its directory"
	switch code(err) {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL:
		return "another process has it locked: stop that one first"
	case sqlite3.SQLITE_FULL:
		return "the disk is full"
	case sqlite3.SQLITE_IOERR:
		return "the disk fails, or is full"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return cannotWrite
	}
	switch {
	case errors.Is(err, errNoTurn):
		return "the calls before this one are waiting for it"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return cannotWrite
	}
	return ""
}

// trouble logs that the database cannot be used, and that it can be again: once each, and once a minute in between,
// however many calls fail meanwhile.
type trouble struct {
	mu    sync.Mutex   // guards the fields below
	log   *slog.Logger // may be nil
	since time.Time    // zero if there is no trouble
	said  time.Time    // when it was last logged
	calls int          // how many calls have failed
}

// sayEvery is how often a persisting trouble is logged.
const sayEvery = time.Minute

// LogTo sets the log for when the store temporarily cannot use its file.
func (s *Store) LogTo(log *slog.Logger) {
	s.trouble.mu.Lock()
	defer s.trouble.mu.Unlock()
	s.trouble.log = log
}

// note records a call that failed because the database cannot be used.
func (t *trouble) note(what, do string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.since.IsZero() {
		t.since, t.said, t.calls = now, time.Time{}, 0
	}
	t.calls++
	if t.log == nil || now.Sub(t.said) < sayEvery {
		return
	}
	t.said = now
	t.log.Error("the database cannot be used; what needs it is refused until it can", "cause", do, "call", what, "error",
		err, "since", t.since, "failed_calls", t.calls)
}

// over records a successful change. Reads do not count: a full disk can be read.
func (t *trouble) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		return
	}
	if t.log != nil {
		t.log.Info("the database can be used again", "since", t.since, "failed_calls", t.calls)
	}
	t.since = time.Time{}
}
