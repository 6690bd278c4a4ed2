package custody_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/custodian"
	"github.com/mpcd/mpcd/internal/custody"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/webhook"
)

const signingSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// custodianAt returns a custodian that sends webhooks to a handler, over TLS on a real socket.
func (w *world) custodianAt(t *testing.T, h http.Handler, to *age.X25519Recipient) *custody.Webhook {
	t.Helper()
	return w.custodianWith(t, h, func(cfg *custody.WebhookConfig) { cfg.Recipient, cfg.ReadBack = to, 50*time.Millisecond })
}

func (w *world) custodianWith(t *testing.T, h http.Handler, change func(*custody.WebhookConfig)) *custody.Webhook {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	signer, err := webhook.ParseSecret(secret.New([]byte(signingSecret)))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	c := webhook.New(webhook.Config{
		Name: "custodian", URL: s.URL, Signers: []*webhook.Signer{signer}, HeaderSecret: secret.New([]byte("swordfish")), CA: pool,
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timing: webhook.Timing{Pause: time.Millisecond},
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	cfg := custody.WebhookConfig{Client: c, Before: w.managed}
	change(&cfg)
	return custody.NewWebhook(cfg)
}

// reference returns the receiver of `mpcd custodian`.
func reference(t *testing.T, identity *age.X25519Identity) http.Handler {
	t.Helper()
	s, err := custodian.Open(t.Context(), filepath.Join(t.TempDir(), "custodian.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	verifier, err := webhook.ParseSecret(secret.New([]byte(signingSecret)))
	require.NoError(t, err)
	return custodian.New(s, custodian.Config{Verifiers: []*webhook.Signer{verifier}, HeaderSecrets: []secret.Bytes{secret.New([]byte("swordfish"))}, Identity: identity}, slog.New(slog.DiscardHandler))
}

// elsewhere returns a set without a server share in its row, as with an external custodian.
func (w *world) elsewhere(t *testing.T, walletID string, curves ...tss.Curve) *deposited {
	d := w.deposit(t, walletID, tss.Backup, curves...)
	d.ServerShare, d.Method = nil, session.Password
	return d
}

func TestWebhookCustodian(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	for name, to := range map[string]*age.X25519Recipient{"plain": nil, "encrypted": identity.Recipient()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var seen []byte // what was sent inside TLS
			var mu sync.Mutex
			inner := reference(t, identity)
			c := w.custodianAt(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(b))
				if r.URL.Path == "/backup" {
					mu.Lock()
					seen = append(seen, b...)
					mu.Unlock()
				}
				inner.ServeHTTP(rw, r)
			}), to)
			wallet := uuid.NewString()
			sets := []*deposited{w.elsewhere(t, wallet, tss.Curves()...), w.elsewhere(t, wallet, tss.Ed25519), w.elsewhere(t, uuid.NewString(), tss.Ed25519)}
			for _, d := range sets {
				row, err := c.Deposit(t.Context(), "alice", &d.ShareSet, d.server)
				require.NoError(t, err)
				require.Empty(t, row)
			}
			for _, d := range sets {
				share, err := c.Fetch(t.Context(), "alice", d.StoredSet)
				require.NoError(t, err)
				requireSame(t, d.server, share)
				_, err = c.Fetch(t.Context(), "bob", d.StoredSet)
				require.ErrorIs(t, err, session.ErrWebhookFailed)
			}
			encoded, err := sets[0].server.Encode()
			require.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			require.Equal(t, to == nil, bytes.Contains(seen, []byte(base64.StdEncoding.EncodeToString(encoded.Reveal()))))
			require.Contains(t, string(seen), `"clientId":"alice","backupMethod":"PASSWORD"`)
			require.Contains(t, string(seen), `"backupSharePairId":"`+sets[0].ID+`"`)
		})
	}
}

// A set whose share is in mpcd's own database is found there even with an external custodian configured; the reverse
// is an error.
func TestWebhookCustodianAfterManaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.custodianAt(t, http.NotFoundHandler(), nil)
	d := w.deposit(t, uuid.NewString(), tss.Backup, tss.Ed25519)
	share, err := c.Fetch(t.Context(), "alice", d.StoredSet)
	require.NoError(t, err)
	requireSame(t, d.server, share)

	d.ServerShare = nil
	_, err = w.managed.Fetch(t.Context(), "alice", d.StoredSet)
	require.ErrorIs(t, err, session.ErrDataCorrupted)
	require.ErrorContains(t, err, "--custodian-url")
	d.State = session.SetRevoked
	_, err = c.Fetch(t.Context(), "alice", d.StoredSet)
	require.ErrorIs(t, err, session.ErrShareSetRevoked)
}

// Wrong responses of a custodian to a fetch.
func TestCustodianAnswersSomethingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wallet := uuid.NewString()
	d := w.elsewhere(t, wallet, tss.Curves()...)
	text := func(s *tss.Share) string {
		b, err := s.Encode()
		require.NoError(t, err)
		return base64.StdEncoding.EncodeToString(b.Reveal())
	}
	shares := func(all ...any) string {
		b, err := json.Marshal(map[string]any{"backupShares": all})
		require.NoError(t, err)
		return string(b)
	}
	lacking, err := d.server.Only(tss.Ed25519)
	require.NoError(t, err)
	swapped := *d.server
	swapped.Keys = []tss.KeyShare{d.client.Keys[0], d.server.Keys[1]}
	altered := []byte(text(d.server))
	altered[len(altered)/2] ^= 1
	other := *d.server
	other.RecordHash[0] ^= 1
	sealed := ageFile(t, d.server)
	raw := text(d.server)
	for name, x := range map[string]struct {
		answer string
		fine   bool
		says   string // in the error, about the likely cause
	}{
		"it, still encrypted":          {shares(base64.StdEncoding.EncodeToString(sealed)), false, "still encrypted (age): the custodian decrypts with the identity of --custodian-recipient"},
		"it, encrypted and not base64": {shares(string(sealed)), false, "still encrypted (age)"},
		"it, in armor":                 {shares("-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n"), false, "still encrypted (age)"},
		"it, in base64 twice":          {shares(base64.StdEncoding.EncodeToString([]byte(raw))), false, "encoded in base64 twice"},
		"it, encrypted, twice":         {shares(base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(sealed)))), false, "still encrypted (age)"},
		"it, without padding":          {shares(strings.TrimRight(base64.URLEncoding.EncodeToString(append([]byte{}, mustDecode(t, raw)...)), "=") + " "), false, "not that of RFC 4648, section 4"},
		"it, in an object":             {`{"backupShares": [{"share": "` + raw + `"}]}`, false, "is a JSON object, and not a text in base64"},
		"it, alone":                    {shares(text(d.server)), true, ""},
		"it, among others":             {shares("", 7, nil, map[string]int{}, "not base64!", "AAAA", text(d.client), text(another(w, t).server), text(d.server)), true, ""},
		"it, with other fields":        {`{"next": null, "backupShares": ["` + text(d.server) + `"]}`, true, ""},
		"none":                         {shares(), false, "it is empty"},
		"no field":                     {`{}`, false, ""},
		"null":                         {`{"backupShares": null}`, false, ""},
		"a text":                       {`{"backupShares": "` + text(d.server) + `"}`, false, ""},
		"nothing":                      {``, false, "it is not JSON of the form"},
		"HTML":                         {`<html>`, false, "it is not JSON of the form"},
		"cut off":                      {shares(text(d.server))[:200], false, ""},
		"more after it":                {shares(text(d.server)) + "x", false, ""},
		"deep":                         {strings.Repeat(`[`, 20000), false, ""},
		"the client's share":           {shares(text(d.client)), false, ""},
		"another wallet's":             {shares(text(another(w, t).server)), false, "only shares of other sets"},
		"another set's":                {shares(text(w.elsewhere(t, wallet, tss.Ed25519).server)), false, ""},
		"an altered one":               {shares(string(altered)), false, ""},
		"one that lacks a curve":       {shares(text(lacking)), false, ""},
		"one key of the client's":      {shares(text(&swapped)), false, ""},
		"one with another record":      {shares(text(&other)), false, ""},
		"garbage":                      {shares("AAAA", "", "////"), false, ""},
		"the same, but for white":      {shares(" " + text(d.server)), false, "not that of RFC 4648"},
		"an age file for another key": {
			shares(base64.StdEncoding.EncodeToString([]byte("age-encryption.org/v1\n-> X25519 a\n"))), false,
			"still encrypted (age)",
		},
		"a thousand that are not it ": {shares(many(text(d.client), 1000)...), false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := w.custodianAt(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, x.answer) }), nil)
			share, err := c.Fetch(t.Context(), "alice", d.StoredSet)
			_, stored := c.Deposit(t.Context(), "alice", &d.ShareSet, d.server)
			if x.fine {
				require.NoError(t, err)
				require.NoError(t, stored)
				requireSame(t, d.server, share)
				return
			}
			require.ErrorIs(t, err, session.ErrWebhookFailed)
			require.ErrorIs(t, stored, session.ErrWebhookFailed, "a backup that cannot be read back is refused")
			require.Nil(t, share)
			for _, err := range []error{err, stored} {
				require.NotErrorIs(t, err, tss.ErrShareMalformed)
				require.NotErrorIs(t, err, tss.ErrShareMismatch)
				require.NotContains(t, err.Error(), text(d.server)[40:80])
				require.ErrorContains(t, err, x.says)
			}
		})
	}
}

func mustDecode(t *testing.T, s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	require.NoError(t, err)
	return b
}

// ageFile returns a share as it is sent to a custodian with a recipient.
func ageFile(t *testing.T, s *tss.Share) []byte {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	encoded, err := s.Encode()
	require.NoError(t, err)
	var out bytes.Buffer
	to, err := age.Encrypt(&out, id.Recipient())
	require.NoError(t, err)
	_, err = to.Write(encoded.Reveal())
	require.NoError(t, err)
	require.NoError(t, to.Close())
	return out.Bytes()
}

func another(w *world, t *testing.T) *deposited {
	return w.elsewhere(t, uuid.NewString(), tss.Ed25519)
}

func many(s string, n int) []any {
	all := make([]any, n)
	for i := range all {
		all[i] = s
	}
	return all
}

// Deposit rejects any share but the set's own.
func TestWebhookDepositRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.custodianAt(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("something was sent") }), nil)
	a, b := w.elsewhere(t, uuid.NewString(), tss.Ed25519), w.elsewhere(t, uuid.NewString(), tss.Ed25519)
	_, err := c.Deposit(t.Context(), "alice", &a.ShareSet, b.server)
	require.Error(t, err)
	_, err = c.Deposit(t.Context(), "alice", &a.ShareSet, a.client)
	require.Error(t, err)
}

// If a run ends while the custodian hangs, the error is the run's, not the custodian's.
func TestWebhookCustodianAndTheRunsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	c := w.custodianAt(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel(session.ErrSessionCancelled)
		<-r.Context().Done()
	}), nil)
	d := w.elsewhere(t, uuid.NewString(), tss.Ed25519)
	_, err := c.Fetch(ctx, "alice", d.StoredSet)
	require.ErrorIs(t, err, session.ErrSessionCancelled)
	require.NotErrorIs(t, err, session.ErrWebhookFailed)
}
