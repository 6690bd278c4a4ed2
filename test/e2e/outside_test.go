package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/custodian"
	"github.com/mpcd/mpcd/internal/custody"
	"github.com/mpcd/mpcd/internal/policy"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/webhook"
)

// customer is an external service behind webhooks, on a real socket with TLS. Its behaviour can be changed at any
// time.
type customer struct {
	mu      sync.Mutex // guards handler
	handler http.HandlerFunc
	client  *webhook.Client
}

func (c *customer) does(h http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handler = h
}

func newCustomer(t *testing.T, signer string) *customer {
	t.Helper()
	c := &customer{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		h := c.handler
		c.mu.Unlock()
		h(w, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	sign, err := webhook.ParseSecret(secret.New([]byte(signer)))
	require.NoError(t, err)
	c.client = webhook.New(webhook.Config{
		Name: "customer", URL: s.URL, Signers: []*webhook.Signer{sign}, CA: pool, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Timing: webhook.Timing{Try: 2 * time.Second, Pause: time.Millisecond, Open: 50 * time.Millisecond},
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.client.Close)
	return c
}

const signingSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// referenceCustodian is the receiver of `mpcd custodian`.
func referenceCustodian(t *testing.T) http.HandlerFunc {
	t.Helper()
	s, err := custodian.Open(t.Context(), filepath.Join(t.TempDir(), "custodian.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	verifier, err := webhook.ParseSecret(secret.New([]byte(signingSecret)))
	require.NoError(t, err)
	return custodian.New(s, custodian.Config{Verifiers: []*webhook.Signer{verifier}}, slog.New(slog.DiscardHandler)).ServeHTTP
}

// startWithCustodian starts a service with the fixture and an external custodian.
func startWithCustodian(t *testing.T, c *customer) *stocked {
	t.Helper()
	return start(t, servertest.Config{Wrap: func(p *session.Ports) {
		managed, ok := p.Custodian.(*custody.Managed)
		require.True(t, ok)
		p.Custodian = custody.NewWebhook(custody.WebhookConfig{Client: c.client, Before: managed, ReadBack: time.Second})
	}})
}

func hijacked(then func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		then(conn)
		_ = conn.Close()
	}
}

// For every fault of a custodian (package webhook tests more), a backup and a provision end with WEBHOOK_FAILED,
// nothing is changed, other operations work, and the same request succeeds once the custodian works again; after a
// permanent refusal, a new request does.
func TestCustodianFaults(t *testing.T) {
	t.Parallel()
	says := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, fault := range map[string]http.HandlerFunc{
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		},
		"resets":            hijacked(func(net.Conn) {}),
		"answers garbage":   says(200, "garbage"),
		"fails":             says(500, ""),
		"never ends":        endless,
		"refuses":           says(401, ""),
		"asks for patience": says(429, ""),
		"stores, and hides": says(204, ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCustomer(t, signingSecret)
			good := referenceCustodian(t)
			c.does(good)
			f := startWithCustodian(t, c)
			kept := confirm(t, f.Service, backup(t, f.Service, f.first))
			before := wallet(t, f.Service, f.first.wallet)

			c.does(fault)
			backing, provisioning := backupReq(f.first), provisionReq(kept)
			refused(t, overHTTP(t, f.Service, alice, backing), codes.Unavailable, "WEBHOOK_FAILED")
			refused(t, overGRPC(t, f.Service, alice, provisioning), codes.Unavailable, "WEBHOOK_FAILED")
			require.True(t, proto.Equal(before, wallet(t, f.Service, f.first.wallet)), "nothing changed")
			s := getSession(t, f.Service, sessionIn(t, f, provisioning))
			require.Equal(t, "WEBHOOK_FAILED", s.GetError().GetReason())
			final := name == "refuses" || name == "never ends" // its operator must act
			require.Equal(t, final, s.GetState() == pb.SessionState_SESSION_STATE_FAILED)
			require.Equal(t, !final, s.GetState() == pb.SessionState_SESSION_STATE_INTERRUPTED)
			signs(t, f.Service, before, f.second) // it needs no custodian

			c.does(good)
			require.Eventually(t, func() bool { return c.client.Circuit() != "open" }, 2*time.Minute, 5*time.Millisecond)
			attempt := uint32(2)
			if final {
				backing, provisioning, attempt = backupReq(f.first), provisionReq(kept), 1
			}
			again := overGRPC(t, f.Service, alice, provisioning)
			third := confirm(t, f.Service, made(t, again, kept.wallet))
			require.Equal(t, attempt, progress(t, again)[0].GetAttempt())
			signs(t, f.Service, before, third)
			confirm(t, f.Service, made(t, overHTTP(t, f.Service, alice, backing), f.first.wallet))
			_, _, err := f.Store.VerifyAudit(t.Context())
			require.NoError(t, err)
		})
	}
}

func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 32<<10)); err != nil {
			return
		}
	}
}

// sessionIn returns the id of a request's session.
func sessionIn(t *testing.T, f *stocked, req *pb.ProvisionWalletRequest) string {
	t.Helper()
	rec, err := f.Store.ByRequest(t.Context(), alice.Name, req.GetRequestId())
	require.NoError(t, err)
	return rec.ID
}

// A custodian that returns the share of another wallet, or of another set of this one: the service does not use it,
// and answers WEBHOOK_FAILED.
func TestCustodianReturnsAnotherShare(t *testing.T) {
	t.Parallel()
	c := newCustomer(t, signingSecret)
	var mu sync.Mutex // guards shares
	var shares [][]byte
	answerWith := func(pick func([][]byte) [][]byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			var m struct{ Share []byte }
			mu.Lock()
			defer mu.Unlock()
			if r.URL.Path == "/backup" && json.Unmarshal(b, &m) == nil {
				shares = append(shares, m.Share)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string][][]byte{"backupShares": pick(shares)})
		}
	}
	c.does(answerWith(func(all [][]byte) [][]byte { return all }))
	f := startWithCustodian(t, c)
	one := confirm(t, f.Service, backup(t, f.Service, f.first))
	two := confirm(t, f.Service, backup(t, f.Service, f.first))
	other := confirm(t, f.Service, backup(t, f.Service, f.unbacked))
	mu.Lock()
	kept := slices.Clone(shares)
	mu.Unlock()
	require.Len(t, kept, 3)
	for i, h := range []held{one, two, other} {
		c.does(answerWith(func(all [][]byte) [][]byte { return slices.Delete(slices.Clone(all), i, i+1) }))
		refused(t, overGRPC(t, f.Service, alice, provisionReq(h)), codes.Unavailable, "WEBHOOK_FAILED")
		// The right ids on another share.
		renamed := bytes.ReplaceAll(kept[(i+1)%3], idOf(t, kept[(i+1)%3]), idOf(t, kept[i]))
		c.does(answerWith(func([][]byte) [][]byte { return [][]byte{renamed} }))
		refused(t, overGRPC(t, f.Service, alice, provisionReq(h)), codes.Unavailable, "WEBHOOK_FAILED")
	}
	c.does(answerWith(func(all [][]byte) [][]byte { return all }))
	for _, h := range []held{one, two, other} {
		confirm(t, f.Service, made(t, overGRPC(t, f.Service, alice, provisionReq(h)), h.wallet))
	}
}

// idOf returns the bytes of an encoded share that name its wallet and its set.
func idOf(t *testing.T, share []byte) []byte {
	t.Helper()
	start := bytes.Index(share, []byte("mpcd share")) + len("mpcd share")
	require.Greater(t, len(share), start+60)
	return share[start : start+40]
}

// authoriser records what it is asked, and answers what it is told.
type authoriser struct {
	*customer
	mu    sync.Mutex // guards asked
	asked []map[string]any
}

func newAuthoriser(t *testing.T) *authoriser {
	a := &authoriser{customer: newCustomer(t, signingSecret)}
	a.says(200, `{"allow": true}`)
	return a
}

func (a *authoriser) says(code int, body string) {
	a.does(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var m map[string]any
		_ = json.Unmarshal(b, &m)
		a.mu.Lock()
		a.asked = append(a.asked, m)
		a.mu.Unlock()
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	})
}

func (a *authoriser) questions() []map[string]any {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.asked
	a.asked = nil
	return all
}

// An authoriser is asked once before each of four operations and learns their details; a refusal, or no answer, stops
// them before anything happens.
func TestPolicy(t *testing.T) {
	t.Parallel()
	a := newAuthoriser(t)
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) { p.Policy = policy.NewWebhook(a.client) }})
	digest := bytes.Repeat([]byte{7}, 32)
	signing := signReq(f.second)
	signing.Payload = digest
	requests := map[string]proto.Message{
		"BACKUP": backupReq(f.first), "PROVISION": provisionReq(f.backup), "SIGN": signing, "REVOKE": revokeReq(f.second),
	}
	before := wallet(t, f.Service, f.first.wallet)
	for name, x := range map[string]struct {
		code   int
		body   string
		status codes.Code
		reason string
	}{
		"no":      {200, `{"allow": false, "reason": "daily limit reached"}`, codes.PermissionDenied, "POLICY_DENIED"},
		"silence": {200, ``, codes.Unavailable, "WEBHOOK_FAILED"},
		"a fault": {500, `{"allow": true}`, codes.Unavailable, "WEBHOOK_FAILED"},
	} {
		a.says(x.code, x.body)
		for operation, req := range requests {
			for _, do := range transports {
				require.Eventually(t, func() bool { return a.client.Circuit() != "open" }, 2*time.Minute, 5*time.Millisecond)
				got := do(t, f.Service, alice, req)
				refused(t, got, x.status, x.reason)
				require.Empty(t, got.messages, "%s of %s", name, operation)
				if name == "no" {
					require.Equal(t, "daily limit reached", policyDetail(got))
				}
			}
		}
		require.True(t, proto.Equal(before, wallet(t, f.Service, f.first.wallet)))
	}
	lines, err := f.Store.Audit(t.Context(), f.first.wallet)
	require.NoError(t, err)
	var noted []string
	for _, l := range lines {
		if l.Reason == "POLICY_DENIED" {
			noted = append(noted, l.Action+" "+l.Detail)
		}
	}
	require.ElementsMatch(t, []string{
		"session.begin BACKUP daily limit reached", "session.begin BACKUP daily limit reached",
		"session.begin PROVISION daily limit reached", "session.begin PROVISION daily limit reached",
		"session.begin SIGN daily limit reached", "session.begin SIGN daily limit reached",
		"share_set.revoke daily limit reached", "share_set.revoke daily limit reached",
	}, noted)

	// Unauthorised callers are refused without asking the authoriser.
	a.says(200, `{"allow": true}`)
	a.questions()
	require.Eventually(t, func() bool { return a.client.Circuit() != "open" }, 2*time.Minute, 5*time.Millisecond)
	for _, req := range requests {
		refused(t, overGRPC(t, f.Service, &session.Caller{Name: "bob"}, req), codes.NotFound, "WALLET_NOT_FOUND")
	}
	refused(t, overGRPC(t, f.Service, alice, provisionReq(f.backup.with([]byte("random")))), codes.InvalidArgument, "SHARE_MALFORMED")
	last := revokeReq(f.first)
	refused(t, overGRPC(t, f.Service, alice, last), codes.FailedPrecondition, "LAST_SHARE_SET")
	require.Empty(t, a.questions())

	// If allowed, the operation proceeds; attaching does not ask again.
	for _, operation := range []string{"BACKUP", "PROVISION", "SIGN", "REVOKE"} {
		for range 2 {
			require.Equal(t, codes.OK, overGRPC(t, f.Service, alice, requests[operation]).status.Code(), operation)
		}
		asked := a.questions()
		require.Equal(t, operation, asked[0]["operation"])
		if operation != "REVOKE" { // it has no request id: each call is independent
			require.Len(t, asked, 1)
			require.NotEmpty(t, asked[0]["requestId"])
		}
		for key, want := range map[string]any{"caller": "alice", "owner": "alice", "walletId": f.first.wallet} {
			require.Equal(t, want, asked[0][key])
		}
		sets := map[string]string{"BACKUP": f.first.set, "PROVISION": f.backup.set, "SIGN": f.second.set, "REVOKE": f.second.set}
		require.Equal(t, sets[operation], asked[0]["shareSetId"])
		if operation == "SIGN" {
			require.Equal(t, "ED25519", asked[0]["curve"])
			sum := sha256.Sum256(digest) // on Ed25519 the payload is a message
			require.Equal(t, hex.EncodeToString(sum[:]), asked[0]["payloadDigest"])
		}
		b, err := json.Marshal(asked)
		require.NoError(t, err)
		require.NotContains(t, string(b), base64.StdEncoding.EncodeToString(f.second.share[100:130]))
	}
}

func policyDetail(a answer) string {
	for _, d := range a.status.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			return i.GetMetadata()["policy"]
		}
	}
	return ""
}
