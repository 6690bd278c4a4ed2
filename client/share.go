package client

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// Share is the client share of one share set. It is a secret, and prints and marshals as "[redacted]". Its bytes are
// enough to sign for anyone who can also call the service as the wallet's owner: store them in the platform's key
// store. A Share is immutable, except for Wipe.
type Share struct {
	walletID   string
	shareSetID string
	purpose    Purpose
	curves     []Curve
	encoded    secret.Bytes
	hash       [sha256.Size]byte // of encoded, computed early since the app may wipe the share
}

// ParseShare loads a share from the bytes that Bytes returned. It checks their form only: whether the share is still
// valid, only the service knows. It keeps no reference to b, and fails with ErrNotAShare.
func ParseShare(b []byte) (*Share, error) {
	s, err := tss.ParseShare(b)
	if err != nil {
		return nil, fmt.Errorf("client: %w: %w", ErrNotAShare, err)
	}
	defer s.Wipe()
	if s.Party != tss.Client {
		return nil, fmt.Errorf("client: %w: it is a server share", ErrNotAShare)
	}
	share := &Share{
		walletID: s.WalletID, shareSetID: s.ShareSetID, purpose: Purpose(s.Purpose.String()),
		encoded: secret.New(slices.Clone(b)), hash: sha256.Sum256(b),
	}
	for i := range s.Keys {
		share.curves = append(share.curves, Curve(s.Keys[i].Curve.String()))
	}
	return share, nil
}

// WalletID returns the id of the wallet.
func (s Share) WalletID() string { return s.walletID }

// ShareSetID returns the id of the share set.
func (s Share) ShareSetID() string { return s.shareSetID }

// Purpose returns the purpose of the share set.
func (s Share) Purpose() Purpose { return s.purpose }

// Curves returns the curves of the share's keys.
func (s Share) Curves() []Curve { return slices.Clone(s.curves) }

// Bytes returns the share's encoding, for storing it. It is a copy, which the caller should clear after use.
func (s Share) Bytes() []byte { return slices.Clone(s.encoded.Reveal()) }

// Wipe overwrites the share in memory. It cannot be used afterwards. Slices that Bytes returned are not changed.
func (s Share) Wipe() { s.encoded.Wipe() }

// Format implements fmt.Formatter: it prints "[redacted]".
func (s Share) Format(f fmt.State, _ rune) { secret.Format(f) }

// LogValue implements slog.LogValuer.
func (s Share) LogValue() slog.Value { return s.encoded.LogValue() }

// MarshalText implements encoding.TextMarshaler, which JSON uses too.
func (s Share) MarshalText() ([]byte, error) { return s.encoded.MarshalText() }

// checkPurpose rejects a share that is nil, wiped or of another purpose.
func (s *Share) checkPurpose(purpose Purpose) error {
	switch {
	case s == nil || s.encoded.Len() == 0:
		return fmt.Errorf("client: %w: it is empty", ErrWrongShare)
	case s.purpose != purpose:
		return fmt.Errorf("client: %w: it is a %s share, a %s share is needed", ErrWrongShare, s.purpose, purpose)
	}
	return nil
}
