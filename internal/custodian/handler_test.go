package custodian_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/custodian"
	"github.com/mpcd/mpcd/internal/secret"
)

type rig struct {
	*httptest.Server
	signer *standardwebhooks.Webhook
	log    *bytes.Buffer
	path   string
	stop   func()
}

// start serves a custodian on a real socket; its file survives a restart.
func start(t *testing.T, path string, identity *age.X25519Identity) *rig {
	t.Helper()
	signer, err := standardwebhooks.NewWebhookRaw(bytes.Repeat([]byte("k"), 32))
	require.NoError(t, err)
	s, err := custodian.Open(t.Context(), path)
	require.NoError(t, err)
	r := &rig{signer: signer, log: &bytes.Buffer{}, path: path}
	cfg := custodian.Config{Verifiers: []*standardwebhooks.Webhook{signer}, HeaderSecrets: []secret.Bytes{secret.New([]byte("swordfish"))}, Token: secret.New([]byte("open sesame")), Identity: identity}
	r.Server = httptest.NewServer(custodian.New(s, cfg, slog.New(slog.NewJSONHandler(r.log, nil))))
	r.stop = sync.OnceFunc(func() { r.Close(); require.NoError(t, s.Close()) })
	t.Cleanup(r.stop)
	return r
}

func fresh(t *testing.T) *rig { return start(t, filepath.Join(t.TempDir(), "custodian.db"), nil) }

// message is a webhook as sent.
type message struct {
	path, id, body string
	at             time.Time
	change         func(http.Header)
}

func (r *rig) send(t *testing.T, m message) (code int, body string) {
	t.Helper()
	if m.id == "" {
		m.id = uuid.NewString()
	}
	if m.at.IsZero() {
		m.at = time.Now()
	}
	signature, err := r.signer.Sign(m.id, m.at, []byte(m.body))
	require.NoError(t, err)
	h := http.Header{}
	h.Set("webhook-id", m.id)
	h.Set("webhook-timestamp", strconv.FormatInt(m.at.Unix(), 10))
	h.Set("webhook-signature", signature)
	h.Set("X-Webhook-Secret", "swordfish")
	if m.change != nil {
		m.change(h)
	}
	return r.do(t, http.MethodPost, m.path, h, m.body)
}

func (r *rig) do(t *testing.T, method, path string, h http.Header, body string) (code int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header = h
	resp, err := r.Client().Do(req)
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode, string(b)
}

func deposit(client, method, share, pair string) message {
	return message{path: "/backup", body: fmt.Sprintf(`{"clientId":%q,"backupMethod":%q,"share":%q,"backupSharePairId":%q}`, client, method, base64.StdEncoding.EncodeToString([]byte(share)), pair)}
}

func (r *rig) shares(t *testing.T, client string) (all []string) {
	t.Helper()
	code, body := r.send(t, message{path: "/backup/fetch", body: fmt.Sprintf(`{"clientId":%q}`, client)})
	require.Equal(t, http.StatusOK, code, body)
	var found struct{ BackupShares [][]byte }
	require.NoError(t, json.Unmarshal([]byte(body), &found))
	for _, b := range found.BackupShares {
		all = append(all, string(b))
	}
	return all
}

func TestDepositAndFetch(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	require.Empty(t, r.shares(t, "alice"))
	for i, m := range []string{"PASSWORD", "ICLOUD", "PASSWORD"} {
		code, _ := r.send(t, deposit("alice", m, fmt.Sprint("share ", i), fmt.Sprint("pair ", i)))
		require.Equal(t, http.StatusNoContent, code)
	}
	code, _ := r.send(t, deposit("bob", "CUSTOM", "bob's", "pair 9"))
	require.Equal(t, http.StatusNoContent, code)
	require.Equal(t, []string{"share 0", "share 1", "share 2"}, r.shares(t, "alice"))
	require.Equal(t, []string{"bob's"}, r.shares(t, "bob"))

	r.stop()
	info, err := os.Stat(r.path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	again := start(t, r.path, nil)
	require.Len(t, again.shares(t, "alice"), 3, "it is on the disk")
	for _, log := range []*bytes.Buffer{r.log, again.log} {
		require.NotContains(t, log.String(), "share 0")
		require.NotContains(t, log.String(), base64.StdEncoding.EncodeToString([]byte("share 0")))
		require.NotContains(t, log.String(), "swordfish")
	}
	require.Contains(t, again.log.String(), `"path":"POST /backup/fetch"`)
}

// A repeated message: mpcd may not have received the response, or an attacker may have recorded the message.
func TestReplays(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	m := deposit("alice", "PASSWORD", "share", "pair")
	m.id = uuid.NewString()
	for range 3 { // repeating an accepted deposit succeeds and changes nothing
		code, _ := r.send(t, m)
		require.Equal(t, http.StatusNoContent, code)
	}
	require.Equal(t, []string{"share"}, r.shares(t, "alice"))

	other := deposit("mallory", "PASSWORD", "share", "pair 2")
	other.id = m.id
	code, _ := r.send(t, other)
	require.Equal(t, http.StatusConflict, code, "an id with another body")
	for _, changed := range []message{deposit("alice", "PASSWORD", "other", "pair"), deposit("bob", "PASSWORD", "share", "pair"), deposit("alice", "ICLOUD", "share", "pair")} {
		code, _ = r.send(t, changed)
		require.Equal(t, http.StatusConflict, code, "another share under the same id")
	}
	code, _ = r.send(t, deposit("alice", "PASSWORD", "share", "pair")) // in a new message
	require.Equal(t, http.StatusNoContent, code)
	require.Equal(t, []string{"share"}, r.shares(t, "alice"))
	require.Empty(t, r.shares(t, "mallory"))

	q := message{path: "/backup/fetch", body: `{"clientId":"alice"}`, id: uuid.NewString(), at: time.Now()}
	code, _ = r.send(t, q)
	require.Equal(t, http.StatusOK, code)
	code, body := r.send(t, q)
	require.Equal(t, http.StatusConflict, code, "a replayed fetch gets no share")
	require.NotContains(t, body, "backupShares")
	r.stop()
	again := start(t, r.path, nil)
	code, _ = again.send(t, q)
	require.Equal(t, http.StatusConflict, code, "nor after a restart")
}

// Messages may arrive out of order: each is independent.
func TestReordered(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	now := time.Now()
	first, second := deposit("alice", "PASSWORD", "one", "pair 1"), deposit("alice", "PASSWORD", "two", "pair 2")
	first.at, second.at = now.Add(-4*time.Minute), now
	for _, m := range []message{second, first} {
		code, _ := r.send(t, m)
		require.Equal(t, http.StatusNoContent, code)
	}
	require.ElementsMatch(t, []string{"one", "two"}, r.shares(t, "alice"))
	late := deposit("alice", "PASSWORD", "other", "pair 1") // an older message never replaces a newer one's share
	late.at = now.Add(-4 * time.Minute)
	code, _ := r.send(t, late)
	require.Equal(t, http.StatusConflict, code)
}

// Messages that are not mpcd's, or not current, are rejected, and nothing is stored.
func TestForgeries(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	set := func(name, value string) func(http.Header) { return func(h http.Header) { h.Set(name, value) } }
	for name, change := range map[string]func(*message){
		"no signature": func(m *message) { m.change = func(h http.Header) { h.Del("webhook-signature") } },
		"another signature": func(m *message) {
			m.change = set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(make([]byte, 32)))
		},
		"no version": func(m *message) {
			m.change = set("webhook-signature", base64.StdEncoding.EncodeToString(make([]byte, 32)))
		},
		"another id":                func(m *message) { m.change = set("webhook-id", uuid.NewString()) },
		"no id":                     func(m *message) { m.change = func(h http.Header) { h.Del("webhook-id") } },
		"another time":              func(m *message) { m.change = set("webhook-timestamp", strconv.FormatInt(time.Now().Unix()+1, 10)) },
		"no time":                   func(m *message) { m.change = set("webhook-timestamp", "now") },
		"too old":                   func(m *message) { m.at = time.Now().Add(-6 * time.Minute) },
		"too new":                   func(m *message) { m.at = time.Now().Add(6 * time.Minute) },
		"without the header secret": func(m *message) { m.change = func(h http.Header) { h.Del("X-Webhook-Secret") } },
		"another header secret":     func(m *message) { m.change = set("X-Webhook-Secret", "swordfisH") },
	} {
		for _, m := range []message{deposit("alice", "PASSWORD", "share", "pair"), {path: "/backup/fetch", body: `{"clientId":"alice"}`}} {
			change(&m)
			code, body := r.send(t, m)
			require.Equal(t, http.StatusUnauthorized, code, name)
			require.NotContains(t, body, "backupShares")
		}
	}
	require.Empty(t, r.shares(t, "alice"))
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	for name, x := range map[string]struct {
		path, body string
		code       int
	}{
		"nothing":         {"/backup", "", 400},
		"a list":          {"/backup", "[]", 400},
		"two":             {"/backup", deposit("a", "PASSWORD", "s", "p").body + "{}", 400},
		"no base64":       {"/backup", `{"clientId":"a","backupMethod":"PASSWORD","share":"!","backupSharePairId":"p"}`, 400},
		"no share":        {"/backup", deposit("a", "PASSWORD", "", "p").body, 400},
		"no client":       {"/backup", deposit("", "PASSWORD", "s", "p").body, 400},
		"no pair":         {"/backup", deposit("a", "PASSWORD", "s", "").body, 400},
		"another method":  {"/backup", deposit("a", "MEMORY", "s", "p").body, 400},
		"control text":    {"/backup", deposit("a\nb", "PASSWORD", "s", "p").body, 400},
		"a long id":       {"/backup", deposit(strings.Repeat("a", 257), "PASSWORD", "s", "p").body, 400},
		"too large":       {"/backup", deposit("a", "PASSWORD", strings.Repeat("s", 1<<20), "p").body, 413},
		"fetch: nothing":  {"/backup/fetch", "", 400},
		"fetch: nobody's": {"/backup/fetch", `{"clientId":""}`, 400},
		"another path":    {"/backups", "{}", 404},
	} {
		code, body := r.send(t, message{path: x.path, body: x.body})
		require.Equal(t, x.code, code, "%s: %s", name, body)
	}
	require.Empty(t, r.shares(t, "a"))
	// Every name that mpcd accepts for an owner is accepted as a client.
	for i, id := range []string{"Zoé\u00a0\U0001F469\u200d\U0001F4BB\u200f\u0378", strings.Repeat("電", 256)} {
		code, body := r.send(t, deposit(id, "PASSWORD", "s", strings.Repeat("p", i+1)))
		require.Equal(t, 204, code, body)
		require.Len(t, r.shares(t, id), 1)
	}
	code, _ := r.do(t, http.MethodGet, "/backup", http.Header{}, "")
	require.Equal(t, http.StatusMethodNotAllowed, code)
}

// Unknown fields in messages are ignored.
func TestUnknownFields(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	const more = `,"x":1,"extra":{"y":[null]}}`
	for _, x := range []struct {
		path, body string
		code       int
		answer     string
	}{
		{"/backup", `{"clientId":"a","backupMethod":"PASSWORD","share":"AAAA","backupSharePairId":"p"` + more, http.StatusNoContent, ""},
		{"/backup/fetch", `{"clientId":"a","backupSharePairId":"p"` + more, http.StatusOK, `"AAAA"`},
		{"/backup/delete", `{"clientId":"a","backupSharePairId":"p"` + more, http.StatusNoContent, ""},
	} {
		code, answer := r.send(t, message{path: x.path, body: x.body})
		require.Equal(t, x.code, code, x.path)
		require.Contains(t, answer, x.answer, x.path)
	}
	require.Empty(t, r.shares(t, "a"))
}

// Shares that arrive encrypted are stored encrypted, and returned decrypted.
func TestEncryptedShares(t *testing.T) {
	t.Parallel()
	mine, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	other, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	r := start(t, filepath.Join(t.TempDir(), "custodian.db"), mine)
	sealed := func(to *age.X25519Identity) string {
		var b bytes.Buffer
		w, err := age.Encrypt(&b, to.Recipient())
		require.NoError(t, err)
		_, err = io.WriteString(w, "a share in the clear")
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return b.String()
	}
	code, _ := r.send(t, deposit("alice", "PASSWORD", sealed(mine), "pair"))
	require.Equal(t, http.StatusNoContent, code)
	require.Equal(t, []string{"a share in the clear"}, r.shares(t, "alice"))
	code, _ = r.send(t, deposit("bob", "PASSWORD", sealed(other), "pair 2"))
	require.Equal(t, http.StatusNoContent, code)
	code, body := r.send(t, message{path: "/backup/fetch", body: `{"clientId":"bob"}`})
	require.Equal(t, http.StatusInternalServerError, code)
	require.NotContains(t, body, "identity")
	r.stop()
	b, err := os.ReadFile(r.path)
	require.NoError(t, err)
	require.NotContains(t, string(b), "a share in the clear")
}

// The API from which apps get their users' encrypted backups.
func TestCipherTexts(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	call := func(method, path, token, body string) (int, string) {
		return r.do(t, method, path, http.Header{"Authorization": {"Bearer " + token}}, body)
	}
	const user = "/users/alice/encrypted-user-backup-shares?backupMethod="
	for _, path := range []string{user + "PASSWORD", "/clients/alice/backup"} {
		for _, token := range []string{"", "open", "open sesame "} {
			code, _ := call(http.MethodGet, path, token, "")
			// HTTP trims the trailing space.
			require.Equal(t, token == "open sesame ", code != http.StatusUnauthorized, "%q", token)
		}
		code, _ := call(http.MethodGet, path, "open sesame", "")
		require.Equal(t, http.StatusNotFound, code)
	}
	put := func(path, text string) {
		code, body := call(http.MethodPut, path, "open sesame", fmt.Sprintf(`{"cipherText":%q}`, text))
		require.Equal(t, http.StatusNoContent, code, body)
	}
	get := func(path string) string {
		code, body := call(http.MethodGet, path, "open sesame", "")
		require.Equal(t, http.StatusOK, code)
		var c struct{ CipherText string }
		require.NoError(t, json.Unmarshal([]byte(body), &c))
		return c.CipherText
	}
	put(user+"PASSWORD", "one")
	put(user+"ICLOUD", "two")
	require.Equal(t, "one", get(user+"PASSWORD"))
	require.Equal(t, "two", get(user+"ICLOUD"))
	require.Equal(t, "two", get("/clients/alice/backup"), "the newest")
	put(user+"PASSWORD", "three")
	require.Equal(t, "three", get(user+"PASSWORD"))
	require.Equal(t, "three", get("/clients/alice/backup"))
	put("/clients/alice/backup", "four")
	require.Equal(t, "four", get("/clients/alice/backup"))
	for path, body := range map[string]string{user + "MEMORY": `{"cipherText":"x"}`, user: `{"cipherText":"x"}`, user + "CUSTOM": `{"cipherText":""}`, user + "GDRIVE": `{}`, user + "PASSKEY": `x`} {
		code, _ := call(http.MethodPut, path, "open sesame", body)
		require.Equal(t, http.StatusBadRequest, code, path)
	}
	require.NotContains(t, r.log.String(), "sesame")
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "custodian.db")
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	_, err := custodian.Open(t.Context(), path)
	require.ErrorContains(t, err, "mode 0644, and holds shares: chmod 600 it")
	require.NoError(t, os.WriteFile(path, []byte("no database, but a text that is long enough"), 0o600))
	require.NoError(t, os.Chmod(path, 0o600))
	_, err = custodian.Open(t.Context(), path)
	require.Error(t, err)
}
