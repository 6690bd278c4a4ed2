package seal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/mpcd/mpcd/internal/secret"
)

// File is a keyset at rest, in Tink's JSON form. Without a KMS the file alone decrypts everything sealed with it; if
// it is lost, nothing can be decrypted. Back it up separately from the database.
type File struct {
	Path string
	KMS  Wrapper // nil: the file has the keys in the clear
}

// Wrapper encrypts a keyset under a key that never leaves a KMS. Its errors name the KMS, say what to do, and quote
// no key. The caller wipes what Unwrap returns.
type Wrapper interface {
	Wrap(ctx context.Context, plaintext, label []byte) ([]byte, error)
	// Unwrap fails if label differs from the one the ciphertext was wrapped with.
	Unwrap(ctx context.Context, ciphertext, label []byte) ([]byte, error)
}

// wrapLabel binds what a KMS wraps to its purpose: another program's ciphertext under the same KMS key is rejected.
const wrapLabel = "mpcd keyset 1"

const makeOne = "make one with `mpcd keyset create`"

// Create writes a new keyset to a new file, without a KMS.
func Create(path string) error { return File{Path: path}.Create(context.Background()) }

// Load reads a keyset from a file that no KMS wraps.
func Load(path string) (*Keyset, error) { return File{Path: path}.Load(context.Background()) }

// Create writes a new keyset to a new file, mode 0600. The file is durable when it returns nil; it never overwrites a
// file.
func (f File) Create(ctx context.Context) error {
	if _, err := os.Lstat(f.Path); err == nil { // checked before the KMS is used; write checks again
		return f.exists()
	}
	keys, err := Ephemeral()
	if err != nil {
		return err
	}
	b, err := f.encode(ctx, keys)
	if err != nil {
		return err
	}
	defer clear(b)
	return f.write(f.Path, b, 0o600, -1, -1)
}

func (f File) exists() error {
	return fmt.Errorf("keyset %s: there is a file already, which may be a keyset in use: name another one", f.Path)
}

// write creates a file with all of b, or none. If uid is not -1, the file gets that user and group.
func (f File) write(path string, b []byte, mode fs.FileMode, uid, gid int) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: the operator's own path
	switch {
	case errors.Is(err, fs.ErrExist):
		return f.exists()
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("keyset %s: its directory does not exist: create it first", f.Path)
	case err != nil:
		return fmt.Errorf("keyset: %w", err)
	}
	if uid >= 0 {
		err = file.Chown(uid, gid)
	}
	if err == nil {
		_, err = file.Write(b)
	}
	if err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close(), syncDir(filepath.Dir(path))); err != nil {
		// A partial file is useless, and would block the next attempt.
		return errors.Join(fmt.Errorf("write keyset %s: %w", f.Path, err), os.Remove(path))
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Load reads a keyset that was written by Create, or created or rotated by Tink's own tool (tinkey): JSON,
// AES-256-GCM keys with Tink's prefix. It rejects a file accessible to users other than the service's (see
// package secret). Its errors say what to do, and quote nothing from the file.
func (f File) Load(ctx context.Context) (*Keyset, error) {
	b, _, err := read(f.Path)
	if err != nil {
		return nil, fmt.Errorf("keyset %s: %w", f.Path, err)
	}
	defer b.Wipe()
	keys, err := f.parse(ctx, b.Reveal())
	if err != nil {
		return nil, fmt.Errorf("keyset %s: %w", f.Path, err)
	}
	return keys, nil
}

// parse decodes and checks a file's content.
func (f File) parse(ctx context.Context, b []byte) (*Keyset, error) {
	var form struct {
		EncryptedKeyset *string `json:"encryptedKeyset"`
	}
	err := json.Unmarshal(b, &form)
	wrapped := form.EncryptedKeyset != nil
	switch {
	case err == nil && wrapped && f.KMS == nil:
		return nil, errors.New("a KMS wraps it: name the key with --keyset-kms")
	case err == nil && !wrapped && f.KMS != nil:
		return nil, errors.New("it holds its keys in the clear, and no KMS wraps it: leave --keyset-kms out, or, for a new database, make one with `mpcd keyset create --keyset-kms`")
	}
	var h *keyset.Handle
	kms := &unwrapper{kms: f.KMS}
	defer func() { clear(kms.plain) }()
	if err == nil {
		reader := keyset.NewJSONReader(bytes.NewReader(b))
		if f.KMS == nil {
			h, err = insecurecleartextkeyset.Read(reader)
		} else {
			h, err = keyset.ReadWithContext(ctx, reader, kms, []byte(wrapLabel))
		}
	}
	if kms.err != nil {
		return nil, kms.err
	}
	if err != nil { // Tink's own error says only that the keyset is invalid.
		return nil, fmt.Errorf("it is cut off, or not a Tink keyset in JSON: restore it from its backup, or, for a new database, %s", makeOne)
	}
	if err := check(h); err != nil {
		return nil, err
	}
	return &Keyset{h}, nil
}

// encode returns a file's content. The caller wipes it.
func (f File) encode(ctx context.Context, keys *Keyset) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(64 << 10) // capacity for many keys, so that growing the buffer leaves no copy behind
	w := keyset.NewJSONWriter(&b)
	var err error
	if f.KMS == nil {
		err = insecurecleartextkeyset.Write(keys.handle, w)
	} else {
		kms := &unwrapper{kms: f.KMS}
		err = keys.handle.WriteWithContext(ctx, w, kms, []byte(wrapLabel))
		if kms.err != nil {
			return nil, fmt.Errorf("keyset %s: %w", f.Path, kms.err)
		}
	}
	if err != nil {
		clear(b.Bytes())
		return nil, fmt.Errorf("encode the keyset: %w", err)
	}
	return b.Bytes(), nil
}

// unwrapper adapts a Wrapper to Tink's interface. Tink hides a KMS's error; err keeps it.
type unwrapper struct {
	kms   Wrapper
	err   error
	plain []byte // what was unwrapped; the reader of the keyset wipes it
}

// EncryptWithContext implements tink.AEADWithContext.
func (u *unwrapper) EncryptWithContext(ctx context.Context, plaintext, label []byte) (c []byte, err error) {
	c, u.err = u.kms.Wrap(ctx, plaintext, label)
	return c, u.err
}

// DecryptWithContext implements tink.AEADWithContext.
func (u *unwrapper) DecryptWithContext(ctx context.Context, ciphertext, label []byte) ([]byte, error) {
	u.plain, u.err = u.kms.Unwrap(ctx, ciphertext, label)
	return u.plain, u.err
}

// Change replaces the file's keyset by change's result, keeping the file's mode and owner. The replacement is atomic,
// for concurrent readers and in a crash. Of concurrent calls, in any process, one changes the file and the others
// fail.
func (f File) Change(ctx context.Context, change func(*Keyset) (*Keyset, error)) (*Keyset, error) {
	path, err := filepath.EvalSymlinks(f.Path) // or the rename would replace the link
	if err != nil {
		path = f.Path // read reports what is wrong
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("keyset %s: %w", f.Path, err)
	}
	defer unlock()
	b, info, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("keyset %s: %w", f.Path, err)
	}
	defer b.Wipe()
	keys, err := f.parse(ctx, b.Reveal())
	if err != nil {
		return nil, fmt.Errorf("keyset %s: %w", f.Path, err)
	}
	if keys, err = change(keys); err != nil {
		return nil, err
	}
	return keys, f.replace(ctx, path, keys, info)
}

// replace replaces the file at path. The directory must be locked.
func (f File) replace(ctx context.Context, path string, keys *Keyset, old fs.FileInfo) error {
	b, err := f.encode(ctx, keys)
	if err != nil {
		return err
	}
	defer clear(b)
	uid, gid := -1, -1
	if owner, ok := old.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		uid, gid = int(owner.Uid), int(owner.Gid)
	}
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a killed process
		return fmt.Errorf("keyset %s: %w", f.Path, err)
	}
	if err := f.write(next, b, old.Mode().Perm(), uid, gid); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(fmt.Errorf("keyset %s: %w", f.Path, err), os.Remove(next))
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("keyset %s: it is changed, but may be the old one after a crash of the machine: %w", f.Path, err)
	}
	return nil
}

// lockDir locks a directory against other processes that change a keyset. The lock ends with unlock or with the
// process, and leaves no file behind. It retries for a moment: a process that is being started briefly holds copies
// of its parent's descriptors.
func lockDir(path string) (unlock func(), err error) {
	d, err := os.Open(path) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	for begun := time.Now(); errors.Is(err, syscall.EWOULDBLOCK) && time.Since(begun) < time.Second; {
		time.Sleep(20 * time.Millisecond)
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another `mpcd keyset` is changing it: " +
				"check what that one did (mpcd keyset list) before you try again")
		}
		return nil, errors.Join(err, d.Close())
	}
	return func() { _ = d.Close() }, nil // nothing was written
}

// read returns a keyset file's content.
func read(path string) (secret.Bytes, fs.FileInfo, error) {
	b, info, err := secret.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there is no such file: %s, or name the one that the database was sealed with", makeOne)
	}
	return b, info, err
}
