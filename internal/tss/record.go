package tss

import (
	"crypto/sha256"
	"fmt"
	"math/big"
	"slices"

	tsscrypto "github.com/bnb-chain/tss-lib/v2/crypto"
)

// SetID identifies a share set. Every share and every record contains it, so that neither can pass for another set's.
type SetID struct {
	WalletID   string // UUID
	ShareSetID string // UUID
	Purpose    Purpose
}

// Record is a share set's share record: all of its public values, and their only source for later runs. Both shares
// commit to its SHA-256 (Hash).
type Record struct {
	SetID
	Keys []KeyRecord // one for each curve, in the order of Curves
}

// KeyRecord holds the public values of one key in one share set.
type KeyRecord struct {
	Curve     Curve
	PublicKey []byte    // SEC1 uncompressed, 65 bytes, or RFC 8032, 32 bytes
	Parties   [2]Public // by Party
}

// Public holds the public values of one party.
type Public struct {
	PartyKey *big.Int           // in [1, q), distinct from the other party's
	BigX     *tsscrypto.ECPoint // Xi*G
	// nil for Ed25519:
	PaillierN      *big.Int // 2048 bits
	NTilde, H1, H2 *big.Int // 2048 bits; the ring-Pedersen parameters of the range proofs
}

// Hash returns the SHA-256 of an encoded record, to which its set's shares commit.
func Hash(encodedRecord []byte) [sha256.Size]byte { return sha256.Sum256(encodedRecord) }

// Key returns the record's entry for c.
func (r *Record) Key(c Curve) (*KeyRecord, bool) {
	for i := range r.Keys {
		if r.Keys[i].Curve == c {
			return &r.Keys[i], true
		}
	}
	return nil, false
}

const (
	recordKind     = "mpcd record"
	maxRecordBytes = 16 << 10
	modulusLen     = 256 // bytes of a 2048-bit Paillier N, NTilde, h1, h2
	modulusBits    = 8 * modulusLen
)

type wireRecord struct {
	header
	WalletID   []byte    `cbor:"2,keyasint"`
	ShareSetID []byte    `cbor:"3,keyasint"`
	Purpose    Purpose   `cbor:"4,keyasint"`
	Keys       []wireKey `cbor:"5,keyasint"`
}

type wireKey struct {
	Curve     Curve        `cbor:"1,keyasint"`
	PublicKey []byte       `cbor:"2,keyasint"`
	Parties   []wirePublic `cbor:"3,keyasint"`
}

type wirePublic struct {
	PartyKey  []byte `cbor:"1,keyasint"`
	BigX      []byte `cbor:"2,keyasint"`
	PaillierN []byte `cbor:"3,keyasint,omitempty"`
	NTilde    []byte `cbor:"4,keyasint,omitempty"`
	H1        []byte `cbor:"5,keyasint,omitempty"`
	H2        []byte `cbor:"6,keyasint,omitempty"`
}

// Encode returns the record's canonical encoding, after the checks of ParseRecord. It fails with ErrRecordMalformed.
func (r *Record) Encode() ([]byte, error) {
	w := wireRecord{header: header{recordKind, formatVersion}, Purpose: r.Purpose}
	var err error
	if w.WalletID, err = packUUID(r.WalletID); err != nil {
		return nil, fmt.Errorf("%w: wallet id: %w", ErrRecordMalformed, err)
	}
	if w.ShareSetID, err = packUUID(r.ShareSetID); err != nil {
		return nil, fmt.Errorf("%w: share set id: %w", ErrRecordMalformed, err)
	}
	for i := range r.Keys {
		k, err := r.Keys[i].pack()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRecordMalformed, err)
		}
		w.Keys = append(w.Keys, k)
	}
	b, err := encode(w)
	if err != nil {
		return nil, err
	}
	if _, err := ParseRecord(b); err != nil {
		return nil, err
	}
	return b, nil
}

func (k *KeyRecord) pack() (wireKey, error) {
	w := wireKey{Curve: k.Curve, PublicKey: k.PublicKey}
	for _, p := range k.Parties {
		if err := k.Curve.checkPoint(p.BigX); err != nil {
			return wireKey{}, err
		}
		key, err := fixed(p.PartyKey, scalarLen)
		if err != nil {
			return wireKey{}, err
		}
		q := wirePublic{PartyKey: key, BigX: k.Curve.encodePoint(p.BigX)}
		if k.Curve == Secp256k1 {
			for dst, src := range map[*[]byte]*big.Int{
				&q.PaillierN: p.PaillierN, &q.NTilde: p.NTilde, &q.H1: p.H1, &q.H2: p.H2,
			} {
				if *dst, err = fixed(src, modulusLen); err != nil {
					return wireKey{}, err
				}
			}
		}
		w.Parties = append(w.Parties, q)
	}
	return w, nil
}

// ParseRecord decodes a record and checks that it is complete and consistent: points are canonical and of prime order,
// party keys are distinct and in [1, q), moduli have exactly 2048 bits, and the public key is the Lagrange combination
// of the parties' points. It fails with ErrRecordMalformed.
func ParseRecord(b []byte) (*Record, error) {
	var w wireRecord
	if err := decode(b, recordKind, maxRecordBytes, &w, &w.header); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecordMalformed, err)
	}
	r := &Record{SetID: SetID{Purpose: w.Purpose}}
	var err error
	if r.WalletID, err = unpackUUID(w.WalletID); err != nil {
		return nil, fmt.Errorf("%w: wallet id: %w", ErrRecordMalformed, err)
	}
	if r.ShareSetID, err = unpackUUID(w.ShareSetID); err != nil {
		return nil, fmt.Errorf("%w: share set id: %w", ErrRecordMalformed, err)
	}
	if !w.Purpose.Valid() {
		return nil, fmt.Errorf("%w: unknown purpose", ErrRecordMalformed)
	}
	var curves []Curve
	for _, wk := range w.Keys {
		k, err := wk.unpack()
		if err != nil {
			return nil, fmt.Errorf("%w: %v: %w", ErrRecordMalformed, wk.Curve, err)
		}
		r.Keys = append(r.Keys, *k)
		curves = append(curves, k.Curve)
	}
	if err := checkCurves(curves); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecordMalformed, err)
	}
	return r, nil
}

// checkCurves checks for at least one curve, and for known curves in ascending order, without repetition.
func checkCurves(curves []Curve) error {
	if len(curves) == 0 {
		return fmt.Errorf("no curve")
	}
	for i, c := range curves {
		if !c.Valid() || i > 0 && curves[i-1] >= c {
			return fmt.Errorf("curves are unknown, repeated or out of order")
		}
	}
	return nil
}

func (w *wireKey) unpack() (*KeyRecord, error) {
	if !w.Curve.Valid() {
		return nil, fmt.Errorf("unknown curve")
	}
	if len(w.Parties) != 2 {
		return nil, fmt.Errorf("%d parties, want 2", len(w.Parties))
	}
	k := &KeyRecord{Curve: w.Curve, PublicKey: w.PublicKey}
	for i := range w.Parties {
		p, err := w.Parties[i].unpack(w.Curve)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", Party(i), err)
		}
		k.Parties[i] = *p
	}
	return k, k.check()
}

func (w *wirePublic) unpack(c Curve) (*Public, error) {
	var p Public
	var err error
	if p.PartyKey, err = parseFixed(w.PartyKey, scalarLen); err != nil {
		return nil, err
	}
	if p.BigX, err = c.decodePoint(w.BigX); err != nil {
		return nil, err
	}
	if c != Secp256k1 {
		if len(w.PaillierN)+len(w.NTilde)+len(w.H1)+len(w.H2) != 0 {
			return nil, fmt.Errorf("a curve without a Paillier key has one")
		}
		return &p, nil
	}
	for dst, src := range map[**big.Int][]byte{&p.PaillierN: w.PaillierN, &p.NTilde: w.NTilde, &p.H1: w.H1, &p.H2: w.H2} {
		if *dst, err = parseFixed(src, modulusLen); err != nil {
			return nil, err
		}
	}
	return &p, nil
}

// check checks that the values are in range and consistent: tss-lib.md, rows 8 and 9.
func (k *KeyRecord) check() error {
	if _, err := k.Curve.decodePoint(k.PublicKey); err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	a, b := &k.Parties[Client], &k.Parties[Server]
	for _, p := range []*Public{a, b} {
		if !k.Curve.isScalar(p.PartyKey) {
			return fmt.Errorf("a party key is not in [1, q)")
		}
		if k.Curve == Secp256k1 {
			if err := p.checkModuli(); err != nil {
				return err
			}
		}
	}
	// Both are reduced mod q, so that this compares them mod q.
	if a.PartyKey.Cmp(b.PartyKey) == 0 {
		return fmt.Errorf("both parties have the same party key")
	}
	if k.Curve == Secp256k1 && (a.PaillierN.Cmp(b.PaillierN) == 0 || a.NTilde.Cmp(b.NTilde) == 0) {
		return fmt.Errorf("both parties have the same modulus")
	}
	sum, err := k.combine()
	if err != nil {
		return err
	}
	if !slices.Equal(k.Curve.encodePoint(sum), k.PublicKey) {
		return fmt.Errorf("the parties' points do not combine to the public key")
	}
	return nil
}

// checkModuli checks for odd moduli of exactly 2048 bits, and for distinct h1, h2 with 1 < h1, h2 < NTilde-1.
func (p *Public) checkModuli() error {
	for _, n := range []*big.Int{p.PaillierN, p.NTilde} {
		if n.BitLen() != modulusBits || n.Bit(0) == 0 {
			return fmt.Errorf("a modulus is not odd with %d bits", modulusBits)
		}
	}
	one := big.NewInt(1)
	top := new(big.Int).Sub(p.NTilde, one)
	for _, h := range []*big.Int{p.H1, p.H2} {
		if h.Cmp(one) <= 0 || h.Cmp(top) >= 0 {
			return fmt.Errorf("h1 or h2 is out of range")
		}
	}
	if p.H1.Cmp(p.H2) == 0 {
		return fmt.Errorf("h1 equals h2")
	}
	return nil
}

// combine returns the Lagrange combination of the two parties' points at x = 0.
func (k *KeyRecord) combine() (*tsscrypto.ECPoint, error) {
	q := k.Curve.order()
	a, b := &k.Parties[Client], &k.Parties[Server]
	la, lb := lagrange(a.PartyKey, b.PartyKey, q), lagrange(b.PartyKey, a.PartyKey, q)
	sum, err := k.Curve.combine(la, a.BigX, lb, b.BigX)
	if err != nil {
		return nil, fmt.Errorf("combine the parties' points: %w", err)
	}
	return sum, k.Curve.checkPoint(sum)
}

// lagrange returns the coefficient of the share at x if the other one is at y: y / (y - x) mod q. x and y must be
// distinct mod q.
func lagrange(x, y, q *big.Int) *big.Int {
	d := new(big.Int).Sub(y, x)
	d.ModInverse(d.Mod(d, q), q)
	return d.Mul(d, y).Mod(d, q)
}
