package tss

import (
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	tsscrypto "github.com/bnb-chain/tss-lib/v2/crypto"
	"github.com/bnb-chain/tss-lib/v2/crypto/paillier"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
)

// validSave returns valid save data of a party, as from tss-lib, with the values of the committed vectors.
func validSave(t *testing.T, c Curve, party Party) (d save, keys committee, rec *KeyRecord) {
	t.Helper()
	rec, both := Vector(t, Signing).Key(t, c)
	keys = committee{rec.Parties[Client].PartyKey, rec.Parties[Server].PartyKey}
	if c == Secp256k1 {
		ec := ecSaveData(rec, both[party], party)
		ec.Alpha, ec.Beta, ec.P, ec.Q = big.NewInt(1), big.NewInt(1), big.NewInt(1), big.NewInt(1)
		return ecSave(&ec), keys, rec
	}
	ed := edSaveData(rec, both[party], party)
	return edSave(&ed), keys, rec
}

// ownIndex returns the index of me's entries.
func (d *save) ownIndex(t *testing.T, keys committee, me Party) int {
	t.Helper()
	for i, k := range d.ks {
		if k.Cmp(keys[me]) == 0 {
			return i
		}
	}
	require.Fail(t, "not in the committee")
	return -1
}

// tss-lib.md, row 9: every value of tss-lib's result is checked.
func TestRow9NewKey(t *testing.T) {
	t.Parallel()
	one := big.NewInt(1)
	plus := func(x, y *big.Int) *big.Int { return new(big.Int).Add(x, y) }
	type alter = func(d *save, i int)
	common := map[string]alter{
		"xi + 1":         func(d *save, _ int) { d.xi = plus(d.xi, one) },
		"xi zero":        func(d *save, _ int) { d.xi = new(big.Int) },
		"no xi":          func(d *save, _ int) { d.xi = nil },
		"no share id":    func(d *save, _ int) { d.shareID = nil },
		"other share id": func(d *save, i int) { d.shareID = d.ks[1-i] },
		"points swapped": func(d *save, _ int) { d.bigX[0], d.bigX[1] = d.bigX[1], d.bigX[0] },
		"own point":      func(d *save, i int) { d.bigX[i] = d.pub },
		"other's point":  func(d *save, i int) { d.bigX[1-i] = d.pub },
		"no own point":   func(d *save, i int) { d.bigX[i] = nil },
		"no other point": func(d *save, i int) { d.bigX[1-i] = nil },
		"no points":      func(d *save, _ int) { d.bigX = nil },
		"another key":    func(d *save, i int) { d.pub = d.bigX[i] },
		"no key":         func(d *save, _ int) { d.pub = nil },
		"an empty key":   func(d *save, _ int) { d.pub = new(tsscrypto.ECPoint) },
		"own k":          func(d *save, i int) { d.ks[i] = plus(d.ks[i], one) },
		"other k":        func(d *save, i int) { d.ks[1-i] = plus(d.ks[1-i], one) },
		"ks swapped":     func(d *save, _ int) { d.ks[0], d.ks[1] = d.ks[1], d.ks[0] },
		"no own k":       func(d *save, i int) { d.ks[i] = nil },
		"no other k":     func(d *save, i int) { d.ks[1-i] = nil },
		"one k":          func(d *save, i int) { d.ks = d.ks[i : i+1] },
		"three ks":       func(d *save, _ int) { d.ks = append(d.ks, one) },
	}
	ecdsa := map[string]alter{
		"own NTilde in the vector": func(d *save, i int) { d.ec.NTildej[i] = d.ec.NTildej[1-i] },
		"own h1 in the vector":     func(d *save, i int) { d.ec.H1j[i] = d.ec.H2j[i] },
		"own h2 in the vector":     func(d *save, i int) { d.ec.H2j[i] = d.ec.H1j[i] },
		"h1 and h2 swapped":        func(d *save, i int) { d.ec.H1j[i], d.ec.H2j[i] = d.ec.H2j[i], d.ec.H1j[i] },
		"own NTilde":               func(d *save, i int) { d.ec.NTildei = plus(d.ec.NTildei, one) },
		"own h1":                   func(d *save, i int) { d.ec.H1i = plus(d.ec.H1i, one) },
		"own h2":                   func(d *save, i int) { d.ec.H2i = plus(d.ec.H2i, one) },
		"no own NTilde":            func(d *save, i int) { d.ec.NTildei = nil },
		"no own h1":                func(d *save, i int) { d.ec.H1i = nil },
		"no own h2":                func(d *save, i int) { d.ec.H2i = nil },
		"no Paillier key":          func(d *save, i int) { d.ec.PaillierSK = nil },
		"no P":                     func(d *save, i int) { d.ec.PaillierSK.P = nil },
		"no Q":                     func(d *save, i int) { d.ec.PaillierSK.Q = nil },
		"another P":                func(d *save, i int) { d.ec.PaillierSK.P = plus(d.ec.PaillierSK.P, big.NewInt(2)) },
		"own N in the vector": func(d *save, i int) {
			d.ec.PaillierPKs[i] = &paillier.PublicKey{N: plus(d.ec.PaillierPKs[i].N, one)}
		},
		"N of both":      func(d *save, i int) { d.ec.PaillierPKs[1-i] = d.ec.PaillierPKs[i] },
		"NTilde of both": func(d *save, i int) { d.ec.NTildej[1-i] = d.ec.NTildej[i] },
		"other's N is even": func(d *save, i int) {
			d.ec.PaillierPKs[1-i] = &paillier.PublicKey{N: plus(d.ec.PaillierPKs[1-i].N, one)}
		},
		"other's N is short":       func(d *save, i int) { d.ec.PaillierPKs[1-i] = &paillier.PublicKey{N: big.NewInt(15)} },
		"other's NTilde is short":  func(d *save, i int) { d.ec.NTildej[1-i] = big.NewInt(15) },
		"other's h1 is 1":          func(d *save, i int) { d.ec.H1j[1-i] = one },
		"other's h2 is NTilde - 1": func(d *save, i int) { d.ec.H2j[1-i] = plus(d.ec.NTildej[1-i], big.NewInt(-1)) },
		"other's h1 and h2 equal":  func(d *save, i int) { d.ec.H2j[1-i] = d.ec.H1j[1-i] },
		"no other N":               func(d *save, i int) { d.ec.PaillierPKs[1-i].N = nil },
		"no other Paillier key":    func(d *save, i int) { d.ec.PaillierPKs[1-i] = nil },
		"no other NTilde":          func(d *save, i int) { d.ec.NTildej[1-i] = nil },
		"no other h1":              func(d *save, i int) { d.ec.H1j[1-i] = nil },
		"no other h2":              func(d *save, i int) { d.ec.H2j[1-i] = nil },
		"no vector of N":           func(d *save, i int) { d.ec.PaillierPKs = nil },
		"no vector of NTilde":      func(d *save, i int) { d.ec.NTildej = nil },
		"no vector of h1":          func(d *save, i int) { d.ec.H1j = d.ec.H1j[:1] },
		"no vector of h2":          func(d *save, i int) { d.ec.H2j = nil },
		"no ECDSA values":          func(d *save, i int) { *d.ec = eckeygen.LocalPartySaveData{} },
	}
	for _, c := range Curves() {
		for _, me := range []Party{Client, Server} {
			d, keys, rec := validSave(t, c, me)
			want, err := newKey(c, me, keys, d, rec.PublicKey)
			require.NoError(t, err)
			require.Equal(t, encoding(t, rec), encoding(t, &want.Record))

			// An honest Xi is a sum that is not reduced; a hostile one can be any number.
			for _, k := range []uint{0, 1, 4000} {
				long, _, _ := validSave(t, c, me)
				long.xi = plus(long.xi, new(big.Int).Lsh(c.order(), k))
				got, err := newKey(c, me, keys, long, rec.PublicKey)
				require.NoError(t, err)
				require.Zero(t, got.Share.xi.Cmp(want.Share.xi))
			}

			all := []map[string]alter{common}
			if c == Secp256k1 {
				all = append(all, ecdsa)
			}
			for _, cases := range all {
				for name, f := range cases {
					d, keys, _ := validSave(t, c, me)
					f(&d, d.ownIndex(t, keys, me))
					_, err := newKey(c, me, keys, d, rec.PublicKey)
					require.ErrorIs(t, err, errSave, "%v %v %s", c, me, name)
				}
			}

			other := *rec
			_, err = newKey(c, me, keys, d, other.WithXi(t, me, big.NewInt(5)).PublicKey)
			require.ErrorContains(t, err, "the public key changed")
		}
	}
}

// differing returns copies of rec that each differ from it in one public value.
func differing(t *testing.T, rec *KeyRecord) map[string]*KeyRecord {
	out := map[string]*KeyRecord{}
	add := func(name string, f func(*KeyRecord)) {
		o := *rec
		f(&o)
		out[name] = &o
	}
	point := rec.Curve.baseMult(big.NewInt(5))
	add("public key", func(k *KeyRecord) { k.PublicKey = k.Curve.encodePoint(point) })
	for p := range rec.Parties {
		add("party key", func(k *KeyRecord) { k.Parties[p].PartyKey = big.NewInt(5) })
		add("point", func(k *KeyRecord) { k.Parties[p].BigX = point })
		if rec.Curve == Ed25519 {
			continue
		}
		one := big.NewInt(1)
		add("N", func(k *KeyRecord) { k.Parties[p].PaillierN = one })
		add("NTilde", func(k *KeyRecord) { k.Parties[p].NTilde = one })
		add("h1", func(k *KeyRecord) { k.Parties[p].H1 = one })
		add("h2", func(k *KeyRecord) { k.Parties[p].H2 = one })
	}
	return out
}

// Both sides must have the same public values: every one of them changes the record's encoding, whose hash is in the
// transcript (see TestTranscriptHasEveryField).
func TestRow9BothSidesEqual(t *testing.T) {
	t.Parallel()
	for _, c := range Curves() {
		rec, _ := Vector(t, Signing).Key(t, c)
		again, _ := Vector(t, Signing).Key(t, c)
		require.Equal(t, encoding(t, rec), encoding(t, again))
		for name, o := range differing(t, rec) {
			require.NotEqual(t, encoding(t, rec), encoding(t, o), name)
		}
	}
}

// encoding returns the encoding of a key within its record's.
func encoding(t *testing.T, k *KeyRecord) []byte {
	t.Helper()
	packed, err := k.pack()
	require.NoError(t, err)
	b, err := encode(packed)
	require.NoError(t, err)
	return b
}
