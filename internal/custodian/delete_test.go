package custodian_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/custodian"
	"github.com/mpcd/mpcd/internal/secret"
)

func about(path, client, pair string) message {
	return message{path: path, body: fmt.Sprintf(`{"clientId":%q,"backupSharePairId":%q}`, client, pair)}
}

// A fetch that names a set returns only its share, and never another client's; one that names none, as earlier
// releases send, returns all.
func TestFetchOne(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	for i := range 3 {
		code, _ := r.send(t, deposit("alice", "PASSWORD", fmt.Sprint("share ", i), fmt.Sprint("pair ", i)))
		require.Equal(t, http.StatusNoContent, code)
	}
	get := func(client, pair string) (all []string) {
		code, body := r.send(t, about("/backup/fetch", client, pair))
		require.Equal(t, http.StatusOK, code, body)
		var found struct{ BackupShares [][]byte }
		require.NoError(t, json.Unmarshal([]byte(body), &found))
		for _, b := range found.BackupShares {
			all = append(all, string(b))
		}
		return all
	}
	require.Equal(t, []string{"share 1"}, get("alice", "pair 1"))
	require.Empty(t, get("alice", "pair 9"))
	require.Empty(t, get("bob", "pair 1"))
	require.Len(t, get("alice", ""), 3)
	require.Len(t, r.shares(t, "alice"), 3)
}

// A deleted share is gone from the store, deleting it again succeeds, and a delayed deposit does not bring it back.
func TestDelete(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	for _, pair := range []string{"pair 1", "pair 2"} {
		code, _ := r.send(t, deposit("alice", "PASSWORD", "the share of "+pair, pair))
		require.Equal(t, http.StatusNoContent, code)
	}
	code, _ := r.send(t, about("/backup/delete", "bob", "pair 1"))
	require.Equal(t, http.StatusNotFound, code, "another client's")
	require.Len(t, r.shares(t, "alice"), 2)

	m := about("/backup/delete", "alice", "pair 1")
	m.id = uuid.NewString()
	for range 2 { // the response may have been lost
		code, _ = r.send(t, m)
		require.Equal(t, http.StatusNoContent, code)
	}
	code, _ = r.send(t, about("/backup/delete", "alice", "pair 1"))
	require.Equal(t, http.StatusNoContent, code)
	require.Equal(t, []string{"the share of pair 2"}, r.shares(t, "alice"))

	code, _ = r.send(t, deposit("alice", "PASSWORD", "the share of pair 1", "pair 1"))
	require.Equal(t, http.StatusGone, code)
	code, _ = r.send(t, about("/backup/delete", "alice", "pair 3")) // before its deposit arrives
	require.Equal(t, http.StatusNoContent, code)
	code, _ = r.send(t, deposit("alice", "PASSWORD", "late", "pair 3"))
	require.Equal(t, http.StatusGone, code)
	require.Equal(t, []string{"the share of pair 2"}, r.shares(t, "alice"))
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(r.path + suffix)
		require.NoError(t, err)
		require.NotContains(t, string(b), "the share of pair 1", suffix)
	}
	for name, m := range map[string]message{
		"nothing":    {path: "/backup/delete"},
		"no pair":    about("/backup/delete", "alice", ""),
		"no client":  about("/backup/delete", "", "pair 2"),
		"all of one": {path: "/backup/delete", body: `{"clientId":"alice"}`},
	} {
		code, _ := r.send(t, m)
		require.Equal(t, http.StatusBadRequest, code, name)
	}
	m = about("/backup/delete", "alice", "pair 2")
	m.at = time.Now().Add(-10 * time.Minute)
	code, _ = r.send(t, m)
	require.Equal(t, http.StatusUnauthorized, code)
	require.Len(t, r.shares(t, "alice"), 1)
}

// While a secret is being replaced, messages signed with the old one, the new one, or both are accepted.
func TestTwoSecrets(t *testing.T) {
	t.Parallel()
	signers := map[string]*standardwebhooks.Webhook{}
	for _, name := range []string{"old", "new", "other"} {
		s, err := standardwebhooks.NewWebhookRaw(bytes.Repeat([]byte(name[2:3]), 32))
		require.NoError(t, err)
		signers[name] = s
	}
	s, err := custodian.Open(t.Context(), filepath.Join(t.TempDir(), "custodian.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	cfg := custodian.Config{
		Verifiers:     []*standardwebhooks.Webhook{signers["old"], signers["new"]},
		HeaderSecrets: []secret.Bytes{secret.New([]byte("swordfish")), secret.New([]byte("marlin"))},
	}
	r := &rig{Server: httptest.NewServer(custodian.New(s, cfg, slog.New(slog.DiscardHandler)))}
	t.Cleanup(r.Close)
	for name, x := range map[string]struct {
		signer, also, word string
		code               int
	}{
		"old":                {"old", "", "swordfish", 200},
		"new":                {"new", "", "marlin", 200},
		"both":               {"other", "new", "swordfish", 200},
		"the others":         {"other", "other", "marlin", 401},
		"another word":       {"old", "", "cod", 401},
		"both words at once": {"old", "", "swordfish marlin", 401},
		"no word":            {"new", "", "", 401},
		"two unknown ones":   {"other", "", "swordfish", 401},
	} {
		r.signer = signers[x.signer]
		m := about("/backup/fetch", "alice", "")
		m.id, m.at = uuid.NewString(), time.Now()
		m.change = func(h http.Header) {
			h.Set("X-Webhook-Secret", x.word)
			if x.also != "" {
				second, err := signers[x.also].Sign(m.id, m.at, []byte(m.body))
				require.NoError(t, err)
				h.Set("webhook-signature", h.Get("webhook-signature")+" "+second)
			}
		}
		code, _ := r.send(t, m)
		require.Equal(t, x.code, code, name)
	}
}
