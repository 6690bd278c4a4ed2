//go:build long

// Package custodian_test runs the receivers of docs/CUSTODIAN.md, as they stand there,
// against the real service.
package custodian_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/auth/authtest"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/webhook"
)

const document = "../../docs/CUSTODIAN.md"

// block returns the one code block of a language in the document.
func block(t *testing.T, language string) string {
	t.Helper()
	b, err := os.ReadFile(document)
	require.NoError(t, err)
	found := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(b), -1)
	require.Len(t, found, 1)
	lines := 0
	for line := range strings.Lines(found[0][1]) {
		if strings.TrimSpace(line) != "" {
			lines++
		}
	}
	require.LessOrEqual(t, lines, 50, "a receiver to begin from is one that is read at a glance")
	return found[0][1]
}

// secrets are two signing secrets: the first is known to the receiver alone, as the one
// before is while it is being changed.
func secrets() (all []string) {
	for _, key := range []string{"o", "n", "x"} {
		all = append(all, "whsec_"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(key), 32)))
	}
	return all
}

func signer(t *testing.T, text string) *webhook.Signer {
	t.Helper()
	s, err := webhook.ParseSecret(secret.New([]byte(text)))
	require.NoError(t, err)
	return s
}

// receiver is a receiver in a process of its own.
type receiver struct {
	dir, port string
	cert, key string // files
	argv      []string
	ca        *x509.CertPool
	cmd       *exec.Cmd
	out       *bytes.Buffer
}

func newReceiver(t *testing.T, dir string, argv ...string) *receiver {
	t.Helper()
	ca := authtest.NewCA(t, "ca")
	cert, key := ca.Issue(t, nil).Write(t, dir)
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(lis.Addr().String())
	require.NoError(t, err)
	require.NoError(t, lis.Close())
	require.NoError(t, os.Mkdir(filepath.Join(dir, "shares"), 0o700))
	return &receiver{dir: dir, port: port, cert: cert, key: key, argv: argv, ca: ca.Pool()}
}

func (r *receiver) start(t *testing.T) {
	t.Helper()
	r.out = &bytes.Buffer{}
	r.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), r.argv[0], r.argv[1:]...)
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = r.dir, r.out, r.out
	r.cmd.Env = append(os.Environ(), "PORT="+r.port, "DIR="+filepath.Join(r.dir, "shares"), "TLS_CERT="+r.cert, "TLS_KEY="+r.key,
		"SECRETS="+strings.Join(secrets()[:2], ","))
	require.NoError(t, r.cmd.Start())
	require.Eventually(t, func() bool {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", "127.0.0.1:"+r.port)
		if err == nil {
			err = conn.Close()
		}
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
}

func (r *receiver) stop(t *testing.T) string {
	t.Helper()
	_ = r.cmd.Process.Kill() // it may have ended
	_ = r.cmd.Wait()
	return r.out.String()
}

// client reaches the receiver as the service does, with a signing secret.
func (r *receiver) client(t *testing.T, name, signing string) *webhook.Client {
	t.Helper()
	return webhook.New(webhook.Config{
		Name: name, URL: "https://127.0.0.1:" + r.port, Signers: []*webhook.Signer{signer(t, signing)}, CA: r.ca,
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}, slog.New(slog.DiscardHandler))
}

// shares asks the receiver for the share of a set, past the service.
func (r *receiver) shares(t *testing.T, set string) string {
	t.Helper()
	c := r.client(t, "test", secrets()[1])
	defer c.Close()
	answer, err := c.Send(t.Context(), webhook.Message{Path: "/backup/fetch", Body: secret.New([]byte(about(set))), Asks: true})
	require.NoError(t, err)
	return string(answer.Reveal())
}

func about(set string) string { return `{"clientId":"alice","backupSharePairId":"` + set + `"}` }

// send sends a message by hand, and returns the answer's code.
func (r *receiver) send(t *testing.T, path, id, signing, body string, at time.Time) int {
	t.Helper()
	signature, err := signer(t, signing).Sign(id, at, []byte(body))
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://127.0.0.1:"+r.port+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: r.ca}}
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

// The receiver of each language keeps what it should through a life of a wallet, and
// refuses what it should.
func TestLongReceivers(t *testing.T) {
	for name, argv := range map[string][]string{"js": {"node", "receiver.mjs"}, "python": {"python3", "receiver.py"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := exec.LookPath(argv[0])
			require.NoErrorf(t, err, "this test needs %s", argv[0])
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, argv[1]), []byte(block(t, name)), 0o600))
			if name == "js" {
				install(t, dir)
			}
			r := newReceiver(t, dir, argv...)
			r.start(t)
			defer func() {
				if out := r.stop(t); t.Failed() {
					t.Log(out)
				}
			}()
			kept, gone := life(t, r)
			attacks(t, r, kept, gone)
		})
	}
}

// install installs the pinned packages that the document names.
func install(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	b, err := os.ReadFile("package.json")
	require.NoError(t, err)
	version := regexp.MustCompile(`"standardwebhooks": "([0-9.]+)"`).FindSubmatch(b)
	require.Len(t, version, 2)
	doc, err := os.ReadFile(document)
	require.NoError(t, err)
	require.Contains(t, string(doc), "`npm install standardwebhooks@"+string(version[1])+"`")
	npm := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = dir
	out, err := npm.CombinedOutput()
	require.NoError(t, err, string(out))
}

var alice = session.Caller{Name: "alice"}

// life creates a wallet, backs it up twice, provisions a device from one backup after the
// receiver was started again, and revokes the other.
func life(t *testing.T, r *receiver) (kept, revoked string) {
	t.Helper()
	file := seal.File{Path: filepath.Join(t.TempDir(), "keyset")}
	require.NoError(t, file.Create(t.Context()))
	keys, err := file.Load(t.Context())
	require.NoError(t, err)
	svc, err := app.Open(t.Context(), app.Options{
		DB: "sqlite://" + filepath.Join(t.TempDir(), "mpcd.db"), Keyset: keys, Auth: app.DevCaller, Pool: preparams.Config{MaxAge: time.Hour},
		Custodian: r.client(t, "custodian", secrets()[1]), CustodianDeletes: r.client(t, "custodian-delete", secrets()[1]),
	}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer func() { require.NoError(t, svc.Close()) }()
	begin := func() session.Start { return session.Start{RequestID: uuid.NewString()} }
	confirmed := func(run *session.Run, err error) *session.Outcome {
		require.NoError(t, err)
		var out *session.Outcome
		require.NoError(t, run.Follow(t.Context(), 0, 0, func(e session.Event) error {
			if e.Outcome != nil {
				out = e.Outcome
			}
			return nil
		}))
		sum := sha256.Sum256(out.ClientShare.Reveal())
		_, err = svc.Sessions.Confirm(t.Context(), alice, out.WalletID, out.Set.ID, sum[:])
		require.NoError(t, err)
		return out
	}
	share := func(o *session.Outcome) secret.Bytes { return secret.New(bytes.Clone(o.ClientShare.Reveal())) }

	first := confirmed(svc.Sessions.Create(t.Context(), alice, session.CreateRequest{Start: begin(), Curves: []session.Curve{session.Ed25519}}))
	backup := func() *session.Outcome {
		return confirmed(svc.Sessions.Backup(t.Context(), alice, session.BackupRequest{
			Start: begin(), WalletID: first.WalletID, SigningShare: share(first), Method: session.Password,
		}))
	}
	one, two := backup(), backup()
	r.stop(t)
	r.start(t)
	confirmed(svc.Sessions.Provision(t.Context(), alice, session.ProvisionRequest{Start: begin(), WalletID: first.WalletID, BackupShare: share(one)}))
	require.NotContains(t, r.shares(t, two.Set.ID), "[]")
	_, err = svc.Sessions.Revoke(t.Context(), alice, first.WalletID, two.Set.ID, false, false)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.HasSuffix(strings.ReplaceAll(r.shares(t, two.Set.ID), " ", ""), `:[]}`) }, time.Minute, 100*time.Millisecond)
	confirmed(svc.Sessions.Provision(t.Context(), alice, session.ProvisionRequest{Start: begin(), WalletID: first.WalletID, BackupShare: share(one)}))
	return one.Set.ID, two.Set.ID
}

// attacks sends what is forged, old or repeated, or would bring back what is gone.
func attacks(t *testing.T, r *receiver, kept, gone string) {
	t.Helper()
	old, current, other := secrets()[0], secrets()[1], secrets()[2]
	now := time.Now()
	deposit := func(set, share string) string {
		return fmt.Sprintf(`{"clientId":"alice","backupMethod":"CUSTOM","share":%q,"backupSharePairId":%q}`, share, set)
	}
	fetch := uuid.NewString()
	for _, x := range []struct {
		name, path, id, signing, body string
		at                            time.Time
		code                          int
	}{
		{"another secret", "/backup/fetch", uuid.NewString(), other, about(kept), now, 401},
		{"the secret before", "/backup/fetch", uuid.NewString(), old, about(kept), now, 200},
		{"an old message", "/backup/fetch", uuid.NewString(), current, about(kept), now.Add(-6 * time.Minute), 401},
		{"one of the future", "/backup/delete", uuid.NewString(), current, about(kept), now.Add(6 * time.Minute), 401},
		{"a fetch", "/backup/fetch", fetch, current, about(kept), now, 200},
		{"the fetch again", "/backup/fetch", fetch, current, about(kept), now, 409},
		{"another path", "/backups", uuid.NewString(), current, about(kept), now, 404},
		{"another share under the same id", "/backup", uuid.NewString(), current, deposit(kept, "AAAA"), now, 409},
		{"a new share", "/backup", uuid.NewString(), current, deposit("new", "AAAA"), now, 204},
		{"a new share again", "/backup", uuid.NewString(), current, deposit("new", "AAAA"), now, 204},
		{"what was deleted", "/backup", uuid.NewString(), current, deposit(gone, "AAAA"), now, 410},
		{"a deletion again", "/backup/delete", uuid.NewString(), current, about(gone), now, 204},
		{"of what never was", "/backup/delete", uuid.NewString(), current, about("none"), now, 204},
	} {
		require.Equal(t, x.code, r.send(t, x.path, x.id, x.signing, x.body, x.at), x.name)
	}
	require.NotContains(t, r.shares(t, kept), "[]")
	require.Contains(t, r.shares(t, "new"), "AAAA")
}
