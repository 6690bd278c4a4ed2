//go:build !linux

package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFile does nothing on systems without locks of open file descriptions: there only the file next to the database
// is locked.
func lockFile(*os.File) error { return nil }

// identity identifies a file by its device and inode.
func identity(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("the file system does not say which file this is")
	}
	return fmt.Sprintf("device %d inode %d", st.Dev, st.Ino), nil
}
