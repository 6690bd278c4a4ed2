package tss

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/big"

	"github.com/mpcd/mpcd/internal/secret"
)

// Share is one party's share of a share set, for all of the set's curves. It contains secrets and identifiers only. All
// other public values come from the set's Record: otherwise a client could plant a Paillier key in the service with its
// share (tss-lib.md, row 14).
type Share struct {
	SetID
	Party      Party
	RecordHash [sha256.Size]byte // of the set's encoded Record
	Keys       []KeyShare        // one for each curve, in the order of Curves
}

// KeyShare is one party's share of one key.
type KeyShare struct {
	Curve    Curve
	PartyKey *big.Int // public: identifies the party in its committee
	// The secrets are behind two pointers. Where a KeyShare is in an unexported field, fmt does not call its Format
	// method; for some verbs it follows one pointer, but never two.
	*keySecrets
}

type keySecrets struct {
	xi *big.Int // in [1, q)
	// The primes of the party's Paillier key, 1024 bits each; nil for Ed25519.
	paillierP, paillierQ *big.Int
}

// Format implements fmt.Formatter. It prints secret.Redacted.
func (s Share) Format(f fmt.State, _ rune) { secret.Format(f) }

// LogValue implements slog.LogValuer.
func (s Share) LogValue() slog.Value { return slog.StringValue(secret.Redacted) }

// Format implements fmt.Formatter.
func (k KeyShare) Format(f fmt.State, _ rune) { secret.Format(f) }

// LogValue implements slog.LogValuer.
func (k KeyShare) LogValue() slog.Value { return slog.StringValue(secret.Redacted) }

// Wipe overwrites the share's secrets. The share cannot be used afterwards. s may be nil.
func (s *Share) Wipe() {
	if s == nil {
		return
	}
	for i := range s.Keys {
		s.Keys[i].wipe()
	}
}

func (k *KeyShare) wipe() {
	if k.keySecrets != nil {
		wipe(k.xi, k.paillierP, k.paillierQ)
	}
}

// Only returns a share with c's key alone. Its secrets are those of s, not copies. It fails with ErrShareMismatch if s
// has no such key.
func (s *Share) Only(c Curve) (*Share, error) {
	k := s.Key(c)
	if k == nil {
		return nil, fmt.Errorf("%w: it has no %v key", ErrShareMismatch, c)
	}
	one := *s
	one.Keys = []KeyShare{*k}
	return &one, nil
}

// Key returns the key for c, or nil.
func (s *Share) Key(c Curve) *KeyShare {
	for i := range s.Keys {
		if s.Keys[i].Curve == c {
			return &s.Keys[i]
		}
	}
	return nil
}

const (
	shareKind = "mpcd share"
	// MaxShareBytes is the maximum length of an encoded share. A share has about 250 bytes for ECDSA and 100 for EdDSA;
	// the rest is reserved for other curves.
	MaxShareBytes = 4 << 10
	primeLen      = modulusLen / 2
)

type wireShare struct {
	header
	WalletID   []byte         `cbor:"2,keyasint"`
	ShareSetID []byte         `cbor:"3,keyasint"`
	Purpose    Purpose        `cbor:"4,keyasint"`
	Party      Party          `cbor:"5,keyasint"`
	RecordHash []byte         `cbor:"6,keyasint"`
	Keys       []wireKeyShare `cbor:"7,keyasint"`
}

type wireKeyShare struct {
	Curve     Curve  `cbor:"1,keyasint"`
	PartyKey  []byte `cbor:"2,keyasint"`
	Xi        []byte `cbor:"3,keyasint"`
	PaillierP []byte `cbor:"4,keyasint,omitempty"`
	PaillierQ []byte `cbor:"5,keyasint,omitempty"`
}

func (w *wireShare) wipe() {
	for i := range w.Keys {
		clear(w.Keys[i].Xi)
		clear(w.Keys[i].PaillierP)
		clear(w.Keys[i].PaillierQ)
	}
}

// Encode returns the share's canonical encoding, which clients store as opaque bytes. It fails with ErrShareMalformed.
func (s *Share) Encode() (secret.Bytes, error) {
	w := wireShare{
		header: header{shareKind, formatVersion}, Purpose: s.Purpose, Party: s.Party, RecordHash: s.RecordHash[:],
	}
	defer w.wipe()
	var err error
	if w.WalletID, err = packUUID(s.WalletID); err != nil {
		return secret.Bytes{}, fmt.Errorf("%w: wallet id: %w", ErrShareMalformed, err)
	}
	if w.ShareSetID, err = packUUID(s.ShareSetID); err != nil {
		return secret.Bytes{}, fmt.Errorf("%w: share set id: %w", ErrShareMalformed, err)
	}
	for i := range s.Keys {
		k, err := s.Keys[i].pack()
		if err != nil {
			return secret.Bytes{}, fmt.Errorf("%w: %w", ErrShareMalformed, err)
		}
		w.Keys = append(w.Keys, k)
	}
	b, err := encode(&w)
	if err != nil {
		return secret.Bytes{}, err
	}
	again, err := ParseShare(b)
	if err != nil {
		clear(b)
		return secret.Bytes{}, err
	}
	again.Wipe()
	return secret.New(b), nil
}

func (k *KeyShare) pack() (wireKeyShare, error) {
	w := wireKeyShare{Curve: k.Curve}
	if k.keySecrets == nil {
		return w, fmt.Errorf("a key share without secrets")
	}
	var err error
	if w.PartyKey, err = fixed(k.PartyKey, scalarLen); err != nil {
		return w, err
	}
	if w.Xi, err = fixed(k.xi, scalarLen); err != nil {
		return w, err
	}
	if k.Curve != Secp256k1 {
		return w, nil
	}
	if w.PaillierP, err = fixed(k.paillierP, primeLen); err != nil {
		return w, err
	}
	w.PaillierQ, err = fixed(k.paillierQ, primeLen)
	return w, err
}

// ParseShare decodes a share. It checks its form and the ranges of its values only; Record.Check checks it against its
// set. It fails with ErrShareMalformed, and its errors quote nothing of b.
func ParseShare(b []byte) (*Share, error) {
	var w wireShare
	defer w.wipe()
	if err := decode(b, shareKind, MaxShareBytes, &w, &w.header); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrShareMalformed, err)
	}
	s := &Share{SetID: SetID{Purpose: w.Purpose}, Party: w.Party}
	var err error
	if s.WalletID, err = unpackUUID(w.WalletID); err != nil {
		return nil, fmt.Errorf("%w: wallet id: %w", ErrShareMalformed, err)
	}
	if s.ShareSetID, err = unpackUUID(w.ShareSetID); err != nil {
		return nil, fmt.Errorf("%w: share set id: %w", ErrShareMalformed, err)
	}
	if !w.Purpose.Valid() || !w.Party.Valid() || len(w.RecordHash) != sha256.Size {
		return nil, fmt.Errorf("%w: unknown purpose or party, or no record hash", ErrShareMalformed)
	}
	copy(s.RecordHash[:], w.RecordHash)
	var curves []Curve
	for i := range w.Keys {
		k, err := w.Keys[i].unpack()
		if err != nil {
			s.Wipe()
			return nil, fmt.Errorf("%w: %w", ErrShareMalformed, err)
		}
		s.Keys = append(s.Keys, *k)
		curves = append(curves, k.Curve)
	}
	if err := checkCurves(curves); err != nil {
		s.Wipe()
		return nil, fmt.Errorf("%w: %w", ErrShareMalformed, err)
	}
	return s, nil
}

func (w *wireKeyShare) unpack() (*KeyShare, error) {
	if !w.Curve.Valid() {
		return nil, fmt.Errorf("unknown curve")
	}
	k := &KeyShare{Curve: w.Curve, keySecrets: new(keySecrets)}
	var err error
	if k.PartyKey, err = parseFixed(w.PartyKey, scalarLen); err != nil {
		return nil, err
	}
	if k.xi, err = parseFixed(w.Xi, scalarLen); err != nil {
		return nil, err
	}
	if !k.Curve.isScalar(k.PartyKey) || !k.Curve.isScalar(k.xi) {
		k.wipe()
		return nil, fmt.Errorf("a scalar is not in [1, q)")
	}
	if k.Curve != Secp256k1 {
		if len(w.PaillierP)+len(w.PaillierQ) != 0 {
			k.wipe()
			return nil, fmt.Errorf("a curve without a Paillier key has one")
		}
		return k, nil
	}
	if k.paillierP, err = parseFixed(w.PaillierP, primeLen); err == nil {
		k.paillierQ, err = parseFixed(w.PaillierQ, primeLen)
	}
	if err != nil {
		k.wipe()
		return nil, err
	}
	return k, nil
}

// Check checks party's share against r, whose encoding is encodedRecord: its set, party, record hash and party keys,
// Xi*G == BigX, and P*Q == N with neither factor trivial. It fails with ErrShareMismatch if the share is another set's
// or party's, and with ErrShareMalformed if its secrets do not match the record. It must pass before the share is used.
func (r *Record) Check(s *Share, party Party, encodedRecord []byte) error {
	switch {
	case s.SetID != r.SetID:
		return fmt.Errorf("%w: wallet, set or purpose differ", ErrShareMismatch)
	case s.Party != party:
		return fmt.Errorf("%w: it is the %v's, want the %v's", ErrShareMismatch, s.Party, party)
	case s.RecordHash != Hash(encodedRecord):
		return fmt.Errorf("%w: it commits to another record", ErrShareMismatch)
	}
	for i := range s.Keys {
		k := &s.Keys[i]
		rec, ok := r.Key(k.Curve)
		if !ok {
			return fmt.Errorf("%w: the set has no %v key", ErrShareMismatch, k.Curve)
		}
		if err := rec.checkShare(k, s.Party); err != nil {
			return err
		}
	}
	return nil
}

func (k *KeyRecord) checkShare(s *KeyShare, party Party) error {
	p := &k.Parties[party]
	if s.PartyKey.Cmp(p.PartyKey) != 0 {
		return fmt.Errorf("%w: it is another party's", ErrShareMismatch)
	}
	if !k.Curve.isScalar(s.xi) || !k.Curve.baseMult(s.xi).Equals(p.BigX) {
		return fmt.Errorf("%w: its %v secret is not the set's", ErrShareMalformed, k.Curve)
	}
	if k.Curve != Secp256k1 {
		return nil
	}
	one := big.NewInt(1)
	if s.paillierP.Cmp(one) <= 0 || s.paillierQ.Cmp(one) <= 0 ||
		new(big.Int).Mul(s.paillierP, s.paillierQ).Cmp(p.PaillierN) != 0 {
		return fmt.Errorf("%w: its Paillier key is not the set's", ErrShareMalformed)
	}
	return nil
}
