// Package secretfile reads the files in which an operator gives the service its secrets:
// keysets, private keys, signing secrets. It refuses what others than the service may
// use, and says what to do about it.
//
// It quotes nothing of a file, names no path (its caller does), and keeps nothing. It
// trusts the system's word on who owns a file and what its mode is.
package secretfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/mpcd/mpcd/internal/secret"
)

// MaxBytes bounds a file.
const MaxBytes = 1 << 20

// Read reads a file that only its owner may use, with one exception: see checkMode. The
// caller wipes it. All checks are on the file that is read, not on one that may have been
// there a moment before. It returns fs.ErrNotExist as it is.
func Read(path string) (secret.Bytes, fs.FileInfo, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the operator's own path
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return secret.Bytes{}, nil, fs.ErrNotExist
	case errors.Is(err, fs.ErrPermission):
		return secret.Bytes{}, nil, errors.New("it cannot be read: it must belong to the service's user")
	case err != nil:
		return secret.Bytes{}, nil, withoutPath(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return secret.Bytes{}, nil, withoutPath(err)
	}
	if err := checkMode(info, os.Geteuid()); err != nil {
		return secret.Bytes{}, nil, err
	}
	if info.Size() > MaxBytes {
		return secret.Bytes{}, nil, fmt.Errorf("it is too large: it has more than %d bytes", MaxBytes)
	}
	b := secret.New(make([]byte, info.Size()))
	if _, err := io.ReadFull(f, b.Reveal()); err != nil {
		b.Wipe()
		return secret.Bytes{}, nil, withoutPath(err)
	}
	return b, info, nil
}

// checkMode wants a regular file that its owner alone may use. One exception: where the
// owner is another user than the process, which is not root, its group may read it, since
// that is the only way in which the process can. Kubernetes mounts a secret so: owner
// root, the pod's fsGroup, mode 0440. Nobody but the owner may write it.
func checkMode(info fs.FileInfo, euid int) error {
	if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	closed := fs.FileMode(0o077)
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && euid != 0 && int(owner.Uid) != euid {
		closed = 0o037
	}
	if mode := info.Mode().Perm(); mode&closed != 0 {
		return fmt.Errorf("others than its owner may use it (mode %04o): chmod 600, and think about who read it", mode)
	}
	return nil
}

// withoutPath leaves out what the caller's message says already.
func withoutPath(err error) error {
	if p := new(fs.PathError); errors.As(err, &p) {
		return p.Err
	}
	return err
}
