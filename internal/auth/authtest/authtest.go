// Package authtest is a token issuer and a certificate authority for tests. It signs tokens and encodes keys by hand:
// tests then do not rely on the library that verifies them, and can inject any fault. No program imports it.
package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/stretchr/testify/require"
)

// Issuer and Audience are the values in Claims.
const (
	Issuer   = "https://issuer.example.org"
	Audience = "mpcd"
)

// Key is one of an issuer's keys.
type Key struct {
	ID, Alg string
	Signer  crypto.Signer
}

var curves = map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}

var hashes = map[string]crypto.Hash{
	"ES256K": crypto.SHA256, "ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512,
	"RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512,
	"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512,
}

// secpKey is a key on secp256k1. It signs with crypto/ecdsa's generic code, which is independent of the verifier's.
type secpKey struct {
	*ecdsa.PrivateKey
	point []byte // SEC 1, uncompressed: crypto/ecdsa encodes points of its own curves only
}

// NewKey generates a key for an algorithm of RFC 7518, RFC 8037 or RFC 8812.
func NewKey(t testing.TB, id, alg string) *Key {
	t.Helper()
	k := &Key{ID: id, Alg: alg}
	var err error
	if alg == "ES256K" {
		key := secp256k1.PrivKeyFromBytes(randomBytes(t, 32))
		k.Signer = secpKey{key.ToECDSA(), key.PubKey().SerializeUncompressed()}
		return k
	}
	switch alg[:2] {
	case "ES":
		k.Signer, err = ecdsa.GenerateKey(curves[alg], rand.Reader)
	case "RS", "PS":
		k.Signer, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		_, k.Signer, err = ed25519.GenerateKey(rand.Reader)
	}
	require.NoError(t, err)
	return k
}

// JWK returns the public key as a JWK (RFC 7517).
func (k *Key) JWK(t testing.TB) map[string]any {
	t.Helper()
	jwk := map[string]any{"kid": k.ID, "use": "sig", "alg": k.Alg}
	if key, ok := k.Signer.(secpKey); ok {
		jwk["kty"], jwk["crv"], jwk["x"], jwk["y"] = "EC", "secp256k1", B64(key.point[1:33]), B64(key.point[33:])
		return jwk
	}
	switch pub := k.Signer.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		require.NoError(t, err)
		half := len(point) / 2
		jwk["kty"], jwk["crv"] = "EC", pub.Curve.Params().Name
		jwk["x"], jwk["y"] = B64(point[1:1+half]), B64(point[1+half:])
	case *rsa.PublicKey:
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", B64(pub.N.Bytes()), B64(big.NewInt(int64(pub.E)).Bytes())
	case ed25519.PublicKey:
		jwk["kty"], jwk["crv"], jwk["x"] = "OKP", "Ed25519", B64(pub)
	}
	return jwk
}

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	require.NoError(t, err)
	return b
}

// JWKS returns a JWK Set.
func JWKS(t testing.TB, keys ...*Key) []byte {
	t.Helper()
	set := []any{}
	for _, k := range keys {
		set = append(set, k.JWK(t))
	}
	b, err := json.Marshal(map[string]any{"keys": set})
	require.NoError(t, err)
	return b
}

// B64 is base64url without padding.
func B64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Claims returns the claims of a valid token for sub, with changes applied: nil removes a claim.
func Claims(sub string, changes map[string]any) map[string]any {
	now := time.Now().Unix()
	all := map[string]any{"iss": Issuer, "aud": Audience, "sub": sub, "iat": now, "exp": now + 3600}
	for name, v := range changes {
		all[name] = v
		if v == nil {
			delete(all, name)
		}
	}
	return all
}

// Token returns a signed token with the key's own header.
func (k *Key) Token(t testing.TB, claims map[string]any) string {
	t.Helper()
	return k.Sign(t, map[string]any{"alg": k.Alg, "kid": k.ID, "typ": "JWT"}, claims)
}

// Unsigned returns a token up to, and without, its second dot.
func Unsigned(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(header)
	require.NoError(t, err)
	c, err := json.Marshal(claims)
	require.NoError(t, err)
	return B64(h) + "." + B64(c)
}

// Sign returns a token with the given header, signed with the key's own algorithm.
func (k *Key) Sign(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	return k.signed(t, Unsigned(t, header, claims))
}

// SignText returns a token with the key's own header and arbitrary text as its claims.
func (k *Key) SignText(t testing.TB, claims string) string {
	t.Helper()
	head, _, _ := strings.Cut(Unsigned(t, map[string]any{"alg": k.Alg, "kid": k.ID}, nil), ".")
	return k.signed(t, head+"."+B64([]byte(claims)))
}

func (k *Key) signed(t testing.TB, text string) string {
	t.Helper()
	digest, hash := []byte(text), hashes[k.Alg]
	var opts crypto.SignerOpts = hash
	if hash != 0 {
		h := hash.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	if k.Alg[:2] == "PS" {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	key, ok := k.Signer.(*ecdsa.PrivateKey)
	if secp, is := k.Signer.(secpKey); is {
		key, ok = secp.PrivateKey, true
	}
	if ok { // r || s, each of the curve's size
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		require.NoError(t, err)
		size := (key.Curve.Params().BitSize + 7) / 8
		both := make([]byte, 2*size)
		r.FillBytes(both[:size])
		s.FillBytes(both[size:])
		return text + "." + B64(both)
	}
	sig, err := k.Signer.Sign(rand.Reader, digest, opts)
	require.NoError(t, err)
	return text + "." + B64(sig)
}

// SignWithMAC returns a token with a MAC (HS256) keyed with the public key in PEM.
func (k *Key) SignWithMAC(t testing.TB, claims map[string]any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Signer.Public())
	require.NoError(t, err)
	text := Unsigned(t, map[string]any{"alg": "HS256", "kid": k.ID}, claims)
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	mac.Write([]byte(text))
	return text + "." + B64(mac.Sum(nil))
}

// CA is a certificate authority.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Pair is a certificate and its key.
type Pair struct {
	Cert, Key []byte // PEM
	TLS       tls.Certificate
}

// NewCA creates a certificate authority.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &CA{cert, key}
}

// PEM returns the authority's certificate.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Pool returns a pool that contains the authority.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Issue issues a certificate for a server on loopback and for clients, with changes applied.
func (ca *CA) Issue(t testing.TB, change func(*x509.Certificate)) Pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	p := Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
	p.TLS, err = tls.X509KeyPair(p.Cert, p.Key)
	require.NoError(t, err)
	return p
}

// IssueTo issues a service's certificate with these URIs, or only a common name.
func (ca *CA) IssueTo(t testing.TB, commonName string, uris ...string) Pair {
	t.Helper()
	return ca.Issue(t, func(c *x509.Certificate) {
		c.Subject.CommonName = commonName
		for _, text := range uris {
			u, err := url.Parse(text)
			require.NoError(t, err)
			c.URIs = append(c.URIs, u)
		}
	})
}

// Write writes the pair into a directory, replacing what is there.
func (p Pair) Write(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	Replace(t, cert, p.Cert)
	Replace(t, key, p.Key)
	return cert, key
}

// Replace replaces a file atomically, with mode 0600.
func Replace(t testing.TB, path string, b []byte) {
	t.Helper()
	next := path + ".next"
	require.NoError(t, os.WriteFile(next, b, 0o600))
	require.NoError(t, os.Rename(next, path))
}
