// Package seal encrypts what mpcd keeps at rest: with Tink, AES-256-GCM, each value bound to its place by a
// session.Label. It also computes the keyed hashes that tell a repeated request from a reused id.
//
// The encryption keyset comes from a file that only the service can read, optionally wrapped by a KMS. A Resealer
// reseals what older keys sealed, so that they can be disabled and destroyed. The MAC keyset is random too, but is
// stored in the database, sealed under the encryption keyset: fingerprints stay the same over restarts and rotations,
// and at startup it shows whether keyset and database belong together.
//
// The package never logs, never puts key material or plaintext into an error, and writes a cleartext keyset only to
// the file it was asked to write. It trusts that file's owner and Tink, but not the database.
package seal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/mac"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
)

// MetaStore keeps the sealed MAC keyset.
type MetaStore interface {
	// Meta returns the value of a key, or nil if there is none.
	Meta(ctx context.Context, key string) ([]byte, error)
	// SetMetaOnce durably stores a value unless the key has one, and returns the value that is there afterwards:
	// concurrent callers all get the same.
	SetMetaOnce(ctx context.Context, key string, value []byte) ([]byte, error)
}

// ErrOtherKeyset is returned by New if the database's MAC keyset does not decrypt.
var ErrOtherKeyset = errors.New("the database was sealed with another keyset")

// macMeta is the key of the sealed MAC keyset.
const macMeta = "mac keyset"

// Sealer implements session.Sealer. It is safe for concurrent use.
type Sealer struct {
	keys *Keyset
	aead tink.AEAD
	mac  tink.MAC
}

var _ session.Sealer = (*Sealer)(nil)

// New returns a sealer with the given keyset. It takes the MAC keyset from meta, and creates it in a new database. If
// that does not decrypt, New fails with ErrOtherKeyset, so that nothing else in the database is misread.
func New(ctx context.Context, keys *Keyset, meta MetaStore) (*Sealer, error) {
	a, err := aead.New(keys.handle)
	if err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	m, err := loadMAC(ctx, keys, a, meta)
	if err != nil {
		return nil, err
	}
	return &Sealer{keys: keys, aead: a, mac: m}, nil
}

func loadMAC(ctx context.Context, keys *Keyset, a tink.AEAD, meta MetaStore) (tink.MAC, error) {
	sealed, err := meta.Meta(ctx, macMeta)
	if err != nil {
		return nil, fmt.Errorf("read the mac keyset: %w", err)
	}
	if sealed == nil {
		if sealed, err = makeMAC(a); err != nil {
			return nil, err
		}
		// Another process may have been first; then its keyset counts.
		if sealed, err = meta.SetMetaOnce(ctx, macMeta, sealed); err != nil {
			return nil, fmt.Errorf("store the mac keyset: %w", err)
		}
	}
	// Tink's error says only that it does not decrypt.
	h, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(sealed)), a, associated(session.MACLabel()))
	if err != nil {
		return nil, otherKeyset(keys, sealed)
	}
	m, err := mac.New(h)
	if err != nil {
		return nil, fmt.Errorf("the stored mac keyset is of another kind: %w", err)
	}
	return m, nil
}

// otherKeyset returns why a sealed MAC keyset does not decrypt, and what to do.
func otherKeyset(keys *Keyset, sealed []byte) error {
	id, ok := macSealedUnder(sealed)
	if !ok {
		return fmt.Errorf("%w, or its row %q was altered: restore the database", ErrOtherKeyset, macMeta)
	}
	if key, ok := keys.key(id); ok && !key.Enabled {
		return fmt.Errorf("%w: key %v is disabled in this one: enable it (mpcd keyset enable), and disable it when re-sealing is done", ErrOtherKeyset, id)
	} else if ok {
		return fmt.Errorf("%w, or its row %q was altered: name that keyset, or restore the database", ErrOtherKeyset, macMeta)
	}
	return fmt.Errorf("%w, one that has key %v: name that keyset, or restore it from its backup", ErrOtherKeyset, id)
}

// makeMAC returns a new MAC keyset, sealed.
func makeMAC(a tink.AEAD) ([]byte, error) {
	h, err := keyset.NewHandle(mac.HMACSHA256Tag256KeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a mac keyset: %w", err)
	}
	var b bytes.Buffer
	if err := h.WriteWithAssociatedData(keyset.NewBinaryWriter(&b), a, associated(session.MACLabel())); err != nil {
		return nil, fmt.Errorf("seal the mac keyset: %w", err)
	}
	return b.Bytes(), nil
}

// Seal implements session.Sealer. The caller keeps the plaintext, and wipes it.
func (s *Sealer) Seal(plaintext secret.Bytes, label session.Label) ([]byte, error) {
	sealed, err := s.aead.Encrypt(plaintext.Reveal(), associated(label))
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name(label), err)
	}
	return sealed, nil
}

// Open implements session.Sealer. The caller wipes the result.
func (s *Sealer) Open(ciphertext []byte, label session.Label) (secret.Bytes, error) {
	// Tink's error is dropped: it says only that the ciphertext does not decrypt.
	plaintext, err := s.aead.Decrypt(ciphertext, associated(label))
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("open %s: %w", name(label), session.ErrDataCorrupted)
	}
	return secret.New(plaintext), nil
}

// MAC implements session.Sealer.
func (s *Sealer) MAC(data []byte) ([]byte, error) {
	sum, err := s.mac.ComputeMAC(data)
	if err != nil {
		return nil, fmt.Errorf("mac: %w", err)
	}
	return sum, nil
}

// associated encodes a label injectively: a version, each string prefixed by its length, then the two numbers.
func associated(l session.Label) []byte {
	b := []byte("mpcd label 1")
	for _, s := range []string{l.Kind, l.WalletID, l.ShareSetID} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	return append(b, byte(l.Curve), byte(l.Party))
}

// name identifies a value in errors and logs: kind and ids are not secret.
func name(l session.Label) string {
	s := fmt.Sprintf("%s of wallet %q, share set %q", l.Kind, l.WalletID, l.ShareSetID)
	if l.Curve != 0 {
		s += ", " + l.Curve.String()
	}
	return s
}
