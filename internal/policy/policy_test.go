package policy

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) }

func authoriser(t *testing.T, answer http.HandlerFunc) *Webhook {
	t.Helper()
	s := httptest.NewUnstartedServer(answer)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	signer, err := webhook.ParseSecret(secret.New([]byte(base64.StdEncoding.EncodeToString(make([]byte, 32)))))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	c := webhook.New(webhook.Config{
		Name: "policy", URL: s.URL, Signers: []*webhook.Signer{signer}, CA: pool, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Timing: webhook.Timing{Pause: time.Millisecond},
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	return NewWebhook(c)
}

func TestAllow(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	w := authoriser(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
		_, _ = io.WriteString(w, `{"allow": true}`)
	})
	require.NoError(t, w.Allow(t.Context(), session.Question{
		Caller: "alice", Operation: "SIGN", WalletID: "w", Owner: "o", ShareSetID: "s", RequestID: "r", Curve: session.Secp256k1, Digest: bytes.Repeat([]byte{7}, 32),
	}))
	require.JSONEq(t, `{"caller":"alice","operation":"SIGN","walletId":"w","owner":"o","shareSetId":"s","requestId":"r","curve":"SECP256K1","payloadDigest":"`+strings.Repeat("07", 32)+`"}`, <-got)
	require.NoError(t, w.Allow(t.Context(), session.Question{Caller: "alice", Operation: "REVOKE", WalletID: "w", Owner: "o", ShareSetID: "s"}))
	require.JSONEq(t, `{"caller":"alice","operation":"REVOKE","walletId":"w","owner":"o","shareSetId":"s"}`, <-got)
}

// Only a clear yes allows the call.
func TestClosed(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		code   int
		answer string
		why    string // the reason given for a no; "": there was no answer
	}{
		"no":                    {200, `{"allow": false, "reason": "daily limit"}`, "daily limit"},
		"no, with control text": {200, "{\"allow\": false, \"reason\": \"a\\u001b[31m\\nb\"}", "a[31mb"},
		"no, as French has it":  {200, "{\"allow\": false, \"reason\": \"limite\u00a0: 5\u202f€ \u202e\u200f\u200d\"}", "limite\u00a0: 5\u202f€ \u200d"},
		"no, at length":         {200, `{"allow": false, "reason": "` + strings.Repeat("ü", 400) + `"}`, strings.Repeat("ü", 128)},
		"nothing":               {200, "", ""},
		"no content":            {204, "", ""},
		"neither":               {200, `{"reason": "yes"}`, ""},
		"null":                  {200, `{"allow": null}`, ""},
		"a word":                {200, `{"allow": "true"}`, ""},
		"a number":              {200, `{"allow": 1}`, ""},
		"a list":                {200, `[{"allow": true}]`, ""},
		"two":                   {200, `{"allow": true} {"allow": false}`, ""},
		"cut off":               {200, `{"allow": true`, ""},
		"HTML":                  {200, `<html>{"allow": true}</html>`, ""},
		"a redirect":            {302, `{"allow": true}`, ""},
		"an error":              {500, `{"allow": true}`, ""},
		"a refusal":             {403, `{"allow": true}`, ""},
	} {
		w := authoriser(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(x.code)
			_, _ = io.WriteString(w, x.answer)
		})
		err := w.Allow(t.Context(), session.Question{})
		if x.why == "" {
			require.ErrorIs(t, err, session.ErrWebhookFailed, name)
			continue
		}
		denied := new(session.DeniedError)
		require.ErrorAs(t, err, &denied, name)
		require.Equal(t, x.why, denied.Why, name)
	}
}

// An authoriser that hangs does not allow the call, and a caller that disconnects does not wait for it.
func TestHangingAuthoriser(t *testing.T) {
	t.Parallel()
	w := authoriser(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // without this the server would not notice that the caller disconnected
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, w.Allow(ctx, session.Question{}), session.ErrWebhookFailed)
}

// A caller learns whether and when to ask again. A Retry-After is honoured if it fits in the time that a caller
// waits.
func TestAuthoriserSaysWhetherItCanPass(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		code  int
		after string
		want  session.WebhookError
	}{
		"refused":                 {http.StatusUnauthorized, "1", session.WebhookError{Permanent: true}},
		"no such thing":           {http.StatusNotFound, "", session.WebhookError{Permanent: true}},
		"later than a caller":     {http.StatusTooManyRequests, "20", session.WebhookError{RetryAfter: 20 * time.Second}},
		"much later":              {http.StatusServiceUnavailable, "3600", session.WebhookError{RetryAfter: time.Hour}},
		"later, as it seems":      {http.StatusServiceUnavailable, "NaN", session.WebhookError{}},
		"fails, and does not say": {http.StatusInternalServerError, "", session.WebhookError{}},
	} {
		w := authoriser(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", x.after)
			w.WriteHeader(x.code)
		})
		began := time.Now()
		err := w.Allow(t.Context(), session.Question{})
		require.Less(t, time.Since(began), 10*time.Second, name)
		got := new(session.WebhookError)
		require.ErrorAs(t, err, &got, name)
		require.Equal(t, x.want.Permanent, got.Permanent, name)
		require.Equal(t, x.want.RetryAfter, got.RetryAfter, name)
	}
	asked := make(chan time.Time, 4)
	w := authoriser(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked <- time.Now(); len(asked) == 1 {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		_, _ = io.WriteString(w, `{"allow": true}`)
	})
	require.NoError(t, w.Allow(t.Context(), session.Question{}))
	require.Len(t, asked, 2)
	first := <-asked
	require.GreaterOrEqual(t, (<-asked).Sub(first), 1900*time.Millisecond)
}

func FuzzDecide(f *testing.F) {
	for _, seed := range []string{`{"allow":true}`, `{"allow":false,"reason":"x"}`, `{}`, `{"allow":true,"allow":false}`, `null`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := decide(b)
		if err == nil {
			var m map[string]any
			require.NoError(t, json.Unmarshal(b, &m), "a yes is one JSON object")
			return
		}
		if d := new(session.DeniedError); errors.As(err, &d) {
			require.LessOrEqual(t, len(d.Why), maxReason)
			return
		}
		require.ErrorIs(t, err, session.ErrWebhookFailed)
	})
}
