package auth_test

import (
	"context"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"

	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/auth/authtest"
	"github.com/mpcd/mpcd/internal/session"
)

var silent = slog.New(slog.DiscardHandler)

// newTokens is a verifier of authtest's tokens.
func newTokens(t testing.TB, jwks string, log *slog.Logger) *auth.Tokens {
	t.Helper()
	tokens, err := auth.NewTokens(authtest.Issuer, authtest.Audience, jwks, log)
	require.NoError(t, err)
	t.Cleanup(tokens.Close)
	return tokens
}

func keysFile(t testing.TB, keys ...*authtest.Key) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "jwks.json")
	require.NoError(t, os.WriteFile(path, authtest.JWKS(t, keys...), 0o600))
	return path
}

// with is the context of a call with these Authorization values.
func with(ctx context.Context, values ...string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.MD{"authorization": values})
}

// refused requires that a call is nobody's, and that the error tells no secret of it.
func refused(t testing.TB, a *auth.Authenticator, values []string, says string) {
	t.Helper()
	c, err := a.Caller(with(t.Context(), values...))
	require.ErrorIs(t, err, session.ErrUnauthenticated)
	require.ErrorContains(t, err, says)
	require.Zero(t, c)
	for _, v := range values {
		for _, part := range strings.Split(strings.TrimPrefix(v, "Bearer "), ".") {
			if len(part) > 8 {
				require.NotContains(t, err.Error(), part)
			}
		}
	}
}

func TestGoodTokens(t *testing.T) {
	t.Parallel()
	var keys []*authtest.Key
	for _, alg := range []string{"ES256", "ES384", "ES512", "RS256", "RS384", "PS512", "EdDSA", "Ed25519"} {
		keys = append(keys, authtest.NewKey(t, "key-of-"+alg, alg))
	}
	a := &auth.Authenticator{Tokens: newTokens(t, keysFile(t, keys...), silent)}
	now := time.Now().Unix()
	for name, c := range map[string]struct {
		changes map[string]any
		want    session.Caller
	}{
		"a user":                         {nil, session.Caller{Name: "alice"}},
		"a service":                      {map[string]any{"scope": "wallets:sign wallets:read"}, session.Caller{Name: "alice", Scopes: []session.Scope{session.ScopeRead, session.ScopeSign}}},
		"scopes of others":               {map[string]any{"scope": "openid wallets:* wallets:read wallets:read WALLETS:ADMIN wallets:sign,wallets:admin"}, session.Caller{Name: "alice", Scopes: []session.Scope{session.ScopeRead}}},
		"no scope":                       {map[string]any{"scope": ""}, session.Caller{Name: "alice"}},
		"several audiences":              {map[string]any{"aud": []string{"other", authtest.Audience}}, session.Caller{Name: "alice"}},
		"expired within the skew":        {map[string]any{"exp": now - 5}, session.Caller{Name: "alice"}},
		"not yet valid within the skew":  {map[string]any{"nbf": now + 10}, session.Caller{Name: "alice"}},
		"a name with spaces":             {map[string]any{"sub": "Älice of Spiffe"}, session.Caller{Name: "Älice of Spiffe"}},
		"a name as phones have it":       {map[string]any{"sub": "Zoé\u00a0\U0001F469\u200d\U0001F4BB\u200f"}, session.Caller{Name: "Zoé\u00a0\U0001F469\u200d\U0001F4BB\u200f"}},
		"the longest name, in 768 bytes": {map[string]any{"sub": strings.Repeat("電", 256)}, session.Caller{Name: strings.Repeat("電", 256)}},
		"the longest name":               {map[string]any{"sub": strings.Repeat("a", 256)}, session.Caller{Name: strings.Repeat("a", 256)}},
	} {
		for _, k := range keys {
			got, err := a.Caller(with(t.Context(), "bearer "+k.Token(t, authtest.Claims("alice", c.changes))))
			require.NoError(t, err, "%s, %s", name, k.Alg)
			require.Equal(t, c.want, got, "%s, %s", name, k.Alg)
		}
	}
}

func TestBadTokens(t *testing.T) {
	t.Parallel()
	key, weird := authtest.NewKey(t, "k", "ES256"), authtest.NewKey(t, "rsa", "RS256")
	a := &auth.Authenticator{Tokens: newTokens(t, keysFile(t, key, weird), silent)}
	stranger := authtest.NewKey(t, "k", "ES256")
	good := key.Token(t, authtest.Claims("alice", nil))
	now := time.Now().Unix()
	claims := func(changes map[string]any) string {
		return "Bearer " + key.Token(t, authtest.Claims("alice", changes))
	}
	header := func(changes map[string]any) string {
		h := map[string]any{"alg": "ES256", "kid": "k"}
		for name, v := range changes {
			h[name] = v
		}
		return "Bearer " + key.Sign(t, h, authtest.Claims("alice", nil))
	}
	parts := strings.Split(good, ".")
	for name, c := range map[string]struct {
		values []string
		says   string
	}{
		"none":                      {nil, "neither a token nor a certificate"},
		"two tokens":                {[]string{"Bearer " + good, "Bearer " + good}, "2 authorization values"},
		"an empty value":            {[]string{""}, "not of the form Bearer"},
		"no scheme":                 {[]string{good}, "not of the form Bearer"},
		"another scheme":            {[]string{"Basic " + good}, "not of the form Bearer"},
		"two in one value":          {[]string{"Bearer " + good + ", Bearer " + good}, "not a signed JWT"},
		"two words":                 {[]string{"Bearer " + good + " " + good}, "not a signed JWT"},
		"a space before":            {[]string{"Bearer  " + good}, ""},
		"one byte too many":         {[]string{"Bearer " + good + strings.Repeat("A", auth.MaxToken+1-len(good))}, "at most 8192"},
		"not a JWT":                 {[]string{"Bearer secret-words"}, "three parts"},
		"cut short":                 {[]string{"Bearer " + parts[0] + "." + parts[1]}, "three parts"},
		"garbage in three parts":    {[]string{"Bearer a.b.c"}, "not a signed JWT"},
		"JSON serialization":        {[]string{`Bearer {"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`}, "three parts"},
		"expired":                   {[]string{claims(map[string]any{"exp": now - 60})}, `"exp" not satisfied`},
		"expires never":             {[]string{claims(map[string]any{"exp": nil})}, `"exp"`},
		"not yet valid":             {[]string{claims(map[string]any{"nbf": now + 120})}, `"nbf" not satisfied`},
		"issued in the future":      {[]string{claims(map[string]any{"iat": now + 120})}, `"iat" not satisfied`},
		"of another issuer":         {[]string{claims(map[string]any{"iss": authtest.Issuer + "/"})}, `"iss" not satisfied`},
		"of no issuer":              {[]string{claims(map[string]any{"iss": nil})}, `"iss"`},
		"for another audience":      {[]string{claims(map[string]any{"aud": []string{"mpcd2", ""}})}, `"aud" not satisfied`},
		"for no audience":           {[]string{claims(map[string]any{"aud": nil})}, `"aud"`},
		"of nobody":                 {[]string{claims(map[string]any{"sub": nil})}, "name is empty"},
		"of null":                   {[]string{claims(map[string]any{"sub": any(nil), "nbf": "x"})}, "malformed"},
		"of a name too long":        {[]string{claims(map[string]any{"sub": strings.Repeat("a", 257)})}, "at most 256"},
		"of a bidi override":        {[]string{claims(map[string]any{"sub": "alice\u202e"})}, "not printable"},
		"of a line":                 {[]string{claims(map[string]any{"sub": "alice\nbob"})}, "not printable"},
		"of a SPIFFE ID":            {[]string{claims(map[string]any{"sub": "spiffe://example.org/backend"})}, "form of a certificate's name"},
		"of a SPIFFE ID in capital": {[]string{claims(map[string]any{"sub": " SPIFFE://example.org/backend"})}, "form of a certificate's name"},
		"of a common name":          {[]string{claims(map[string]any{"sub": "CN:support"})}, "form of a certificate's name"},
		"with a list of scopes":     {[]string{claims(map[string]any{"scope": []string{"wallets:read"}})}, "scope is not text"},
		"signed with another key":   {[]string{"Bearer " + stranger.Token(t, authtest.Claims("alice", nil))}, "signature is wrong"},
		"with other claims":         {[]string{"Bearer " + parts[0] + "." + strings.Split(claims(map[string]any{"sub": "bob"}), ".")[1] + "." + parts[2]}, "signature is wrong"},
		"without its signature":     {[]string{"Bearer " + parts[0] + "." + parts[1] + "."}, ""},
		"alg none":                  {[]string{"Bearer " + authtest.Unsigned(t, map[string]any{"alg": "none", "kid": "k"}, authtest.Claims("alice", nil)) + "."}, "asymmetric ones"},
		"alg None, signed":          {[]string{header(map[string]any{"alg": "None"})}, ""},
		"an algorithm of no key":    {[]string{header(map[string]any{"alg": "ES384"})}, "no key of the issuer"},
		"another key's algorithm":   {[]string{header(map[string]any{"alg": "RS256"})}, "no key of the issuer"},
		"another key's id":          {[]string{header(map[string]any{"kid": "rsa"})}, "no key of the issuer"},
		"of the RSA key, as PS256":  {[]string{"Bearer " + weird.Sign(t, map[string]any{"alg": "PS256", "kid": "rsa"}, authtest.Claims("alice", nil))}, "no key of the issuer"},
		"an unknown key":            {[]string{header(map[string]any{"kid": "other"})}, "no key of the issuer"},
		"no key id":                 {[]string{header(map[string]any{"kid": ""})}, "names no key"},
		"with its own key":          {[]string{"Bearer " + stranger.Sign(t, map[string]any{"alg": "ES256", "kid": "k", "jwk": stranger.JWK(t)}, authtest.Claims("alice", nil))}, "signature is wrong"},
		"with an extension":         {[]string{header(map[string]any{"crit": []string{"exp"}, "exp": 1})}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused(t, a, c.values, c.says)
		})
	}
	got, err := a.Caller(with(t.Context(), "Bearer "+good))
	require.NoError(t, err)
	require.Equal(t, "alice", got.Name)
	refused(t, &auth.Authenticator{}, []string{"Bearer " + good}, "none is configured")
}

// The oldest trick: a public key is no secret, and so no key of a MAC.
func TestTokensWithAMACAreRefused(t *testing.T) {
	t.Parallel()
	key := authtest.NewKey(t, "k", "RS256")
	file := keysFile(t, key)
	a := &auth.Authenticator{Tokens: newTokens(t, file, silent)}
	pub, ok := key.Signer.Public().(*rsa.PublicKey)
	require.True(t, ok)
	der, err := x509.MarshalPKIXPublicKey(pub)
	require.NoError(t, err)
	jwks, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, secret := range [][]byte{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), der, pub.N.Bytes(), jwks, nil} {
		text := authtest.Unsigned(t, map[string]any{"alg": "HS256", "kid": "k"}, authtest.Claims("alice", nil))
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(text))
		refused(t, a, []string{"Bearer " + text + "." + authtest.B64(mac.Sum(nil))}, "asymmetric ones")
	}
}

// What comes from outside and is not a good token is refused, whatever it is.
func FuzzToken(f *testing.F) {
	key := authtest.NewKey(f, "k", "ES256")
	a := &auth.Authenticator{Tokens: newTokens(f, keysFile(f, key), silent)}
	good := key.Token(f, authtest.Claims("alice", nil))
	f.Add("Bearer " + good)
	f.Fuzz(func(t *testing.T, value string) {
		c, err := a.Caller(with(t.Context(), value))
		if _, token, _ := strings.Cut(value, " "); token == good && err == nil {
			return // in whatever case the scheme is
		}
		require.ErrorIs(t, err, session.ErrUnauthenticated)
		require.Zero(t, c)
		require.Less(t, len(err.Error()), 1024)
	})
}
