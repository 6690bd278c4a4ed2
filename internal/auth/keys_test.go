package auth

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwt"
	"github.com/stretchr/testify/require"
)

// fetched is a key set whose fetches the test answers.
type fetched struct {
	*keys
	log    bytes.Buffer
	times  int
	answer func() ([]byte, error)
}

// An Ed25519 key without an id, in a set of its own (RFC 8037, appendix A.2).
const oneKey = `{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

func newFetched() *fetched {
	f := &fetched{answer: func() ([]byte, error) { return []byte(oneKey), nil }}
	f.keys = &keys{location: "issuer", timing: timing{refresh: time.Minute, retry: time.Second, keep: time.Hour, timeout: time.Second}}
	f.keys.log = slog.New(slog.NewTextHandler(&f.log, nil))
	f.fetch = func(context.Context) ([]byte, error) {
		f.times++
		return f.answer()
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

var anEdDSAKey = keyID{"", jwa.EdDSA()}

// Keys are fetched if there are none or they are old, at most once per retry interval, and not after close. Old ones
// are used meanwhile, until they are too old.
func TestWhenKeysAreFetched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFetched()
		look := func(id keyID) []crypto.PublicKey {
			found, _, going := f.look(id)
			if going != nil {
				<-going
			}
			return found
		}
		require.Empty(t, look(anEdDSAKey), "before the first fetch")
		require.Equal(t, 1, f.times)
		time.Sleep(2 * time.Second) // they may be fetched again from now on
		require.Len(t, look(anEdDSAKey), 1)
		require.Equal(t, 1, f.times, "fresh keys cause no fetch")
		time.Sleep(2 * time.Minute)
		require.Len(t, look(anEdDSAKey), 1, "old keys are still used")
		require.Equal(t, 2, f.times, "and a fetch has started")

		found, err := f.renewed(t.Context(), anEdDSAKey)
		require.NoError(t, err)
		require.Empty(t, found, "the last fetch began too recently")
		require.Equal(t, 2, f.times)
		time.Sleep(2 * time.Second)
		found, err = f.renewed(t.Context(), anEdDSAKey)
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, 3, f.times)
		ended, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		wait := make(chan struct{})
		f.answer = func() ([]byte, error) { <-wait; return nil, io.EOF }
		time.Sleep(2 * time.Second)
		_, err = f.renewed(ended, anEdDSAKey)
		require.ErrorIs(t, err, gone)
		close(wait)
		synctest.Wait()

		time.Sleep(2 * time.Hour)
		require.Empty(t, look(anEdDSAKey), "the keys are too old")
		require.Equal(t, 5, f.times)
		f.close()
		time.Sleep(time.Hour)
		require.Empty(t, look(anEdDSAKey))
		require.Equal(t, 5, f.times, "no fetch after close")
	})
}

// The first failure to fetch keys is logged, and the first success after it. A fetch cancelled by close logs nothing.
func TestKeyFetchFailuresAreLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFetched()
		good := f.answer
		next := func(answer func() ([]byte, error)) {
			f.answer = answer
			time.Sleep(2 * time.Minute)
			_, _, going := f.look(anEdDSAKey)
			<-going
		}
		bad := func() ([]byte, error) { return nil, io.ErrUnexpectedEOF }
		next(bad)
		next(bad)
		_, _, err := f.find(t.Context(), anEdDSAKey)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		next(good)
		next(good)
		require.Equal(t, 1, strings.Count(f.log.String(), "cannot be read; the last ones"))
		require.Equal(t, 1, strings.Count(f.log.String(), "can be read again"))
		begun := make(chan struct{})
		f.answer = func() ([]byte, error) {
			close(begun)
			<-f.ctx.Done()
			return nil, f.ctx.Err()
		}
		time.Sleep(2 * time.Minute)
		f.look(anEdDSAKey)
		<-begun
		f.close()
		require.Equal(t, 1, strings.Count(f.log.String(), "cannot be read; the last ones"))
	})
}

// compact returns a token of the three parts.
func compact(header, claims string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(header)) + "." + part([]byte(claims)) + "." + part(make([]byte, 64))
}

// If a token without a key id has a wrong signature, the keys are fetched again, since the key may have changed. If
// the token's id identified its key, they are not.
func TestWhenASignatureIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		set, header string
		times       int
	}{
		"without an id": {oneKey, `{"alg":"EdDSA"}`, 2},
		"with its id":   {strings.Replace(oneKey, `"kty"`, `"kid": "a", "kty"`, 1), `{"alg":"EdDSA","kid":"a"}`, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFetched()
			f.answer = func() ([]byte, error) { return []byte(x.set), nil }
			tokens := &Tokens{issuer: "i", audience: "a", keys: f.keys}
			tokens.Fetch()
			synctest.Wait()
			time.Sleep(2 * time.Second)
			_, err := tokens.verify(t.Context(), compact(x.header, `{"sub":"x"}`))
			require.ErrorIs(t, err, errSignature, name)
			require.Equal(t, x.times, f.times, name)

			// A caller that stops waiting gets its context's error, not that of a wrong signature.
			ended, cancel := context.WithCancelCause(t.Context())
			gone := errors.New("gone")
			cancel(gone)
			f.answer = func() ([]byte, error) { <-f.ctx.Done(); return nil, f.ctx.Err() }
			time.Sleep(2 * time.Second)
			_, err = tokens.verify(ended, compact(x.header, `{"sub":"x"}`))
			require.Equal(t, x.times == 2, errors.Is(err, gone), name)
			tokens.Close()
		})
	}
}

// The headers that a token may have.
func TestHeaders(t *testing.T) {
	t.Parallel()
	id, err := signedBy(compact(`{"alg":"EdDSA","kid":"a"}`, `{}`))
	require.NoError(t, err)
	require.Equal(t, keyID{"a", jwa.EdDSA()}, id)
	for header, says := range map[string]string{
		`{}`:                                   "algorithm is not one of the asymmetric",
		`{"alg":"HS256"}`:                      "algorithm is not one of the asymmetric",
		`{"alg":"none"}`:                       "algorithm is not one of the asymmetric",
		`{"alg":"EdDSA","crit":["x"],"x":1}`:   "needs an extension (crit)",
		`{"alg":"EdDSA","typ":"logout+jwt"}`:   "another kind of JWT",
		`{"alg":"EdDSA","typ":"at+jwt; x=1"}`:  "",
		`{"alg":"EdDSA","typ":"JWT"}`:          "",
		`{"alg":"EdDSA","typ":" Dpop+JWT "}`:   "another kind of JWT",
		`{"alg":"EdDSA","typ":"secevent+jwt"}`: "another kind of JWT",
		`[]`:                                   "not a signed JWT",
	} {
		_, err := signedBy(compact(header, `{}`))
		if says == "" {
			require.NoError(t, err, header)
			continue
		}
		require.ErrorContains(t, err, says, header)
	}
	for _, bad := range []string{"", "a.b", "a.b.c.d", "..", "a.b.c"} {
		_, err := signedBy(bad)
		require.ErrorContains(t, err, "not a signed JWT", bad)
	}
}

func TestScopesOfAToken(t *testing.T) {
	t.Parallel()
	for claims, want := range map[string][]string{
		`{}`:                            nil,
		`{"scope": "a b"}`:              {"a", "b"},
		`{"scope": ["a", "b c"]}`:       {"a", "b c"},
		`{"scp": ["a"]}`:                {"a"},
		`{"scope": null, "scp": "a b"}`: {"a", "b"},
		`{"scope": "a", "scp": "b"}`:    {"a"},
		`{"scope": ["a", 7]}`:           nil,
		`{"scope": 7, "scp": "a"}`:      nil,
		`{"scope": {"a": "b"}}`:         nil,
	} {
		tok, err := jwt.Parse([]byte(claims), jwt.WithVerify(false), jwt.WithValidate(false))
		require.NoError(t, err, claims)
		require.Equal(t, want, scopesOf(tok), claims)
	}
}

// Reads are bounded, and errors leave out the path, which the caller's message has.
func TestReadBounded(t *testing.T) {
	t.Parallel()
	b, err := bounded(strings.NewReader("1234"), 4)
	require.NoError(t, err)
	require.Equal(t, "1234", string(b))
	_, err = bounded(strings.NewReader("12345"), 4)
	require.ErrorContains(t, err, "more than 4 bytes")
	_, err = bounded(iotest.ErrReader(io.ErrUnexpectedEOF), 4)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	dir := t.TempDir()
	_, err = readBounded(filepath.Join(dir, "none"), 4)
	require.EqualError(t, err, "no such file or directory")
	_, err = readBounded(dir, 4)
	require.ErrorContains(t, err, "not a regular file")
	_, err = LoadCA(filepath.Join(dir, "none"))
	require.ErrorContains(t, err, "no such file or directory")
	_, err = getter("http://exa mple")(t.Context())
	require.Error(t, err)
	require.Equal(t, io.EOF, withoutPath(io.EOF))
}

// The URLs that keys may be fetched from.
func TestKeysURL(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"https://issuer.example.org/keys", "http://localhost:1/keys", "http://127.0.0.1/keys", "http://[::1]:8080/keys"} {
		_, err := keysURL(good)
		require.NoError(t, err, good)
	}
	for _, bad := range []string{
		"http://issuer.example.org/keys", "http://10.0.0.1/keys", "http://[fe80::1]/keys", "ftp://issuer.example.org/keys", "https:///keys",
		"https://user@issuer.example.org/keys", "https://exa mple/keys", "",
	} {
		_, err := keysURL(bad)
		require.Error(t, err, bad)
	}
}

// A certificate file replaced by one of the same size and time is recognised as changed.
func TestReplacedCertificateFileIsNoticedByInode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.NoError(t, os.Chtimes(path, time.Unix(7, 0), time.Unix(7, 0)))
		return path
	}
	c := &Certificates{certFile: write("cert", "a"), keyFile: write("key", "k")}
	before := c.look()
	require.Len(t, before, 2, "there is no CA")
	require.Equal(t, before, c.look())
	require.NoError(t, os.Rename(write("new", "b"), c.certFile))
	require.NotEqual(t, before, c.look())
}
