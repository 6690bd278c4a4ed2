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

// lockFile locks an open database until it is closed. The lock belongs to the open file description (fcntl(2),
// F_OFD_SETLK). SQLite's locks on the same file belong to the process, and end when it closes any descriptor of the
// file: the two do not conflict, and neither ends the other.
func lockFile(f *os.File) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: lockAt, Len: 1})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return errLocked
	}
	return err
}

// identity identifies a file, and distinguishes it from earlier ones with the same name or inode: by its inode and
// birth time (statx(2)), or, if the file system records no birth time, by its device and inode.
func identity(path string) (string, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err == nil && st.Mask&unix.STATX_BTIME != 0 {
		return fmt.Sprintf("inode %d born %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
	}
	var old unix.Stat_t // older sandboxes block statx
	if err := unix.Stat(path, &old); err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	return fmt.Sprintf("device %d inode %d", old.Dev, old.Ino), nil
}
