package tss

import (
	"math/big"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func parseRecord(b []byte) error {
	_, err := ParseRecord(b)
	return err
}

func TestRecordIsStrict(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	requireStrict(t, s.Encoded, maxRecordBytes, ErrRecordMalformed, parseRecord)
	for i := range s.Encoded {
		require.ErrorIs(t, parseRecord(s.Encoded[:i]), ErrRecordMalformed, "%d bytes", i)
	}
	q := Secp256k1.order()
	for name, f := range map[string]func(w *wireRecord, k *wireKey, p *wirePublic){
		"no curve":            func(w *wireRecord, _ *wireKey, _ *wirePublic) { w.Keys = nil },
		"curves out of order": func(w *wireRecord, _ *wireKey, _ *wirePublic) { slices.Reverse(w.Keys) },
		"a curve twice":       func(w *wireRecord, _ *wireKey, _ *wirePublic) { w.Keys[1] = w.Keys[0] },
		"unknown curve":       func(_ *wireRecord, k *wireKey, _ *wirePublic) { k.Curve = 3 },
		"purpose":             func(w *wireRecord, _ *wireKey, _ *wirePublic) { w.Purpose = 3 },
		"wallet id":           func(w *wireRecord, _ *wireKey, _ *wirePublic) { w.WalletID = nil },
		"set id":              func(w *wireRecord, _ *wireKey, _ *wirePublic) { w.ShareSetID = w.ShareSetID[1:] },
		"one party":           func(_ *wireRecord, k *wireKey, _ *wirePublic) { k.Parties = k.Parties[:1] },
		"three parties":       func(_ *wireRecord, k *wireKey, _ *wirePublic) { k.Parties = append(k.Parties, k.Parties[0]) },
		"public key":          func(_ *wireRecord, k *wireKey, p *wirePublic) { k.PublicKey = p.BigX },
		"bad public key":      func(_ *wireRecord, k *wireKey, _ *wirePublic) { k.PublicKey[64] ^= 1 },
		"short public key":    func(_ *wireRecord, k *wireKey, _ *wirePublic) { k.PublicKey = k.PublicKey[:33] },
		"parties swapped": func(_ *wireRecord, k *wireKey, _ *wirePublic) {
			k.Parties[0].BigX, k.Parties[1].BigX = k.Parties[1].BigX, k.Parties[0].BigX
		},
		"point":            func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.BigX[64] ^= 1 },
		"another point":    func(_ *wireRecord, k *wireKey, p *wirePublic) { p.BigX = k.PublicKey },
		"party key zero":   func(_ *wireRecord, _ *wireKey, p *wirePublic) { clear(p.PartyKey) },
		"party key q":      func(_ *wireRecord, _ *wireKey, p *wirePublic) { q.FillBytes(p.PartyKey) },
		"party key":        func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.PartyKey[31] ^= 1 },
		"party keys equal": func(_ *wireRecord, k *wireKey, p *wirePublic) { p.PartyKey = k.Parties[1].PartyKey },
		"short party key":  func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.PartyKey = p.PartyKey[1:] },
		"no N":             func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.PaillierN = nil },
		"even N":           func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.PaillierN[255] ^= 1 },
		"N of 2047 bits":   func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.PaillierN[0] &= 0x7f },
		"long N": func(_ *wireRecord, _ *wireKey, p *wirePublic) {
			p.PaillierN = append([]byte{0}, p.PaillierN...)
		},
		"the same N":          func(_ *wireRecord, k *wireKey, p *wirePublic) { p.PaillierN = k.Parties[1].PaillierN },
		"no NTilde":           func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.NTilde = nil },
		"even NTilde":         func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.NTilde[255] ^= 1 },
		"NTilde of 2047 bits": func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.NTilde[0] &= 0x7f },
		"the same NTilde": func(_ *wireRecord, k *wireKey, p *wirePublic) {
			p.NTilde, p.H1, p.H2 = k.Parties[1].NTilde, k.Parties[1].H1, k.Parties[1].H2
		},
		"h1 zero":      func(_ *wireRecord, _ *wireKey, p *wirePublic) { clear(p.H1) },
		"h1 one":       func(_ *wireRecord, _ *wireKey, p *wirePublic) { big.NewInt(1).FillBytes(p.H1) },
		"h2 is NTilde": func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.H2 = p.NTilde },
		"h1 = h2":      func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.H2 = p.H1 },
		"no h2":        func(_ *wireRecord, _ *wireKey, p *wirePublic) { p.H2 = nil },
		"Paillier on Ed25519": func(w *wireRecord, _ *wireKey, p *wirePublic) {
			w.Keys[1].Parties[0].PaillierN = p.PaillierN
		},
		"h1 on Ed25519": func(w *wireRecord, _ *wireKey, _ *wirePublic) { w.Keys[1].Parties[1].H1 = []byte{1} },
		"a torsion point": func(w *wireRecord, _ *wireKey, _ *wirePublic) {
			w.Keys[1].Parties[1].BigX = UnHex(t, torsion[4])
		},
		"a torsion key":       func(w *wireRecord, _ *wireKey, _ *wirePublic) { w.Keys[1].PublicKey = UnHex(t, torsion[1]) },
		"the kind of a share": func(w *wireRecord, _ *wireKey, _ *wirePublic) { w.Kind = shareKind },
	} {
		var w wireRecord
		require.NoError(t, decMode.Unmarshal(s.Encoded, &w))
		f(&w, &w.Keys[0], &w.Keys[0].Parties[0])
		b, err := encode(w)
		require.NoError(t, err)
		require.ErrorIs(t, parseRecord(b), ErrRecordMalformed, name)
	}
	require.ErrorIs(t, parseRecord(s.Bytes[Client]), ErrRecordMalformed, "a share")
}

// Encode fails for a record that could not be parsed again.
func TestRecordEncodeRefuses(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(*Record){
		"no keys":       func(r *Record) { r.Keys = nil },
		"no wallet":     func(r *Record) { r.WalletID = "" },
		"set id":        func(r *Record) { r.ShareSetID = "{" + r.ShareSetID + "}" },
		"purpose":       func(r *Record) { r.Purpose = 0 },
		"public key":    func(r *Record) { r.Keys[0].PublicKey = r.Keys[1].PublicKey },
		"no point":      func(r *Record) { r.Keys[0].Parties[1].BigX = nil },
		"no party key":  func(r *Record) { r.Keys[1].Parties[1].PartyKey = nil },
		"no N":          func(r *Record) { r.Keys[0].Parties[1].PaillierN = nil },
		"long NTilde":   func(r *Record) { x := r.Keys[0].Parties[1].NTilde; x.Lsh(x, 1) },
		"negative h1":   func(r *Record) { x := r.Keys[0].Parties[1].H1; x.Neg(x) },
		"curves differ": func(r *Record) { r.Keys[0].Parties[0].BigX = r.Keys[1].Parties[0].BigX },
	} {
		r := Vector(t, Signing).Record
		f(r)
		_, err := r.Encode()
		require.ErrorIs(t, err, ErrRecordMalformed, name)
	}
}

// Two sets of one wallet have the same public key, and different values otherwise.
func TestVectorSetsAreIndependent(t *testing.T) {
	a, b := Vector(t, Signing), Vector(t, Backup)
	for _, c := range Curves() {
		x, _ := a.Key(t, c)
		y, _ := b.Key(t, c)
		require.Equal(t, x.PublicKey, y.PublicKey)
		for p := range x.Parties {
			require.NotZero(t, x.Parties[p].PartyKey.Cmp(y.Parties[p].PartyKey))
			require.False(t, x.Parties[p].BigX.Equals(y.Parties[p].BigX))
		}
	}
	_, ok := a.Record.Key(3)
	require.False(t, ok)
}
