package tss

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mpcd/mpcd/internal/secret"
)

func parseShare(b []byte) error {
	_, err := ParseShare(b)
	return err
}

func TestShareIsStrict(t *testing.T) {
	t.Parallel()
	set := Vector(t, Signing)
	for _, b := range set.Bytes {
		requireStrict(t, b, MaxShareBytes, ErrShareMalformed, parseShare)
		for i := range b {
			require.ErrorIs(t, parseShare(b[:i]), ErrShareMalformed, "%d bytes", i)
		}
	}
	// Well-formed CBOR with a share's fields, but not a valid share.
	for name, f := range map[string]func(*wireShare){
		"no curve":             func(w *wireShare) { w.Keys = nil },
		"unknown curve":        func(w *wireShare) { w.Keys[1].Curve = 3 },
		"curve 0":              func(w *wireShare) { w.Keys[0].Curve = 0 },
		"curves out of order":  func(w *wireShare) { w.Keys[0], w.Keys[1] = w.Keys[1], w.Keys[0] },
		"a curve twice":        func(w *wireShare) { w.Keys = append(w.Keys, w.Keys[1]) },
		"many curves":          func(w *wireShare) { w.Keys = append(w.Keys, make([]wireKeyShare, 20)...) },
		"curves exchanged":     func(w *wireShare) { w.Keys[0].Curve, w.Keys[1].Curve = Ed25519, Secp256k1 },
		"xi zero":              func(w *wireShare) { clear(w.Keys[0].Xi) },
		"xi = q":               func(w *wireShare) { Secp256k1.order().FillBytes(w.Keys[0].Xi) },
		"Ed25519 xi = q":       func(w *wireShare) { Ed25519.order().FillBytes(w.Keys[1].Xi) },
		"long xi":              func(w *wireShare) { w.Keys[0].Xi = append([]byte{0}, w.Keys[0].Xi...) },
		"short xi":             func(w *wireShare) { w.Keys[0].Xi = w.Keys[0].Xi[1:] },
		"party key zero":       func(w *wireShare) { clear(w.Keys[0].PartyKey) },
		"party key = q":        func(w *wireShare) { Secp256k1.order().FillBytes(w.Keys[0].PartyKey) },
		"long party key":       func(w *wireShare) { w.Keys[0].PartyKey = append(w.Keys[0].PartyKey, 0) },
		"no P":                 func(w *wireShare) { w.Keys[0].PaillierP = nil },
		"no Q":                 func(w *wireShare) { w.Keys[0].PaillierQ = nil },
		"long P":               func(w *wireShare) { w.Keys[0].PaillierP = append([]byte{0}, w.Keys[0].PaillierP...) },
		"short Q":              func(w *wireShare) { w.Keys[0].PaillierQ = w.Keys[0].PaillierQ[1:] },
		"Paillier on Ed25519":  func(w *wireShare) { w.Keys[1].PaillierP = []byte{1} },
		"Paillier on Ed25519Q": func(w *wireShare) { w.Keys[1].PaillierQ = []byte{1} },
		"party 2":              func(w *wireShare) { w.Party = 2 },
		"purpose 0":            func(w *wireShare) { w.Purpose = 0 },
		"purpose 3":            func(w *wireShare) { w.Purpose = 3 },
		"short hash":           func(w *wireShare) { w.RecordHash = w.RecordHash[:31] },
		"long hash":            func(w *wireShare) { w.RecordHash = append(w.RecordHash, 0) },
		"short wallet id":      func(w *wireShare) { w.WalletID = w.WalletID[:15] },
		"long set id":          func(w *wireShare) { w.ShareSetID = append(w.ShareSetID, 0) },
		"the version 2":        func(w *wireShare) { w.Version = 2 },
		"the kind of a record": func(w *wireShare) { w.Kind = recordKind },
	} {
		var w wireShare
		require.NoError(t, decMode.Unmarshal(set.Bytes[Client], &w))
		f(&w)
		b, err := encode(&w)
		require.NoError(t, err)
		require.ErrorIs(t, parseShare(b), ErrShareMalformed, name)
	}
	require.ErrorIs(t, parseShare(set.Encoded), ErrShareMalformed, "a record")
}

// Encode fails for a share that could not be parsed again.
func TestShareEncodeRefuses(t *testing.T) {
	t.Parallel()
	good := Vector(t, Signing).Bytes[Server]
	for name, f := range map[string]func(*Share){
		"no keys":       func(s *Share) { s.Keys = nil },
		"wallet id":     func(s *Share) { s.WalletID = strings.ToUpper(s.WalletID) },
		"set id":        func(s *Share) { s.ShareSetID = "urn:uuid:" + s.ShareSetID },
		"no set id":     func(s *Share) { s.ShareSetID = "" },
		"party":         func(s *Share) { s.Party = 2 },
		"wiped":         func(s *Share) { s.Wipe() },
		"long prime":    func(s *Share) { s.Keys[0].paillierP.Lsh(s.Keys[0].paillierP, 1) },
		"negative xi":   func(s *Share) { s.Keys[1].xi.Neg(s.Keys[1].xi) },
		"no prime":      func(s *Share) { s.Keys[0].paillierQ = nil },
		"unreduced":     func(s *Share) { s.Keys[1].xi.Add(s.Keys[1].xi, Ed25519.order()) },
		"two of a kind": func(s *Share) { s.Keys[0] = s.Keys[1] },
	} {
		s, err := ParseShare(good)
		require.NoError(t, err)
		f(s)
		_, err = s.Encode()
		require.ErrorIs(t, err, ErrShareMalformed, name)
	}
}

// Encoding and parsing are inverse, for shares of any values.
func TestShareRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := func(label string) string {
			return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)).String()
		}
		below := func(limit *big.Int, n int, label string) *big.Int { // in [1, limit)
			x := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 0, n).Draw(t, label))
			m := new(big.Int).Sub(limit, big.NewInt(1))
			return x.Mod(x, m).Add(x, big.NewInt(1))
		}
		s := &Share{
			SetID: SetID{id("wallet"), id("set"), Purpose(rapid.IntRange(1, 2).Draw(t, "purpose"))},
			Party: Party(rapid.IntRange(0, 1).Draw(t, "party")),
		}
		copy(s.RecordHash[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash"))
		for _, c := range rapid.SampledFrom([][]Curve{{Secp256k1}, {Ed25519}, {Secp256k1, Ed25519}}).Draw(t, "curves") {
			k := KeyShare{Curve: c, PartyKey: below(c.order(), 32, "key")}
			k.keySecrets = &keySecrets{xi: below(c.order(), 32, "xi")}
			if c == Secp256k1 {
				top := new(big.Int).Lsh(big.NewInt(1), 8*primeLen)
				k.paillierP, k.paillierQ = below(top, primeLen, "P"), below(top, primeLen, "Q")
			}
			s.Keys = append(s.Keys, k)
		}
		b, err := s.Encode()
		require.NoError(t, err)
		got, err := ParseShare(b.Reveal())
		require.NoError(t, err)
		require.True(t, sameShare(s, got), "the parsed share differs")
		again, err := got.Encode()
		require.NoError(t, err)
		require.True(t, again.Equal(b))
	})
}

func sameShare(a, b *Share) bool {
	if a.SetID != b.SetID || a.Party != b.Party || a.RecordHash != b.RecordHash || len(a.Keys) != len(b.Keys) {
		return false
	}
	same := func(x, y *big.Int) bool { return (x == nil) == (y == nil) && (x == nil || x.Cmp(y) == 0) }
	for i := range a.Keys {
		x, y := &a.Keys[i], &b.Keys[i]
		if x.Curve != y.Curve || !same(x.PartyKey, y.PartyKey) || !same(x.xi, y.xi) ||
			!same(x.paillierP, y.paillierP) || !same(x.paillierQ, y.paillierQ) {
			return false
		}
	}
	return true
}

// tss-lib.md, row 14: a share with any one bit changed does not parse, or does not match its set's record.
func TestRow14EveryBit(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	for p, good := range s.Bytes {
		for bit := 0; bit < 8*len(good); bit++ {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			share, err := ParseShare(b)
			if err == nil {
				err = s.Record.Check(share, Party(p), s.Encoded)
			}
			known := errors.Is(err, ErrShareMalformed) || errors.Is(err, ErrShareMismatch)
			require.True(t, known, "bit %d of %v: %v", bit, Party(p), err)
		}
	}
}

// The error for a share of another wallet, set, purpose or party differs from that for a damaged one.
func TestRow14OtherShares(t *testing.T) {
	t.Parallel()
	s, other := Vector(t, Signing), Vector(t, Backup)
	check := func(share *Share, party Party) error { return s.Record.Check(share, party, s.Encoded) }
	require.NoError(t, check(s.Shares[Client], Client))
	require.NoError(t, check(s.Shares[Server], Server))
	require.ErrorIs(t, check(s.Shares[Client], Server), ErrShareMismatch)
	require.ErrorIs(t, check(other.Shares[Client], Client), ErrShareMismatch)
	require.ErrorIs(t, other.Record.Check(s.Shares[Client], Client, other.Encoded), ErrShareMismatch)
	err := s.Record.Check(s.Shares[Client], Client, other.Encoded)
	require.ErrorIs(t, err, ErrShareMismatch, "another record's bytes")
	for name, f := range map[string]func(*Share){
		"wallet":      func(x *Share) { x.WalletID = uuid.NewString() },
		"set":         func(x *Share) { x.ShareSetID = other.Record.ShareSetID },
		"purpose":     func(x *Share) { x.Purpose = Backup },
		"party":       func(x *Share) { x.Party = Server },
		"hash":        func(x *Share) { x.RecordHash[0] ^= 1 },
		"party key":   func(x *Share) { x.Keys[1].PartyKey.Add(x.Keys[1].PartyKey, big.NewInt(1)) },
		"set's share": func(x *Share) { x.Keys = other.Shares[Client].Keys },
	} {
		share := Vector(t, Signing).Shares[Client]
		f(share)
		require.ErrorIs(t, check(share, Client), ErrShareMismatch, name)
	}
	rec := *s.Record
	rec.Keys = rec.Keys[:1]
	err = rec.Check(s.Shares[Client], Client, s.Encoded)
	require.ErrorIs(t, err, ErrShareMismatch, "a curve that the set does not have")
	// Another set's share with this set's ids, record hash and party keys: each of its secrets gives it away.
	forged := Vector(t, Backup).Shares[Client]
	forged.SetID, forged.RecordHash = s.Record.SetID, s.Shares[Client].RecordHash
	for i := range forged.Keys {
		forged.Keys[i].PartyKey = s.Shares[Client].Keys[i].PartyKey
		one, err := forged.Only(forged.Keys[i].Curve)
		require.NoError(t, err)
		require.ErrorIs(t, check(one, Client), ErrShareMalformed)
	}
}

func TestShareOnly(t *testing.T) {
	s := Vector(t, Signing).Shares[Client]
	one, err := s.Only(Ed25519)
	require.NoError(t, err)
	require.Len(t, one.Keys, 1)
	require.Len(t, s.Keys, 2)
	require.Equal(t, Ed25519, one.Keys[0].Curve)
	_, err = one.Only(Secp256k1)
	require.ErrorIs(t, err, ErrShareMismatch)
	require.Nil(t, one.Key(Secp256k1))
}

func TestShareWipe(t *testing.T) {
	s := Vector(t, Signing).Shares[Client]
	var secrets []*big.Int
	for i := range s.Keys {
		secrets = append(secrets, s.Keys[i].xi)
	}
	secrets = append(secrets, s.Keys[0].paillierP, s.Keys[0].paillierQ)
	requireWiped(t, secrets, s.Wipe)
	s.Wipe()
	(*Share)(nil).Wipe()
}

// spellings returns the forms in which x could appear in an output.
func spellings(x *big.Int) []string {
	b := x.Bytes()
	list := strings.Trim(fmt.Sprintf("%d", b), "[]")
	return []string{
		x.String(), hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), list, strings.ReplaceAll(list, " ", ","),
		fmt.Sprintf("%#v", b), base64.StdEncoding.EncodeToString(b), string(b),
		fmt.Sprint(x.Bits()), fmt.Sprintf("%#v", x.Bits()),
	}
}

// No way of printing a share or pre-params in Go reveals a secret.
func TestNothingPrintsASecret(t *testing.T) {
	share := Vector(t, Signing).Shares[Client]
	pp := freshPreParams(t)
	key := share.Keys[0]
	var needles []string
	for _, x := range []*big.Int{
		key.xi, key.paillierP, key.paillierQ, share.Keys[1].xi, pp.p.PaillierSK.P, pp.p.P, pp.p.Alpha, pp.p.Beta,
	} {
		needles = append(needles, spellings(x)...)
	}
	type holder struct {
		Share  Share
		Ptr    *Share
		Key    KeyShare
		Keys   []KeyShare
		Map    map[string]*KeyShare
		Pre    PreParams
		PrePtr *PreParams
		New    NewKey
		In     ReshareInput
		Any    any
	}
	h := holder{
		*share, share, key, share.Keys, map[string]*KeyShare{"k": &key}, *pp, pp,
		NewKey{Share: key}, ReshareInput{Share: &key, PreParams: pp}, key,
	}
	values := []any{share, *share, key, &key, pp, *pp, share.Keys, h, &h, [2]*KeyShare{&key, &key}}

	var out bytes.Buffer
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%t", "%p", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v, fmt.Errorf("wrapped: %v", v))
		for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
			slog.New(handler).Info("m", "v", v, slog.Group("g", "v", v))
		}
		js, err := json.Marshal(v)
		require.NoError(t, err)
		out.Write(js)
	}
	// fmt does not call methods of values in unexported fields. There the secrets are protected by two pointers, of which
	// some verbs follow one.
	hidden := struct {
		key KeyShare
		ptr *KeyShare
		pre PreParams
	}{key, &key, *pp}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t", "%c", "%e"} {
		fmt.Fprintf(&out, verb+"\n", hidden)
		fmt.Fprintf(&out, verb+"\n", &hidden)
	}
	for i, needle := range needles {
		found := strings.Contains(out.String(), needle) // require.NotContains would print the output
		require.False(t, found, "spelling %d of secret %d", i%10, i/10)
	}
	for _, v := range []any{share, *share, key, &key, pp, *pp} {
		require.Equal(t, secret.Redacted, fmt.Sprint(v))
	}
	// Positive control: a spelling would be found.
	fmt.Fprintf(&out, "%d %d", key.xi, key.paillierP.Bytes())
	require.Contains(t, out.String(), needles[0])
	require.Contains(t, out.String(), needles[10+3])
}
