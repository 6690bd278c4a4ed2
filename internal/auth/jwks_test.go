package auth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/auth/authtest"
	"github.com/mpcd/mpcd/internal/session"
)

// provider is an identity provider's JWKS server with a replaceable handler.
type provider struct {
	*httptest.Server
	answer atomic.Pointer[http.HandlerFunc]
	asked  atomic.Int32
}

func newProvider(t testing.TB, answer http.HandlerFunc) *provider {
	t.Helper()
	p := &provider{}
	p.set(answer)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		(*p.answer.Load())(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) set(answer http.HandlerFunc) { p.answer.Store(&answer) }

func serving(t testing.TB, keys ...*authtest.Key) http.HandlerFunc {
	t.Helper()
	set := authtest.JWKS(t, keys...)
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// atOnce allows a fetch at any time, and never expires keys.
func atOnce(tokens *auth.Tokens) { tokens.Timing(time.Hour, 0, time.Hour, 10*time.Second) }

func bearerOf(t testing.TB, k *authtest.Key) []string {
	t.Helper()
	return []string{"Bearer " + k.Token(t, authtest.Claims("alice", nil))}
}

func accepted(t testing.TB, a *auth.Authenticator, k *authtest.Key) {
	t.Helper()
	c, err := a.Caller(with(t.Context(), bearerOf(t, k)...))
	require.NoError(t, err)
	require.Equal(t, "alice", c.Name)
}

func TestJWKSServerThatIsDownAtStart(t *testing.T) {
	t.Parallel()
	key := authtest.NewKey(t, "k", "ES256")
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, lis.Close()) // nothing listens there any more
	tokens := newTokens(t, "http://"+lis.Addr().String()+"/keys", silent)
	atOnce(tokens)
	a := &auth.Authenticator{Tokens: tokens}
	tokens.Fetch() // as the service does at startup
	refused(t, a, bearerOf(t, key), "connection refused")

	lis, err = lc.Listen(t.Context(), "tcp", lis.Addr().String())
	require.NoError(t, err)
	up := &httptest.Server{Listener: lis, Config: &http.Server{Handler: serving(t, key), ReadHeaderTimeout: time.Minute}}
	up.Start()
	t.Cleanup(up.Close)
	accepted(t, a, key)
}

func TestJWKSServerThatGoesDown(t *testing.T) {
	t.Parallel()
	key, other := authtest.NewKey(t, "k", "ES256"), authtest.NewKey(t, "other", "ES256")
	p := newProvider(t, serving(t, key))
	log := &logged{}
	tokens := newTokens(t, p.URL, log.logger())
	tokens.Timing(0, 0, time.Hour, 10*time.Second) // fetched again for every token
	a := &auth.Authenticator{Tokens: tokens}
	accepted(t, a, key)
	p.set(status(http.StatusServiceUnavailable))
	for range 3 {
		refused(t, a, bearerOf(t, other), "it answers 503") // waits for its own fetch, so the other one has ended by then
		accepted(t, a, key)
	}
	require.Equal(t, 1, strings.Count(log.String(), "cannot be read"), "the failure is logged once")
	tokens.Close()
	tokens.Timing(0, 0, 0, 10*time.Second) // the keys are too old now
	refused(t, a, bearerOf(t, key), "no key of the issuer")
}

func TestJWKSServerThatIsSlow(t *testing.T) {
	t.Parallel()
	key, other := authtest.NewKey(t, "k", "ES256"), authtest.NewKey(t, "other", "ES256")
	p := newProvider(t, serving(t, key))
	tokens := newTokens(t, p.URL, silent)
	tokens.Timing(0, 0, time.Hour, time.Hour)
	a := &auth.Authenticator{Tokens: tokens}
	accepted(t, a, key)
	came := make(chan struct{}, 16)
	p.set(func(_ http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		<-r.Context().Done() // until the service gives up
	})
	accepted(t, a, key)
	<-came
	accepted(t, a, key) // while the server hangs
	ctx, cancel := context.WithCancel(with(t.Context(), bearerOf(t, other)...))
	cancel()
	_, err := a.Caller(ctx)
	require.ErrorIs(t, err, session.ErrUnauthenticated)
	require.ErrorIs(t, err, context.Canceled, "a caller need not wait for the fetch")
	tokens.Close() // cancels the fetch

	patient := newTokens(t, p.URL, silent)
	patient.Timing(0, time.Hour, time.Hour, time.Nanosecond)
	refused(t, &auth.Authenticator{Tokens: patient}, bearerOf(t, key), "deadline exceeded")
}

func TestJWKSServerThatAnswersBadly(t *testing.T) {
	t.Parallel()
	key := authtest.NewKey(t, "k", "ES256")
	good := newProvider(t, serving(t, key))
	set := authtest.JWKS(t, key)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"nothing":         {status(http.StatusNoContent), "answers 204"},
		"an error":        {status(http.StatusInternalServerError), "answers 500"},
		"a redirect":      {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, good.URL, http.StatusFound) }, "answers 302"},
		"garbage":         {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>secret</html>") }, "not a JWK Set"},
		"half a set":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set[:len(set)/2]) }, "not a JWK Set"},
		"no keys":         {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"keys":[]}`) }, "no public key"},
		"no list of keys": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"keys":7}`) }, "not a JWK Set"},
		"a symmetric key": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"keys":[{"kty":"oct","kid":"k","k":"AAAA"}]}`)
		}, "no public key"},
		"a connection cut": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"a body without end": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
					return
				}
			}
		}, "more than 262144 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, c.answer)
			tokens := newTokens(t, p.URL, silent)
			atOnce(tokens)
			a := &auth.Authenticator{Tokens: tokens}
			refused(t, a, bearerOf(t, key), c.says)
			p.set(serving(t, key))
			accepted(t, a, key)
			p.set(c.answer)
			accepted(t, a, key)
		})
	}
}

// Keys that cannot verify are skipped; usable keys in the same set still work.
func TestJWKSWithKeysOfOtherKinds(t *testing.T) {
	t.Parallel()
	good := authtest.NewKey(t, "good", "ES256")
	set := []any{7, nil, []any{}, map[string]any{"kty": "EC"}, map[string]any{"kty": "oct", "kid": "good", "k": "AAAA"}}
	var left []*authtest.Key
	for name, change := range map[string]map[string]any{
		"unknown":       {"kty": "NEW"},
		"kind null":     {"kty": nil},
		"enc":           {"use": "enc"},
		"use":           {"use": "other"},
		"key_ops":       {"key_ops": []string{"encrypt", "wrapKey"}},
		"private":       {"d": authtest.B64(make([]byte, 32))},
		"alg":           {"alg": "ECDH-ES+A256KW"},
		"kid":           {"kid": 7},
		"curve":         {"crv": "P-256K1"},
		"another curve": {"crv": "P-384"},
		"off the curve": {"y": authtest.B64(make([]byte, 32))},
		"short":         {"x": "AAAA"},
		"no y":          {"y": nil},
		"case":          {"kty": nil, "KTY": "EC"},
	} {
		k := authtest.NewKey(t, name, "ES256")
		member := k.JWK(t)
		for n, v := range change {
			member[n] = v
			if v == nil && n != "kty" {
				delete(member, n)
			}
		}
		left, set = append(left, k), append(set, member)
	}
	weak := map[string]any{"kty": "RSA", "kid": "weak", "use": "sig", "n": authtest.B64(bytes.Repeat([]byte{0xff}, 128)), "e": "AQAB"}
	a := &auth.Authenticator{Tokens: newTokens(t, setFile(t, append(set, weak, good.JWK(t))...), silent)}
	accepted(t, a, good)
	for _, k := range left {
		refused(t, a, bearerOf(t, k), "no key of the issuer")
	}
}

// Harmless variations of a JWK, as issuers publish them.
func TestAcceptedJWKForms(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		alg    string
		change map[string]any
	}{
		"no alg":                       {"ES256", map[string]any{"alg": nil}},
		"no alg, P-384":                {"ES384", map[string]any{"alg": nil}},
		"no alg, P-521":                {"ES512", map[string]any{"alg": nil}},
		"no alg, RSA":                  {"PS256", map[string]any{"alg": nil}},
		"no use":                       {"ES256", map[string]any{"use": nil}},
		"neither alg nor use":          {"EdDSA", map[string]any{"use": nil, "alg": nil}},
		"EdDSA, called Ed25519":        {"EdDSA", map[string]any{"alg": "Ed25519"}},
		"Ed25519, called EdDSA":        {"Ed25519", map[string]any{"alg": "EdDSA"}},
		"key_ops":                      {"ES256", map[string]any{"key_ops": []string{"verify"}}},
		"key_ops of a careless issuer": {"ES256", map[string]any{"key_ops": []string{"sign"}}},
		"a chain of certificates":      {"RS256", map[string]any{"x5c": []string{"MIIBIjAN"}, "x5t": "abc", "x5t#S256": "x", "x5u": "https://x/"}},
		"a chain that is none":         {"RS256", map[string]any{"x5c": "none", "x5t": 7}},
		"members of the issuer's":      {"ES256", map[string]any{"issuer": "https://login.example.org/{tenantid}/v2.0", "nbf": 1, "exp": 1, "cloud_instance_name": nil}},
		"use null":                     {"ES256", map[string]any{"use": any(json.RawMessage("null"))}},
	} {
		k := authtest.NewKey(t, "k", c.alg)
		member := k.JWK(t)
		for n, v := range c.change {
			member[n] = v
			if v == nil {
				delete(member, n)
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			accepted(t, &auth.Authenticator{Tokens: newTokens(t, setFile(t, member), silent)}, k)
		})
	}
	k := authtest.NewKey(t, "k", "ES256")
	alone, err := json.Marshal(k.JWK(t))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "key.json")
	require.NoError(t, os.WriteFile(path, alone, 0o600))
	accepted(t, &auth.Authenticator{Tokens: newTokens(t, path, silent)}, k) // a key that is not in a set
}

// Any bytes from an issuer are either a set with usable keys, or rejected with an error that quotes none of them.
func FuzzJWKS(f *testing.F) {
	var all []*authtest.Key
	for _, alg := range []string{"ES256", "ES512", "ES256K", "RS256", "EdDSA"} {
		k := authtest.NewKey(f, "k", alg)
		one, err := json.Marshal(k.JWK(f))
		require.NoError(f, err)
		all = append(all, k)
		f.Add(one)
	}
	f.Add(authtest.JWKS(f, all...))
	for _, seed := range []string{"", "{}", "[]", "null", `{"keys":null}`, `{"keys":{}}`, `{"keys":[[]]}`, `{"kty":"EC","crv":"secp256k1","x":"","y":""}`, `{"kty":"RSA","n":"AQ","e":"AQ"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := auth.UsableKeys(b)
		require.Equal(t, err == nil, n > 0)
		if err != nil {
			require.Less(t, len(err.Error()), 100)
		}
	})
}

// A key's id is optional, both in the set and in tokens.
func TestKeysWithoutAnID(t *testing.T) {
	t.Parallel()
	key, other, third := authtest.NewKey(t, "k", "ES256"), authtest.NewKey(t, "other", "ES256"), authtest.NewKey(t, "third", "RS256")
	member := func(k *authtest.Key, kid any) map[string]any {
		m := k.JWK(t)
		m["kid"] = kid
		if kid == nil {
			delete(m, "kid")
		}
		return m
	}
	token := func(k *authtest.Key, kid any) []string {
		header := map[string]any{"alg": k.Alg}
		if kid != nil {
			header["kid"] = kid
		}
		return []string{"Bearer " + k.Sign(t, header, authtest.Claims("alice", nil))}
	}
	for name, c := range map[string]struct {
		set  []any
		kid  any    // in the header of key's token
		says string // empty: it is accepted
	}{
		"neither has one":                     {[]any{member(key, nil)}, nil, ""},
		"the key has an empty one":            {[]any{member(key, "")}, nil, ""},
		"the token has an empty one":          {[]any{member(key, nil)}, "", ""},
		"the token alone, of one key":         {[]any{member(key, nil)}, "k", ""},
		"the key alone, and no other":         {[]any{member(key, "k")}, nil, ""},
		"both, and another":                   {[]any{member(key, "k")}, "x", "no key of the issuer"},
		"the token alone, of two keys":        {[]any{member(key, nil), member(third, "rsa")}, "k", "no key of the issuer"},
		"the keys alone, two of them":         {[]any{member(key, "k"), member(third, "rsa")}, nil, "names no key"},
		"neither, beside a key with an id":    {[]any{member(other, "other"), member(key, nil)}, nil, ""},
		"two keys without, either":            {[]any{member(other, nil), member(key, nil)}, nil, ""},
		"two keys without, a token with one":  {[]any{member(other, nil), member(key, nil)}, "k", "no key of the issuer"},
		"two keys with the same":              {[]any{member(other, "k"), member(key, "k")}, "k", ""},
		"more keys of one id than are tried":  {[]any{member(other, "k"), member(other, "k"), member(other, "k"), member(other, "k"), member(key, "k")}, "k", "signature is wrong"},
		"another key without":                 {[]any{member(other, nil)}, nil, "signature is wrong"},
		"a key without, of another algorithm": {[]any{member(third, nil)}, nil, "names no key"},
	} {
		a := &auth.Authenticator{Tokens: newTokens(t, setFile(t, c.set...), silent)}
		if c.says != "" {
			refused(t, a, token(key, c.kid), c.says)
			continue
		}
		got, err := a.Caller(with(t.Context(), token(key, c.kid)...))
		require.NoError(t, err, name)
		require.Equal(t, "alice", got.Name, name)
	}

	// If the issuer replaces a key without an id, the new one is found, as with a new id.
	p := newProvider(t, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(member(key, nil)) })
	tokens := newTokens(t, p.URL, silent)
	atOnce(tokens)
	a := &auth.Authenticator{Tokens: tokens}
	_, err := a.Caller(with(t.Context(), token(key, nil)...))
	require.NoError(t, err)
	require.Equal(t, int32(1), p.asked.Load(), "a valid signature does not cause a fetch")
	p.set(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(member(other, nil)) })
	_, err = a.Caller(with(t.Context(), token(other, nil)...))
	require.NoError(t, err)
	refused(t, a, token(key, nil), "signature is wrong")
	// Bad tokens do not cause unlimited fetches.
	tokens.Timing(time.Hour, time.Hour, time.Hour, 10*time.Second)
	asked := p.asked.Load()
	for range 5 {
		refused(t, a, token(key, nil), "signature is wrong")
	}
	require.Equal(t, asked, p.asked.Load())
}

// The issuer replaces its key while many calls are in flight: none of them is refused.
func TestJWKSRotatesDuringCalls(t *testing.T) {
	t.Parallel()
	before, after := authtest.NewKey(t, "before", "ES256"), authtest.NewKey(t, "after", "EdDSA")
	p := newProvider(t, serving(t, before))
	tokens := newTokens(t, p.URL, silent)
	atOnce(tokens)
	a := &auth.Authenticator{Tokens: tokens}
	accepted(t, a, before)
	hold := make(chan struct{})
	both := serving(t, before, after)
	came := make(chan struct{}, 1)
	p.set(func(w http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		<-hold
		both(w, r)
	})
	var wg sync.WaitGroup
	var failed atomic.Int32
	values := bearerOf(t, after)
	for range 8 {
		wg.Go(func() {
			if _, err := a.Caller(with(t.Context(), values...)); err != nil {
				failed.Add(1)
			}
		})
	}
	<-came
	accepted(t, a, before) // the old key still works
	close(hold)
	wg.Wait()
	require.Zero(t, failed.Load())
	require.Equal(t, int32(2), p.asked.Load(), "one fetch for all waiting calls")

	// Once the old key is gone from the set, its tokens are refused.
	p.set(serving(t, after))
	refused(t, a, bearerOf(t, authtest.NewKey(t, "third", "ES256")), "no key of the issuer")
	refused(t, a, bearerOf(t, before), "no key of the issuer")
	accepted(t, a, after)
}

// Tokens with made-up key ids do not cause unlimited fetches.
func TestJWKSIsNotAskedForEveryUnknownKey(t *testing.T) {
	t.Parallel()
	key := authtest.NewKey(t, "k", "ES256")
	p := newProvider(t, serving(t, key))
	tokens := newTokens(t, p.URL, silent)
	tokens.Timing(time.Hour, time.Hour, time.Hour, 10*time.Second)
	a := &auth.Authenticator{Tokens: tokens}
	accepted(t, a, key)
	for range 20 {
		k := *key
		k.ID += "x"
		refused(t, a, bearerOf(t, &k), "no key of the issuer")
	}
	require.Equal(t, int32(1), p.asked.Load())
}

func TestJWKSFileChanges(t *testing.T) {
	t.Parallel()
	first, second := authtest.NewKey(t, "1", "ES256"), authtest.NewKey(t, "2", "ES256")
	path := keysFile(t, first)
	tokens := newTokens(t, path, silent)
	atOnce(tokens)
	a := &auth.Authenticator{Tokens: tokens}
	accepted(t, a, first)
	authtest.Replace(t, path, []byte("not keys"))
	refused(t, a, bearerOf(t, second), "not a JWK Set")
	accepted(t, a, first)
	authtest.Replace(t, path, authtest.JWKS(t, second))
	accepted(t, a, second)
	refused(t, a, bearerOf(t, first), "no key of the issuer")
}

// Some editors start a file with a byte order mark.
func TestKeysBehindAByteOrderMark(t *testing.T) {
	t.Parallel()
	key := authtest.NewKey(t, "k", "ES256")
	single, err := json.Marshal(key.JWK(t))
	require.NoError(t, err)
	for _, text := range [][]byte{authtest.JWKS(t, key), single} {
		path := filepath.Join(t.TempDir(), "jwks.json")
		require.NoError(t, os.WriteFile(path, append([]byte("\ufeff"), text...), 0o600))
		accepted(t, &auth.Authenticator{Tokens: newTokens(t, path, silent)}, key)
	}
}

func TestJWKSLocations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage, large := filepath.Join(dir, "garbage"), filepath.Join(dir, "large")
	require.NoError(t, os.WriteFile(garbage, []byte("{}"), 0o600))
	require.NoError(t, os.WriteFile(large, bytes.Repeat([]byte(" "), 256<<10+1), 0o600))
	for jwks, says := range map[string]string{
		"http://issuer.example.org/keys":          "https URL",
		"ftp://127.0.0.1/keys":                    "https URL",
		"https://user:hunter2@issuer.example.org": "form https://",
		"https://":                      "form https://",
		"http://%zz":                    "form https://",
		"http://127.0.0.1.example.org/": "https URL",
		filepath.Join(dir, "none"):      "no such file",
		garbage:                         "garbage: it ",
		large:                           "more than 262144 bytes",
		dir:                             "not a regular file",
	} {
		_, err := auth.NewTokens("i", "a", jwks, silent)
		require.ErrorContains(t, err, says, jwks)
		require.NotContains(t, err.Error(), "hunter2")
	}
	for _, jwks := range []string{"https://issuer.example.org/keys", "http://localhost:1/", "http://[::1]:1/"} {
		newTokens(t, jwks, silent)
	}
}

// logged is a log that the test can read.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }
