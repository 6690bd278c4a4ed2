package e2e_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/auth/authtest"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// secured is a service with the fixture behind real authentication, on TCP with TLS.
type secured struct {
	*servertest.Parts
	fixture
	grpc, http   string // addresses
	key          *authtest.Key
	ca, services *authtest.CA // the CAs of the service's certificate and of its clients
}

// spiffe returns the SPIFFE ID of a service in accessColumns.
func spiffe(name string) string { return "spiffe://example.org/" + name }

func openSecured(t testing.TB, cfg servertest.Config) *secured {
	t.Helper()
	d := &secured{
		key: authtest.NewKey(t, "k", "ES256"), ca: authtest.NewCA(t, "ca"), services: authtest.NewCA(t, "services"),
	}
	cfg, d.fixture = withFixture(t, cfg)
	d.Parts = servertest.Open(t, cfg)
	dir := t.TempDir()
	jwks, clients := filepath.Join(dir, "jwks.json"), filepath.Join(dir, "clients.pem")
	require.NoError(t, os.WriteFile(jwks, authtest.JWKS(t, d.key), 0o600))
	require.NoError(t, os.WriteFile(clients, d.services.PEM(), 0o600))
	tokens, err := auth.NewTokens(authtest.Issuer, authtest.Audience, jwks, d.Log.Logger())
	require.NoError(t, err)
	t.Cleanup(tokens.Close)
	ids := auth.Identities{}
	for _, c := range accessColumns {
		if c.caller != "alice" {
			ids[spiffe(c.caller)], ids["cn:"+c.caller] = c.scopes, c.scopes
		}
	}
	cert, key := d.ca.Issue(t, nil).Write(t, dir)
	certificates, err := auth.LoadCertificates(cert, key, clients, d.Log.Logger())
	require.NoError(t, err)
	cfg.Server.GRPCTLS, cfg.Server.HTTPTLS = certificates.GRPC(), certificates.HTTP()
	authenticator := &auth.Authenticator{Tokens: tokens, Identities: ids}
	d.serve(t, server.New(d.Sessions, authenticator.Caller, http.NotFoundHandler(), d.Log.Logger(), cfg.Server))
	return d
}

func (d *secured) serve(t testing.TB, srv *server.Server) {
	t.Helper()
	var lc net.ListenConfig
	var l server.Listeners
	var err error
	for _, lis := range []*net.Listener{&l.GRPC, &l.HTTP} {
		*lis, err = lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	d.grpc, d.http = l.GRPC.Addr().String(), l.HTTP.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l, 5*time.Second) }() // ends with cancel
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
	})
}

// token returns a token of the issuer.
func (d *secured) token(t testing.TB, name string, scopes ...session.Scope) string {
	t.Helper()
	var words []string
	for _, s := range scopes {
		words = append(words, string(s))
	}
	changes := map[string]any{}
	if len(words) > 0 {
		changes["scope"] = strings.Join(words, " ")
	}
	return d.key.Token(t, authtest.Claims(name, changes))
}

// as returns the service as used by a caller with a certificate, tokens, or neither, over connections of its own. The
// certificate is presented to any server that asks.
func (d *secured) as(t testing.TB, cert *authtest.Pair, tokens ...string) *servertest.Service {
	t.Helper()
	cfg := &tls.Config{RootCAs: d.ca.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert.TLS, nil }
	}
	with := func(ctx context.Context) context.Context {
		for _, token := range tokens {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		}
		return ctx
	}
	conn, err := grpc.NewClient("passthrough:///"+d.grpc, grpc.WithTransportCredentials(credentials.NewTLS(cfg.Clone())),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, resp any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(with(ctx), method, req, resp, conn, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(with(ctx), desc, conn, method, opts...)
		}))
	require.NoError(t, err)
	web := &http.Client{Transport: bearer{&http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: true}, tokens}}
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		web.CloseIdleConnections()
	})
	return &servertest.Service{Parts: d.Parts, Conn: conn, HTTP: web, URL: "https://" + d.http}
}

// bearer sends tokens with every request.
type bearer struct {
	*http.Transport
	tokens []string
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for _, token := range b.tokens {
		r.Header.Add("Authorization", "Bearer "+token)
	}
	return b.Transport.RoundTrip(r)
}

// logsNoToken requires that no token was logged: each begins like a JSON object in base64.
func (d *secured) logsNoToken(t testing.TB) {
	t.Helper()
	require.NotContains(t, d.Log.String(), "eyJ")
	require.NotContains(t, d.Log.String(), "let-me-in")
}
