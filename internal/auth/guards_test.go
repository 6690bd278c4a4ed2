package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	secpecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/mpcd/mpcd/internal/session"
)

// Tests of guards that the package's other tests do not cover (see make mutants).

func TestBearerForm(t *testing.T) {
	t.Parallel()
	for _, values := range [][]string{{"Bearer"}, {"Bearer "}, {"Basic abc"}, {""}} {
		_, err := bearer(values)
		require.ErrorContains(t, err, "not of the form Bearer TOKEN", "%q", values)
	}
	for _, values := range [][]string{nil, {"Bearer a", "Bearer a"}} {
		_, err := bearer(values)
		require.ErrorContains(t, err, "authorization values: one is allowed")
	}
	token, err := bearer([]string{"bEARER   abc "})
	require.NoError(t, err)
	require.Equal(t, "abc", token)
}

// What a SPIFFE ID may not contain, in the identities file and in a certificate.
func TestSPIFFEForm(t *testing.T) {
	t.Parallel()
	const good = "spiffe://example.org/backend"
	name, err := checkIdentity(good)
	require.NoError(t, err)
	require.Equal(t, good, name)
	long := "spiffe://example.org/" + strings.Repeat("x", maxName)
	for _, bad := range []string{
		"https://example.org/backend", "spiffe:///backend", "spiffe:backend", "spiffe://example.org:443/backend", "spiffe://example.org", "spiffe://example.org/",
		"spiffe://user@example.org/backend", "spiffe://example.org/backend?", "spiffe://example.org/backend?a=b", "spiffe://example.org/backend#a",
		"SPIFFE://example.org/backend", "spiffe://example.org/%zz", "spiffe://[::1/x", long, "cn:", "",
	} {
		_, err := checkIdentity(bad)
		require.Error(t, err, bad)
		u, err := url.Parse(bad)
		if err != nil || strings.HasPrefix(bad, "SPIFFE") { // url.Parse has already lowered the scheme of a certificate's URI
			continue
		}
		_, err = namesOf(&x509.Certificate{URIs: []*url.URL{u}})
		require.Error(t, err, bad)
	}
	u, err := url.Parse(good)
	require.NoError(t, err)
	names, err := namesOf(&x509.Certificate{URIs: []*url.URL{u}, DNSNames: []string{"example.org"}, Subject: pkix.Name{CommonName: "x"}})
	require.NoError(t, err)
	require.Equal(t, []string{good}, names)
}

// The identities in a certificate without URIs.
func TestNamesOfACertificate(t *testing.T) {
	t.Parallel()
	names, err := namesOf(&x509.Certificate{
		Subject: pkix.Name{CommonName: "tool"}, DNSNames: []string{"A.example.org", "a.example.org.", "*.example.org", "10.0.0.1"},
	})
	require.NoError(t, err)
	require.Equal(t, []string{"cn:tool", "dns:a.example.org"}, names)
	for _, bad := range []*x509.Certificate{{}, {DNSNames: []string{"*.example.org"}}, {Subject: pkix.Name{CommonName: "a\nb"}}} {
		_, err = namesOf(bad)
		require.Error(t, err)
	}
}

func TestDNSNameForm(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	name, ok := dnsName(label + ".Example.org.")
	require.True(t, ok)
	require.Equal(t, "dns:"+label+".example.org", name)
	name, ok = dnsName(strings.Repeat("a.", 126) + "a") // 253 bytes
	require.True(t, ok)
	require.Len(t, name, 4+253)
	for _, bad := range []string{
		"", ".", "a..b", ".a", label + "a.org", strings.Repeat("a.", 127) + "a", "*.example.org", "exa mple.org", "10.0.0.1", "::1", "example.org:443", "bücher.example",
	} {
		_, ok := dnsName(bad)
		require.False(t, ok, bad)
	}
}

// A certificate identifies its holder if it was verified, is still valid, and has exactly one configured name.
func TestCallerOfACertificate(t *testing.T) {
	t.Parallel()
	ids := Identities{"cn:tool": {session.ScopeRead}, "dns:a.example.org": {session.ScopeWrite}}
	leaf := func(cn string, dns ...string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: cn}, DNSNames: dns, NotAfter: time.Now().Add(time.Hour)}
	}
	call := func(info credentials.AuthInfo) (session.Caller, error) {
		return ids.caller(peer.NewContext(t.Context(), &peer.Peer{AuthInfo: info}))
	}
	verified := func(c *x509.Certificate) credentials.TLSInfo {
		return credentials.TLSInfo{State: tls.ConnectionState{
			PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}},
		}}
	}
	c, err := call(verified(leaf("tool", "other.example.org")))
	require.NoError(t, err)
	require.Equal(t, session.Caller{Name: "cn:tool", Scopes: []session.Scope{session.ScopeRead}}, c)

	unverified := verified(leaf("tool"))
	unverified.State.VerifiedChains = nil
	none := verified(leaf("tool"))
	none.State.PeerCertificates = nil
	expired := leaf("tool")
	expired.NotAfter = time.Now().Add(-time.Second)
	for says, info := range map[string]credentials.AuthInfo{
		"neither a token nor a certificate":  unverified,
		"neither a token nor a certificate ": none,
		"nor a certificate was sent":         nil,
		"has expired since":                  verified(expired),
		"which is not configured":            verified(leaf("nobody")),
		"more than one is configured":        verified(leaf("tool", "a.example.org")),
		"neither a SPIFFE ID":                verified(leaf("")),
	} {
		_, err := call(info)
		require.ErrorContains(t, err, strings.TrimSpace(says))
	}
	_, err = ids.caller(context.Background())
	require.ErrorContains(t, err, "neither a token nor a certificate")
}

// RSA keys are used if they have 2048 to 8192 bits and an odd exponent over 1.
func TestUsableRSAKeys(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ bits, e, algorithms int }{
		{2048, 3, 6}, {2048, 65537, 6}, {8192, 65537, 6}, {2047, 65537, 0}, {1024, 65537, 0}, {8193, 65537, 0}, {2048, 1, 0}, {2048, 2, 0},
	} {
		n := new(big.Int).Lsh(big.NewInt(1), uint(x.bits-1))
		require.Len(t, fitting(&rsa.PublicKey{N: n, E: x.e}), x.algorithms, "%d bits, e = %d", x.bits, x.e)
	}
	require.Empty(t, fitting([]byte("a symmetric key")))
}

// Whether a token's key id identified the key, which decides whether the keys are fetched again.
func TestKeyIDNamesTheKey(t *testing.T) {
	t.Parallel()
	id := func(kid string) keyID { return keyID{kid, jwa.ES256()} }
	one := &keySet{keys: map[keyID][]crypto.PublicKey{id("a"): {"A"}}, kids: []string{"a"}}
	two := &keySet{keys: map[keyID][]crypto.PublicKey{id("a"): {"A"}, id(""): {"B"}}, kids: []string{"a", ""}}
	for name, x := range map[string]struct {
		set   *keySet
		kid   string
		want  []crypto.PublicKey
		named bool
	}{
		"by its id":                         {one, "a", []crypto.PublicKey{"A"}, true},
		"without an id, of a set of one":    {one, "", []crypto.PublicKey{"A"}, false},
		"another id":                        {one, "b", nil, false},
		"by its id, of two":                 {two, "a", []crypto.PublicKey{"A"}, true},
		"without an id, the one without":    {two, "", []crypto.PublicKey{"B"}, false},
		"another id, of two":                {two, "b", nil, false},
		"an id, of a set of one without it": {&keySet{keys: map[keyID][]crypto.PublicKey{id(""): {"B"}}, kids: []string{""}}, "b", []crypto.PublicKey{"B"}, false},
	} {
		found, named := x.set.find(id(x.kid))
		require.Equal(t, x.want, found, name)
		require.Equal(t, x.named, named, name)
	}
}

// What a JWK says it may be used for.
func TestKeyUse(t *testing.T) {
	t.Parallel()
	eddsa, ed25519, es256 := jwa.EdDSA(), jwa.EdDSAEd25519(), jwa.ES256()
	for own, means := range map[string][]jwa.SignatureAlgorithm{
		"":        {eddsa, ed25519, es256},
		"EdDSA":   {eddsa, ed25519},
		"Ed25519": {eddsa, ed25519},
		"ES256":   {es256},
		"RS256":   {},
	} {
		for _, alg := range []jwa.SignatureAlgorithm{eddsa, ed25519, es256} {
			want := false
			for _, m := range means {
				want = want || m == alg
			}
			require.Equal(t, want, (&jwkFields{Alg: own}).means(alg), "%q for %v", own, alg)
		}
	}
	for _, bad := range []string{`[]`, `{"kty": 7}`, `{"key_ops": "verify"}`, `7`} {
		require.Error(t, new(jwkFields).UnmarshalJSON([]byte(bad)), bad)
	}
	_, err := parseKeys([]byte(`{}`))
	require.ErrorContains(t, err, `no member "keys"`)
	_, err = parseKeys([]byte(`{"kty": "oct"}`))
	require.ErrorContains(t, err, "no public key that can verify")
	_, err = parseKeys([]byte(strings.Replace(oneKey, `"kty"`, `"kid": 7, "kty"`, 1)))
	require.ErrorContains(t, err, "no public key that can verify", "a malformed key does not count as one without an id")
	_, err = parseKeys([]byte(`{"keys": []}`))
	require.ErrorContains(t, err, "no public key that can verify")
}

// Malformed ES256K signatures and keys are rejected.
func TestES256KForm(t *testing.T) {
	t.Parallel()
	key, err := secp256k1.GeneratePrivateKey()
	require.NoError(t, err)
	payload := []byte("payload")
	digest := sha256.Sum256(payload)
	compact := secpecdsa.SignCompact(key, digest[:], false)[1:] // r and s, without the recovery code
	verify := es256k{}.Verify
	require.NoError(t, verify(key.PubKey(), payload, compact))
	order := secp256k1.Params().N.Bytes()
	for name, bad := range map[string][]byte{
		"none": nil, "short": compact[:63], "long": append(bytes.Clone(compact), 0), "DER": append([]byte{0x30}, compact...),
		"an r beyond the order": append(bytes.Clone(order), compact[32:]...), "an s beyond the order": append(bytes.Clone(compact[:32]), order...),
		"another s": append(bytes.Clone(compact[:32]), compact[:32]...),
	} {
		require.ErrorIs(t, verify(key.PubKey(), payload, bad), errSignature, name)
	}
	require.ErrorIs(t, verify("a key", payload, compact), errSignature)
	require.ErrorIs(t, verify(key.PubKey(), []byte("another"), compact), errSignature)
	// r and s are not reduced modulo the order. To test this, a signature with r and s so small that the order can be
	// added needs a key for which it is valid: that key is recovered from the signature.
	scalar := func(n int64) []byte { return big.NewInt(n).FillBytes(make([]byte, 32)) }
	more := func(n int64) []byte { return new(big.Int).Add(secp256k1.Params().N, big.NewInt(n)).Bytes() }
	r, s := int64(1), int64(1)
	own, _, err := secpecdsa.RecoverCompact(slices.Concat([]byte{27}, scalar(r), scalar(s)), digest[:])
	require.NoError(t, err)
	require.NoError(t, verify(own, payload, append(scalar(r), scalar(s)...)))
	require.ErrorIs(t, verify(own, payload, append(more(r), scalar(s)...)), errSignature)
	require.ErrorIs(t, verify(own, payload, append(scalar(r), more(s)...)), errSignature)

	x, y := key.PubKey().X().FillBytes(make([]byte, 32)), key.PubKey().Y().FillBytes(make([]byte, 32))
	text := base64.RawURLEncoding.EncodeToString
	require.NotNil(t, secp256k1Key(&jwkFields{X: text(x), Y: text(y)}))
	for name, f := range map[string]*jwkFields{
		"no y": {X: text(x)}, "not base64": {X: text(x), Y: "!" + text(y)[1:]}, "a short x": {X: text(x[1:]), Y: text(y)},
		"a long x and a short y": {X: text(append(bytes.Clone(x), y[0])), Y: text(y[1:])}, "off the curve": {X: text(x), Y: text(x)},
	} {
		require.Nil(t, secp256k1Key(f), name)
	}
	require.Nil(t, publicKey([]byte(`{"kty": "OKP", "crv": "secp256k1"}`), &jwkFields{Type: "OKP", Curve: "secp256k1", X: text(x), Y: text(y)}))
	require.Nil(t, publicKey([]byte(`[]`), &jwkFields{}))
	require.Nil(t, publicKey([]byte(`{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}`), &jwkFields{}))
	require.Nil(t, publicKey([]byte(`{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}`), &jwkFields{Type: "EC", Curve: "secp256k1"}))
}
