package auth_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
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

// newTokens returns a verifier of authtest's tokens.
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

// setFile returns the path of a file with a JWK Set of these members.
func setFile(t testing.TB, members ...any) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"keys": members})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "jwks.json")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

// with returns the context of a call with these Authorization values.
func with(ctx context.Context, values ...string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.MD{"authorization": values})
}

// refused requires that the call is rejected, and that the error contains no secret of the token.
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
	for _, alg := range []string{"ES256", "ES384", "ES512", "RS256", "RS384", "PS512", "EdDSA", "Ed25519", "ES256K"} {
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
		"a pair of surrogates":           {map[string]any{"sub": json.RawMessage(`"\ud83d\ude00"`)}, session.Caller{Name: "\U0001F600"}},
		"a mark inside a name":           {map[string]any{"sub": "\u200eAda: cn:x"}, session.Caller{Name: "\u200eAda: cn:x"}},
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
	text := func(format string) string {
		b, err := json.Marshal(authtest.Claims("alice", nil))
		require.NoError(t, err)
		return "Bearer " + key.SignText(t, fmt.Sprintf(format, b))
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
		"one byte too many":         {[]string{"Bearer " + good + strings.Repeat("A", auth.MaxToken+1-len(good))}, "at most 8192"},
		"not a JWT":                 {[]string{"Bearer secret-words"}, "three parts"},
		"cut short":                 {[]string{"Bearer " + parts[0] + "." + parts[1]}, "three parts"},
		"garbage in three parts":    {[]string{"Bearer a.b.c"}, "not a signed JWT"},
		"JSON serialization":        {[]string{`Bearer {"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`}, "three parts"},
		"expired":                   {[]string{claims(map[string]any{"exp": now - 60})}, `"exp" not satisfied`},
		"expires never":             {[]string{claims(map[string]any{"exp": nil})}, `"exp"`},
		"not yet valid":             {[]string{claims(map[string]any{"nbf": now + 120})}, `"nbf" not satisfied`},
		"issued in the future":      {[]string{claims(map[string]any{"iat": now + 120})}, `"iat" not satisfied`},
		"of another issuer":         {[]string{claims(map[string]any{"iss": authtest.Issuer + "/"})}, `"iss" not satisfied: claim "iss" does not have the expected value: it is "https://issuer.example.org/", and --jwt-issuer is "https://issuer.example.org"`},
		"of no issuer":              {[]string{claims(map[string]any{"iss": nil})}, `"iss"`},
		"for another audience":      {[]string{claims(map[string]any{"aud": []string{"mpcd2", ""}})}, `it is "mpcd2 ", and --jwt-audience is "mpcd"`},
		"for no audience":           {[]string{claims(map[string]any{"aud": nil})}, `"aud"`},
		"of nobody":                 {[]string{claims(map[string]any{"sub": nil})}, "name is empty"},
		"of null":                   {[]string{claims(map[string]any{"sub": any(nil), "nbf": "x"})}, "malformed"},
		"of a name too long":        {[]string{claims(map[string]any{"sub": strings.Repeat("a", 257)})}, "at most 256"},
		"of a bidi override":        {[]string{claims(map[string]any{"sub": "alice\u202e"})}, "not printable"},
		"of a line":                 {[]string{claims(map[string]any{"sub": "alice\nbob"})}, "not printable"},
		"of a SPIFFE ID":            {[]string{claims(map[string]any{"sub": "spiffe://example.org/backend"})}, "form of a certificate's name"},
		"of a SPIFFE ID in capital": {[]string{claims(map[string]any{"sub": " SPIFFE://example.org/backend"})}, "form of a certificate's name"},
		"of a common name":          {[]string{claims(map[string]any{"sub": "CN:support"})}, "form of a certificate's name"},
		"of a DNS name":             {[]string{claims(map[string]any{"sub": " Dns:backend.example.org"})}, "form of a certificate's name"},
		"a logout token":            {[]string{header(map[string]any{"typ": "logout+jwt"})}, "another kind of JWT"},
		"a security event":          {[]string{header(map[string]any{"typ": "application/SecEvent+JWT"})}, "another kind of JWT"},
		"expiry that is no number":  {[]string{claims(map[string]any{"exp": "tomorrow"})}, "claims are malformed"},
		"expiry in text":            {[]string{claims(map[string]any{"exp": fmt.Sprint(now + 60)})}, "claims are malformed"},
		"nbf in text":               {[]string{claims(map[string]any{"nbf": fmt.Sprint(now - 60)})}, "claims are malformed"},
		"iat in text":               {[]string{claims(map[string]any{"iat": fmt.Sprint(now - 60)})}, "claims are malformed"},
		"nbf null":                  {[]string{claims(map[string]any{"nbf": json.RawMessage("null")})}, "claims are malformed"},
		"iat null":                  {[]string{claims(map[string]any{"iat": json.RawMessage("null")})}, "claims are malformed"},
		"claims and more":           {[]string{text(`%s{}`)}, "claims are malformed"},
		"claims and a letter":       {[]string{text(`%s x`)}, "claims are malformed"},
		"claims in a list":          {[]string{text(`[%s]`)}, "claims are malformed"},
		"half a character":          {[]string{claims(map[string]any{"sub": json.RawMessage(`"alice\ud800"`)})}, "replacement character"},
		"the other half":            {[]string{claims(map[string]any{"sub": json.RawMessage(`"\udfffalice"`)})}, "replacement character"},
		"a replacement character":   {[]string{claims(map[string]any{"sub": "al\ufffdice"})}, "replacement character"},
		"a mark before a CN":        {[]string{claims(map[string]any{"sub": "\u200ecn:support"})}, "form of a certificate's name"},
		"a mark inside a CN":        {[]string{claims(map[string]any{"sub": "c\u200fn\u061c:support"})}, "form of a certificate's name"},
		"a space without width":     {[]string{claims(map[string]any{"sub": "\u200bDNS\u2060:backend.example.org"})}, "form of a certificate's name"},
		"a joiner in a SPIFFE ID":   {[]string{claims(map[string]any{"sub": "\u00a0spif\u200dfe\ufe0f\u034f://example.org/backend"})}, "form of a certificate's name"},
		"a logout token, spaced":    {[]string{header(map[string]any{"typ": "Application/logout+jwt "})}, "another kind of JWT"},
		"a logout token, in detail": {[]string{header(map[string]any{"typ": " logout+jwt ; v=1"})}, "another kind of JWT"},
		"a key that is null":        {[]string{header(map[string]any{"jwk": json.RawMessage("null")})}, "not a signed JWT"},
		"a key that is a number":    {[]string{header(map[string]any{"jwk": 5})}, "not a signed JWT"},
		"a chain that is text":      {[]string{header(map[string]any{"x5c": "!!"})}, "not a signed JWT"},
		"expiry null":               {[]string{claims(map[string]any{"exp": json.RawMessage("null")})}, "claims are malformed"},
		"expiry beyond all numbers": {[]string{claims(map[string]any{"exp": json.RawMessage("1e300")})}, "claims are malformed"},
		"an audience of numbers":    {[]string{claims(map[string]any{"aud": []any{1, authtest.Audience}})}, "claims are malformed"},
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

// The forms of scopes that identity providers send.
func TestScopesOfAToken(t *testing.T) {
	t.Parallel()
	key := authtest.NewKey(t, "k", "ES256")
	a := &auth.Authenticator{Tokens: newTokens(t, keysFile(t, key), silent)}
	read, write, admin := session.ScopeRead, session.ScopeWrite, session.ScopeAdmin
	null := json.RawMessage("null")
	for name, c := range map[string]struct {
		changes map[string]any
		want    []session.Scope
	}{
		"text (RFC 8693)":                  {map[string]any{"scope": "openid wallets:write wallets:read"}, []session.Scope{read, write}},
		"a list":                           {map[string]any{"scope": []string{"wallets:read", "wallets:admin"}}, []session.Scope{read, admin}},
		"an empty list":                    {map[string]any{"scope": []string{}}, nil},
		"null":                             {map[string]any{"scope": null}, nil},
		"a number":                         {map[string]any{"scope": 7}, nil},
		"true":                             {map[string]any{"scope": true}, nil},
		"an object":                        {map[string]any{"scope": map[string]any{"wallets:admin": true}}, nil},
		"a list with a number":             {map[string]any{"scope": []any{"wallets:admin", 1}}, nil},
		"a list with null":                 {map[string]any{"scope": []any{nil, "wallets:admin"}}, nil},
		"a list in a list":                 {map[string]any{"scope": []any{[]string{"wallets:admin"}}}, nil},
		"a list of lines":                  {map[string]any{"scope": []string{"wallets:read wallets:admin"}}, nil},
		"text with commas":                 {map[string]any{"scope": "wallets:read,wallets:admin"}, nil},
		"text in upper case":               {map[string]any{"scope": "WALLETS:ADMIN"}, nil},
		"a claim in upper case":            {map[string]any{"SCOPE": "wallets:admin"}, nil},
		"scp as text (Microsoft)":          {map[string]any{"scp": "wallets:read User.Read"}, []session.Scope{read}},
		"scp as a list (Okta)":             {map[string]any{"scp": []string{"openid", "wallets:read", "wallets:write"}}, []session.Scope{read, write}},
		"scp null":                         {map[string]any{"scp": null}, nil},
		"scp with a number":                {map[string]any{"scp": []any{"wallets:admin", 1}}, nil},
		"both: scope counts":               {map[string]any{"scope": "wallets:read", "scp": []string{"wallets:admin"}}, []session.Scope{read}},
		"both, scope empty: it counts":     {map[string]any{"scope": "", "scp": "wallets:admin"}, nil},
		"both, scope malformed: it counts": {map[string]any{"scope": 7, "scp": "wallets:admin"}, nil},
		"both, scope null: scp counts":     {map[string]any{"scope": null, "scp": "wallets:read"}, []session.Scope{read}},
		"roles are no scopes":              {map[string]any{"roles": []string{"wallets:admin"}, "permissions": []string{"wallets:admin"}}, nil},
	} {
		got, err := a.Caller(with(t.Context(), "Bearer "+key.Token(t, authtest.Claims("alice", c.changes))))
		require.NoError(t, err, name)
		require.Equal(t, session.Caller{Name: "alice", Scopes: c.want}, got, name)
	}
}

func TestAcceptedTokenForms(t *testing.T) {
	t.Parallel()
	key := authtest.NewKey(t, "k", "ES256")
	a := &auth.Authenticator{Tokens: newTokens(t, keysFile(t, key), silent)}
	now := time.Now().Unix()
	for name, changes := range map[string]map[string]any{
		"an audience in a list":        {"aud": []string{authtest.Audience}},
		"an audience among others":     {"aud": []string{"account", authtest.Audience, "https://api.example.org"}},
		"an expiry with a fraction":    {"exp": json.RawMessage(fmt.Sprintf("%d.75", now+60))},
		"an expiry with an exponent":   {"exp": json.RawMessage(fmt.Sprintf("%.9e", float64(now+3600)))},
		"an expiry far away":           {"exp": 253402300799},
		"no iat":                       {"iat": nil},
		"iat a little ahead":           {"iat": now + 20},
		"nbf a little ahead":           {"nbf": now + 20, "exp": now + 60},
		"claims of the issuer's own":   {"azp": "app", "client_id": "app", "acr": 1, "amr": []string{"pwd"}, "https://example.org/x": map[string]any{"a": nil}, "jti": "1", "sid": nil},
		"a confirmation (DPoP, mTLS)":  {"cnf": map[string]any{"jkt": "x"}},
		"a long list of groups":        {"groups": strings.Split(strings.Repeat("group ", 100), " ")},
		"an empty name beside subject": {"name": "", "email": nil},
	} {
		got, err := a.Caller(with(t.Context(), "Bearer "+key.Token(t, authtest.Claims("alice", changes))))
		require.NoError(t, err, name)
		require.Equal(t, session.Caller{Name: "alice"}, got, name)
	}
	for name, header := range map[string]map[string]any{
		"typ JWT":                {"typ": "JWT"},
		"typ jwt":                {"typ": "jwt"},
		"no typ":                 {},
		"an access token's typ":  {"typ": "at+jwt"},
		"the same, spaced":       {"typ": " AT+JWT ; profile=x"},
		"the same, in full":      {"typ": "application/at+JWT"},
		"typ of the issuer's":    {"typ": "Bearer"},
		"a content type":         {"cty": "json"},
		"a thumbprint":           {"x5t": "AAAAAAAAAAAAAAAAAAAAAAAAAAA", "x5t#S256": "x"},
		"members of its own":     {"ver": 2, "nonce": "x", "client_id": "app"},
		"a URL of keys, ignored": {"jku": "https://evil.example.org/keys"},
	} {
		header["alg"], header["kid"] = "ES256", "k"
		got, err := a.Caller(with(t.Context(), "Bearer "+key.Sign(t, header, authtest.Claims("alice", nil))))
		require.NoError(t, err, name)
		require.Equal(t, session.Caller{Name: "alice"}, got, name)
	}
	good := key.Token(t, authtest.Claims("alice", nil))
	for _, value := range []string{"Bearer " + good, "bearer " + good, "BEARER " + good, "Bearer   " + good, "bEARER " + good + "  "} {
		_, err := a.Caller(with(t.Context(), value))
		require.NoError(t, err)
	}
	for _, value := range []string{"Bearer" + good, " Bearer " + good, "Bearer\u00a0" + good, "Bearer\t" + good, "Bearer: " + good, "Bearer " + good + "\t", "Token " + good, "Bearer"} {
		refused(t, a, []string{value}, "")
	}
}

// Signatures over secp256k1 are accepted with either s, and only with that key's algorithm.
func TestES256K(t *testing.T) {
	t.Parallel()
	key, other := authtest.NewKey(t, "k", "ES256K"), authtest.NewKey(t, "k", "ES256K")
	named := key.JWK(t)
	delete(named, "alg")
	off := key.JWK(t)
	off["kid"], off["y"] = "off", off["x"]
	a := &auth.Authenticator{Tokens: newTokens(t, setFile(t, off, named), silent)}
	good := key.Token(t, authtest.Claims("alice", nil))
	for range 8 { // s is low or high at random
		accepted(t, a, key)
	}
	refused(t, a, bearerOf(t, other), "signature is wrong")
	off256 := *key
	off256.ID = "off"
	refused(t, a, bearerOf(t, &off256), "no key of the issuer")
	refused(t, a, []string{"Bearer " + key.Sign(t, map[string]any{"alg": "ES256", "kid": "k"}, authtest.Claims("alice", nil))}, "no key of the issuer")
	head := good[:strings.LastIndex(good, ".")+1]
	for _, signature := range [][]byte{nil, make([]byte, 63), make([]byte, 64), make([]byte, 65), bytes.Repeat([]byte{0xff}, 64)} {
		refused(t, a, []string{"Bearer " + head + authtest.B64(signature)}, "")
	}
}

// A public key is not secret, so it must never be accepted as a MAC key (algorithm confusion).
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

// Any input other than a good token is rejected.
func FuzzToken(f *testing.F) {
	key := authtest.NewKey(f, "k", "ES256")
	a := &auth.Authenticator{Tokens: newTokens(f, keysFile(f, key), silent)}
	good := key.Token(f, authtest.Claims("alice", nil))
	f.Add("Bearer " + good)
	f.Fuzz(func(t *testing.T, value string) {
		c, err := a.Caller(with(t.Context(), value))
		if _, token, _ := strings.Cut(value, " "); strings.Trim(token, " ") == good && err == nil {
			return // the scheme is case-insensitive
		}
		require.ErrorIs(t, err, session.ErrUnauthenticated)
		require.Zero(t, c)
		require.Less(t, len(err.Error()), 1024)
	})
}
