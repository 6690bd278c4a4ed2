package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// MaxFileBytes is the maximum size of a file.
const MaxFileBytes = 1 << 20

// ReadFile reads a file with a secret: a keyset, a private key, a signing secret. It rejects a file that users other
// than its owner may access (for one exception see checkMode), with an error that says how to fix that and quotes
// none of the content. The path is left to the caller's error. The caller wipes the result.
// The checks are on the opened file, so it cannot be swapped between check and read. fs.ErrNotExist is returned as it
// is.
func ReadFile(path string) (Bytes, fs.FileInfo, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the operator's own path
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Bytes{}, nil, fs.ErrNotExist
	case errors.Is(err, fs.ErrPermission):
		return Bytes{}, nil, errors.New("it cannot be read: it must belong to the service's user")
	case err != nil:
		return Bytes{}, nil, withoutPath(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return Bytes{}, nil, withoutPath(err)
	}
	if err := checkMode(info, os.Geteuid()); err != nil {
		return Bytes{}, nil, err
	}
	if info.Size() > MaxFileBytes {
		return Bytes{}, nil, fmt.Errorf("it is too large: it has more than %d bytes", MaxFileBytes)
	}
	b := New(make([]byte, info.Size()))
	if _, err := io.ReadFull(f, b.Reveal()); err != nil {
		b.Wipe()
		return Bytes{}, nil, withoutPath(err)
	}
	return b, info, nil
}

// checkMode requires a regular file that only its owner may access. The exception: if the owner is another user, and
// the process is not root, the group may read it, since the process could not otherwise. That is how Kubernetes
// mounts secrets: owner root, the pod's fsGroup, mode 0440. Only the owner may write it.
func checkMode(info fs.FileInfo, euid int) error {
	if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	closed := fs.FileMode(0o077)
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && euid != 0 && int(owner.Uid) != euid {
		closed = 0o037
	}
	if mode := info.Mode().Perm(); mode&closed != 0 {
		return fmt.Errorf("users other than its owner may access it (mode %04o): "+
			"chmod 600 it, and consider who may have read it", mode)
	}
	return nil
}

// withoutPath drops the path, which the caller's message has.
func withoutPath(err error) error {
	if p := new(fs.PathError); errors.As(err, &p) {
		return p.Err
	}
	return err
}
