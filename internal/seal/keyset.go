package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// Keyset is an encryption keyset: AES-256-GCM keys, of which the primary seals and all enabled ones open. It prints
// without key material.
type Keyset struct {
	handle *keyset.Handle // prints the keys' ids, kinds and states only
}

// KeyID identifies a key of a keyset; it is not secret. Tink prefixes ciphertexts with it.
type KeyID uint32

// String returns the id as commands and logs show it: eight hex digits.
func (id KeyID) String() string { return fmt.Sprintf("%08x", uint32(id)) }

// MarshalText implements encoding.TextMarshaler, for JSON.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler, for command lines.
func (id *KeyID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 16, 32)
	if err != nil || len(text) != 8 {
		return fmt.Errorf("%q is not a key's id: eight hex digits, as `mpcd keyset list` shows them", text)
	}
	*id = KeyID(n)
	return nil
}

// Key describes a key without its material.
type Key struct {
	ID      KeyID `json:"id"`
	Primary bool  `json:"primary"` // the key that seals; there is exactly one
	Enabled bool  `json:"enabled"` // can open
}

// Ephemeral returns a new keyset that exists only in memory, for the demo and for tests. What it seals cannot be
// opened after the process ends.
func Ephemeral() (*Keyset, error) {
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a keyset: %w", err)
	}
	return &Keyset{h}, nil
}

// Keys returns the keyset's keys in the order in which they were added.
func (k *Keyset) Keys() []Key {
	info := k.handle.KeysetInfo()
	keys := make([]Key, 0, len(info.GetKeyInfo()))
	for _, i := range info.GetKeyInfo() {
		id := i.GetKeyId()
		keys = append(keys, Key{KeyID(id), id == info.GetPrimaryKeyId(), i.GetStatus().String() == "ENABLED"})
	}
	return keys
}

// key returns a key's description, and whether the keyset has it.
func (k *Keyset) key(id KeyID) (Key, bool) {
	for _, key := range k.Keys() {
		if key.ID == id {
			return key, true
		}
	}
	return Key{}, false
}

func (k *Keyset) primary() KeyID { return KeyID(k.handle.KeysetInfo().GetPrimaryKeyId()) }

// Rotated returns the keyset with an additional key as its primary.
func (k *Keyset) Rotated() (*Keyset, error) {
	return k.with(func(m *keyset.Manager) error {
		id, err := m.Add(aead.AES256GCMKeyTemplate())
		if err != nil {
			return err
		}
		return m.SetPrimary(id)
	})
}

// Disabled returns the keyset with a key disabled: it neither seals nor opens. It can be enabled again.
func (k *Keyset) Disabled(id KeyID) (*Keyset, error) {
	key, err := k.old(id)
	if err != nil {
		return nil, err
	}
	if !key.Enabled {
		return nil, fmt.Errorf("key %v is disabled already", id)
	}
	return k.with(func(m *keyset.Manager) error { return m.Disable(uint32(id)) })
}

// Enabled returns the keyset with a disabled key enabled.
func (k *Keyset) Enabled(id KeyID) (*Keyset, error) {
	key, err := k.old(id)
	if err != nil {
		return nil, err
	}
	if key.Enabled {
		return nil, fmt.Errorf("key %v is enabled already", id)
	}
	return k.with(func(m *keyset.Manager) error { return m.Enable(uint32(id)) })
}

// Destroyed returns the keyset without a key, which must be disabled: disabling it first shows in time whether it is
// still needed.
func (k *Keyset) Destroyed(id KeyID) (*Keyset, error) {
	key, err := k.old(id)
	if err != nil {
		return nil, err
	}
	if key.Enabled {
		return nil, fmt.Errorf("key %v is enabled: disable it first (mpcd keyset disable), "+
			"restart the service, and wait until you are sure that nothing needs it", id)
	}
	return k.with(func(m *keyset.Manager) error { return m.Delete(uint32(id)) })
}

// old returns a key that is not the primary.
func (k *Keyset) old(id KeyID) (Key, error) {
	key, ok := k.key(id)
	if !ok {
		return Key{}, fmt.Errorf("the keyset has no key %v: see `mpcd keyset list`", id)
	}
	if key.Primary {
		return Key{}, fmt.Errorf("key %v is the primary key, which seals: rotate first (mpcd keyset rotate)", id)
	}
	return key, nil
}

// with returns a changed copy.
func (k *Keyset) with(change func(*keyset.Manager) error) (*Keyset, error) {
	m := keyset.NewManagerFromHandle(k.handle)
	err := change(m)
	if err != nil {
		return nil, fmt.Errorf("change the keyset: %w", err)
	}
	h, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("change the keyset: %w", err)
	}
	return &Keyset{h}, check(h)
}

// check requires keys like those from Create: rotation would not work with another kind of key, or without a prefix
// that identifies the key.
func check(h *keyset.Handle) error {
	seen := map[uint32]bool{}
	for i := range h.Len() {
		e, err := h.Entry(i)
		if err != nil {
			return fmt.Errorf("key %d of %d: %w", i+1, h.Len(), err)
		}
		p, ok := e.Key().Parameters().(*aesgcm.Parameters)
		if !ok || p.KeySizeInBytes() != 32 || p.Variant() != aesgcm.VariantTink {
			return fmt.Errorf("key %d of %d is not an AES-256-GCM key with Tink's prefix: name an encryption keyset, or, for a new database, %s", i+1, h.Len(), makeOne)
		}
		if seen[e.KeyID()] {
			return fmt.Errorf("two keys have the id %v: restore it from its backup", KeyID(e.KeyID()))
		}
		seen[e.KeyID()] = true
		if s := e.KeyStatus(); s != keyset.Enabled && s != keyset.Disabled {
			return fmt.Errorf("key %v is neither enabled nor disabled: restore it from its backup", KeyID(e.KeyID()))
		}
	}
	if _, err := aead.New(h); err != nil {
		return errors.New("its primary key does not seal: restore it from its backup")
	}
	return nil
}

// sealedUnder returns the key id in a ciphertext of Tink's AEAD.
func sealedUnder(ciphertext []byte) (KeyID, bool) {
	const prefix = 5 // version 1, then the key's id
	if len(ciphertext) < prefix || ciphertext[0] != 1 {
		return 0, false
	}
	return KeyID(binary.BigEndian.Uint32(ciphertext[1:])), true
}
