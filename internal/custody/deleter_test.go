package custody

import (
	"crypto/x509"
	"encoding/base64"
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

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/webhook"
)

// told is a custodian that records what it is told to delete.
type told struct {
	mu     sync.Mutex // guards the fields below
	code   int
	header http.Header
	bodies []string
}

func (c *told) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies = append(c.bodies, r.URL.Path+" "+string(b))
	for name, values := range c.header {
		w.Header()[name] = values
	}
	w.WriteHeader(c.code)
}

func (c *told) answers(code int, header http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.code, c.header, c.bodies = code, header, nil
}

func (c *told) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string{}, c.bodies...)
}

func newDeleter(t *testing.T, h http.Handler) (*Deleter, *store.Store) {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "mpcd.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	web := httptest.NewUnstartedServer(h)
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	web.StartTLS()
	t.Cleanup(web.Close)
	signer, err := webhook.ParseSecret(secret.New([]byte(base64.StdEncoding.EncodeToString(make([]byte, 32)))))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	c := webhook.New(webhook.Config{
		Name: "custodian-delete", URL: web.URL, Signers: []*webhook.Signer{signer}, CA: pool, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Timing: webhook.Timing{Pause: time.Millisecond, Open: time.Millisecond},
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	return NewDeleter(c, s, slog.New(slog.DiscardHandler)), s
}

func planned(t *testing.T, s *store.Store, ids ...string) {
	t.Helper()
	for i, id := range ids {
		due := time.Now().Add(time.Duration(i-len(ids)) * time.Second)
		require.NoError(t, s.PlanDeletion(t.Context(), session.Deletion{ShareSetID: id, WalletID: "wallet", Owner: "alice", Due: due}))
	}
}

// A custodian that has deleted a share, or does not have it, is not told again, and the audit log has one entry.
func TestDeleted(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusOK, http.StatusNoContent, http.StatusNotFound, http.StatusGone} {
		c := &told{}
		c.answers(code, nil)
		d, s := newDeleter(t, c)
		planned(t, s, "one", "two")
		require.True(t, d.sendDue(t.Context()))
		require.True(t, d.sendDue(t.Context()))
		require.Equal(t, []string{
			`/backup/delete {"clientId":"alice","backupSharePairId":"one"}`, `/backup/delete {"clientId":"alice","backupSharePairId":"two"}`,
		}, c.all(), code)
		left, err := s.DueDeletions(t.Context(), time.Now().Add(24*time.Hour), 10)
		require.NoError(t, err)
		require.Empty(t, left)
		lines, err := s.Audit(t.Context(), "wallet")
		require.NoError(t, err)
		require.Len(t, lines, 2)
		require.Equal(t, "custodian.delete", lines[0].Action)
		require.Equal(t, "one", lines[0].ShareSetID)
	}
}

// A failed or refused deletion is retried at growing intervals, and not before a Retry-After. A failure delays the
// other deletions briefly, but does not block them.
func TestFailedDeletions(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		code   int
		header http.Header
		tries  int
		again  time.Duration // at the earliest
	}{
		"refused":        {http.StatusBadRequest, nil, 1, firstAgain},
		"a wrong secret": {http.StatusUnauthorized, nil, 1, firstAgain},
		"no such method": {http.StatusMethodNotAllowed, nil, 1, firstAgain},
		"fails":          {http.StatusInternalServerError, nil, 5, firstAgain},
		"asked to wait":  {http.StatusTooManyRequests, http.Header{"Retry-After": {"7200"}}, 1, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &told{}
			c.answers(x.code, x.header)
			d, s := newDeleter(t, c)
			planned(t, s, "one", "two")
			began := time.Now()
			require.False(t, d.sendDue(t.Context()))
			require.Len(t, c.all(), x.tries, "the second one has to wait")
			c.answers(http.StatusNoContent, nil)
			time.Sleep(2 * time.Millisecond) // an open circuit closes
			require.True(t, d.sendDue(t.Context()))
			require.Equal(t, []string{`/backup/delete {"clientId":"alice","backupSharePairId":"two"}`}, c.all())
			left, err := s.DueDeletions(t.Context(), time.Now().Add(24*time.Hour), 10)
			require.NoError(t, err)
			require.Len(t, left, 1)
			require.Equal(t, 1, left[0].Tries)
			require.WithinDuration(t, began.Add(x.again), left[0].Due, 10*time.Second)
		})
	}
}

// However often it failed, the next attempt is within hours.
func TestDeletionsNeverStop(t *testing.T) {
	t.Parallel()
	c := &told{}
	c.answers(http.StatusForbidden, nil)
	d, _ := newDeleter(t, c)
	for _, tries := range []int{0, 5, 11, 16, 17, 62, 63, 64, 1 << 30} {
		err := d.send(t.Context(), session.Deletion{ShareSetID: "one", WalletID: "wallet", Owner: "alice", Tries: tries})
		require.ErrorContains(t, err, "it answers 403")
		require.GreaterOrEqual(t, retryDelay(tries, 0), firstAgain)
		require.LessOrEqual(t, retryDelay(tries, 0), longestAgain)
	}
	require.Equal(t, longestAgain, retryDelay(1<<30, time.Minute))
	require.NotContains(t, strings.Join(c.all(), ""), `"share":`, "no share is sent")
}
