package tss

import (
	"bytes"
	"crypto/rand"
	"math/big"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/bnb-chain/tss-lib/v2/common"
	"github.com/bnb-chain/tss-lib/v2/crypto/dlnproof"
	"github.com/bnb-chain/tss-lib/v2/crypto/facproof"
	"github.com/bnb-chain/tss-lib/v2/crypto/modproof"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// forgeModProof makes a modulus proof that tss-lib accepts for the product of factors. These must be distinct primes,
// the last one 3 mod 4, and none may divide another one minus 1.
//
// For each Y that it draws, the verifier requires an N-th root of Y, and a fourth root of one of Y, -Y, WY and -WY. The
// first exists for every squarefree N that is coprime to phi(N), with any number of factors. The second shows that
// there are only two factors: each further prime halves the fraction of Ys for which one of the four has a root. But
// tss-lib only rejects a W with Jacobi symbol 1. This W is zero mod all factors but the last, p, so that its symbol is
// 0. Then 0 is a fourth root of WY and -WY mod all of those factors, and one of the two has a root mod p.
//
// A W with symbol -1 shares no factor with N. This alone still allows N = 3pq: mod 3 a third of the Ys is zero, which
// has a root, and half of the others can be answered, so that a proof succeeds with probability (1/3 + 2/3 * 1/2)^80 =
// 2^-46.8, and a forger needs about 2^47 Ws. So small factors are rejected, too: with the smallest prime that is left
// the probability is 2^-80.
func forgeModProof(t *testing.T, session []byte, factors ...*big.Int) (*big.Int, *modproof.ProofMod) {
	t.Helper()
	one := big.NewInt(1)
	n, phi := big.NewInt(1), big.NewInt(1)
	for _, f := range factors {
		n.Mul(n, f)
		phi.Mul(phi, new(big.Int).Sub(f, one))
	}
	root := new(big.Int).ModInverse(n, phi)
	require.NotNil(t, root, "N and phi(N) are not coprime")
	p := factors[len(factors)-1]
	rest := new(big.Int).Div(n, p)
	// y -> y^fourth is a fourth root of a square y mod p.
	fourth := new(big.Int).Add(p, one)
	fourth.Rsh(fourth, 2)
	fourth.Mul(fourth, fourth)
	inverse := new(big.Int).ModInverse(rest, p)
	require.NotNil(t, inverse)

	bits := func() *big.Int { return new(big.Int).Lsh(one, modproof.Iterations) }
	pf := &modproof.ProofMod{W: rest, A: bits(), B: bits()}
	var ys []*big.Int
	for i := range modproof.Iterations {
		y := common.RejectionSample(n, common.SHA512_256i_TAGGED(session, append([]*big.Int{pf.W, n}, ys...)...))
		ys = append(ys, y)
		pf.Z[i] = new(big.Int).Exp(y, root, n)
		v := new(big.Int).Mul(pf.W, y)
		if v.Mod(v, p); big.Jacobi(v, p) == -1 {
			v.Sub(p, v)
			pf.A.SetBit(pf.A, i, 1)
		}
		pf.B.SetBit(pf.B, i, 1)
		x := v.Exp(v, fourth, p)
		x.Mod(x.Mul(x, inverse), p)
		pf.X[i] = x.Mul(x, rest)
	}
	return n, pf
}

// plantedFactors returns the factors of an N of 2048 bits: five Fermat primes, of which none divides another one minus
// 1, and two large primes.
func plantedFactors(t *testing.T) []*big.Int {
	t.Helper()
	var factors []*big.Int
	smooth := big.NewInt(1)
	for _, f := range []int64{3, 5, 17, 257, 65537} {
		factors = append(factors, big.NewInt(f))
		smooth.Mul(smooth, big.NewInt(f))
	}
	p := allPrimes(t)[0] // a safe one: p - 1 is twice a prime
	for {
		q, err := rand.Prime(rand.Reader, modulusBits-1024-32)
		require.NoError(t, err)
		n := new(big.Int).Mul(smooth, new(big.Int).Mul(p, q))
		if coprime(new(big.Int).Sub(q, big.NewInt(1)), smooth) && n.BitLen() == modulusBits {
			return append(factors, q, p)
		}
	}
}

// tss-lib.md, row 18: real parties reshare to a Paillier N of 512 bits and an NTilde of 64. tss-lib checks their sizes
// in a key generation, but not in a resharing.
func TestRow18BareSmallKeys(t *testing.T) {
	t.Parallel()
	pre := small(t)
	b, ends := bareResharing(t, pre)
	var verdict error
	b.tamper = func(all batch) {
		if m, ok := all[typeOf(&ecresharing.DGRound2Message1{})]; ok {
			verdict = b.check(t, m)
		}
	}
	stack, err := b.run(t)
	require.NoError(t, err)
	require.Empty(t, stack)
	got := <-ends[victim]
	require.NotNil(t, got.Xi)
	require.Equal(t, pre[hostile].PaillierSK.N, got.PaillierPKs[0].N)
	require.Equal(t, 512, got.PaillierPKs[0].N.BitLen())
	require.Equal(t, 64, got.NTildej[0].BitLen())
	require.EqualError(t, verdict, "DGRound2Message1: N is not odd with 2048 bits")
}

// tss-lib.md, row 18: real parties reshare, and the victim accepts 3*5*17*257*65537*p*q as a Paillier N of its new set,
// with a modulus proof and a factor proof. The other keys are small, to save time.
func TestRow18BareForgedProof(t *testing.T) {
	t.Parallel()
	factors := plantedFactors(t)
	b, ends := bareResharing(t, small(t))
	var n *big.Int
	var verdict error
	b.tamper = func(all batch) {
		if m, ok := all[typeOf(&ecresharing.DGRound2Message1{})].(*ecresharing.DGRound2Message1); ok {
			r1 := as[*ecresharing.DGRound1Message](b.sent)
			var pf *modproof.ProofMod
			n, pf = forgeModProof(t, r1.GetSsid(), factors...) // the hostile party's index is 0, of no bytes
			parts := pf.Bytes()
			m.PaillierN, m.ModProof = n.Bytes(), parts[:]
			verdict = b.check(t, m)
		}
		if m, ok := all[typeOf(&ecresharing.DGRound4Message1{})].(*ecresharing.DGRound4Message1); ok {
			session := append(as[*ecresharing.DGRound1Message](b.sent).GetSsid(), 1)
			r2 := as[*ecresharing.DGRound2Message1](b.sent)
			q := factors[len(factors)-2]
			pf, err := facproof.NewProof(session, b.curve.ec(), n, r2.UnmarshalNTilde(), r2.UnmarshalH1(), r2.UnmarshalH2(),
				new(big.Int).Div(n, q), q, rand.Reader)
			require.NoError(t, err)
			parts := pf.Bytes()
			m.FacProof = parts[:]
		}
	}
	stack, err := b.run(t)
	require.NoError(t, err)
	require.Empty(t, stack)
	require.Equal(t, n, (<-ends[victim]).PaillierPKs[0].N, "the new share has the forged N")
	require.EqualError(t, verdict, "DGRound2Message1: N has a small factor")
}

// as returns the message of type M.
func as[M proto.Message](all batch) M {
	var none M
	m, _ := all[typeOf(none)].(M)
	return m
}

// fullKeys returns public keys of full size, and proofs for them that have the right form only.
func fullKeys(t *testing.T) (n, nTilde, h1, h2 []byte, dln, mod [][]byte) {
	t.Helper()
	primes := allPrimes(t)
	p, q := new(big.Int).Mul(primes[0], primes[1]), new(big.Int).Mul(primes[2], primes[3])
	var pf dlnproof.Proof
	for i := range pf.T {
		pf.Alpha[i], pf.T[i] = big.NewInt(7), big.NewInt(7)
	}
	dln, err := pf.Serialize()
	require.NoError(t, err)
	for range modproof.ProofModBytesParts {
		mod = append(mod, []byte{7})
	}
	mod[0] = common.GetRandomQuadraticNonResidue(rand.Reader, p).Bytes()
	return p.Bytes(), q.Bytes(), []byte{4}, []byte{9}, dln, mod
}

// The same in a key generation, where tss-lib requires 2048 bits of N and NTilde, but nothing else. This N has two
// large factors, so that only the W gives the forgery away; one of them is 1 mod 4, which the proof should exclude. The
// test calls what ecdsa/keygen/round_3.go:96 calls.
func TestRow18BareForgedProofInKeygen(t *testing.T) {
	t.Parallel()
	p := allPrimes(t)[0]
	q, err := rand.Prime(rand.Reader, 1024)
	require.NoError(t, err)
	for q.Bit(1) == 1 || new(big.Int).Mul(p, q).BitLen() != modulusBits {
		q, err = rand.Prime(rand.Reader, 1024)
		require.NoError(t, err)
	}
	session := []byte("ssid")
	n, pf := forgeModProof(t, session, q, p)
	parts := pf.Bytes()
	r2 := &eckeygen.KGRound2Message2{DeCommitment: [][]byte{{7}}, ModProof: parts[:]}
	for range vssPoints {
		g := b256k1(big.NewInt(5))
		r2.DeCommitment = append(r2.DeCommitment, g[0], g[1])
	}
	received, err := r2.UnmarshalModProof()
	require.NoError(t, err)
	require.True(t, received.Verify(session, n))
	require.False(t, received.Verify([]byte("another ssid"), n), "the proof is bound to a session")

	r1 := &eckeygen.KGRound1Message{Commitment: []byte{7}}
	_, r1.NTilde, r1.H1, r1.H2, r1.Dlnproof_1, _ = fullKeys(t)
	r1.PaillierN, r1.Dlnproof_2 = n.Bytes(), r1.GetDlnproof_1()
	g := &ingress{curve: Secp256k1, me: Server, proto: keygens[Secp256k1]}
	check := func(m proto.Message) error {
		b := payload(t, m)
		var a anypb.Any
		require.NoError(t, proto.Unmarshal(b, &a))
		return g.check(&a, g.proto.steps[typeOf(m)], b)
	}
	require.NoError(t, check(r1))
	g.sent = map[protoreflect.FullName]bool{typeOf(r1): true}
	require.EqualError(t, check(r2), "KGRound2Message2: the modulus proof's W does not have Jacobi symbol -1 mod N")
	r2.ModProof[0] = common.GetRandomQuadraticNonResidue(rand.Reader, n).Bytes()
	require.NoError(t, check(r2))
}

// b256k1 returns the coordinates of x*G.
func b256k1(x *big.Int) [2][]byte {
	p := Secp256k1.baseMult(x)
	return [2][]byte{p.X().Bytes(), p.Y().Bytes()}
}

// tss-lib.md, row 20: tss-lib accepts integers of any size, which a real party stores and then computes with, however
// long that takes: a share of 64 KiB, and a W1 of 512 KiB.
func TestRow20Bare(t *testing.T) {
	t.Parallel()
	long := func(n int) []byte { return bytes.Repeat([]byte{0x5a}, n) }
	fac := slices.Repeat([][]byte{{7}}, len(facLimits))
	fac[8] = long(512 << 10)
	resharing, _ := bareResharing(t, small(t))
	for _, x := range []struct {
		b       *bare
		m       lib.MessageContent
		refused string
	}{
		{bareEdKeygen(), &edkeygen.KGRound2Message1{Share: long(64 << 10)}, "share has 65536 bytes, want 1 to 32"},
		{resharing, &ecresharing.DGRound4Message1{FacProof: fac}, "factor proof has 524288 bytes, want 1 to 353"},
	} {
		st := x.b.proto.steps[typeOf(x.m)]
		side := x.b.parties[victim]
		to := side[len(side)-1]
		require.True(t, x.m.ValidateBasic())
		m, err := lib.ParseWireMessage(payload(t, x.m), to.senders[st.from][hostile], st.broadcast)
		require.NoError(t, err)
		ok, e := to.party.StoreMessage(m)
		require.Nil(t, e)
		require.True(t, ok)
		x.b.sent = batch{}
		for name := range x.b.proto.steps { // of all rounds, so that no message is too early
			x.b.sent[name] = nil
		}
		require.ErrorContains(t, x.b.check(t, x.m), x.refused)
	}
}
