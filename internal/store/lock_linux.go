package store

import (
	"errors"
	"fmt"
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

// identity tells a file from every other one, those that had its name or its inode before
// included: by its inode and the time of its birth (statx(2)), or, on a file system that keeps
// no such time, by its device and inode.
func identity(path string) (string, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err == nil && st.Mask&unix.STATX_BTIME != 0 {
		return fmt.Sprintf("inode %d born %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
	}
	var old unix.Stat_t // older sandboxes do not let statx through
	if err := unix.Stat(path, &old); err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	return fmt.Sprintf("device %d inode %d", old.Dev, old.Ino), nil
}
