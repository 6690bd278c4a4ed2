package app_test

import (
	"bytes"
	"crypto/x509"
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

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/custodian"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/webhook"
)

const signingSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// customer is the reference custodian behind a proxy that can make one path fail.
type customer struct {
	mu     sync.Mutex // guards the fields below
	closed map[string]int
	told   []string // bodies of deletions it received

	config webhook.Config
}

func (c *customer) answers(path string, code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed[path] = code
}

func (c *customer) deletions() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string{}, c.told...)
}

func newCustomer(t *testing.T) *customer {
	t.Helper()
	s, err := custodian.Open(t.Context(), filepath.Join(t.TempDir(), "custodian.db"))
	require.NoError(t, err)
	signer, err := webhook.ParseSecret(secret.New([]byte(signingSecret)))
	require.NoError(t, err)
	inner := custodian.New(s, custodian.Config{Verifiers: []*webhook.Signer{signer}}, slog.New(slog.DiscardHandler))
	c := &customer{closed: map[string]int{}}
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(b))
		c.mu.Lock()
		code := c.closed[r.URL.Path]
		if r.URL.Path == "/backup/delete" && code == 0 {
			c.told = append(c.told, string(b))
		}
		c.mu.Unlock()
		if code != 0 {
			w.WriteHeader(code)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	web.StartTLS()
	t.Cleanup(func() { web.Close(); require.NoError(t, s.Close()) })
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	c.config = webhook.Config{
		URL: web.URL, Signers: []*webhook.Signer{signer}, CA: pool,
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Timing:   webhook.Timing{Pause: time.Millisecond, Open: time.Millisecond},
	}
	return c
}

func (c *customer) client(name string) *webhook.Client {
	cfg := c.config
	cfg.Name = name
	return webhook.New(cfg, slog.New(slog.DiscardHandler))
}

// with starts a service with custodian c, with or without deletion messages.
func (r *rig) with(t *testing.T, c *customer, deletes bool, ttl time.Duration) {
	t.Helper()
	o := app.Options{
		DB: r.url(), Keyset: r.keys(t), Auth: app.DevCaller, Sessions: session.Config{ResultTTL: ttl},
		Pool:      preparams.Config{MaxAge: time.Hour},
		Custodian: c.client("custodian"), Wrap: func(p *session.Ports) { r.custodian = p.Custodian },
	}
	if deletes {
		o.CustodianDeletes = c.client("custodian-delete")
	}
	var err error
	r.svc, err = app.Open(t.Context(), o, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
}

// backedUp makes another backup of a device's wallet, and optionally confirms it.
func (r *rig) backedUp(t *testing.T, d device, confirm bool) string {
	t.Helper()
	run, err := r.svc.Sessions.Backup(t.Context(), alice, session.BackupRequest{
		Start: session.Start{RequestID: uuid.NewString()}, WalletID: d.wallet, SigningShare: secret.New(bytes.Clone(d.share)),
		Method: session.Custom,
	})
	out := outcome(t, run, err)
	if confirm {
		r.confirm(t, d.wallet, out.Set.ID, out.ClientShare.Reveal())
	}
	return out.Set.ID
}

func body(set string) string { return `{"clientId":"alice","backupSharePairId":"` + set + `"}` }

// A custodian is told to delete the shares that are no longer needed: of a set that was revoked, also while it or the
// service was down; of one deposited but never committed; and of one never confirmed. Shares in use stay, and without
// the setting nothing is sent.
func TestCustodianDelete(t *testing.T) {
	t.Parallel()
	c := newCustomer(t)
	r := newRig(t)
	r.with(t, c, false, time.Hour)
	d := r.device(t)
	kept, revoked := r.backedUp(t, d, true), r.backedUp(t, d, true)
	_, err := r.svc.Sessions.Revoke(t.Context(), alice, d.wallet, revoked, false, false)
	require.NoError(t, err)
	c.answers("/backup/fetch", http.StatusForbidden) // it has the share, but does not return it
	run, err := r.svc.Sessions.Backup(t.Context(), alice, session.BackupRequest{
		Start: session.Start{RequestID: uuid.NewString()}, WalletID: d.wallet, SigningShare: secret.New(bytes.Clone(d.share)),
		Method: session.Custom,
	})
	require.NoError(t, err)
	require.ErrorIs(t, run.Follow(t.Context(), 0, 0, func(session.Event) error { return nil }), session.ErrWebhookFailed)
	c.answers("/backup/fetch", 0)
	require.NoError(t, r.svc.Close())

	// Messages not sent before are sent once the custodian is up again.
	c.answers("/backup/delete", http.StatusServiceUnavailable)
	r.with(t, c, true, time.Second)
	require.Empty(t, c.deletions(), "without the setting nothing is sent")
	expired := r.backedUp(t, d, false)
	require.NoError(t, r.svc.Close())
	time.Sleep(time.Second) // the set expires
	c.answers("/backup/delete", 0)
	r.with(t, c, true, time.Hour)
	require.Eventually(t, func() bool { return len(c.deletions()) >= 3 }, time.Minute, 20*time.Millisecond)
	require.Contains(t, c.deletions(), body(revoked))
	require.Contains(t, c.deletions(), body(expired))
	r.provisioned(t, d, kept)

	another := r.backedUp(t, d, true)
	_, err = r.svc.Sessions.Revoke(t.Context(), alice, d.wallet, another, false, false)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(c.deletions()) >= 4 }, time.Minute, 20*time.Millisecond)
	require.Contains(t, c.deletions(), body(another))
	require.NotContains(t, strings.Join(c.deletions(), ""), kept)
	deleted := func() (n int) {
		lines, err := r.svc.Store.Audit(t.Context(), d.wallet)
		require.NoError(t, err)
		for _, l := range lines {
			if l.Action == "custodian.delete" {
				n++
			}
		}
		return n
	}
	// the responses were recorded
	require.Eventually(t, func() bool { return deleted() >= 4 }, time.Minute, 20*time.Millisecond)
	require.Len(t, c.deletions(), 4, "each is sent once")
	require.Equal(t, 4, deleted())
	_, _, err = r.svc.Store.VerifyAudit(t.Context())
	require.NoError(t, err)
	require.NoError(t, r.svc.Close())
}

// provisioned checks that a custodian still has the shares that a device's backups need.
func (r *rig) provisioned(t *testing.T, d device, set string) {
	t.Helper()
	found, err := r.svc.Store.Set(t.Context(), d.wallet, set)
	require.NoError(t, err)
	require.Equal(t, session.SetActive, found.State)
	share, err := r.custodian.Fetch(t.Context(), "alice", found)
	require.NoError(t, err)
	share.Wipe()
}
