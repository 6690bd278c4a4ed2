package tss

import (
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"

	"github.com/mpcd/mpcd/internal/secret"
)

// Helpers for the tests of both packages, tss and tss_test. The committed vectors test that the format does not change,
// and save most tests a key generation.

// VectorsFile has the vectors. TestVectors -write makes it.
const VectorsFile = "testdata/share_v1.json"

// VectorFile is the content of VectorsFile: the sets of one wallet with both curves. Byte strings are in hex.
type VectorFile struct {
	Comment    string
	WalletID   string
	PublicKeys map[string]string // by Curve.String()
	Sets       []VectorSet       // the first one SIGNING, the second one BACKUP
}

// VectorSet is one share set, encoded.
type VectorSet struct {
	ShareSetID string
	Purpose    Purpose
	RecordHash string
	Record     string
	Shares     [2]string // by Party
}

// Set is one share set, decoded.
type Set struct {
	Encoded []byte // the record's encoding
	Record  *Record
	Bytes   [2][]byte // the shares' encodings, by Party
	Shares  [2]*Share
}

// ReadVectors returns the content of VectorsFile.
func ReadVectors(t testing.TB) *VectorFile {
	t.Helper()
	b, err := os.ReadFile(VectorsFile)
	require.NoError(t, err)
	f := new(VectorFile)
	require.NoError(t, json.Unmarshal(b, f))
	require.Len(t, f.Sets, 2)
	return f
}

// UnHex decodes s.
func UnHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// Vector returns a fresh copy of the committed set with the given purpose.
func Vector(t testing.TB, purpose Purpose) *Set {
	t.Helper()
	for _, v := range ReadVectors(t).Sets {
		if v.Purpose != purpose {
			continue
		}
		s := &Set{Encoded: UnHex(t, v.Record)}
		var err error
		s.Record, err = ParseRecord(s.Encoded)
		require.NoError(t, err)
		for p := range s.Shares {
			s.Bytes[p] = UnHex(t, v.Shares[p])
			s.Shares[p], err = ParseShare(s.Bytes[p])
			require.NoError(t, err)
		}
		return s
	}
	require.Fail(t, "no such vector")
	return nil
}

// Key returns the set's public values and both parties' secrets on c.
func (s *Set) Key(t testing.TB, c Curve) (*KeyRecord, [2]*KeyShare) {
	t.Helper()
	rec, ok := s.Record.Key(c)
	require.True(t, ok)
	var both [2]*KeyShare
	for p, share := range s.Shares {
		both[p] = share.Key(c)
		require.NotNil(t, both[p])
	}
	return rec, both
}

// EncodeKey returns the encoding of k in a share, with which tests check that k did not change.
func EncodeKey(t testing.TB, k *KeyShare) []byte {
	t.Helper()
	w, err := k.pack()
	require.NoError(t, err)
	b, err := encode(w)
	require.NoError(t, err)
	return b
}

// Primes returns the primes of k's Paillier key.
func (k *KeyShare) Primes() [2]*big.Int { return [2]*big.Int{k.paillierP, k.paillierQ} }

// SetPrimes returns k with other primes.
func (k *KeyShare) SetPrimes(p, q *big.Int) *KeyShare {
	return &KeyShare{k.Curve, k.PartyKey, &keySecrets{k.xi, p, q}}
}

// SetXi returns k with another secret.
func (k *KeyShare) SetXi(xi *big.Int) *KeyShare {
	return &KeyShare{k.Curve, k.PartyKey, &keySecrets{xi, k.paillierP, k.paillierQ}}
}

// Xi returns a copy of k's secret.
func (k *KeyShare) Xi() *big.Int { return new(big.Int).Set(k.xi) }

// Order returns the order of c's group.
func (c Curve) Order() *big.Int { return c.order() }

// Combined returns k with the public key to which its parties' points combine.
func (k *KeyRecord) Combined(t testing.TB) *KeyRecord {
	t.Helper()
	sum, err := k.combine()
	require.NoError(t, err)
	k.PublicKey = k.Curve.encodePoint(sum)
	return k
}

// WithXi returns k as if party's secret were xi, consistent in itself.
func (k *KeyRecord) WithXi(t testing.TB, party Party, xi *big.Int) *KeyRecord {
	t.Helper()
	o := *k
	o.Parties[party].BigX = k.Curve.baseMult(xi)
	return o.Combined(t)
}

// Coordinates returns those of k's public key, as in tss-lib's messages.
func Coordinates(t testing.TB, k *KeyRecord) (x, y []byte) {
	t.Helper()
	p, err := k.Curve.decodePoint(k.PublicKey)
	require.NoError(t, err)
	return p.X().Bytes(), p.Y().Bytes()
}

// preParamsBytes returns the first committed set of pre-params (tsstest cannot be
// imported from here).
func preParamsBytes(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("tsstest/preparams.txt")
	require.NoError(t, err)
	return UnHex(t, strings.Fields(string(b))[0])
}

// allPrimes returns the safe primes of all the committed sets.
func allPrimes(t testing.TB) (primes []*big.Int) {
	t.Helper()
	b, err := os.ReadFile("tsstest/preparams.txt")
	require.NoError(t, err)
	for _, line := range strings.Fields(string(b)) {
		var w wirePreParams
		require.NoError(t, decMode.Unmarshal(UnHex(t, line), &w))
		for _, x := range [][]byte{w.PaillierP, w.PaillierQ} {
			primes = append(primes, new(big.Int).SetBytes(x))
		}
		for _, x := range [][]byte{w.P, w.Q} { // (x - 1) / 2 of one
			half := new(big.Int).SetBytes(x)
			primes = append(primes, half.Add(half.Lsh(half, 1), big.NewInt(1)))
		}
	}
	return primes
}

var parsedPreParams struct {
	once sync.Once
	p    *PreParams
	err  error
}

// freshPreParams returns a copy of a valid set, to be altered.
func freshPreParams(t testing.TB) *PreParams {
	t.Helper()
	c := &parsedPreParams
	c.once.Do(func() { c.p, c.err = ParsePreParams(secret.New(preParamsBytes(t))) })
	require.NoError(t, c.err)
	p := c.p.p
	o := &eckeygen.LocalPreParams{PaillierSK: paillierKey(p.PaillierSK.P, p.PaillierSK.Q)}
	for _, f := range []struct{ dst, src **big.Int }{
		{&o.NTildei, &p.NTildei}, {&o.H1i, &p.H1i}, {&o.H2i, &p.H2i},
		{&o.Alpha, &p.Alpha}, {&o.Beta, &p.Beta}, {&o.P, &p.P}, {&o.Q, &p.Q},
	} {
		*f.dst = new(big.Int).Set(*f.src)
	}
	return &PreParams{p: o}
}
