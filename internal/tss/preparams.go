package tss

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"

	"github.com/bnb-chain/tss-lib/v2/crypto/paillier"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"

	"github.com/mpcd/mpcd/internal/safeprime"
	"github.com/mpcd/mpcd/internal/secret"
)

// PreParams are what one ECDSA party needs before a key generation or a resharing: a Paillier key and the ring-Pedersen
// parameters NTilde, h1, h2, from four safe primes of 1024 bits. They are slow to make and used once: if two share sets
// had the same Paillier key, a proof made for one could be replayed on the other.
type PreParams struct {
	p *eckeygen.LocalPreParams // nil once a run has consumed them, or they were wiped
}

// Format implements fmt.Formatter.
func (PreParams) Format(f fmt.State, _ rune) { secret.Format(f) }

// LogValue implements slog.LogValuer.
func (PreParams) LogValue() slog.Value { return slog.StringValue(secret.Redacted) }

// Wipe overwrites the secret values. The pre-params cannot be used afterwards. pp may be nil.
func (pp *PreParams) Wipe() {
	if pp != nil && pp.p != nil {
		wipePreParams(pp.p)
		pp.p = nil
	}
}

func wipePreParams(p *eckeygen.LocalPreParams) {
	wipe(p.PaillierSK.LambdaN, p.PaillierSK.PhiN, p.PaillierSK.P, p.PaillierSK.Q, p.Alpha, p.Beta, p.P, p.Q)
}

// Moduli returns the public Paillier N and NTilde, which identify the pre-params: a wallet never uses either twice. It
// must not be called on used pre-params.
func (pp *PreParams) Moduli() (paillierN, nTilde *big.Int) {
	return new(big.Int).Set(pp.p.PaillierSK.N), new(big.Int).Set(pp.p.NTildei)
}

// consume returns the values for use in one run. It fails with ErrPreParams the second time.
func (pp *PreParams) consume() (*eckeygen.LocalPreParams, error) {
	if pp == nil || pp.p == nil {
		return nil, fmt.Errorf("%w: none given, or used before", ErrPreParams)
	}
	p := pp.p
	pp.p = nil
	return p, nil
}

const (
	preParamsKind     = "mpcd pre-params"
	maxPreParamsBytes = 4 << 10
	primeBits         = 8 * primeLen
	// minDifferenceBits is tss-lib's bound on |P - Q| (crypto/paillier, KS-BTL-F-03), far above the 2^(1024-100) of FIPS
	// 186-5, A.1.3.
	minDifferenceBits = primeBits - 3
	// freshRounds is the number of Miller-Rabin rounds for new pre-params, in addition to ProbablyPrime's Baillie-PSW
	// test: a composite passes with probability at most 4^-30.
	freshRounds = 30
	// loadRounds is enough for stored pre-params: they were tested in full when they were made, and are authenticated in
	// storage, so that only accidental damage is left to detect.
	loadRounds = 1
)

// PreParamsSearch makes one PreParams in steps, so that an interruption between them loses little work. The zero value
// is ready to use. It is not safe for concurrent use.
type PreParamsSearch struct {
	primes []safeprime.SafePrime
}

// primesNeeded is the number of safe primes in one PreParams.
const primesNeeded = 4

// Format implements fmt.Formatter.
func (PreParamsSearch) Format(f fmt.State, _ rune) { secret.Format(f) }

// LogValue implements slog.LogValuer.
func (PreParamsSearch) LogValue() slog.Value { return slog.StringValue(secret.Redacted) }

// Step finds at most count more safe primes with the given number of goroutines (0: one for each core). It returns
// validated pre-params once there are four primes, and nil before. It returns ctx's error within 50 ms of cancellation,
// and keeps the primes that earlier steps found.
func (s *PreParamsSearch) Step(ctx context.Context, workers, count int) (*PreParams, error) {
	want := min(count, primesNeeded-len(s.primes))
	found, err := safeprime.Find(ctx, safeprime.Options{Bits: primeBits, Count: want, Workers: workers})
	if err != nil {
		return nil, fmt.Errorf("pre-params: %w", err)
	}
	s.primes = append(s.primes, found...)
	if len(s.primes) < primesNeeded {
		return nil, nil //nolint:nilnil // documented: not finished
	}
	pp, err := assemble(rand.Reader, s.primes)
	if errors.Is(err, errTooClose) { // happens for one in twenty
		s.primes[0].Wipe()
		s.primes = s.primes[1:]
		return nil, nil //nolint:nilnil // documented: not finished
	}
	s.Wipe()
	if err != nil {
		return nil, fmt.Errorf("pre-params: %w", err)
	}
	return pp, pp.Validate()
}

// Wipe overwrites the primes found so far.
func (s *PreParamsSearch) Wipe() {
	for _, p := range s.primes {
		p.Wipe()
	}
	s.primes = nil
}

// GeneratePreParams makes fresh, validated pre-params with the given number of goroutines (0: one for each core). It
// takes about a CPU-second, and returns ctx's error within 50 ms of cancellation.
func GeneratePreParams(ctx context.Context, workers int) (*PreParams, error) {
	var s PreParamsSearch
	defer s.Wipe()
	for {
		pp, err := s.Step(ctx, workers, primesNeeded)
		if pp != nil || err != nil {
			return pp, err
		}
	}
}

var errTooClose = errors.New("the primes are too close to each other")

// assemble builds PreParams from four safe primes, as GG18 section 4.1 and tss-lib's generator do: N = PQ from the
// smallest and the largest, NTilde from the others.
func assemble(random io.Reader, sp []safeprime.SafePrime) (*PreParams, error) {
	lo, hi := 0, 0
	for i := range sp {
		if sp[i].P.Cmp(sp[lo].P) < 0 {
			lo = i
		}
		if sp[i].P.Cmp(sp[hi].P) > 0 {
			hi = i
		}
	}
	if new(big.Int).Sub(sp[hi].P, sp[lo].P).BitLen() < minDifferenceBits {
		return nil, errTooClose
	}
	var rest []safeprime.SafePrime
	for i := range sp {
		if i != lo && i != hi {
			rest = append(rest, sp[i])
		}
	}
	p, q := new(big.Int).Set(rest[0].Q), new(big.Int).Set(rest[1].Q)
	nTilde := new(big.Int).Mul(rest[0].P, rest[1].P)
	pq := new(big.Int).Mul(p, q)

	f, err := randomUnit(random, nTilde)
	if err != nil {
		return nil, err
	}
	// alpha needs an inverse mod pq. It is drawn from Z*_NTilde, as in tss-lib.
	alpha, err := randomUnit(random, nTilde)
	if err != nil {
		return nil, err
	}
	beta := new(big.Int).ModInverse(alpha, pq)
	if beta == nil {
		return nil, errTooClose // a multiple of p or q, with probability 2^-1022: the caller tries again
	}
	h1 := new(big.Int).Exp(f, big.NewInt(2), nTilde) // generates the squares mod NTilde
	set := &eckeygen.LocalPreParams{
		PaillierSK: paillierKey(sp[lo].P, sp[hi].P),
		NTildei:    nTilde,
		H1i:        h1,
		H2i:        new(big.Int).Exp(h1, alpha, nTilde),
		Alpha:      alpha,
		Beta:       beta,
		P:          p,
		Q:          q,
	}
	wipe(f, pq)
	return &PreParams{p: set}, nil
}

// paillierKey builds the private key with copies of its primes.
func paillierKey(p, q *big.Int) *paillier.PrivateKey {
	p, q = new(big.Int).Set(p), new(big.Int).Set(q)
	one := big.NewInt(1)
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	phi := new(big.Int).Mul(p1, q1)
	lambda := new(big.Int).Div(phi, new(big.Int).GCD(nil, nil, p1, q1))
	wipe(p1, q1)
	return &paillier.PrivateKey{
		PublicKey: paillier.PublicKey{N: new(big.Int).Mul(p, q)},
		LambdaN:   lambda,
		PhiN:      phi,
		P:         p,
		Q:         q,
	}
}

// randomUnit draws a uniform unit mod n, other than 0 and 1.
func randomUnit(random io.Reader, n *big.Int) (*big.Int, error) {
	one := big.NewInt(1)
	for {
		x, err := rand.Int(random, n)
		if err != nil {
			return nil, fmt.Errorf("random source: %w", err)
		}
		if x.Cmp(one) > 0 && new(big.Int).GCD(nil, nil, x, n).Cmp(one) == 0 {
			return x, nil
		}
	}
}

// Validate checks the pre-params in full: tss-lib only checks for nils, and accepts zeros (tss-lib.md, row 10). It
// takes about 0.2 CPU-seconds, mostly for the primality tests. It fails with ErrPreParams.
func (pp *PreParams) Validate() error { return pp.check(freshRounds) }

func (pp *PreParams) check(rounds int) error {
	if pp == nil || pp.p == nil || !pp.p.ValidateWithProof() {
		return fmt.Errorf("%w: incomplete or used", ErrPreParams)
	}
	p := pp.p
	sk := p.PaillierSK
	if err := checkSafePrimes(sk.P, sk.Q, rounds); err != nil {
		return fmt.Errorf("%w: Paillier: %w", ErrPreParams, err)
	}
	if new(big.Int).Sub(sk.P, sk.Q).BitLen() < minDifferenceBits {
		return fmt.Errorf("%w: Paillier: %w", ErrPreParams, errTooClose)
	}
	want := paillierKey(sk.P, sk.Q)
	if want.N.Cmp(sk.N) != 0 || sk.LambdaN == nil || sk.PhiN == nil ||
		want.LambdaN.Cmp(sk.LambdaN) != 0 || want.PhiN.Cmp(sk.PhiN) != 0 {
		return fmt.Errorf("%w: Paillier: N, lambda or phi is not that of P and Q", ErrPreParams)
	}
	two, one := big.NewInt(2), big.NewInt(1)
	sp := new(big.Int).Add(new(big.Int).Mul(two, p.P), one)
	sq := new(big.Int).Add(new(big.Int).Mul(two, p.Q), one)
	if err := checkSafePrimes(sp, sq, rounds); err != nil {
		return fmt.Errorf("%w: NTilde: %w", ErrPreParams, err)
	}
	if new(big.Int).Mul(sp, sq).Cmp(p.NTildei) != 0 {
		return fmt.Errorf("%w: NTilde is not (2p+1)(2q+1)", ErrPreParams)
	}
	if sp.Cmp(sk.P) == 0 || sp.Cmp(sk.Q) == 0 || sq.Cmp(sk.P) == 0 || sq.Cmp(sk.Q) == 0 {
		return fmt.Errorf("%w: N and NTilde have a common factor", ErrPreParams)
	}
	return checkGenerators(p)
}

// checkSafePrimes checks that p and q are distinct safe primes of exactly 1024 bits whose product has 2048. A safe
// prime above 7 is 3 mod 4, so that the product is a Blum integer.
func checkSafePrimes(p, q *big.Int, rounds int) error {
	if p.Cmp(q) == 0 {
		return errors.New("the primes are equal")
	}
	if new(big.Int).Mul(p, q).BitLen() != modulusBits {
		return fmt.Errorf("the product does not have %d bits", modulusBits)
	}
	for _, x := range []*big.Int{p, q} {
		if x.BitLen() != primeBits || x.Bit(0) != 1 || x.Bit(1) != 1 {
			return fmt.Errorf("a factor does not have %d bits, or is not 3 mod 4", primeBits)
		}
		if !x.ProbablyPrime(rounds) || !new(big.Int).Rsh(x, 1).ProbablyPrime(rounds) {
			return errors.New("a factor is not a safe prime")
		}
	}
	return nil
}

// checkGenerators checks that h1 and h2 are units that generate each other: h2 = h1^alpha and h1 = h2^beta mod NTilde,
// alpha*beta = 1 mod pq.
func checkGenerators(p *eckeygen.LocalPreParams) error {
	one := big.NewInt(1)
	top := new(big.Int).Sub(p.NTildei, one)
	for _, h := range []*big.Int{p.H1i, p.H2i} {
		if h.Cmp(one) <= 0 || h.Cmp(top) >= 0 || new(big.Int).GCD(nil, nil, h, p.NTildei).Cmp(one) != 0 {
			return fmt.Errorf("%w: h1 or h2 is not a unit, or trivial", ErrPreParams)
		}
	}
	pq := new(big.Int).Mul(p.P, p.Q)
	ab := new(big.Int).Mul(p.Alpha, p.Beta)
	switch {
	case p.H1i.Cmp(p.H2i) == 0:
		return fmt.Errorf("%w: h1 equals h2", ErrPreParams)
	case ab.Mod(ab, pq).Cmp(one) != 0:
		return fmt.Errorf("%w: alpha*beta is not 1 mod pq", ErrPreParams)
	case new(big.Int).Exp(p.H1i, p.Alpha, p.NTildei).Cmp(p.H2i) != 0:
		return fmt.Errorf("%w: h2 is not h1^alpha", ErrPreParams)
	case new(big.Int).Exp(p.H2i, p.Beta, p.NTildei).Cmp(p.H1i) != 0:
		return fmt.Errorf("%w: h1 is not h2^beta", ErrPreParams)
	}
	return nil
}

// wirePreParams has the primes, generators and exponents only; the other values are computed from them.
type wirePreParams struct {
	header
	PaillierP []byte `cbor:"2,keyasint"`
	PaillierQ []byte `cbor:"3,keyasint"`
	P         []byte `cbor:"4,keyasint"`
	Q         []byte `cbor:"5,keyasint"`
	H1        []byte `cbor:"6,keyasint"`
	H2        []byte `cbor:"7,keyasint"`
	Alpha     []byte `cbor:"8,keyasint"`
	Beta      []byte `cbor:"9,keyasint"`
}

func (w *wirePreParams) fields(p *eckeygen.LocalPreParams, sk *paillier.PrivateKey) []preParamsField {
	return []preParamsField{
		{&w.PaillierP, &sk.P, primeLen}, {&w.PaillierQ, &sk.Q, primeLen},
		{&w.P, &p.P, primeLen}, {&w.Q, &p.Q, primeLen},
		{&w.H1, &p.H1i, modulusLen}, {&w.H2, &p.H2i, modulusLen},
		{&w.Alpha, &p.Alpha, modulusLen}, {&w.Beta, &p.Beta, modulusLen},
	}
}

type preParamsField struct {
	wire *[]byte
	val  **big.Int
	size int // bytes
}

// Encode returns the encoded pre-params, which are as secret as a share. It fails with ErrPreParams if they were used.
func (pp *PreParams) Encode() (secret.Bytes, error) {
	if pp == nil || pp.p == nil {
		return secret.Bytes{}, fmt.Errorf("%w: none given, or used before", ErrPreParams)
	}
	w := wirePreParams{header: header{preParamsKind, formatVersion}}
	fields := w.fields(pp.p, pp.p.PaillierSK)
	defer wipeFields(fields)
	var err error
	for _, f := range fields {
		if *f.wire, err = fixed(*f.val, f.size); err != nil {
			return secret.Bytes{}, fmt.Errorf("%w: %w", ErrPreParams, err)
		}
	}
	b, err := encode(&w)
	if err != nil {
		return secret.Bytes{}, err
	}
	return secret.New(b), nil
}

// ParsePreParams decodes the output of Encode, which must have been authenticated, and validates it with fewer
// primality rounds than Validate. It fails with ErrPreParams.
func ParsePreParams(b secret.Bytes) (*PreParams, error) {
	var w wirePreParams
	p, sk := &eckeygen.LocalPreParams{}, &paillier.PrivateKey{}
	fields := w.fields(p, sk)
	defer wipeFields(fields)
	if err := decode(b.Reveal(), preParamsKind, maxPreParamsBytes, &w, &w.header); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPreParams, err)
	}
	var err error
	for _, f := range fields {
		if *f.val, err = parseFixed(*f.wire, f.size); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPreParams, err)
		}
	}
	for _, x := range []*big.Int{sk.P, sk.Q, p.P, p.Q} {
		if x.BitLen() < primeBits-1 { // paillierKey would divide by zero
			return nil, fmt.Errorf("%w: a prime is too short", ErrPreParams)
		}
	}
	p.PaillierSK = paillierKey(sk.P, sk.Q)
	one, two := big.NewInt(1), big.NewInt(2)
	sp := new(big.Int).Add(new(big.Int).Mul(two, p.P), one)
	sq := new(big.Int).Add(new(big.Int).Mul(two, p.Q), one)
	p.NTildei = new(big.Int).Mul(sp, sq)
	wipe(sk.P, sk.Q, sp, sq)
	pp := &PreParams{p: p}
	if err := pp.check(loadRounds); err != nil {
		pp.Wipe()
		return nil, err
	}
	return pp, nil
}

func wipeFields(fields []preParamsField) {
	for _, f := range fields {
		clear(*f.wire)
	}
}
