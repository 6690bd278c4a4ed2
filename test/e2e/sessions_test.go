package e2e_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// gated is a service whose runs are held at a gate, one at a time.
func gated(t testing.TB, cfg session.Config) (*stocked, *servertest.Gate) {
	t.Helper()
	gate := servertest.NewGate()
	cfg.Slots = 1
	return start(t, servertest.Config{Sessions: cfg, Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: gate.Wait}
	}}), gate
}

// sessionOf waits until a request has a session.
func sessionOf(t testing.TB, s *stocked, requestID string) string {
	t.Helper()
	var id string
	require.Eventually(t, func() bool {
		rec, err := s.Store.ByRequest(t.Context(), alice.Name, requestID)
		if err == nil {
			id = rec.ID
		}
		return err == nil
	}, time.Minute, time.Millisecond)
	return id
}

// CancelSession ends a run for all attached callers, over either transport.
func TestCancelSession(t *testing.T) {
	t.Parallel()
	for name, cancel := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, gate := gated(t, session.Config{})
			before := wallet(t, f.Service, f.first.wallet)
			for _, req := range []interface {
				proto.Message
				GetRequestId() string
			}{provisionReq(f.backup), signReq(f.first)} {
				var ends []<-chan answer
				for _, do := range transports {
					ends = append(ends, later(func() answer { return do(t, f.Service, alice, req) }))
				}
				<-gate.Came
				id := sessionOf(t, f, req.GetRequestId())
				refused(t, cancel(t, f.Service, &session.Caller{Name: "mallory"}, &pb.CancelSessionRequest{SessionId: id}), codes.NotFound, "SESSION_NOT_FOUND")
				s := done[*pb.CancelSessionResponse](t, cancel(t, f.Service, alice, &pb.CancelSessionRequest{SessionId: id})).GetSession()
				require.Equal(t, pb.SessionState_SESSION_STATE_CANCELLED, s.GetState())
				require.Equal(t, "SESSION_CANCELLED", s.GetError().GetReason())
				require.Equal(t, int32(codes.Canceled), s.GetError().GetCode())
				for _, end := range ends {
					refused(t, <-end, codes.Canceled, "SESSION_CANCELLED")
				}
				refused(t, cancel(t, f.Service, alice, req), codes.Canceled, "SESSION_CANCELLED")
				require.True(t, proto.Equal(s, getSession(t, f.Service, id)))
				again := done[*pb.CancelSessionResponse](t, cancel(t, f.Service, alice, &pb.CancelSessionRequest{SessionId: id})).GetSession()
				require.True(t, proto.Equal(s, again))
			}
			require.True(t, proto.Equal(before, wallet(t, f.Service, f.first.wallet)))
			refused(t, cancel(t, f.Service, alice, &pb.CancelSessionRequest{SessionId: uuid.NewString()}), codes.NotFound, "SESSION_NOT_FOUND")
			refused(t, cancel(t, f.Service, alice, &pb.CancelSessionRequest{SessionId: "x"}), codes.InvalidArgument, "INVALID_ARGUMENT", "session_id")
		})
	}
}

// A full queue says when to retry: in RetryInfo, and over HTTP in a header too.
func TestOverloaded(t *testing.T) {
	t.Parallel()
	f, gate := gated(t, session.Config{Queue: 1})
	var ends []<-chan answer
	for range 2 { // one runs, one waits
		req := signReq(f.first)
		ends = append(ends, later(func() answer { return overGRPC(t, f.Service, alice, req) }))
		sessionOf(t, f, req.GetRequestId())
	}
	<-gate.Came
	for _, req := range []proto.Message{signReq(f.first), provisionReq(f.backup), createReq()} {
		for transport, do := range transports {
			a := do(t, f.Service, alice, req)
			refused(t, a, codes.ResourceExhausted, "OVERLOADED")
			require.Empty(t, a.messages)
			var delay time.Duration
			for _, d := range a.status.Details() {
				if r, ok := d.(*errdetails.RetryInfo); ok {
					delay = r.GetRetryDelay().AsDuration()
				}
			}
			require.Positive(t, delay, transport)
			if transport == "HTTP" {
				require.Equal(t, http.StatusTooManyRequests, a.code)
				seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
				require.NoError(t, err)
				require.GreaterOrEqual(t, time.Duration(seconds)*time.Second, delay)
				require.Less(t, time.Duration(seconds-1)*time.Second, delay)
			}
		}
	}
	a := overHTTP(t, f.Service, alice, &pb.GetWalletRequest{WalletId: uuid.NewString()})
	require.Empty(t, a.header.Values("Retry-After"), "only if retrying helps")
	gate.Open()
	for _, end := range ends {
		done[*pb.SignResponse](t, <-end)
	}
}

// While draining, a service reports NOT_SERVING, refuses new runs, and continues to answer callers of current runs.
func TestServeDrains(t *testing.T) {
	t.Parallel()
	f, gate := gated(t, session.Config{})
	srv := server.New(f.Sessions, servertest.Authenticate, http.NotFoundHandler(), f.Log.Logger(), server.Config{})
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	admin, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, terminate := context.WithCancel(t.Context())
	defer terminate()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, server.Listeners{GRPC: lis, Admin: admin}, time.Minute) }() // ends with terminate
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // nothing is in flight any more
	// The same calls over the listener that is about to close.
	s := &servertest.Service{Parts: f.Parts, WalletServiceClient: pb.NewWalletServiceClient(conn), Conn: conn}

	req := provisionReq(f.backup)
	end := later(func() answer { return overGRPC(t, s, alice, req) })
	<-gate.Came
	id := sessionOf(t, f, req.GetRequestId())
	health := func() healthpb.HealthCheckResponse_ServingStatus {
		resp, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: pb.WalletService_ServiceDesc.ServiceName})
		require.NoError(t, err)
		return resp.GetStatus()
	}
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, health())
	terminate()
	require.Eventually(t, func() bool { return health() == healthpb.HealthCheckResponse_NOT_SERVING }, time.Minute, time.Millisecond)
	code, _ := get(t, f.Service, "http://"+admin.Addr().String()+"/healthz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	code, body := get(t, f.Service, "http://"+admin.Addr().String()+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.JSONEq(t, `{"ready": false}`, body)
	var a answer
	require.Eventually(t, func() bool {
		a = overGRPC(t, s, alice, &pb.SignRequest{
			WalletId: f.first.wallet, RequestId: uuid.NewString(), SigningShare: f.first.share, Curve: pb.Curve_CURVE_ED25519, Payload: []byte("x"),
		})
		return a.status.Code() == codes.Unavailable
	}, time.Minute, time.Millisecond)
	refused(t, a, codes.Unavailable, "SHUTTING_DOWN")
	running := getSession(t, s, id)
	require.Equal(t, pb.SessionState_SESSION_STATE_RUNNING, running.GetState())
	confirm(t, s, f.pending)
	attached, err := s.ProvisionWallet(servertest.As(t.Context(), alice.Name), req)
	require.NoError(t, err)
	_, err = attached.Recv()
	require.NoError(t, err)
	gate.Open()
	var last *pb.ProvisionWalletResponse
	for {
		m, err := attached.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		last = m
	}
	require.True(t, proto.Equal(done[*pb.ProvisionWalletResponse](t, <-end), last))
	require.NotNil(t, last.GetOutcome())
	require.NoError(t, <-served)
}
