package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// maxKeys bounds the size of a JWK Set in bytes.
const maxKeys = 256 << 10

var (
	fileTiming = timing{refresh: time.Second, retry: time.Second, keep: time.Hour, timeout: 5 * time.Second}
	// A new key whose tokens the issuer sends immediately may be refused for up to retry; issuers usually publish
	// keys well ahead.
	urlTiming = timing{refresh: 5 * time.Minute, retry: 5 * time.Second, keep: time.Hour, timeout: 5 * time.Second}
)

// NewTokens returns a verifier of the issuer's tokens for an audience. jwks is the location of the issuer's keys: a
// file, which must be readable now, or an https URL (http for loopback only), which need not respond yet. Its errors
// are for the operator, and quote no URL.
func NewTokens(issuer, audience, jwks string, log *slog.Logger) (*Tokens, error) {
	if err := withES256K(); err != nil {
		return nil, err
	}
	k := &keys{location: jwks, log: log}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	if strings.Contains(jwks, "://") {
		u, err := keysURL(jwks)
		if err != nil {
			return nil, err
		}
		k.timing, k.fetch = urlTiming, getter(u)
	} else {
		k.timing, k.fetch = fileTiming, func(context.Context) ([]byte, error) { return readBounded(jwks, maxKeys) }
		b, err := k.fetch(k.ctx)
		if err == nil {
			k.known, err = parseKeys(b)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", jwks, err)
		}
		k.fetched = time.Now()
	}
	return &Tokens{issuer: issuer, audience: audience, keys: k}, nil
}

// Fetch starts to fetch the issuer's keys, so that a failure is logged at startup and the first call need not wait.
func (t *Tokens) Fetch() { t.keys.look(keyID{}) }

// Close cancels a fetch in progress.
func (t *Tokens) Close() { t.keys.close() }

func keysURL(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil:
		return "", errors.New("it is not a URL of the form https://HOST/PATH")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return u.String(), nil
	}
	return "", errors.New("it must be a file or an https URL: " +
		"anyone able to modify the response in transit could forge tokens")
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// getter returns a function that fetches a URL. It follows no redirects, which could lead anywhere, and bounds the
// response's size.
func getter(location string) func(context.Context) ([]byte, error) {
	web := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, location, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", "application/jwk-set+json, application/json")
		resp, err := web.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close() //nolint:errcheck // nothing was written
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("it answers %d", resp.StatusCode)
		}
		return bounded(resp.Body, maxKeys)
	}
}

func bounded(r io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("it has more than %d bytes", limit)
	}
	return b, nil
}

// readBounded reads a configured file.
func readBounded(path string, limit int) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, withoutPath(err)
	}
	if !info.Mode().IsRegular() { // reading a pipe could block for ever
		return nil, errors.New("it is not a regular file")
	}
	return bounded(f, limit)
}

// withoutPath drops the path, which the caller's message has.
func withoutPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
