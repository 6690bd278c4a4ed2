package tss

import (
	"crypto/rand"
	"math/big"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
)

// semiprime returns a product of two primes of 1024 bits with exactly 2048.
func semiprime(t *testing.T) *big.Int {
	t.Helper()
	for {
		p, err := rand.Prime(rand.Reader, 1024)
		require.NoError(t, err)
		q, err := rand.Prime(rand.Reader, 1024)
		require.NoError(t, err)
		if n := new(big.Int).Mul(p, q); n.BitLen() == modulusBits {
			return n
		}
	}
}

// A Paillier N or NTilde that tss-lib accepts, with its proof, but that leaks what is encrypted under it, or makes
// tss-lib panic or compute forever (tss-lib.md, rows 18 to 20).
func TestRow18Moduli(t *testing.T) {
	t.Parallel()
	good := semiprime(t)
	require.NoError(t, checkModulus(good))
	one := big.NewInt(1)
	prime, err := rand.Prime(rand.Reader, modulusBits)
	require.NoError(t, err)
	smooth := big.NewInt(3 * 5 * 17 * 257 * 65537) // the small factors of an N that tss-lib accepted
	forged := new(big.Int).Div(good, smooth)       // with a cofactor that makes it 2048 bits long
	forged.Mul(forged.SetBit(forged, 0, 1), smooth)
	require.Equal(t, modulusBits, forged.BitLen())
	for want, n := range map[string]*big.Int{
		"has a small factor":        forged,
		"is not composite":          prime,
		"is not odd with 2048 bits": new(big.Int).Sub(good, one),
	} {
		require.EqualError(t, checkModulus(n), want)
	}
	for _, n := range []*big.Int{
		new(big.Int), one, big.NewInt(-7),
		new(big.Int).Rsh(good, 1), new(big.Int).Lsh(good, 1536), new(big.Int).Rsh(good, 1536),
	} {
		require.Error(t, checkModulus(n))
	}
}

// A new party's other parameters must be units, distinct and in range, and share no factor with ours.
func TestRow18Generators(t *testing.T) {
	t.Parallel()
	n, nTilde, own := semiprime(t), semiprime(t), semiprime(t)
	valid := func() *eckeygen.KGRound1Message {
		return &eckeygen.KGRound1Message{PaillierN: n.Bytes(), NTilde: nTilde.Bytes(), H1: []byte{4}, H2: []byte{9}}
	}
	check := func(m *eckeygen.KGRound1Message) error {
		g := &ingress{curve: Secp256k1, proto: keygens[Secp256k1], own: []*big.Int{own}}
		r := &reader{curve: Secp256k1}
		g.checkNewKeys(r, m)
		require.Equal(t, r.err == nil, g.n != nil)
		return r.err
	}
	require.NoError(t, check(valid()))
	top := new(big.Int).Sub(nTilde, big.NewInt(1))
	for want, change := range map[string]func(*eckeygen.KGRound1Message){
		"N has a factor in common with our own":      func(m *eckeygen.KGRound1Message) { m.PaillierN = own.Bytes() },
		"NTilde has a factor in common with our own": func(m *eckeygen.KGRound1Message) { m.NTilde = own.Bytes() },
		"N and NTilde have a common factor":          func(m *eckeygen.KGRound1Message) { m.NTilde = n.Bytes() },
		"h1 equals h2":                               func(m *eckeygen.KGRound1Message) { m.H2 = m.GetH1() },
		"h1 or h2 is not a unit mod NTilde":          func(m *eckeygen.KGRound1Message) { m.H1 = []byte{1} },
		"or trivial":                                 func(m *eckeygen.KGRound1Message) { m.H2 = top.Bytes() },
		"h1 has 0 bytes":                             func(m *eckeygen.KGRound1Message) { m.H1 = nil },
		"N has 257 bytes": func(m *eckeygen.KGRound1Message) {
			m.PaillierN = append([]byte{1}, n.Bytes()...)
		},
		"NTilde has a leading zero": func(m *eckeygen.KGRound1Message) {
			m.NTilde = append([]byte{0}, nTilde.Bytes()[:255]...)
		},
	} {
		m := valid()
		change(m)
		require.ErrorContains(t, check(m), want)
	}
}

// With a W that shares a factor with N, a modulus proof can be forged: tss-lib rejects only a Jacobi symbol of 1.
func TestRow18NonResidue(t *testing.T) {
	t.Parallel()
	p, err := rand.Prime(rand.Reader, 1024)
	require.NoError(t, err)
	q, err := rand.Prime(rand.Reader, 1024)
	require.NoError(t, err)
	n := new(big.Int).Mul(p, q)
	w := big.NewInt(2)
	for big.Jacobi(w, n) != -1 {
		w.Add(w, big.NewInt(1))
	}
	check := func(g *ingress, w *big.Int) error {
		r := &reader{curve: Secp256k1}
		g.checkNonResidue(r, [][]byte{w.Bytes()})
		return r.err
	}
	require.NoError(t, check(&ingress{n: n}, w))
	require.ErrorContains(t, check(&ingress{n: n}, p), "Jacobi symbol", "gcd(W, N) > 1")
	require.ErrorContains(t, check(&ingress{n: n}, big.NewInt(4)), "Jacobi symbol")
	require.ErrorContains(t, check(&ingress{n: n}, new(big.Int).Add(w, n)), "Jacobi symbol", "not reduced")
	require.ErrorContains(t, check(&ingress{}, w), "without a modulus")
}

// Values that make tss-lib panic in its own goroutines, where we cannot recover, are rejected before tss-lib sees them
// (tss-lib.md, row 19).
func TestRow19Panics(t *testing.T) {
	t.Parallel()
	q, n := Secp256k1.order(), semiprime(t)
	scalar := func(x *big.Int) func(*reader) { return func(r *reader) { r.scalar("x", x.Bytes()) } }
	dln := func(change func([][]byte)) func(*reader) {
		parts := make([][]byte, len(dlnLimits))
		for i := range parts {
			parts[i] = []byte{1}
		}
		parts[0], parts[1+dlnParts] = []byte{dlnParts}, []byte{dlnParts}
		change(parts)
		return func(r *reader) { r.dln("dln", parts) }
	}
	wc := func(s1 *big.Int) func(*reader) {
		parts := make([][]byte, len(bobWCLimits))
		for i := range parts {
			parts[i] = []byte{1}
		}
		parts[bobS1] = s1.Bytes()
		g := must(Secp256k1.decodePoint(Secp256k1.encodePoint(Secp256k1.baseMult(big.NewInt(5)))))
		parts[len(bobLimits)], parts[len(bobLimits)+1] = g.X().Bytes(), g.Y().Bytes()
		return func(r *reader) { r.bobWC(parts) }
	}
	for name, x := range map[string]struct {
		check func(*reader)
		valid bool
	}{
		"a scalar":                     {scalar(big.NewInt(7)), true},
		"the largest scalar":           {scalar(new(big.Int).Sub(q, big.NewInt(1))), true},
		"a scalar of zero":             {scalar(new(big.Int)), false},
		"q":                            {scalar(q), false},
		"more than q":                  {scalar(new(big.Int).Add(q, big.NewInt(1))), false},
		"a scalar of 33 bytes":         {scalar(new(big.Int).Lsh(q, 8)), false},
		"a DLN proof":                  {dln(func([][]byte) {}), true},
		"a DLN length that is too big": {dln(func(p [][]byte) { p[0] = []byte{129} }), false},
		"a second one":                 {dln(func(p [][]byte) { p[1+dlnParts] = []byte{127} }), false},
		"a negative DLN length":        {dln(func(p [][]byte) { p[0] = []byte{255, 255} }), false},
		"S1":                           {wc(big.NewInt(7)), true},
		"an S1 of zero mod q":          {wc(new(big.Int).Lsh(q, 1)), false},
		"a ciphertext":                 {func(r *reader) { r.ciphertext("c", []byte{7}, n) }, true},
		"a ciphertext that is no unit": {func(r *reader) { r.ciphertext("c", n.Bytes(), n) }, false},
		"a ciphertext above N^2": {func(r *reader) {
			r.ciphertext("c", new(big.Int).Add(new(big.Int).Mul(n, n), big.NewInt(1)).Bytes(), n)
		}, false},
		"a short decommitment":  {func(r *reader) { r.decommitment([][]byte{{1}, {2}, {3}}, 2) }, false},
		"an empty decommitment": {func(r *reader) { r.decommitment(nil, 1) }, false},
		"a point off the curve": {func(r *reader) { r.point("p", []byte{1}, []byte{1}) }, false},
	} {
		r := &reader{curve: Secp256k1}
		x.check(r)
		require.Equal(t, x.valid, r.err == nil, "%s: %v", name, r.err)
	}
	// A point of small order, which tss-lib's Ed25519 accepts.
	r := &reader{curve: Ed25519}
	r.point("R", []byte{0}, []byte{1})
	require.Error(t, r.err)

	g := &ingress{curve: Secp256k1, proto: signings[Secp256k1]}
	r = &reader{curve: Secp256k1}
	g.checkTheta(r, big.NewInt(5))
	require.NoError(t, r.err, "our theta is not known yet")
	g.theta = big.NewInt(5)
	g.checkTheta(r, big.NewInt(6))
	require.NoError(t, r.err)
	g.checkTheta(r, new(big.Int).Sub(q, big.NewInt(5)))
	require.ErrorContains(t, r.err, "theta cancels ours")
}

// For each field of each message of all protocols, a value that is longer than any honest one is rejected (tss-lib.md,
// row 20).
func TestRow20Bounds(t *testing.T) {
	t.Parallel()
	fields := 0
	forEachProtocol(t, func(t *testing.T, c Curve, p *protocol) {
		for name := range p.steps {
			m := wellFormed(t, name)
			all := m.ProtoReflect().Descriptor().Fields()
			for i := range all.Len() {
				f := all.Get(i)
				other := proto.Clone(m)
				long := protoreflect.ValueOfBytes(slices.Repeat([]byte{1}, 2<<10))
				if f.IsList() {
					list := other.ProtoReflect().Mutable(f).List()
					list.Truncate(0)
					list.Append(long)
				} else {
					other.ProtoReflect().Set(f, long)
				}
				g := &ingress{curve: c, proto: p, n: big.NewInt(15), record: &KeyRecord{Curve: c}}
				for i := range g.record.Parties {
					g.record.Parties[i].PaillierN = big.NewInt(15)
				}
				r := &reader{curve: c, message: name.Name()}
				g.checkContent(r, other)
				require.Error(t, r.err, "%s.%s", name, f.Name())
				fields++
			}
		}
	})
}

// Content that tss-lib would ignore is rejected: with it, two runs could be equal for tss-lib, but not for the
// transcript.
func TestRow15Canonical(t *testing.T) {
	t.Parallel()
	m := &edsigning.SignRound3Message{S: []byte{7}}
	content, err := proto.Marshal(m)
	require.NoError(t, err)
	wrapped := func(url string, content []byte) (*anypb.Any, []byte) {
		a := &anypb.Any{TypeUrl: url, Value: content}
		b, err := proto.Marshal(a)
		require.NoError(t, err)
		return a, b
	}
	url := typePrefix + string(proto.MessageName(m))
	a, b := wrapped(url, content)
	_, err = canonical(a, b)
	require.NoError(t, err)
	unknown := protowire.AppendVarint(protowire.AppendTag(slices.Clone(content), 99, protowire.VarintType), 1)
	for what, x := range map[string][]byte{
		"an unknown field": unknown,
		"a field twice":    append(slices.Clone(content), content...),
	} {
		a, b := wrapped(url, x)
		_, err = canonical(a, b)
		require.Error(t, err, what)
	}
	a, b = wrapped("example.org/"+string(proto.MessageName(m)), content)
	_, err = canonical(a, b)
	require.Error(t, err, "another prefix")
	a, b = wrapped(url, content)
	_, err = canonical(a, append(b, protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)...))
	require.Error(t, err, "trailing data")
}

// A message of a later round than the other side can have reached is rejected.
func TestRow15Early(t *testing.T) {
	t.Parallel()
	g := &ingress{curve: Secp256k1, proto: signings[Secp256k1]}
	steps := g.proto.steps
	require.True(t, g.due(steps[typeOf(&ecsigning.SignRound1Message2{})]))
	require.False(t, g.due(steps[typeOf(&ecsigning.SignRound2Message{})]), "it answers a message that we have not sent")
	g.sent = map[protoreflect.FullName]bool{
		typeOf(&ecsigning.SignRound1Message1{}): true, typeOf(&ecsigning.SignRound1Message2{}): true,
	}
	require.True(t, g.due(steps[typeOf(&ecsigning.SignRound2Message{})]))
	require.False(t, g.due(steps[typeOf(&ecsigning.SignRound9Message{})]))
}
