package tss

import (
	"bytes"
	"fmt"
	"math/big"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/uuid"
)

// Shares, records and pre-params are CBOR maps with small integer keys in RFC 8949's core deterministic encoding. A
// value has exactly one encoding: decode encodes the result again and compares. So a hash of the bytes identifies the
// value, and a variant encoding cannot carry hidden data.
var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   6,
		MaxArrayElements:  16,
		MaxMapPairs:       16,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // only called where v comes from constants or was checked before
	}
	return v
}

// header starts every encoding, with the kind of value and the format version.
type header struct {
	Kind    string `cbor:"0,keyasint"`
	Version uint   `cbor:"1,keyasint"`
}

// formatVersion is the only version so far.
const formatVersion = 1

func encode(v any) ([]byte, error) {
	b, err := encMode.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return b, nil
}

// decode fills v, whose header is got, from the canonical encoding of a value of the given kind, of at most limit
// bytes.
func decode(b []byte, kind string, limit int, v any, got *header) error {
	if len(b) == 0 || len(b) > limit {
		return fmt.Errorf("%d bytes, want 1 to %d", len(b), limit)
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		// cbor's error texts may quote the input, which may be secret.
		return fmt.Errorf("not a %s in version %d of its format", kind, formatVersion)
	}
	if got.Kind != kind || got.Version != formatVersion {
		return fmt.Errorf("not a %s in version %d of its format", kind, formatVersion)
	}
	again, err := encode(v)
	if err != nil || !bytes.Equal(again, b) {
		clear(again)
		return fmt.Errorf("a %s, but not in canonical form", kind)
	}
	clear(again)
	return nil
}

// fixed encodes x as exactly n big-endian bytes.
func fixed(x *big.Int, n int) ([]byte, error) {
	if x == nil || x.Sign() < 0 || x.BitLen() > 8*n {
		return nil, fmt.Errorf("an integer does not fit in %d bytes", n)
	}
	return x.FillBytes(make([]byte, n)), nil
}

// parseFixed is the inverse of fixed.
func parseFixed(b []byte, n int) (*big.Int, error) {
	if len(b) != n {
		return nil, fmt.Errorf("an integer has %d bytes, want %d", len(b), n)
	}
	return new(big.Int).SetBytes(b), nil
}

func packUUID(s string) ([]byte, error) {
	u, err := uuid.Parse(s)
	if err != nil || u.String() != s {
		return nil, fmt.Errorf("%q is not a UUID in its usual form", s)
	}
	return u[:], nil
}

func unpackUUID(b []byte) (string, error) {
	u, err := uuid.FromBytes(b)
	if err != nil {
		return "", fmt.Errorf("a UUID has %d bytes, want 16", len(b))
	}
	return u.String(), nil
}

// wipe overwrites the memory of each x, which may be nil, and sets it to zero. It cannot reach copies that math/big
// made in computations.
func wipe(xs ...*big.Int) {
	for _, x := range xs {
		if x == nil {
			continue
		}
		words := x.Bits()
		clear(words[:cap(words)])
		x.SetInt64(0)
	}
}
