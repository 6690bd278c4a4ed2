package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockAt is the byte of a database that a service locks: beyond those that SQLite locks
// (https://www.sqlite.org/src/file/src/os.h, PENDING_BYTE), and beyond any file's end.
const lockAt = 1 << 62

// lockFile locks an open database until it is closed. The lock belongs to the open file
// description (fcntl(2), F_OFD_SETLK). SQLite's locks on the same file are the process's, and
// end when it closes any descriptor of the file: these neither meet that one nor end it.
func lockFile(f *os.File) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: lockAt, Len: 1})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return errLocked
	}
	return err
}
