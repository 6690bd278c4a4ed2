package webhook_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func signer(t testing.TB) *standardwebhooks.Webhook {
	t.Helper()
	return signerOf(t, "k")
}

func signerOf(t testing.TB, key string) *standardwebhooks.Webhook {
	t.Helper()
	s, err := webhook.ParseSecret(secret.New([]byte("whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(key), 32)) + "\n")))
	require.NoError(t, err)
	return s
}

// receiver is an external service, on a real socket with TLS. It records what arrives.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex // guards ids
	ids []string   // of the messages, in order
}

func (r *receiver) came() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.ids...)
}

func receive(t *testing.T, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{}
	t.Cleanup(func() { r.Close() })
	verify := signer(t)
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil || verify.Verify(body, req.Header) != nil {
			t.Errorf("a message that is not signed: %v", err)
		}
		r.mu.Lock()
		r.ids = append(r.ids, req.Header.Get(standardwebhooks.HeaderWebhookID))
		r.mu.Unlock()
		answer(w, req)
	}))
	r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	r.StartTLS() // HTTP/1.1, whose connections a handler can take over
	return r
}

func (r *receiver) client(t *testing.T, change func(*webhook.Config)) *webhook.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(r.Certificate())
	cfg := webhook.Config{
		Name: "custodian", URL: r.URL + "/base/", Signers: []*webhook.Signer{signer(t)}, CA: pool, Networks: loopback,
		Timing: webhook.Timing{Try: 5 * time.Second, Pause: time.Millisecond, Open: time.Hour},
	}
	if change != nil {
		change(&cfg)
	}
	c := webhook.New(cfg, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	return c
}

const body = `{"hello":"there"}`

func send(ctx context.Context, c *webhook.Client, asks bool) (string, error) {
	answer, err := c.Send(ctx, webhook.Message{Path: "/backup", Body: secret.New([]byte(body)), Asks: asks})
	return string(answer.Reveal()), err
}

func TestSend(t *testing.T) {
	t.Parallel()
	r := receive(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/base/backup" || req.Method != http.MethodPost || req.Header.Get("X-Webhook-Secret") != "swordfish" ||
			req.Header.Get("Content-Type") != "application/json" || req.TLS.Version != tls.VersionTLS13 {
			w.WriteHeader(http.StatusBadRequest)
		}
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "an answer")
	})
	c := r.client(t, func(cfg *webhook.Config) { cfg.HeaderSecret = secret.New([]byte("swordfish")) })
	for range 3 {
		answer, err := send(t.Context(), c, false)
		require.NoError(t, err)
		require.Equal(t, "an answer", answer)
	}
	ids := r.came()
	require.Len(t, ids, 3)
	require.NotEqual(t, ids[0], ids[1])
	require.Equal(t, "closed", c.Circuit())
}

// A receiver's responses and failures; whether they are retried; and what the error says.
func TestFaults(t *testing.T) {
	t.Parallel()
	hijack := func(then func(net.Conn)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			then(conn)
			_ = conn.Close()
		}
	}
	reset := func(conn net.Conn) {
		if inner, ok := conn.(*tls.Conn); ok {
			if raw, ok := inner.NetConn().(*net.TCPConn); ok {
				_ = raw.SetLinger(0)
				_ = raw.Close() // without a TLS close_notify
			}
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "hunter2")
		}
	}
	endless := func(w http.ResponseWriter, req *http.Request) {
		for req.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}
	for name, x := range map[string]struct {
		answer http.HandlerFunc
		tries  int
		says   string
	}{
		"500":                       {status(500), 5, "try 5: it answers 500"},
		"503":                       {status(503), 5, "it answers 503"},
		"400":                       {status(400), 1, "it answers 400"},
		"401":                       {status(401), 1, "it answers 401: most likely it has another signing secret, or another X-Webhook-Secret,"},
		"403":                       {status(403), 1, "it answers 403: most likely it has another signing secret, or another X-Webhook-Secret,"},
		"404":                       {status(404), 1, "it answers 404: is the URL the one below which it takes messages?"},
		"408":                       {status(408), 5, "try 5: it answers 408"},
		"409":                       {status(409), 1, "it answers 409"},
		"425":                       {status(425), 5, "try 5: it answers 425"},
		"429":                       {status(429), 5, "try 5: it answers 429"},
		"a redirect":                {status(302), 1, "it answers 302"},
		"a redirect that keeps":     {status(307), 1, "it answers 307"},
		"not modified":              {status(304), 1, "it answers 304"},
		"a reset":                   {hijack(reset), 5, "reset by peer"},
		"an end":                    {hijack(func(net.Conn) {}), 5, "EOF"},
		"no HTTP":                   {hijack(func(c net.Conn) { _, _ = io.WriteString(c, "220 hunter3 ESMTP\r\n\r\n") }), 5, "malformed HTTP"},
		"an end in the body":        {hijack(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc") }), 5, "unexpected EOF"},
		"a body without end":        {endless, 1, "its answer has more than 1048576 bytes"},
		"a header without end":      {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 64<<10)) }, 5, "server response headers exceeded"},
		"a body that packs a large": {packed, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := receive(t, x.answer)
			answer, err := send(t.Context(), r.client(t, nil), false)
			if x.says == "" { // the body is returned as received, not decompressed
				require.NoError(t, err)
				require.Less(t, len(answer), 64<<10)
				return
			}
			require.ErrorContains(t, err, x.says)
			require.Empty(t, answer)
			for _, secret := range []string{"hunter2", "hello", "/base", "elsewhere"} {
				require.NotContains(t, err.Error(), secret)
			}
			ids := r.came()
			require.Len(t, ids, x.tries)
			failed := new(webhook.Error)
			require.ErrorAs(t, err, &failed)
			require.Equal(t, x.tries == 1, failed.Permanent, "only temporary failures are retried")
			for _, id := range ids {
				require.Equal(t, ids[0], id, "a retried message has another id")
			}
		})
	}
}

func packed(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = z.Write(make([]byte, 8<<20))
	_ = z.Close()
}

// A receiver that never responds, or never ends its response, uses up the time of each try and no more.
func TestHangs(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"before the answer": func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() },
		"within the answer": func(w http.ResponseWriter, req *http.Request) {
			for req.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := receive(t, answer)
			// Even a busy machine reads the message in that time.
			c := r.client(t, func(cfg *webhook.Config) { cfg.Timing.Try = time.Second })
			_, err := send(t.Context(), c, true)
			require.ErrorContains(t, err, "try 5: it did not answer within 1s")
			ids := r.came()
			require.Len(t, ids, 5)
			require.Len(t, slices.Compact(slices.Sorted(slices.Values(ids))), 5, "a retried question is a new message")
		})
	}
	t.Run("the caller stops waiting", func(t *testing.T) {
		t.Parallel()
		came := make(chan struct{}, 1)
		r := receive(t, func(_ http.ResponseWriter, req *http.Request) { came <- struct{}{}; <-req.Context().Done() })
		c := r.client(t, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		go func() { <-came; cancel(gone) }() // ends with the message
		_, err := send(ctx, c, false)
		require.ErrorIs(t, err, gone)
		require.Len(t, r.came(), 1)
	})
}

// 500 ten times, then 200: the first two messages fail, the circuit opens, nothing is sent while it is open, and then
// messages are sent as before.
func TestCircuit(t *testing.T) {
	t.Parallel()
	var r *receiver
	r = receive(t, func(w http.ResponseWriter, _ *http.Request) {
		if len(r.came()) <= 10 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	c := r.client(t, func(cfg *webhook.Config) { cfg.Timing.Open = 2 * time.Second })
	for range 2 {
		require.Equal(t, "closed", c.Circuit())
		_, err := send(t.Context(), c, false)
		require.ErrorContains(t, err, "it answers 500")
	}
	require.Equal(t, "open", c.Circuit())
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(`
# HELP mpcd_webhook_circuit 0: closed, messages are sent. 1: half-open, one is tried. 2: open, messages fail at once.
# TYPE mpcd_webhook_circuit gauge
mpcd_webhook_circuit{webhook="custodian"} 2
# HELP mpcd_webhook_tries_total Tries to send a message: taken, refused (it will not be tried again), failed, or ended (the caller stopped waiting).
# TYPE mpcd_webhook_tries_total counter
mpcd_webhook_tries_total{outcome="failed",webhook="custodian"} 10
`)))
	_, err := send(t.Context(), c, false)
	require.ErrorContains(t, err, "no messages are sent")
	require.Len(t, r.came(), 10)
	require.Eventually(t, func() bool { return c.Circuit() == "half-open" }, 2*time.Minute, 10*time.Millisecond)
	_, err = send(t.Context(), c, false)
	require.NoError(t, err)
	require.Equal(t, "closed", c.Circuit())
}

// A receiver that refuses messages is up, and callers that stop waiting say nothing about the receiver: neither opens
// the circuit.
func TestCircuitStaysClosed(t *testing.T) {
	t.Parallel()
	r := receive(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	c := r.client(t, nil)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 15 {
		_, err := send(t.Context(), c, false)
		require.Error(t, err)
		_, err = send(gone, c, false)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Equal(t, "closed", c.Circuit())
}

// A receiver that asks to wait, however often, is up.
func TestPatienceOpensNoCircuit(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests} {
		r := receive(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
		c := r.client(t, nil)
		for range 4 {
			_, err := send(t.Context(), c, false)
			require.ErrorContains(t, err, "try 5")
		}
		require.Equal(t, "closed", c.Circuit(), code)
	}
}

// While a secret is being replaced, messages are signed with both: a receiver that knows either accepts them.
func TestTwoSigningSecrets(t *testing.T) {
	t.Parallel()
	old, other := signer(t), signerOf(t, "o")
	var first http.Header
	r := receive(t, func(_ http.ResponseWriter, req *http.Request) { first = req.Header.Clone() }) // verifies with the old one
	c := r.client(t, func(cfg *webhook.Config) { cfg.Signers = []*webhook.Signer{other, old} })
	_, err := send(t.Context(), c, false)
	require.NoError(t, err)
	r.Close() // the handler has ended
	require.Len(t, strings.Fields(first.Get("webhook-signature")), 2)
	require.NoError(t, other.Verify([]byte(body), first))
	require.NoError(t, old.Verify([]byte(body), first))
	require.Error(t, signerOf(t, "x").Verify([]byte(body), first))
}

// Non-public addresses are refused after name resolution, and nothing is sent there.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	r := receive(t, func(http.ResponseWriter, *http.Request) {})
	_, port, err := net.SplitHostPort(r.Listener.Addr().String())
	require.NoError(t, err)
	hosts := []string{
		"127.0.0.1", "localhost", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "10.0.0.1", "172.16.0.1", "192.168.0.1",
		"169.254.169.254", "100.64.0.1", "[fd00::1]", "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255",
	}
	for _, host := range hosts {
		c := r.client(t, func(cfg *webhook.Config) { cfg.Networks, cfg.URL = nil, "https://"+host+":"+port })
		_, err := send(t.Context(), c, false)
		require.ErrorContains(t, err, "try 1: its address is not public", host)
	}
	// Allowing one network does not allow others.
	c := r.client(t, func(cfg *webhook.Config) { cfg.URL = "https://10.0.0.1:" + port })
	_, err = send(t.Context(), c, false)
	require.ErrorContains(t, err, "not public")
	require.Empty(t, r.came())
	_, err = send(t.Context(), r.client(t, nil), false)
	require.NoError(t, err, "the control")
	require.Len(t, r.came(), 1)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	r := receive(t, func(http.ResponseWriter, *http.Request) {})
	for name, x := range map[string]struct {
		change func(*webhook.Config)
		says   string
	}{
		"another CA":                 {func(cfg *webhook.Config) { cfg.CA = x509.NewCertPool() }, "unknown authority"},
		"TLS asks for a certificate": {func(cfg *webhook.Config) { cfg.URL, cfg.CA = strict(t) }, "certificate required"},
		"another name":               {func(cfg *webhook.Config) { cfg.URL = strings.Replace(cfg.URL, "127.0.0.1", "localhost", 1) }, "certificate is valid for"},
		"no TLS":                     {func(cfg *webhook.Config) { cfg.URL = strings.Replace(plain(t), "http:", "https:", 1) }, "HTTP"},
		"an older TLS":               {func(cfg *webhook.Config) { cfg.URL, cfg.CA = older(t) }, "protocol version not supported"},
	} {
		c := r.client(t, x.change)
		for range 12 { // more than would open a circuit, which would hide the cause
			_, err := send(t.Context(), c, false)
			require.ErrorContains(t, err, x.says, name)
			require.ErrorContains(t, err, "try 1: TLS fails (it needs TLS 1.3, and a certificate of its name from a CA that is known here)", name)
			failed := new(webhook.Error)
			require.ErrorAs(t, err, &failed)
			require.True(t, failed.Permanent, name)
		}
		require.Equal(t, "closed", c.Circuit(), name)
	}
	require.Empty(t, r.came())
}

// A server with an internal TLS error says so in an alert, and may recover.
func TestTemporaryTLSFailure(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	s.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if tries.Add(1) < 3 {
			return nil, errors.New("no certificate yet")
		}
		return nil, nil
	}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	c := (&receiver{Server: s}).client(t, nil)
	_, err := send(t.Context(), c, false)
	require.NoError(t, err)
	require.Equal(t, int32(3), tries.Load())
}

func strict(t *testing.T) (string, *x509.CertPool) {
	return overTLS(t, &tls.Config{ClientAuth: tls.RequireAnyClientCert})
}

func plain(t *testing.T) string {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.URL
}

func older(t *testing.T) (string, *x509.CertPool) {
	return overTLS(t, &tls.Config{MaxVersion: tls.VersionTLS12})
}

func overTLS(t *testing.T, cfg *tls.Config) (string, *x509.CertPool) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = cfg
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s.URL, pool
}

func TestParseSecret(t *testing.T) {
	t.Parallel()
	long := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, good := range []string{long, "whsec_" + long, " whsec_" + long + "\n"} {
		_, err := webhook.ParseSecret(secret.New([]byte(good)))
		require.NoError(t, err)
	}
	for _, bad := range []string{"", "whsec_", "whsec_hunter2", base64.StdEncoding.EncodeToString(make([]byte, 23)), base64.StdEncoding.EncodeToString(make([]byte, 65)), long + " " + long} {
		_, err := webhook.ParseSecret(secret.New([]byte(bad)))
		require.EqualError(t, err, "it is not whsec_ and the base64 of 24 to 64 bytes")
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"https://custodian.example.org", "https://custodian.example.org/", "https://custodian.example.org:8443/a/b", "https://[::1]:1"} {
		require.NoError(t, webhook.CheckURL(good), good)
	}
	for _, bad := range []string{"", "custodian.example.org", "http://custodian.example.org", "https://", "https:///a", "https:a", "https://u:hunter2@h", "https://h/?token=hunter2", "https://h/#a", "https://h/?", "https://h:port/", "file:///etc/passwd", "\x00"} {
		err := webhook.CheckURL(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
