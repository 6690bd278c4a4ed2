package server_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

var scopes = []session.Scope{session.ScopeRead, session.ScopeWrite, session.ScopeSign, session.ScopeAdmin}

// Who may call what, as contract.md's table has it. Each request is one that gets past
// the question who may, and is then refused for another reason, or reads.
func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	noHash := make([]byte, 32)
	table := map[string]struct {
		scope   session.Scope
		req     func() proto.Message
		allowed string // the reason for which who may is refused; empty: not refused
		denied  codes.Code
		reason  string
	}{
		"backup": {session.ScopeWrite, func() proto.Message { return backupReq(f.first.with([]byte("x"))) },
			"SHARE_MALFORMED", codes.NotFound, "WALLET_NOT_FOUND"},
		"provision": {session.ScopeWrite, func() proto.Message { return provisionReq(f.backup.with([]byte("x"))) },
			"SHARE_MALFORMED", codes.NotFound, "WALLET_NOT_FOUND"},
		"confirm": {session.ScopeWrite, func() proto.Message {
			return &pb.ConfirmShareSetRequest{WalletId: f.first.wallet, ShareSetId: f.pending.set, ShareSha256: noHash}
		}, "SHARE_SET_MISMATCH", codes.NotFound, "WALLET_NOT_FOUND"},
		"revoke": {session.ScopeAdmin, func() proto.Message {
			return &pb.RevokeShareSetRequest{WalletId: f.first.wallet, ShareSetId: uuid.NewString()}
		}, "SHARE_SET_NOT_FOUND", codes.NotFound, "WALLET_NOT_FOUND"},
		"sign": {session.ScopeSign, func() proto.Message { return signReq(f.first.with([]byte("x"))) },
			"SHARE_MALFORMED", codes.NotFound, "WALLET_NOT_FOUND"},
		"get": {session.ScopeRead, func() proto.Message { return &pb.GetWalletRequest{WalletId: f.first.wallet} },
			"", codes.NotFound, "WALLET_NOT_FOUND"},
		"list": {session.ScopeRead, func() proto.Message { return &pb.ListWalletsRequest{Owner: "alice"} },
			"", codes.PermissionDenied, "PERMISSION_DENIED"},
	}
	before := wallet(t, f.Service, f.first.wallet)
	t.Run("case", func(t *testing.T) {
		for name, c := range table {
			for transport, do := range transports {
				t.Run(name+"/"+transport, func(t *testing.T) {
					t.Parallel()
					callers := []*session.Caller{alice, {Name: "stranger"}, {Name: "stranger", Scopes: []session.Scope{"wallets:other"}}}
					for _, s := range scopes {
						callers = append(callers, &session.Caller{Name: "service", Scopes: []session.Scope{s}})
					}
					for _, as := range callers {
						a := do(t, f.Service, as, c.req())
						may := as == alice || len(as.Scopes) == 1 && as.Scopes[0] == c.scope
						switch {
						case !may:
							refused(t, a, c.denied, c.reason)
						case c.allowed == "":
							done[proto.Message](t, a)
						default:
							i, _ := info(t, a.status)
							require.Equal(t, c.allowed, i.GetReason(), "%s %v", as.Name, as.Scopes)
						}
					}
				})
			}
		}
	})
	require.True(t, proto.Equal(before, wallet(t, f.Service, f.first.wallet)))
}

// A stranger sees no difference between a wallet of somebody else's and none.
func TestStrangersLearnNothing(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	stranger := &session.Caller{Name: "stranger"}
	id := progress(t, f.pendingRun)[0].GetSessionId()
	for _, do := range transports {
		for theirs, none := range map[proto.Message]proto.Message{
			&pb.GetWalletRequest{WalletId: f.first.wallet}: &pb.GetWalletRequest{WalletId: uuid.NewString()},
			provisionReq(f.backup):                         provisionReq(held{wallet: uuid.NewString(), share: f.backup.share}),
			signReq(f.first):                               signReq(held{wallet: uuid.NewString(), share: f.first.share}),
			confirmReq(f.pending):                          confirmReq(held{wallet: uuid.NewString(), set: f.pending.set, share: f.pending.share}),
			revokeReq(f.second):                            revokeReq(held{wallet: uuid.NewString(), set: f.second.set}),
			&pb.GetSessionRequest{SessionId: id}:           &pb.GetSessionRequest{SessionId: uuid.NewString()},
		} {
			a, b := do(t, f.Service, stranger, theirs), do(t, f.Service, stranger, none)
			require.Equal(t, codes.NotFound, a.status.Code())
			require.True(t, proto.Equal(a.status.Proto(), b.status.Proto()), "%v\n%v", a.status, b.status)
		}
		// Nor does a caller with every scope see a session that it did not start.
		refused(t, do(t, f.Service, nil, &pb.GetSessionRequest{SessionId: id}), codes.NotFound, "SESSION_NOT_FOUND")
	}
}

// Who may create a wallet for whom. The wallets are of SECP256K1, whose pre-params stand
// at a gate, so that no run computes.
func TestCreateForAnOwner(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{Wrap: func(p *session.Ports) { p.PreParams = &servertest.PreParams{Source: p.PreParams, Before: wait} }})
	for i, c := range []struct {
		as    session.Caller
		owner string
		may   bool
	}{
		{session.Caller{Name: "alice"}, "", true},
		{session.Caller{Name: "alice"}, "alice", true},
		{session.Caller{Name: "alice"}, "bob", false},
		{session.Caller{Name: "service", Scopes: []session.Scope{session.ScopeWrite}}, "bob", true},
		{session.Caller{Name: "service", Scopes: []session.Scope{session.ScopeRead, session.ScopeSign, session.ScopeAdmin}}, "bob", false},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			req := createReq(pb.Curve_CURVE_SECP256K1)
			req.Owner = c.owner
			if !c.may {
				for _, do := range transports {
					refused(t, do(t, s, &c.as, req), codes.PermissionDenied, "PERMISSION_DENIED")
				}
				return
			}
			stream, err := s.CreateWallet(servertest.As(t.Context(), c.as.Name, c.as.Scopes...), req)
			require.NoError(t, err)
			first, err := stream.Recv()
			require.NoError(t, err)
			require.NotEmpty(t, first.GetProgress().GetSessionId(), "it runs")
		})
	}
	s.Stop()
}

func wait(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestCallerWithoutATokenIsRefused(t *testing.T) {
	t.Parallel()
	seen := make(chan metadata.MD, 16)
	f := start(t, servertest.Config{Auth: func(ctx context.Context) (session.Caller, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		seen <- md
		return session.Caller{}, status.Error(codes.Unauthenticated, "no token")
	}})
	for _, do := range transports {
		for _, req := range []proto.Message{&pb.GetWalletRequest{WalletId: f.first.wallet}, provisionReq(f.backup), createReq(), &pb.CancelSessionRequest{}} {
			if c, ok := req.(*pb.CancelSessionRequest); ok {
				c.SessionId = uuid.NewString()
			}
			a := do(t, f.Service, alice, req)
			require.Equal(t, codes.Unauthenticated, a.status.Code())
			require.Equal(t, []string{"Bearer alice"}, (<-seen).Get("authorization"), "the token comes once")
		}
	}
	// Probes and tools need no token, and learn of no wallet.
	resp, err := healthpb.NewHealthClient(f.Conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "mpcd.v1.WalletService"})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, resp.GetStatus())
	require.Contains(t, reflected(t, f.Conn), "mpcd.v1.WalletService")
	require.Empty(t, seen)
}

func reflected(t testing.TB, conn *grpc.ClientConn) (services []string) {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}))
	resp, err := stream.Recv()
	require.NoError(t, err)
	require.NoError(t, stream.CloseSend())
	for _, s := range resp.GetListServicesResponse().GetService() {
		services = append(services, s.GetName())
	}
	return services
}

// A panic is an INTERNAL like any other, and what it carried is nowhere.
func TestPanicInAHandlerSaysNothing(t *testing.T) {
	t.Parallel()
	const secret = "a-share-that-nobody-may-see"
	type carrier struct{ share string }
	f := start(t, servertest.Config{Auth: func(ctx context.Context) (session.Caller, error) {
		c, err := servertest.Authenticate(ctx)
		if c.Name == "panic" {
			panic(carrier{secret})
		}
		return c, err
	}})
	for _, do := range transports {
		for _, req := range []proto.Message{&pb.GetWalletRequest{WalletId: f.first.wallet}, provisionReq(f.backup)} {
			a := do(t, f.Service, &session.Caller{Name: "panic"}, req)
			refused(t, a, codes.Internal, "INTERNAL")
			require.NotContains(t, a.status.String(), secret)
		}
		done[*pb.GetWalletResponse](t, do(t, f.Service, alice, &pb.GetWalletRequest{WalletId: f.first.wallet}))
	}
	log := f.Log.Wait(t, "a handler panicked", "server_test.carrier")
	require.Contains(t, log, "TestPanicInAHandlerSaysNothing", "the stack is there")
	require.NotContains(t, f.Log.String(), secret)
	require.Equal(t, 4, strings.Count(f.Log.String(), `"msg":"a handler panicked"`))
}
