package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// limited repeats a call until it is rate-limited.
func limited(t testing.TB, do func() answer) (a answer, calls int) {
	t.Helper()
	for ; calls < 1000; calls++ {
		if a = do(); a.status.Code() == codes.ResourceExhausted {
			refused(t, a, codes.ResourceExhausted, "RATE_LIMITED")
			var wait time.Duration
			for _, d := range a.status.Details() {
				if r, ok := d.(*errdetails.RetryInfo); ok {
					wait = r.GetRetryDelay().AsDuration()
				}
			}
			require.Positive(t, wait)
			return a, calls
		}
	}
	require.FailNow(t, "there is no limit")
	return a, calls
}

func TestCallsAreLimitedByCallerAndMethod(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{Server: server.Config{Limits: server.Limits{Rate: 1, Burst: 20}}})
	owner, reader := d.as(t, nil, d.token(t, "alice")), d.as(t, nil, d.token(t, "reader", session.ScopeRead))
	get := &pb.GetWalletRequest{WalletId: d.first.wallet}
	_, calls := limited(t, func() answer { return overGRPC(t, owner, nil, get) })
	require.GreaterOrEqual(t, calls, 20)
	// Over HTTP it is the same caller.
	a, _ := limited(t, func() answer { return overHTTP(t, owner, nil, get) })
	require.Equal(t, http.StatusTooManyRequests, a.code)
	require.NotEmpty(t, a.header.Get("Retry-After"))
	for _, do := range transports {
		done[*pb.ListWalletsResponse](t, do(t, owner, nil, &pb.ListWalletsRequest{}))
		done[*pb.GetWalletResponse](t, do(t, reader, nil, get))
	}
	// A refused stream fails before its first message.
	a, _ = limited(t, func() answer { return overHTTP(t, owner, nil, provisionReq(d.backup.with([]byte("x")))) })
	require.NotEmpty(t, a.header.Get("Retry-After"))
	require.Equal(t, http.StatusTooManyRequests, a.code)
}

func TestRefusedCallsAreLimitedByAddress(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{Server: server.Config{Limits: server.Limits{Rate: 1, Burst: 5}}})
	get := &pb.GetWalletRequest{WalletId: d.first.wallet}
	bad := d.as(t, nil, "let-me-in")
	_, calls := limited(t, func() answer { return overGRPC(t, bad, nil, get) })
	require.GreaterOrEqual(t, calls, 5)
	// A client's X-Forwarded-For is not trusted.
	m := method(t, get)
	verb, path, body := request(t, m, get)
	n := 0
	elsewhere := func() string { n++; return fmt.Sprintf("192.0.%d.%d", n/256, n%256) }
	limited(t, func() answer {
		resp := send(t, bad, verb, path, http.Header{"X-Forwarded-For": {elsewhere(), elsewhere()}}, body)
		defer resp.Body.Close() //nolint:errcheck // it is read to its end
		return read(t, m, resp)
	})
	limited(t, func() answer {
		var a answer
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", elsewhere())
		err := bad.Conn.Invoke(ctx, pb.WalletService_GetWallet_FullMethodName, get, &pb.GetWalletResponse{})
		a.status = status.Convert(err)
		return a
	})
	for _, do := range transports {
		done[*pb.GetWalletResponse](t, do(t, d.as(t, nil, d.token(t, "alice")), nil, get))
	}
}

// If the gateway asked for certificates, all its calls would carry the same one.
func TestGatewayIgnoresCertificates(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{})
	cert := d.services.IssueTo(t, "", spiffe("reader"))
	reader := d.as(t, &cert)
	get := &pb.GetWalletRequest{WalletId: d.first.wallet}
	done[*pb.GetWalletResponse](t, overGRPC(t, reader, nil, get))
	refused(t, overHTTP(t, reader, nil, get), codes.Unauthenticated, unauthenticated)
	// A token on a connection with a certificate identifies the call on its own.
	both := d.as(t, &cert, d.token(t, "stranger"))
	refused(t, overGRPC(t, both, nil, get), codes.NotFound, "WALLET_NOT_FOUND")
}

// Connections that send nothing, or little, are closed, and others are served meanwhile.
func TestSlowLoris(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{Server: server.Config{Patience: 3 * time.Second}})
	cfg := func(protocol string) *tls.Config {
		return &tls.Config{RootCAs: d.ca.Pool(), ServerName: "localhost", NextProtos: []string{protocol}, MinVersion: tls.VersionTLS13}
	}
	var dialer net.Dialer
	for name, c := range map[string]struct {
		addr   string
		tls    *tls.Config
		prefix string
	}{
		"gRPC without a handshake":     {d.grpc, nil, ""},
		"gRPC with half a handshake":   {d.grpc, nil, "\x16\x03\x01\x02"},
		"gRPC without its preface":     {d.grpc, cfg("h2"), "PRI * HTTP"},
		"HTTP without a handshake":     {d.http, nil, ""},
		"HTTP with half a header":      {d.http, cfg("http/1.1"), "POST /v1/wallets HTTP/1.1\r\nHost: localhost\r\nX-Slow: "},
		"HTTP/2 without its preface":   {d.http, cfg("h2"), ""},
		"HTTP without a whole request": {d.http, cfg("http/1.1"), "G"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := dialer.DialContext(t.Context(), "tcp", c.addr)
			require.NoError(t, err)
			if c.tls != nil {
				conn = tls.Client(conn, c.tls)
			}
			defer conn.Close() //nolint:errcheck // its other end is closed
			_, err = io.WriteString(conn, c.prefix)
			require.NoError(t, err)
			for _, do := range transports {
				done[*pb.GetWalletResponse](t, do(t, d.as(t, nil, d.token(t, "alice")), nil, &pb.GetWalletRequest{WalletId: d.first.wallet}))
			}
			// The service closes it, possibly after an answer. A minute bounds the test if it does not.
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
			_, err = io.Copy(io.Discard, conn)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		})
	}
}

func TestHeadersThatAreTooLarge(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{})
	s := d.as(t, nil, d.token(t, "alice"))
	get := &pb.GetWalletRequest{WalletId: d.first.wallet}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", strings.Repeat("a", 32<<10))
	err := s.Conn.Invoke(ctx, pb.WalletService_GetWallet_FullMethodName, get, &pb.GetWalletResponse{})
	require.Error(t, err)
	old := d.as(t, nil, d.token(t, "alice"))
	transport, ok := old.HTTP.Transport.(bearer)
	require.True(t, ok)
	transport.ForceAttemptHTTP2 = false // over HTTP/2 the connection ends
	resp := send(t, old, http.MethodGet, "/v1/wallets/"+d.first.wallet, http.Header{"X-Request-Id": {strings.Repeat("a", 32<<10)}}, nil)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode)
	for _, do := range transports {
		done[*pb.GetWalletResponse](t, do(t, s, nil, get))
	}
}

// A connection past its maximum age takes no more calls, but its streams continue to their end.
func TestStreamOutlivesMaxConnectionAge(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	d := openSecured(t, servertest.Config{
		Server: server.Config{ConnectionAge: 100 * time.Millisecond},
		Wrap: func(p *session.Ports) {
			p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
		},
	})
	s := d.as(t, nil, d.token(t, "alice"))
	var first peer.Peer
	stream, err := pb.NewWalletServiceClient(s.Conn).ProvisionWallet(t.Context(), provisionReq(d.backup), grpc.Peer(&first))
	require.NoError(t, err)
	<-gate.Came
	for { // until calls use another connection, because the first one is too old
		var now peer.Peer
		err := s.Conn.Invoke(t.Context(), pb.WalletService_GetWallet_FullMethodName, &pb.GetWalletRequest{WalletId: d.first.wallet}, &pb.GetWalletResponse{}, grpc.Peer(&now))
		require.NoError(t, err)
		p, ok := peer.FromContext(stream.Context())
		require.True(t, ok)
		if now.LocalAddr.String() != p.LocalAddr.String() {
			break
		}
	}
	gate.Open()
	made(t, drain(t, stream), d.backup.wallet)
}

// Every unary call has a deadline; one that waits for a run has the run's, and so has a stream.
func TestUnaryCallsHaveADeadline(t *testing.T) {
	t.Parallel()
	left := make(chan time.Duration, 1)
	f := start(t, servertest.Config{
		Server: server.Config{RunTimeout: time.Hour},
		Auth: func(ctx context.Context) (session.Caller, error) {
			left <- 0
			if end, ok := ctx.Deadline(); ok {
				<-left
				left <- time.Until(end)
			}
			return servertest.Authenticate(ctx)
		},
	})
	for _, do := range transports {
		for req, within := range map[proto.Message][2]time.Duration{
			&pb.GetWalletRequest{WalletId: f.first.wallet}: {1, 30 * time.Second},
			signReq(f.first.with([]byte("x"))):             {30 * time.Second, time.Hour},
			provisionReq(f.backup.with([]byte("x"))):       {0, 0},
		} {
			do(t, f.Service, alice, req)
			got := <-left
			require.GreaterOrEqual(t, got, within[0], "%T", req)
			require.LessOrEqual(t, got, within[1], "%T", req)
		}
	}
}

// The gateway serves HTTP/1.1 and HTTP/2, both over TLS 1.3, with streams on either.
func TestGatewayOverTLS(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{})
	m := method(t, d.pendingReq)
	verb, path, body := request(t, m, d.pendingReq)
	for protocol, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		s := d.as(t, nil, d.token(t, "alice"))
		transport, ok := s.HTTP.Transport.(bearer)
		require.True(t, ok)
		transport.ForceAttemptHTTP2 = http2
		resp := send(t, s, verb, path, nil, body)
		require.Equal(t, protocol, resp.Proto)
		require.Equal(t, uint16(tls.VersionTLS13), resp.TLS.Version)
		require.Equal(t, d.pending, made(t, read(t, m, resp), d.backup.wallet))
		require.NoError(t, resp.Body.Close())
	}
	// Plain HTTP is not served there.
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", d.http)
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // no write matters
	_, err = io.WriteString(conn, "GET /v1/wallets HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+d.token(t, "alice")+"\r\n\r\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "400")
}
