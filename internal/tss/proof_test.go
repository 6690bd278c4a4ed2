package tss

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"math/big"
	"reflect"
	"slices"
	"testing"

	"filippo.io/edwards25519"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/stretchr/testify/require"
)

// proven is a client's hello with its context.
type proven struct {
	hello   Hello
	context HelloContext
	rec     *Record
}

// newProven returns the hello of an operation that uses one of the committed sets, with c as the set's first curve. It
// is deterministic but for party keys and Ed25519 proofs.
func newProven(t testing.TB, c Curve, purpose Purpose, operation byte) *proven {
	t.Helper()
	s := Vector(t, purpose)
	j := fuzzOperation(s, operation, Client)
	j.Instance = "5d3f4a1e-0a57-4d2c-8a7e-3f5b1c9d2e60"
	j.Payload = bytes.Repeat([]byte{5}, 32)
	p := &proven{rec: s.Record}
	p.hello = Hello{Nonce: bytes.Repeat([]byte{1}, nonceLen), SessionKey: bytes.Repeat([]byte{2}, keyLen)}
	var err error
	p.hello.PartyKeys, err = newPartyKeys(j.newCurves())
	require.NoError(t, err)
	if c != s.Record.Keys[0].Curve {
		key, ok := s.Record.Key(c)
		require.True(t, ok)
		p.rec = &Record{SetID: s.Record.SetID, Keys: []KeyRecord{*key}}
		j.Share, err = j.Share.Only(c)
		require.NoError(t, err)
	}
	require.NoError(t, p.hello.Prove(j.helloContext(), j.Share))
	p.context = HelloContext{
		Operation: j.Kind, SessionID: "d7a9c1f5-55a5-4a3e-9a65-2b4b2a0f3a11", Attempt: 1, WalletID: s.Record.WalletID,
		ShareSetID: s.Record.ShareSetID, RecordHash: Hash(s.Encoded), Payload: j.Payload,
		Instance: "5d3f4a1e-0a57-4d2c-8a7e-3f5b1c9d2e60",
	}
	return p
}

func (p *proven) verify() error { return p.hello.VerifyProof(&p.context, p.rec) }

// changed returns a changed copy of p.
func (p *proven) changed(change func(*proven)) *proven {
	q := *p
	for _, f := range []*[]byte{
		&q.hello.Nonce, &q.hello.SessionKey, &q.hello.PartyKeys, &q.hello.Proof, &q.context.Payload,
	} {
		*f = bytes.Clone(*f)
	}
	change(&q)
	return &q
}

// A proof covers every field: it is invalid if one of them is changed.
func TestProofIsOverEveryField(t *testing.T) {
	t.Parallel()
	of := map[string]func(*proven){ // by field of the context, and of a client's hello
		"Operation":  func(p *proven) { p.context.Operation = "BACKUP" },
		"SessionID":  func(p *proven) { p.context.SessionID = "d7a9c1f5-55a5-4a3e-9a65-2b4b2a0f3a12" },
		"Attempt":    func(p *proven) { p.context.Attempt++ },
		"WalletID":   func(p *proven) { p.context.WalletID = p.context.ShareSetID },
		"ShareSetID": func(p *proven) { p.context.ShareSetID = p.context.WalletID },
		"RecordHash": func(p *proven) { p.context.RecordHash[31] ^= 1 },
		"Payload":    func(p *proven) { p.context.Payload[0] ^= 1 },
		"Instance":   func(p *proven) { p.context.Instance = p.context.SessionID },
		"Nonce":      func(p *proven) { p.hello.Nonce[31] ^= 1 },
		"SessionKey": func(p *proven) { p.hello.SessionKey[0] ^= 1 },
		"PartyKeys":  func(p *proven) { p.hello.PartyKeys = append(p.hello.PartyKeys, 1) },
		"Proof":      func(p *proven) { p.hello.Proof[40] ^= 1 },
	}
	// checkForm rejects the server's three fields in a client's hello.
	fields := reflect.TypeFor[HelloContext]().NumField() + reflect.TypeFor[Hello]().NumField() - 3
	require.Len(t, of, fields, "a field without a case")
	for _, c := range Curves() {
		for _, operation := range []byte{2, 3} {
			p := newProven(t, c, Signing, operation)
			require.NoError(t, p.verify())
			for name, change := range of {
				err := p.changed(change).verify()
				if name == "Payload" && operation != 3 { // not a signing
					require.NoError(t, err)
					continue
				}
				require.ErrorIs(t, err, ErrShareMismatch, "%v %s", c, name)
			}
			// A byte cannot move from one field to the next.
			require.ErrorIs(t, p.changed(func(p *proven) {
				p.hello.SessionKey = append(p.hello.Nonce[31:], p.hello.SessionKey...)
				p.hello.Nonce = p.hello.Nonce[:31]
			}).verify(), ErrShareMismatch)
			require.NoError(t, p.verify(), "the cases changed only copies")
		}
	}
}

// A proof signs what ADR 5 specifies, computed here independently.
func TestProofDigest(t *testing.T) {
	t.Parallel()
	hc := HelloContext{
		Operation: OperationSign, SessionID: "session", Attempt: 258,
		WalletID: "wallet", ShareSetID: "set", Instance: "instance",
		RecordHash: [32]byte{9}, Payload: []byte("payload"),
	}
	x := &Hello{
		Nonce: []byte("nonce"), SessionKey: []byte("key"), PartyKeys: []byte("keys"),
		WalletID: "x", ShareSetID: "x", Record: []byte("x"), Proof: []byte("x"), // not covered
	}
	expected := func(signed []byte) []byte {
		var all []byte
		for _, f := range [][]byte{
			[]byte("mpcd hello 1"), []byte(hc.Operation), []byte("session"), {0, 0, 1, 2},
			[]byte("wallet"), []byte("set"), append([]byte{9}, make([]byte, 31)...), signed,
			[]byte("CLIENT"), []byte("instance"), []byte("nonce"), []byte("key"), []byte("keys"),
		} {
			all = append(append(all, 0, 0, 0, byte(len(f))), f...)
		}
		sum := sha256.Sum256(all)
		return sum[:]
	}
	signed := sha256.Sum256([]byte("payload"))
	require.Equal(t, expected(signed[:]), hc.digest(x))
	hc.Operation = "PROVISION"
	require.Equal(t, expected(nil), hc.digest(x))
}

// The hash of a direction covers every field of a hello, so that both sides confirm them.
func TestHelloIsHashed(t *testing.T) {
	t.Parallel()
	sums := map[string]bool{}
	of := reflect.TypeFor[Hello]()
	for i := -1; i < of.NumField(); i++ { // -1: nothing is changed
		x := Hello{
			Nonce: []byte("a"), SessionKey: []byte("a"), PartyKeys: []byte("a"),
			WalletID: "a", ShareSetID: "a", Record: []byte("a"), Proof: []byte("a"),
		}
		if i >= 0 {
			f := reflect.ValueOf(&x).Elem().Field(i)
			f.Set(reflect.ValueOf("b").Convert(f.Type()))
		}
		h := sha256.New()
		(&Part{Hello: &x}).addTo(h)
		sums[string(h.Sum(nil))] = true
	}
	require.Len(t, sums, of.NumField()+1)
}

// A proof is valid only under the client's share of the same set, with its key on the set's first curve.
func TestProofOfAnotherShare(t *testing.T) {
	t.Parallel()
	s, other := Vector(t, Signing), Vector(t, Backup)
	for _, c := range Curves() {
		p := newProven(t, c, Signing, 3)
		for what, share := range map[string]*Share{
			"the server's": s.Shares[Server], "of another set": other.Shares[Client],
		} {
			only, err := share.Only(c)
			require.NoError(t, err)
			q := p.changed(func(q *proven) { require.NoError(t, q.hello.Prove(&q.context, only)) })
			require.ErrorIs(t, q.verify(), ErrShareMismatch, "%v %s", c, what)
		}
	}
	p := newProven(t, Secp256k1, Signing, 3)
	only, err := s.Shares[Client].Only(Ed25519)
	require.NoError(t, err)
	prove := func(share *Share) *proven {
		return p.changed(func(q *proven) { require.NoError(t, q.hello.Prove(&q.context, share)) })
	}
	require.ErrorIs(t, prove(only).verify(), ErrShareMismatch, "the right share's second key")
	require.NoError(t, prove(s.Shares[Client]).verify())
	require.ErrorIs(t, new(Hello).Prove(&p.context, new(Share)), ErrShareMismatch)
}

// A proof has one valid form: another one cannot be derived from it.
func TestProofHasOneForm(t *testing.T) {
	t.Parallel()
	refused := map[Curve]map[string]func([]byte) []byte{}
	for _, c := range Curves() {
		refused[c] = map[string]func([]byte) []byte{
			"none":     func([]byte) []byte { return nil },
			"short":    func(b []byte) []byte { return b[:63] },
			"long":     func(b []byte) []byte { return append(b, 0) },
			"zeros":    func([]byte) []byte { return make([]byte, 64) },
			"ones":     func([]byte) []byte { return bytes.Repeat([]byte{0xff}, 64) },
			"no first": func(b []byte) []byte { return append(make([]byte, 32), b[32:]...) },
			"no s":     func(b []byte) []byte { return append(b[:32], make([]byte, 32)...) },
			"swapped":  func(b []byte) []byte { return append(bytes.Clone(b[32:]), b[:32]...) },
		}
	}
	refused[Secp256k1]["high s"] = func(b []byte) []byte {
		s := new(big.Int).SetBytes(b[32:])
		s.Sub(Secp256k1.order(), s).FillBytes(b[32:])
		return b
	}
	refused[Ed25519]["s and the order"] = func(b []byte) []byte {
		slices.Reverse(b[32:])
		s := new(big.Int).SetBytes(b[32:])
		s.Add(Ed25519.order(), s).FillBytes(b[32:])
		slices.Reverse(b[32:])
		return b
	}
	refused[Ed25519]["a small component"] = func(b []byte) []byte {
		r, err := new(edwards25519.Point).SetBytes(b[:32])
		require.NoError(t, err)
		order2 := slices.Concat([]byte{0xec}, bytes.Repeat([]byte{0xff}, 30), []byte{0x7f}) // (0, -1)
		minusOne, err := new(edwards25519.Point).SetBytes(order2)
		require.NoError(t, err)
		copy(b, r.Add(r, minusOne).Bytes())
		return b
	}
	for _, c := range Curves() {
		p := newProven(t, c, Signing, 3)
		for what, change := range refused[c] {
			q := p.changed(func(q *proven) { q.hello.Proof = change(q.hello.Proof) })
			require.ErrorIs(t, q.verify(), ErrShareMismatch, "%v %s", c, what)
		}
	}
}

// Small r and s have a second form below 2^256, with q added, which is rejected. The test makes a public key for a
// signature with such an r and s.
func TestProofOfSmallNumbers(t *testing.T) {
	t.Parallel()
	var x, y secp256k1.FieldVal
	r := uint16(1)
	for ; !secp256k1.DecompressY(x.SetInt(r), false, &y); r++ {
	}
	digest := bytes.Repeat([]byte{3}, 32)
	// R = (z*G + r*P) / s with s = 1: P = (R - z*G) / r.
	var z, k secp256k1.ModNScalar
	z.SetByteSlice(digest)
	var point, zG, sum, p secp256k1.JacobianPoint
	point.X.Set(&x)
	point.Y.Set(&y)
	point.Z.SetInt(1)
	secp256k1.ScalarBaseMultNonConst(z.Negate(), &zG)
	secp256k1.AddNonConst(&point, &zG, &sum)
	secp256k1.ScalarMultNonConst(k.SetInt(uint32(r)).InverseNonConst(), &sum, &p)
	p.ToAffine()
	pub := secp256k1.NewPublicKey(&p.X, &p.Y)

	number := func(n uint16, more *big.Int) []byte {
		v := big.NewInt(int64(n))
		return v.Add(v, more).FillBytes(make([]byte, 32))
	}
	none, q := new(big.Int), Secp256k1.order()
	require.True(t, verifyECDSA(pub, digest, append(number(r, none), number(1, none)...)))
	require.False(t, verifyECDSA(pub, digest, append(number(r, q), number(1, none)...)))
	require.False(t, verifyECDSA(pub, digest, append(number(r, none), number(1, q)...)))
	require.False(t, verifyECDSA(pub, append(digest, 0), append(number(r, none), number(1, none)...)))
}

// crypto/ed25519 accepts a signature with a nonce of zero, which reveals the signer's key; verifyEdDSA does not.
func TestProofWithoutANonce(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	key, shares := s.Key(t, Ed25519)
	public := Ed25519.encodePoint(key.Parties[Client].BigX)
	message := bytes.Repeat([]byte{3}, 32)
	neutral := edwards25519.NewIdentityPoint().Bytes()
	scalar := hashToScalar(neutral, public, message)
	scalar.Multiply(scalar, edwardsScalar(shares[Client].xi))
	sig := append(bytes.Clone(neutral), scalar.Bytes()...)
	require.True(t, ed25519.Verify(public, message, sig))
	require.False(t, verifyEdDSA(public, message, sig))
	require.True(t, verifyEdDSA(public, message, proveEdDSA(shares[Client].xi, message)))
	require.False(t, verifyEdDSA(public[:31], message, proveEdDSA(shares[Client].xi, message)))
}

// The ECDSA nonce is that of RFC 6979, the same for the same hello; the Ed25519 nonce depends on fresh randomness.
// Neither proof changes the share.
func TestProofNonces(t *testing.T) {
	t.Parallel()
	for _, c := range Curves() {
		_, shares := Vector(t, Signing).Key(t, c)
		x, before := shares[Client].xi, EncodeKey(t, shares[Client])
		prove := proveECDSA
		if c == Ed25519 {
			prove = proveEdDSA
		}
		digest := bytes.Repeat([]byte{3}, 32)
		require.Equal(t, c == Secp256k1, bytes.Equal(prove(x, digest), prove(x, digest)))
		require.NotEqual(t, prove(x, digest)[:32], prove(x, bytes.Repeat([]byte{4}, 32))[:32])
		require.Equal(t, before, EncodeKey(t, shares[Client]))
	}
}

// A client's hello must have a proof if a set is used; no other hello may have one.
func TestHelloHasAProof(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	for operation := range byte(4) {
		curves := fuzzOperation(s, operation, Client).newCurves()
		keys, err := newPartyKeys(curves)
		require.NoError(t, err)
		for _, from := range []Party{Client, Server} {
			for _, n := range []int{0, 1, 63, 64, 65, 128} {
				want := 0
				if from == Client && operation != 0 {
					want = 64
				}
				h := &Hello{Nonce: newNonce(), SessionKey: newNonce(), PartyKeys: keys, Proof: make([]byte, n)}
				err := h.checkForm(from, curves, operation != 0)
				require.Equal(t, n == want, err == nil, "operation %d, %v, %d bytes", operation, from, n)
			}
		}
	}
}
