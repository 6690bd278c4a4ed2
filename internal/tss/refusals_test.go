package tss

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/bnb-chain/tss-lib/v2/common"
	tsscrypto "github.com/bnb-chain/tss-lib/v2/crypto"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// Tests of guards that have no other test (make mutants).

// checkPoint accepts only points with the right curve, in canonical coordinates.
func TestCheckPointRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range Curves() {
		good := c.baseMult(big.NewInt(7))
		require.NoError(t, c.checkPoint(good))
		other := Secp256k1 + Ed25519 - c
		top := c.ec().Params().P
		veryNegative := new(big.Int).Sub(good.X(), new(big.Int).Lsh(top, 64))
		for name, p := range map[string]*tsscrypto.ECPoint{
			"none":                        nil,
			"zero value":                  new(tsscrypto.ECPoint),
			"no coordinates":              tsscrypto.NewECPointNoCurveCheck(c.ec(), nil, nil),
			"no y":                        tsscrypto.NewECPointNoCurveCheck(c.ec(), good.X(), nil),
			"of another curve by name":    tsscrypto.NewECPointNoCurveCheck(other.ec(), good.X(), good.Y()),
			"of another curve":            other.baseMult(big.NewInt(7)),
			"off the curve":               tsscrypto.NewECPointNoCurveCheck(c.ec(), good.X(), big.NewInt(7)),
			"x beyond p":                  tsscrypto.NewECPointNoCurveCheck(c.ec(), new(big.Int).Add(good.X(), top), good.Y()),
			"y beyond p":                  tsscrypto.NewECPointNoCurveCheck(c.ec(), good.X(), new(big.Int).Add(good.Y(), top)),
			"negative x":                  tsscrypto.NewECPointNoCurveCheck(c.ec(), new(big.Int).Sub(good.X(), top), good.Y()),
			"negative y":                  tsscrypto.NewECPointNoCurveCheck(c.ec(), good.X(), new(big.Int).Sub(good.Y(), top)),
			"negative with over 32 bytes": tsscrypto.NewECPointNoCurveCheck(c.ec(), veryNegative, good.Y()),
		} {
			require.ErrorIs(t, c.checkPoint(p), errPoint, "%v %s", c, name)
		}
	}
}

// combine and mult agree with baseMult, and reject points that are not on the curve.
func TestCombineAndMult(t *testing.T) {
	t.Parallel()
	seven, five := big.NewInt(7), big.NewInt(5)
	for _, c := range Curves() {
		p := c.baseMult(seven)
		q, err := c.mult(five, p)
		require.NoError(t, err)
		require.True(t, q.Equals(c.baseMult(big.NewInt(35))))
		sum, err := c.combine(five, p, seven, q)
		require.NoError(t, err)
		require.True(t, sum.Equals(c.baseMult(big.NewInt(5*7+7*35))))
	}
	off := offCurve()
	good := Ed25519.baseMult(seven)
	_, err := Ed25519.mult(five, off)
	require.ErrorIs(t, err, errPoint)
	for _, pair := range [][2]*tsscrypto.ECPoint{{off, good}, {good, off}} {
		_, err = Ed25519.combine(five, pair[0], seven, pair[1])
		require.ErrorIs(t, err, errPoint)
	}
}

// Decoders check the length before they decode.
func TestDecodersCheckTheLengthFirst(t *testing.T) {
	t.Parallel()
	for _, b := range [][]byte{nil, make([]byte, MaxShareBytes+1)} {
		_, err := ParseShare(b)
		require.ErrorContains(t, err, "bytes, want 1 to 4096")
	}
	for _, b := range [][]byte{nil, make([]byte, maxRecordBytes+1)} {
		require.ErrorContains(t, parseRecord(b), "bytes, want 1 to 16384")
	}
}

// Trailing data and unknown fields, which tss-lib would ignore, are rejected.
func TestRow15CanonicalContent(t *testing.T) {
	t.Parallel()
	a := decodedAny(t, payload(t, &ecsigning.SignRound9Message{S: []byte{7}}))
	_, err := canonical(a, payload(t, &ecsigning.SignRound9Message{S: []byte{7}}))
	require.NoError(t, err)
	a.Value = []byte{0xff}
	_, err = canonical(a, nil)
	require.EqualError(t, err, "a message that cannot be parsed")
	a.Value = []byte{0x7a, 0x01, 0x00}
	_, err = canonical(a, nil)
	require.EqualError(t, err, "a message with unknown fields")
	a.Value = []byte{0x0a, 0x01, 0x07}
	_, err = canonical(a, append(payload(t, &ecsigning.SignRound9Message{S: []byte{7}}), 0x1a, 0x00))
	require.EqualError(t, err, "a message that is not in canonical form")
}

// The theta that this side sends in round 3 of an ECDSA signing is the one that the other side's must not cancel.
func TestThetaIsNoted(t *testing.T) {
	t.Parallel()
	g := &ingress{curve: Secp256k1, proto: signings[Secp256k1]}
	id := lib.NewPartyID("x", "x", big.NewInt(1))
	id.Index = 0
	g.noteSent(ecsigning.NewSignRound3Message(id, big.NewInt(9)))
	require.True(t, g.sent[typeOf(&ecsigning.SignRound3Message{})])
	r := &reader{curve: Secp256k1}
	g.checkTheta(r, new(big.Int).Sub(Secp256k1.order(), big.NewInt(9)))
	require.ErrorContains(t, r.err, "theta cancels ours")
}

// checkModuli is called once, with copies of the moduli, and its error is returned.
func TestCheckModuliIsCalledOnce(t *testing.T) {
	t.Parallel()
	calls, used := 0, errors.New("used")
	g := &ingress{checkModuli: func(n, nTilde *big.Int) error {
		calls++
		n.SetInt64(0)
		nTilde.SetInt64(0)
		return used
	}}
	require.NoError(t, g.askCheckModuli(), "no moduli have arrived")
	require.Zero(t, calls)
	g.n, g.nTilde = big.NewInt(15), big.NewInt(21)
	require.ErrorIs(t, g.askCheckModuli(), used)
	require.NoError(t, g.askCheckModuli())
	require.Equal(t, 1, calls)
	require.Equal(t, []int64{15, 21}, []int64{g.n.Int64(), g.nTilde.Int64()})
	require.NoError(t, (&ingress{n: big.NewInt(15), nTilde: big.NewInt(21)}).askCheckModuli(), "no function to call")
}

// A y below 19 has a second encoding, y + p. No point of prime order has such a y, so that decodeEdwards' comparison of
// the encoding is a second line of defence.
func TestEdwardsPointsHaveOneSpelling(t *testing.T) {
	t.Parallel()
	for y := range byte(19) {
		for sign := range byte(2) {
			b := make([]byte, 32)
			b[0], b[31] = y, sign<<7
			_, err := Ed25519.decodePoint(b)
			require.ErrorIs(t, err, errPoint, "%d", y)
		}
	}
}

// The errors of Share.Encode and ParseShare name the fault.
func TestShareErrors(t *testing.T) {
	t.Parallel()
	long := new(big.Int).Lsh(big.NewInt(1), 2048)
	for want, spoil := range map[string]func(*Share){
		`wallet id: "x" is not a UUID`:             func(s *Share) { s.WalletID = "x" },
		`share set id: "x" is not a UUID`:          func(s *Share) { s.ShareSetID = "x" },
		"a key share without secrets":              func(s *Share) { s.Keys[0].keySecrets = nil },
		"an integer does not fit in 32 bytes":      func(s *Share) { s.Keys[0].PartyKey = nil },
		"an integer does not fit in 32 bytes ":     func(s *Share) { s.Keys[0].xi = long },
		"an integer does not fit in 128 bytes":     func(s *Share) { s.Keys[0].paillierP = long },
		"an integer does not fit in 128 bytes ":    func(s *Share) { s.Keys[0].paillierQ = big.NewInt(-1) },
		"curves are unknown, repeated or out of":   func(s *Share) { s.Keys[0], s.Keys[1] = s.Keys[1], s.Keys[0] },
		"no curve":                                 func(s *Share) { s.Keys = nil },
		"unknown purpose or party, or no record h": func(s *Share) { s.Purpose = 9 },
	} {
		s := Vector(t, Signing).Shares[Client]
		spoil(s)
		_, err := s.Encode()
		require.ErrorIs(t, err, ErrShareMalformed)
		require.ErrorContains(t, err, strings.TrimSpace(want))
	}
	for want, spoil := range map[string]func(*wireShare){
		"wallet id: a UUID has 15 bytes":          func(w *wireShare) { w.WalletID = w.WalletID[1:] },
		"share set id: a UUID has 17 bytes":       func(w *wireShare) { w.ShareSetID = append(w.ShareSetID, 0) },
		"or no record hash":                       func(w *wireShare) { w.RecordHash = w.RecordHash[1:] },
		"or no record hash ":                      func(w *wireShare) { w.RecordHash = append(w.RecordHash, 0) },
		"or no record hash  ":                     func(w *wireShare) { w.Party = 2 },
		"unknown curve":                           func(w *wireShare) { w.Keys[0].Curve = 3 },
		"an integer has 31 bytes, want 32":        func(w *wireShare) { w.Keys[0].PartyKey = w.Keys[0].PartyKey[1:] },
		"an integer has 33 bytes, want 32":        func(w *wireShare) { w.Keys[0].Xi = append(w.Keys[0].Xi, 0) },
		"an integer has 0 bytes, want 128":        func(w *wireShare) { w.Keys[0].PaillierP = nil },
		"an integer has 127 bytes, want 128":      func(w *wireShare) { w.Keys[0].PaillierQ = w.Keys[0].PaillierQ[1:] },
		"a scalar is not in [1, q)":               func(w *wireShare) { clear(w.Keys[1].Xi) },
		"a scalar is not in [1, q) ":              func(w *wireShare) { clear(w.Keys[1].PartyKey) },
		"a curve without a Paillier key has one":  func(w *wireShare) { w.Keys[1].PaillierP = w.Keys[0].PaillierP },
		"a curve without a Paillier key has one ": func(w *wireShare) { w.Keys[1].PaillierQ = w.Keys[0].PaillierQ },
	} {
		var w wireShare
		require.NoError(t, decMode.Unmarshal(Vector(t, Signing).Bytes[Client], &w))
		spoil(&w)
		b, err := encode(&w)
		require.NoError(t, err)
		_, err = ParseShare(b)
		require.ErrorIs(t, err, ErrShareMalformed)
		require.ErrorContains(t, err, strings.TrimSpace(want))
	}
}

// A signature from tss-lib must have 64 bytes and verify under the record's key, or the other side is blamed.
func TestSignatureIsVerified(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	rec, payload := &KeyRecord{Curve: Ed25519, PublicKey: public}, []byte("payload")
	good := ed25519.Sign(private, payload)
	s := &side{me: Server}
	sig, err := s.verifySignature(&common.SignatureData{Signature: good}, rec, payload)
	require.NoError(t, err)
	require.Equal(t, good, sig.Bytes[:])
	for _, x := range []struct {
		signature []byte
		payload   string
		want      string
	}{
		{nil, "payload", "does not have 64 bytes"},
		{good[:63], "payload", "does not have 64 bytes"},
		{append(slices.Clone(good), 0), "payload", "does not have 64 bytes"},
		{good, "another", "does not verify"},
		{make([]byte, 64), "payload", "does not verify"},
	} {
		sig, err = s.verifySignature(&common.SignatureData{Signature: x.signature}, rec, []byte(x.payload))
		requireBlame(t, err, Client)
		require.ErrorContains(t, err, x.want)
		require.Nil(t, sig)
	}
	key, err := secp256k1.GeneratePrivateKey()
	require.NoError(t, err)
	rec.Curve, rec.PublicKey = Secp256k1, key.PubKey().SerializeUncompressed()
	for id, n := byte(0), byte(0); id != 1; n++ { // half of all signatures have this recovery id
		digest := bytes.Repeat([]byte{n}, 32)
		compact := ecdsa.SignCompact(key, digest, false)
		id = compact[0] - 27
		d := &common.SignatureData{Signature: compact[1:], SignatureRecovery: []byte{id}}
		sig, err = s.verifySignature(d, rec, digest)
		require.NoError(t, err)
		require.Equal(t, id, sig.RecoveryID)
	}
}

// The errors of Record.Encode and ParseRecord name the fault.
func TestRecordErrors(t *testing.T) {
	t.Parallel()
	long := new(big.Int).Lsh(big.NewInt(1), 2048)
	for want, spoil := range map[string]func(*Record){
		`wallet id: "x" is not a UUID`:            func(r *Record) { r.WalletID = "x" },
		`share set id: "x" is not a UUID`:         func(r *Record) { r.ShareSetID = "x" },
		"an integer does not fit in 32 bytes":     func(r *Record) { r.Keys[0].Parties[1].PartyKey = long },
		"an integer does not fit in 256 bytes":    func(r *Record) { r.Keys[0].Parties[1].PaillierN = nil },
		"an integer does not fit in 256 bytes ":   func(r *Record) { r.Keys[0].Parties[0].NTilde = long },
		"an integer does not fit in 256 bytes  ":  func(r *Record) { r.Keys[0].Parties[0].H1 = big.NewInt(-1) },
		"an integer does not fit in 256 bytes   ": func(r *Record) { r.Keys[0].Parties[1].H2 = long },
		"not a point of the curve":                func(r *Record) { r.Keys[1].Parties[0].BigX = nil },
	} {
		r := Vector(t, Signing).Record
		spoil(r)
		_, err := r.Encode()
		require.ErrorIs(t, err, ErrRecordMalformed)
		require.ErrorContains(t, err, strings.TrimSpace(want))
	}
	for want, spoil := range map[string]func(*wireRecord){
		"wallet id: a UUID has 15 bytes":    func(w *wireRecord) { w.WalletID = w.WalletID[1:] },
		"share set id: a UUID has 15 bytes": func(w *wireRecord) { w.ShareSetID = w.ShareSetID[1:] },
		"unknown purpose":                   func(w *wireRecord) { w.Purpose = 9 },
		"unknown curve":                     func(w *wireRecord) { w.Keys[0].Curve = 9 },
		"1 parties, want 2":                 func(w *wireRecord) { w.Keys[0].Parties = w.Keys[0].Parties[:1] },
		"an integer has 31 bytes, want 32": func(w *wireRecord) {
			w.Keys[0].Parties[0].PartyKey = make([]byte, 31)
		},
		"an integer has 0 bytes, want 256":     func(w *wireRecord) { w.Keys[0].Parties[0].H2 = nil },
		"public key: not a point of the curve": func(w *wireRecord) { w.Keys[0].PublicKey = w.Keys[1].PublicKey },
		"the parties' points do not combine": func(w *wireRecord) {
			w.Keys[1].PublicKey = w.Keys[1].Parties[0].BigX
		},
		"a curve without a Paillier key has one":       func(w *wireRecord) { w.Keys[1].Parties[0].H2 = []byte{7} },
		"curves are unknown, repeated or out of order": func(w *wireRecord) { slices.Reverse(w.Keys) },
		"no curve": func(w *wireRecord) { w.Keys = nil },
		"both parties have the same party key": func(w *wireRecord) {
			w.Keys[1].Parties[0].PartyKey = w.Keys[1].Parties[1].PartyKey
		},
		"both parties have the same modulus": func(w *wireRecord) {
			w.Keys[0].Parties[0].PaillierN = w.Keys[0].Parties[1].PaillierN
		},
		"a party key is not in [1, q)":        func(w *wireRecord) { clear(w.Keys[0].Parties[0].PartyKey) },
		"a modulus is not odd with 2048 bits": func(w *wireRecord) { w.Keys[0].Parties[0].NTilde[0] &= 0x7f },
		"h1 or h2 is out of range":            func(w *wireRecord) { clear(w.Keys[0].Parties[0].H1) },
		"h1 equals h2":                        func(w *wireRecord) { w.Keys[0].Parties[0].H1 = w.Keys[0].Parties[0].H2 },
	} {
		var w wireRecord
		require.NoError(t, decMode.Unmarshal(Vector(t, Signing).Encoded, &w))
		spoil(&w)
		b, err := encode(w)
		require.NoError(t, err)
		err = parseRecord(b)
		require.ErrorIs(t, err, ErrRecordMalformed)
		require.ErrorContains(t, err, want)
	}
	for _, curves := range [][]Curve{nil, {0}, {3}, {1, 3}, {1, 1}, {2, 1}} {
		require.Error(t, checkCurves(curves), "%v", curves)
	}
}

// Points that combine to the neutral element are rejected.
func TestPointsThatCombineToTheNeutralElement(t *testing.T) {
	t.Parallel()
	three, four := big.NewInt(3), big.NewInt(4) // the values of the polynomial 0 + 1x at 3 and 4
	for _, c := range Curves() {
		k := &KeyRecord{Curve: c, PublicKey: c.encodePoint(c.baseMult(three))}
		k.Parties[Client] = Public{PartyKey: three, BigX: c.baseMult(three)}
		k.Parties[Server] = Public{PartyKey: four, BigX: c.baseMult(four)}
		_, err := k.combine()
		require.Error(t, err, "%v", c)
		if c == Ed25519 {
			require.ErrorIs(t, k.check(), errPoint)
		} else {
			require.ErrorContains(t, err, "combine the parties' points")
		}
	}
}

// inOrder sorts the parties by their keys.
func TestPartiesAreInOrder(t *testing.T) {
	t.Parallel()
	rec, _ := Vector(t, Signing).Key(t, Secp256k1)
	for range 2 {
		in := rec.inOrder()
		require.Negative(t, in[0].PartyKey.Cmp(in[1].PartyKey))
		rec.Parties[0], rec.Parties[1] = rec.Parties[1], rec.Parties[0]
	}
}

// An ECDSA run fails at once without pre-params, or with used ones.
func TestNoRunWithoutPreParams(t *testing.T) {
	t.Parallel()
	rec, both := Vector(t, Signing).Key(t, Secp256k1)
	keys, err := NewPartyKeys(Secp256k1)
	require.NoError(t, err)
	used := freshPreParams(t)
	_, err = used.consume()
	require.NoError(t, err)
	for _, pre := range []*PreParams{nil, used} {
		create := KeygenInput{Curve: Secp256k1, Party: Client, Keys: keys, PreParams: pre}
		_, err = Keygen(t.Context(), &plainConn{}, create, Observer{})
		require.ErrorIs(t, err, ErrPreParams)
		in := ReshareInput{Party: Client, Old: rec, Share: both[Client], NewKeys: keys, PreParams: pre}
		_, err = Reshare(t.Context(), &plainConn{}, in, Observer{})
		require.ErrorIs(t, err, ErrPreParams)
	}
	for _, in := range []KeygenInput{{Curve: 3, Party: Client, Keys: keys}, {Curve: Secp256k1, Party: 2, Keys: keys}} {
		_, err = Keygen(t.Context(), &plainConn{}, in, Observer{})
		require.ErrorContains(t, err, "unknown curve or party")
	}
}

// offCurve returns coordinates that are not on Ed25519: no point has this y.
func offCurve() *tsscrypto.ECPoint {
	return tsscrypto.NewECPointNoCurveCheck(Ed25519.ec(), big.NewInt(2), big.NewInt(2))
}

func decodedAny(t testing.TB, payload []byte) *anypb.Any {
	t.Helper()
	a := new(anypb.Any)
	require.NoError(t, proto.Unmarshal(payload, a))
	return a
}
