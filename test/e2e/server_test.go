package e2e_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

func get(t testing.TB, s *servertest.Service, url string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := s.HTTP.Do(req)
	require.NoError(t, err)
	all, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	return resp.StatusCode, string(all)
}

func TestAdminListener(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "mpcd_sessions 17\n") }),
		Server:  server.Config{Detail: func() map[string]string { return map[string]string{"custodian": "circuit open"} }},
	})
	code, body := get(t, s, s.Admin+"/healthz")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "ok\n", body)
	code, body = get(t, s, s.Admin+"/metrics")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, "mpcd_sessions 17")
	code, _ = get(t, s, s.Admin+"/debug/pprof/")
	require.Equal(t, http.StatusOK, code)
	code, body = get(t, s, s.Admin+"/readyz")
	require.Equal(t, http.StatusOK, code)
	require.JSONEq(t, `{"ready": true, "detail": {"custodian": "circuit open"}}`, body)
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/debug/pprof/"} {
		code, _ = get(t, s, s.URL+path)
		require.Equal(t, http.StatusNotFound, code, "callers do not get at %s", path)
	}
}

// A shutdown ends waiting runs, and nothing hangs: runs end when the sessions are closed.
func TestShutdownDuringRuns(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
	}})
	go func() { // ends with the run
		<-gate.Came
		f.Sessions.Close()
	}()
	a := overHTTP(t, f.Service, alice, provisionReq(f.backup))
	refused(t, a, codes.Aborted, "INTERRUPTED")
	require.NotEmpty(t, a.messages, "what came before the error was sent")
	failed := getSession(t, f.Service, progress(t, a)[0].GetSessionId())
	require.Equal(t, pb.SessionState_SESSION_STATE_INTERRUPTED, failed.GetState())
	require.Equal(t, int32(codes.Aborted), failed.GetError().GetCode())
	require.Equal(t, "INTERRUPTED", failed.GetError().GetReason())
	require.Equal(t, a.status.Message(), failed.GetError().GetMessage())
	require.Empty(t, failed.GetShareSetId())
	for _, do := range transports {
		refused(t, do(t, f.Service, alice, provisionReq(f.backup)), codes.Unavailable, "SHUTTING_DOWN")
		refused(t, do(t, f.Service, alice, signReq(f.first)), codes.Unavailable, "SHUTTING_DOWN")
		wallet(t, f.Service, f.first.wallet)
	}
}

// Serve reports NOT_SERVING before it ends, lets calls end, and closes its listeners.
func TestServeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	parts := servertest.Open(t, servertest.Config{})
	for _, late := range []bool{false, true} {
		srv := server.New(parts.Sessions, servertest.Authenticate, http.NotFoundHandler(), parts.Log.Logger(), server.Config{})
		var lc net.ListenConfig
		web, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		if late {
			cancel() // before anything serves
		} else {
			time.AfterFunc(time.Millisecond, cancel)
		}
		require.NoError(t, srv.Serve(ctx, server.Listeners{GRPC: bufconn.Listen(1 << 10), HTTP: web}, time.Minute))
		cancel()
		_, err = web.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	}
}

// Calls that do not end within the grace time are cut off.
func TestServeCutsOffAfterTheGraceTime(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	parts := servertest.Open(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.PreParams = &servertest.PreParams{Source: p.PreParams, Before: gate.Wait}
	}})
	srv := server.New(parts.Sessions, servertest.Authenticate, http.NotFoundHandler(), parts.Log.Logger(), server.Config{})
	var lc net.ListenConfig
	var l server.Listeners
	var err error
	for _, lis := range []*net.Listener{&l.GRPC, &l.HTTP} {
		*lis, err = lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l, time.Nanosecond) }() // ends with cancel

	conn, err := grpc.NewClient(l.GRPC.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // nothing is in flight any more
	stream, err := pb.NewWalletServiceClient(conn).CreateWallet(t.Context(), createReq(pb.Curve_CURVE_SECP256K1))
	require.NoError(t, err)
	_, err = stream.Recv()
	require.NoError(t, err)
	body := strings.NewReader(`{"requestId":"` + uuid.NewString() + `","curves":["CURVE_SECP256K1"]}`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+l.HTTP.Addr().String()+"/v1/wallets", body)
	require.NoError(t, err)
	web := &http.Client{Transport: &http.Transport{}}
	defer web.CloseIdleConnections()
	resp, err := web.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close() //nolint:errcheck // it was cut off
	for range 4 {           // both runs wait, each for both parties' pre-params, and nothing lets them continue
		<-gate.Came
	}

	cancel()
	require.NoError(t, <-served)
	_, err = stream.Recv()
	require.Equal(t, codes.Aborted, status.Code(err), "it is INTERRUPTED, and its caller hears of it")
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Contains(t, string(rest), "INTERRUPTED")
}

// A listener that fails ends the service with its error.
func TestServeFailsWithAListener(t *testing.T) {
	t.Parallel()
	parts := servertest.Open(t, servertest.Config{})
	srv := server.New(parts.Sessions, servertest.Authenticate, http.NotFoundHandler(), parts.Log.Logger(), server.Config{})
	var lc net.ListenConfig
	web, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, web.Close())
	require.ErrorIs(t, srv.Serve(t.Context(), server.Listeners{GRPC: bufconn.Listen(1 << 10), HTTP: web}, time.Minute), net.ErrClosed)
}

func TestHealthOnTheServicePort(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, name := range []string{"", pb.WalletService_ServiceDesc.ServiceName} {
		watch, err := healthpb.NewHealthClient(s.Conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: name})
		require.NoError(t, err)
		now, err := watch.Recv()
		require.NoError(t, err)
		require.Equal(t, healthpb.HealthCheckResponse_SERVING, now.GetStatus())
	}
}

// Package session's enum numbers are the API's: convert.go only casts.
func TestEnumsHaveTheAPIsNumbers(t *testing.T) {
	t.Parallel()
	for ours, theirs := range map[any]any{
		pb.Curve(session.Secp256k1): pb.Curve_CURVE_SECP256K1, pb.Curve(session.Ed25519): pb.Curve_CURVE_ED25519,
		pb.Purpose(session.Signing): pb.Purpose_PURPOSE_SIGNING, pb.Purpose(session.Backup): pb.Purpose_PURPOSE_BACKUP,
		pb.BackupMethod(session.NoMethod): pb.BackupMethod_BACKUP_METHOD_UNSPECIFIED,
		pb.BackupMethod(session.Password): pb.BackupMethod_BACKUP_METHOD_PASSWORD,
		pb.BackupMethod(session.ICloud):   pb.BackupMethod_BACKUP_METHOD_ICLOUD,
		pb.BackupMethod(session.GDrive):   pb.BackupMethod_BACKUP_METHOD_GDRIVE,
		pb.BackupMethod(session.Passkey):  pb.BackupMethod_BACKUP_METHOD_PASSKEY,
		pb.BackupMethod(session.Firebase): pb.BackupMethod_BACKUP_METHOD_FIREBASE,
		pb.BackupMethod(session.Custom):   pb.BackupMethod_BACKUP_METHOD_CUSTOM,

		pb.ShareSetState(session.SetPending): pb.ShareSetState_SHARE_SET_STATE_PENDING,
		pb.ShareSetState(session.SetActive):  pb.ShareSetState_SHARE_SET_STATE_ACTIVE,
		pb.ShareSetState(session.SetRevoked): pb.ShareSetState_SHARE_SET_STATE_REVOKED,

		pb.Operation(session.OpCreate): pb.Operation_OPERATION_CREATE, pb.Operation(session.OpBackup): pb.Operation_OPERATION_BACKUP,
		pb.Operation(session.OpProvision): pb.Operation_OPERATION_PROVISION, pb.Operation(session.OpSign): pb.Operation_OPERATION_SIGN,

		pb.SessionState(session.Queued):      pb.SessionState_SESSION_STATE_QUEUED,
		pb.SessionState(session.Running):     pb.SessionState_SESSION_STATE_RUNNING,
		pb.SessionState(session.Succeeded):   pb.SessionState_SESSION_STATE_SUCCEEDED,
		pb.SessionState(session.Failed):      pb.SessionState_SESSION_STATE_FAILED,
		pb.SessionState(session.Interrupted): pb.SessionState_SESSION_STATE_INTERRUPTED,
		pb.SessionState(session.Cancelled):   pb.SessionState_SESSION_STATE_CANCELLED,
		pb.SessionState(session.Expired):     pb.SessionState_SESSION_STATE_EXPIRED,

		pb.Status(session.StatusQueued):          pb.Status_STATUS_QUEUED,
		pb.Status(session.StatusReadingShare):    pb.Status_STATUS_READING_SHARE,
		pb.Status(session.StatusParsingShare):    pb.Status_STATUS_PARSING_SHARE,
		pb.Status(session.StatusGeneratingShare): pb.Status_STATUS_GENERATING_SHARE,
		pb.Status(session.StatusStoringShare):    pb.Status_STATUS_STORING_SHARE,
		pb.Status(session.StatusDone):            pb.Status_STATUS_DONE,
	} {
		require.Equal(t, theirs, ours)
	}
	// Each value of the API has a counterpart, except UNSPECIFIED and the two steps of the SDK.
	for values, want := range map[int]int{
		len(pb.Curve_name): 2, len(pb.BackupMethod_name): 6, len(pb.ShareSetState_name): 3, len(pb.Operation_name): 4, len(pb.SessionState_name): 7,
	} {
		require.Equal(t, want+1, values)
	}
	require.Len(t, pb.Status_name, 6+1+2)
}
