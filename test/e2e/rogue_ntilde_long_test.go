//go:build long

package e2e_test

import (
	"crypto/rand"
	"math/big"
	"testing"

	"github.com/bnb-chain/tss-lib/v2/crypto/dlnproof"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	"github.com/stretchr/testify/require"
)

// weakNTilde makes the first message of a new wallet contain another NTilde, h1 and h2, with valid DLN proofs of
// both. order is a multiple of that of h1.
func weakNTilde(t testing.TB, nTilde, h1, order *big.Int) func(*rogue, *eckeygen.KGRound1Message) {
	t.Helper()
	one, alpha := big.NewInt(1), big.NewInt(3)
	for new(big.Int).GCD(nil, nil, alpha, order).Cmp(one) != 0 {
		alpha.Add(alpha, big.NewInt(2))
	}
	h2, beta := new(big.Int).Exp(h1, alpha, nTilde), new(big.Int).ModInverse(alpha, order)
	// Any multiple of the order works as an exponent; with a large one no response is 0 or 1.
	require.LessOrEqual(t, order.BitLen(), 2048)
	large := new(big.Int).Lsh(one, uint(2048-order.BitLen()))
	var proofs [2][][]byte
	for i, x := range []struct{ base, power, log *big.Int }{{h1, h2, alpha}, {h2, h1, beta}} {
		for { // a commitment of 1 is rejected, which occurs with a small order
			proof := dlnproof.NewDLNProof(x.base, x.power, x.log, order, large, nTilde, rand.Reader)
			if proof.Verify(x.base, x.power, nTilde) {
				var err error
				proofs[i], err = proof.Serialize()
				require.NoError(t, err)
				break
			}
		}
	}
	return func(_ *rogue, m *eckeygen.KGRound1Message) {
		m.NTilde, m.H1, m.H2 = nTilde.Bytes(), h1.Bytes(), h2.Bytes()
		m.Dlnproof_1, m.Dlnproof_2 = proofs[0], proofs[1]
	}
}

// primeOf returns a prime of 1024 bits that is 1 modulo r; its two highest bits are 1.
func primeOf(t testing.TB, r int64) *big.Int {
	t.Helper()
	for {
		x, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 1024))
		require.NoError(t, err)
		x.SetBit(x.SetBit(x, 1023, 1), 1022, 1)
		x.Sub(x, new(big.Int).Mod(x, big.NewInt(2*r))).Add(x, big.NewInt(1))
		if x.ProbablyPrime(1) {
			return x
		}
	}
}

// A device whose NTilde is not a product of two large primes, or whose h1 has a small order, can prove everything
// that tss-lib asks for, but the worker rejects it.
func TestLongRogueNTilde(t *testing.T) {
	t.Parallel()
	one := big.NewInt(1)
	minus1 := func(x *big.Int) *big.Int { return new(big.Int).Sub(x, one) }
	p := primeOf(t, 1)
	square, squareOrder := new(big.Int).Mul(p, p), new(big.Int).Mul(p, minus1(p))

	smooth, smoothOrder := big.NewInt(1), big.NewInt(1) // of primes between 2^19 and 2^20
	times := func(f *big.Int) {
		smooth.Mul(smooth, f)
		g := new(big.Int).GCD(nil, nil, smoothOrder, minus1(f))
		smoothOrder.Mul(smoothOrder, minus1(f)).Div(smoothOrder, g) // their least common multiple
	}
	for smooth.BitLen() < 2020 {
		f, err := rand.Prime(rand.Reader, 20)
		require.NoError(t, err)
		if new(big.Int).Mod(smooth, f).Sign() != 0 {
			times(f)
		}
	}
	f := new(big.Int).Lsh(one, 2047) // and one more, for a length of 2048 bits
	f.Div(f, smooth).SetBit(f, 0, 1)
	for !f.ProbablyPrime(1) || new(big.Int).Mul(f, smooth).BitLen() < 2048 {
		f.Add(f, big.NewInt(2))
	}
	times(f)
	require.Equal(t, 2048, smooth.BitLen())

	const r = 1021
	a, b := primeOf(t, r), primeOf(t, r)
	n, phi := new(big.Int).Mul(a, b), new(big.Int).Mul(minus1(a), minus1(b))
	// Of order r modulo each, except with probability 1/r.
	h := new(big.Int).Exp(big.NewInt(2), phi.Div(phi, big.NewInt(r*r)), n)

	s := newStage(t, rogueConfig(0, true))
	for cause, change := range map[string]func(*rogue, *eckeygen.KGRound1Message){
		"NTilde is a power":          weakNTilde(t, square, big.NewInt(4), squareOrder),
		"NTilde has a small factor":  weakNTilde(t, smooth, big.NewInt(4), smoothOrder),
		"h1 or h2 has a small order": weakNTilde(t, n, h, big.NewInt(r)),
	} {
		s.stopped(t, cause, s.ecRogue(t, "CREATE", held{}, editing(change)), cause)
	}
}
