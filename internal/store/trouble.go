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

// advice says what an operator can do about an error that will pass, or be mended, without
// the database being at fault; "" for any other error.
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

// trouble says in the log that the database cannot be used, and that it can again: once
// each, and once a minute in between, however many calls fail meanwhile.
type trouble struct {
	mu    sync.Mutex   // guards what follows
	log   *slog.Logger // nil: nobody is told
	since time.Time    // zero while there is none
	said  time.Time    // when it was last in the log
	calls int          // how many have failed of it
}

// sayEvery is how often a trouble that lasts is in the log.
const sayEvery = time.Minute

// LogTo makes the store say in a log when it cannot use its file for a time.
func (s *Store) LogTo(log *slog.Logger) {
	s.trouble.mu.Lock()
	defer s.trouble.mu.Unlock()
	s.trouble.log = log
}

// note is told of every call that failed for want of a usable database.
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

// over is told of every change that was stored. Reads say nothing: a full disk can be read.
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
