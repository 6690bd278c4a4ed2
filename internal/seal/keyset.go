package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// Keyset is an encryption keyset: AES-256-GCM keys, of which the primary seals and all
// open. It prints without key material.
type Keyset struct {
	handle *keyset.Handle // prints as the keys' ids, kinds and states
}

// maxKeysetBytes bounds a keyset file; one key has some 300 bytes.
const maxKeysetBytes = 1 << 20

const makeOne = "make one with `mpcd keyset create`"

// Ephemeral returns a new keyset that is nowhere but in memory: for the demo and for
// tests. What it sealed can never be opened again once the process ends.
func Ephemeral() (*Keyset, error) {
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a keyset: %w", err)
	}
	return &Keyset{h}, nil
}

// Create writes a new keyset to a new file, in Tink's JSON form, mode 0600. The file is
// durable when it returns nil; an existing one is never touched. Whoever reads the file
// can open all that is sealed with it, and without it nobody can: it belongs into a
// backup of its own, apart from the database's.
func Create(path string) error {
	keys, err := Ephemeral()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.Grow(4 << 10) // room for one key, so that no copy stays behind where the buffer grew
	defer func() { clear(b.Bytes()) }()
	if err := insecurecleartextkeyset.Write(keys.handle, keyset.NewJSONWriter(&b)); err != nil {
		return fmt.Errorf("encode the keyset: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: the operator's own path
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("keyset %s: there is a file already, which may be a keyset in use: name another one", path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("keyset %s: its directory does not exist: create it first", path)
	case err != nil:
		return fmt.Errorf("keyset: %w", err)
	}
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		// A part of a keyset is of no use, and would stand in the way of the next try.
		return errors.Join(fmt.Errorf("write keyset %s: %w", path, err), os.Remove(path))
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

// Load reads a keyset that Create wrote, or that Tink's own tool (tinkey) made or rotated:
// JSON, AES-256-GCM keys with Tink's prefix. It refuses a file that anybody but its owner
// can read. Its errors say what to do, and quote nothing of the file.
func Load(path string) (*Keyset, error) {
	b, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("keyset %s: %w", path, err)
	}
	defer clear(b)
	// Tink's own error says no more than that the keyset is invalid.
	h, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("keyset %s: it is cut off, or not a Tink keyset in JSON: restore it from its backup, or, for a new database, %s", path, makeOne)
	}
	if err := check(h); err != nil {
		return nil, fmt.Errorf("keyset %s: %w", path, err)
	}
	return &Keyset{h}, nil
}

// read returns a keyset file's bytes. All checks are on the file that is read, not on
// one that may have been there a moment before.
func read(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the operator's own path
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no such file: %s, or name the one that the database was sealed with", makeOne)
	case errors.Is(err, fs.ErrPermission):
		return nil, errors.New("it cannot be read: it must belong to the service's user")
	case err != nil:
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("others than its owner may use it (mode %04o): chmod 600, and think about who read it", mode)
	}
	if info.Size() > maxKeysetBytes {
		return nil, errors.New("it is too large for a keyset")
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		clear(b)
		return nil, err
	}
	return b, nil
}

// check wants keys that are what Create makes: with another kind of key, or without a
// prefix that names the key, rotation would not work.
func check(h *keyset.Handle) error {
	for i := range h.Len() {
		e, err := h.Entry(i)
		if err != nil {
			return fmt.Errorf("key %d of %d: %w", i+1, h.Len(), err)
		}
		p, ok := e.Key().Parameters().(*aesgcm.Parameters)
		if !ok || p.KeySizeInBytes() != 32 || p.Variant() != aesgcm.VariantTink {
			return fmt.Errorf("key %d of %d is not an AES-256-GCM key with Tink's prefix: name an encryption keyset, or, for a new database, %s", i+1, h.Len(), makeOne)
		}
	}
	return nil
}
