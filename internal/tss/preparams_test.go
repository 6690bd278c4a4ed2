package tss

import (
	"bytes"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
)

// tss-lib.md, row 10: tss-lib only checks for nils, and accepts pre-params of zeros.
func TestRow10Validate(t *testing.T) {
	one, two := big.NewInt(1), big.NewInt(2)
	plus := func(x *big.Int, k int64) *big.Int { return new(big.Int).Add(x, big.NewInt(k)) }
	// composite returns a composite number of the right form and size.
	composite := func(like *big.Int) *big.Int {
		x := new(big.Int).Set(like)
		for x.ProbablyPrime(20) {
			x.Sub(x, big.NewInt(4))
		}
		return x
	}
	// unsafePrime returns a prime x that is 3 mod 4, but for which (x-1)/2 is not prime.
	unsafePrime := func(like *big.Int) *big.Int {
		x := new(big.Int).Set(like)
		for {
			x.Sub(x, big.NewInt(4))
			if x.ProbablyPrime(20) && !new(big.Int).Rsh(x, 1).ProbablyPrime(20) {
				return x
			}
		}
	}
	half := func(x *big.Int) *big.Int { return new(big.Int).Rsh(x, 1) }
	safe := func(half *big.Int) *big.Int { return plus(new(big.Int).Mul(half, two), 1) }
	// moduli recomputes N and NTilde, so that only the primes are wrong.
	moduli := func(pp *PreParams) {
		p := pp.p
		p.PaillierSK = paillierKey(p.PaillierSK.P, p.PaillierSK.Q)
		p.NTildei = new(big.Int).Mul(safe(p.P), safe(p.Q))
	}
	cases := map[string]struct {
		spoil func(pp *PreParams)
		want  string
	}{
		"composite P": {func(pp *PreParams) {
			pp.p.PaillierSK.P = composite(plus(pp.p.PaillierSK.P, -4))
			moduli(pp)
		}, "not a safe prime"},
		"composite Q": {func(pp *PreParams) {
			pp.p.PaillierSK.Q = composite(plus(pp.p.PaillierSK.Q, -4))
			moduli(pp)
		}, "not a safe prime"},
		"P not safe": {func(pp *PreParams) {
			pp.p.PaillierSK.P = unsafePrime(pp.p.PaillierSK.P)
			moduli(pp)
		}, "not a safe prime"},
		"Q not safe": {func(pp *PreParams) {
			pp.p.PaillierSK.Q = unsafePrime(pp.p.PaillierSK.Q)
			moduli(pp)
		}, "not a safe prime"},
		"P 1 mod 4": {func(pp *PreParams) { pp.p.PaillierSK.P = plus(pp.p.PaillierSK.P, -2); moduli(pp) }, "3 mod 4"},
		"P even":    {func(pp *PreParams) { pp.p.PaillierSK.P = plus(pp.p.PaillierSK.P, -1); moduli(pp) }, "3 mod 4"},
		"P = Q":     {func(pp *PreParams) { pp.p.PaillierSK.Q = pp.p.PaillierSK.P; moduli(pp) }, "equal"},
		"short P":   {func(pp *PreParams) { pp.p.PaillierSK.P = big.NewInt(23); moduli(pp) }, "2048 bits"},
		"P short, Q long": {func(pp *PreParams) {
			p := pp.p.PaillierSK
			p.P, p.Q = half(p.P), new(big.Int).Mul(p.Q, two)
			moduli(pp)
		}, "1024 bits"},
		"negative P and Q": {func(pp *PreParams) {
			p := pp.p.PaillierSK
			p.P, p.Q = new(big.Int).Neg(p.P), new(big.Int).Neg(p.Q)
		}, "1024 bits"},
		"N": {func(pp *PreParams) { n := pp.p.PaillierSK; n.N = plus(n.N, 2) }, "not that of P and Q"},
		"phi": {func(pp *PreParams) {
			n := pp.p.PaillierSK
			n.PhiN = plus(n.PhiN, 2)
		}, "not that of P and Q"},
		"lambda": {func(pp *PreParams) {
			n := pp.p.PaillierSK
			n.LambdaN = plus(n.LambdaN, 2)
		}, "not that of P and Q"},
		"no phi":    {func(pp *PreParams) { pp.p.PaillierSK.PhiN = nil }, "not that of P and Q"},
		"no lambda": {func(pp *PreParams) { pp.p.PaillierSK.LambdaN = nil }, "not that of P and Q"},
		"composite p": {func(pp *PreParams) {
			pp.p.P = half(composite(safe(plus(pp.p.P, -2))))
			moduli(pp)
		}, "not a safe prime"},
		"2q+1 not prime": {func(pp *PreParams) {
			pp.p.Q = half(composite(plus(safe(pp.p.Q), -4)))
			moduli(pp)
		}, "not a safe prime"},
		"p not prime": {func(pp *PreParams) {
			pp.p.P = half(unsafePrime(safe(pp.p.P)))
			moduli(pp)
		}, "not a safe prime"},
		"p = q":   {func(pp *PreParams) { pp.p.Q = pp.p.P; moduli(pp) }, "equal"},
		"short p": {func(pp *PreParams) { pp.p.P = big.NewInt(11); moduli(pp) }, "2048 bits"},
		"NTilde":  {func(pp *PreParams) { pp.p.NTildei = plus(pp.p.NTildei, 2) }, "not (2p+1)(2q+1)"},
		"N = NTilde": {func(pp *PreParams) {
			pp.p.P, pp.p.Q = half(pp.p.PaillierSK.P), half(pp.p.PaillierSK.Q)
			moduli(pp)
		}, "common factor"},
		"a common prime":         {func(pp *PreParams) { pp.p.P = half(pp.p.PaillierSK.Q); moduli(pp) }, "common factor"},
		"h1 = h2":                {func(pp *PreParams) { pp.p.H2i = pp.p.H1i }, "h1 equals h2"},
		"h2 not h1^alpha":        {func(pp *PreParams) { pp.p.H2i = plus(pp.p.H2i, 1) }, "h1^alpha"},
		"h1 not of alpha":        {func(pp *PreParams) { pp.p.H1i = plus(pp.p.H1i, 1) }, "h1^alpha"},
		"alpha":                  {func(pp *PreParams) { pp.p.Alpha = plus(pp.p.Alpha, 1) }, "alpha*beta"},
		"beta":                   {func(pp *PreParams) { pp.p.Beta = plus(pp.p.Beta, 1) }, "alpha*beta"},
		"alpha and beta swapped": {func(pp *PreParams) { pp.p.Alpha, pp.p.Beta = pp.p.Beta, pp.p.Alpha }, "h1^alpha"},
		"h1 zero":                {func(pp *PreParams) { pp.p.H1i = new(big.Int) }, "trivial"},
		"h1 one":                 {func(pp *PreParams) { pp.p.H1i = one }, "trivial"},
		"h2 minus one":           {func(pp *PreParams) { pp.p.H2i = plus(pp.p.NTildei, -1) }, "trivial"},
		"h1 over NTilde":         {func(pp *PreParams) { pp.p.H1i = new(big.Int).Add(pp.p.H1i, pp.p.NTildei) }, "trivial"},
		"h1 not a unit":          {func(pp *PreParams) { pp.p.H1i = safe(pp.p.P) }, "not a unit"},
		"negative h2":            {func(pp *PreParams) { pp.p.H2i = new(big.Int).Neg(pp.p.H2i) }, "trivial"},
		"zeros": {func(pp *PreParams) {
			p := pp.p
			sk := p.PaillierSK
			for _, x := range []**big.Int{
				&sk.N, &sk.P, &sk.Q, &sk.PhiN, &sk.LambdaN,
				&p.NTildei, &p.H1i, &p.H2i, &p.Alpha, &p.Beta, &p.P, &p.Q,
			} {
				*x = new(big.Int)
			}
		}, "equal"},
		"no Paillier key": {func(pp *PreParams) { pp.p.PaillierSK = nil }, "incomplete"},
		"no h1":           {func(pp *PreParams) { pp.p.H1i = nil }, "incomplete"},
		"no beta":         {func(pp *PreParams) { pp.p.Beta = nil }, "incomplete"},
		"used":            {func(pp *PreParams) { pp.Wipe() }, "incomplete or used"},
	}
	require.NoError(t, freshPreParams(t).Validate())
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pp := freshPreParams(t)
			c.spoil(pp)
			err := pp.check(loadRounds) // faster than Validate, which has more rounds
			require.ErrorIs(t, err, ErrPreParams)
			require.ErrorContains(t, err, c.want)
		})
	}
	require.ErrorIs(t, (*PreParams)(nil).Validate(), ErrPreParams)
	require.ErrorIs(t, new(PreParams).Validate(), ErrPreParams)
}

// The product of two close primes can be factored by Fermat's method; tss-lib has the same bound.
func TestRow10ClosePrimes(t *testing.T) {
	t.Parallel()
	pp := freshPreParams(t)
	sk := pp.p.PaillierSK
	// Searching for the next safe prime takes too long. Any pair with equal top bits is enough, and there is one among the
	// committed sets.
	var near [2]*big.Int
	all := allPrimes(t)
	for i, x := range all {
		for _, y := range all[:i] {
			d := new(big.Int).Sub(x, y)
			if d.Sign() != 0 && d.BitLen() < minDifferenceBits && new(big.Int).Mul(x, y).BitLen() == modulusBits {
				near = [2]*big.Int{x, y}
			}
		}
	}
	require.NotNil(t, near[0])
	pp.p.PaillierSK = paillierKey(near[0], near[1])
	err := pp.Validate()
	require.ErrorIs(t, err, ErrPreParams)
	require.ErrorIs(t, err, errTooClose)
	pp.p.PaillierSK = sk
	require.NoError(t, pp.Validate())
}

// Encoding and parsing are inverse; truncated, longer or altered encodings are rejected.
func TestPreParamsEncoding(t *testing.T) {
	t.Parallel()
	b := preParamsBytes(t)
	pp, err := ParsePreParams(secret.New(bytes.Clone(b)))
	require.NoError(t, err)
	again, err := pp.Encode()
	require.NoError(t, err)
	require.True(t, bytes.Equal(b, again.Reveal()))
	n, nTilde := pp.Moduli()
	require.Zero(t, n.Cmp(pp.p.PaillierSK.N))
	n.SetInt64(0)
	nTilde.SetInt64(0)
	require.NoError(t, pp.Validate(), "Moduli returns copies")

	for i := range b {
		_, err := ParsePreParams(secret.New(bytes.Clone(b[:i])))
		require.ErrorIs(t, err, ErrPreParams, "%d bytes", i)
	}
	requireStrict(t, b, maxPreParamsBytes, ErrPreParams, func(b []byte) error {
		_, err := ParsePreParams(secret.New(b))
		return err
	})
	for i := 30; i < len(b); i += len(b) / 40 { // in every field
		altered := bytes.Clone(b)
		altered[i] ^= 1
		_, err := ParsePreParams(secret.New(altered))
		require.ErrorIs(t, err, ErrPreParams, "byte %d", i)
	}
}

// Short primes and zeros of the right length are rejected without a division by zero.
func TestRow10ParseShortPrimes(t *testing.T) {
	t.Parallel()
	pp := freshPreParams(t)
	for _, x := range []**big.Int{&pp.p.PaillierSK.P, &pp.p.PaillierSK.Q, &pp.p.P, &pp.p.Q} {
		for _, short := range []int64{0, 1, 2, 23} {
			was := *x
			*x = big.NewInt(short)
			b, err := pp.Encode()
			require.NoError(t, err)
			_, err = ParsePreParams(b)
			require.ErrorIs(t, err, ErrPreParams)
			*x = was
		}
	}
	p, q := pp.p.PaillierSK.P, pp.p.PaillierSK.Q
	pp.p.PaillierSK.P, pp.p.PaillierSK.Q = big.NewInt(1), big.NewInt(1) // gcd(P-1, Q-1) = 0
	b, err := pp.Encode()
	require.NoError(t, err)
	_, err = ParsePreParams(b)
	require.ErrorIs(t, err, ErrPreParams)
	pp.p.PaillierSK.P, pp.p.PaillierSK.Q = p, q
	require.NoError(t, pp.Validate(), "the positive control")
}

func TestPreParamsWipe(t *testing.T) {
	pp := freshPreParams(t)
	p := pp.p
	sk := p.PaillierSK
	secrets := []*big.Int{sk.LambdaN, sk.PhiN, sk.P, sk.Q, p.Alpha, p.Beta, p.P, p.Q}
	requireWiped(t, secrets, pp.Wipe)
	_, err := pp.Encode()
	require.ErrorIs(t, err, ErrPreParams)
	pp.Wipe()
	(*PreParams)(nil).Wipe()
}

// requireWiped requires that wipe clears the memory of each of xs.
func requireWiped(t *testing.T, xs []*big.Int, wipe func()) {
	t.Helper()
	words := make([][]big.Word, len(xs))
	for i, x := range xs {
		words[i] = x.Bits()
		require.NotEmpty(t, words[i])
	}
	wipe()
	for i, x := range xs {
		require.Zero(t, x.Sign())
		require.Equal(t, make([]big.Word, len(words[i])), words[i])
	}
}
