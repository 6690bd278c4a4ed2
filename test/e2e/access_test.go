package e2e_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/auth/authtest"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// yes marks a permitted call.
const yes = "yes"

// accessColumns are the kinds of callers. The wallets and sessions of the table are the owner's.
var accessColumns = []struct {
	name   string
	caller string // a token's subject; a service may use a certificate as well
	scopes []session.Scope
}{
	{"the owner, who started the session", "alice", nil},
	{"a stranger, or a service without scopes", "stranger", nil},
	{"`wallets:read`", "reader", []session.Scope{session.ScopeRead}},
	{"`wallets:write`", "writer", []session.Scope{session.ScopeWrite}},
	{"`wallets:sign`", "signer", []session.Scope{session.ScopeSign}},
	{"`wallets:admin`", "admin", []session.Scope{session.ScopeAdmin}},
}

// accessRow is one RPC, with a request that passes authorisation and is then refused for another reason, or only
// reads.
type accessRow struct {
	rpc     string
	request func(f *fixture) proto.Message
	allowed string   // the reason for which permitted callers are refused; empty: the call succeeds
	cells   []string // yes, or the reason for which the caller is refused; in the order of accessColumns
}

// accessTable says who may call what. docs/THREAT-MODEL.md contains it.
var accessTable = []accessRow{
	{"CreateWallet for oneself", func(*fixture) proto.Message { return createReq(pb.Curve_CURVE_SECP256K1) }, "INTERNAL",
		[]string{yes, yes, yes, yes, yes, yes}},
	{"CreateWallet for the owner", func(*fixture) proto.Message {
		return edit(createReq(pb.Curve_CURVE_SECP256K1), func(r *pb.CreateWalletRequest) { r.Owner = "alice" })
	}, "INTERNAL", []string{yes, "PERMISSION_DENIED", "PERMISSION_DENIED", yes, "PERMISSION_DENIED", "PERMISSION_DENIED"}},
	{"BackupWallet", func(f *fixture) proto.Message { return backupReq(f.first.with([]byte("x"))) }, "SHARE_MALFORMED",
		[]string{yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND"}},
	{"ProvisionWallet", func(f *fixture) proto.Message { return provisionReq(f.backup.with([]byte("x"))) },
		"SHARE_MALFORMED",
		[]string{yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND"}},
	{"ConfirmShareSet", func(f *fixture) proto.Message {
		return edit(confirmReq(f.pending), func(r *pb.ConfirmShareSetRequest) { r.ShareSha256 = make([]byte, 32) })
	}, "SHARE_SET_MISMATCH", []string{yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND"}},
	{"RevokeShareSet", func(f *fixture) proto.Message {
		return &pb.RevokeShareSetRequest{WalletId: f.first.wallet, ShareSetId: uuid.NewString()}
	}, "SHARE_SET_NOT_FOUND", []string{yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", yes}},
	{"RevokeShareSet with `allow_last`", func(f *fixture) proto.Message {
		return &pb.RevokeShareSetRequest{WalletId: f.first.wallet, ShareSetId: uuid.NewString(), AllowLast: true}
	}, "SHARE_SET_NOT_FOUND", []string{"PERMISSION_DENIED", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", yes}},
	{"ReleaseShareSet", func(f *fixture) proto.Message {
		return edit(releaseReq(f.first), func(r *pb.ReleaseShareSetRequest) { r.ShareSetId = uuid.NewString() })
	}, "SHARE_SET_NOT_FOUND", []string{"PERMISSION_DENIED", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", yes}},
	{"Sign", func(f *fixture) proto.Message { return signReq(f.first.with([]byte("x"))) }, "SHARE_MALFORMED",
		[]string{yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", yes, "WALLET_NOT_FOUND"}},
	{"SignWithDevice", func(f *fixture) proto.Message {
		return &pb.SignWithDeviceRequest{
			WalletId: f.first.wallet, RequestId: uuid.NewString(), Curve: pb.Curve_CURVE_ED25519, Payload: []byte("x"),
			Device: &pb.DeviceSide{ShareSetId: uuid.NewString(), Instance: uuid.NewString()},
		}
	}, "SHARE_SET_NOT_FOUND", []string{yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", yes, "WALLET_NOT_FOUND"}},
	{"GetWallet", func(f *fixture) proto.Message { return &pb.GetWalletRequest{WalletId: f.first.wallet} }, "",
		[]string{yes, "WALLET_NOT_FOUND", yes, "WALLET_NOT_FOUND", "WALLET_NOT_FOUND", "WALLET_NOT_FOUND"}},
	{"ListWallets of oneself", func(*fixture) proto.Message { return &pb.ListWalletsRequest{} }, "",
		[]string{yes, yes, yes, yes, yes, yes}},
	{"ListWallets of the owner", func(*fixture) proto.Message { return &pb.ListWalletsRequest{Owner: "alice"} }, "",
		[]string{yes, "PERMISSION_DENIED", yes, "PERMISSION_DENIED", "PERMISSION_DENIED", "PERMISSION_DENIED"}},
	{"GetSession", func(f *fixture) proto.Message { return &pb.GetSessionRequest{SessionId: f.session()} }, "",
		[]string{yes, "SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_NOT_FOUND"}},
	{"CancelSession", func(f *fixture) proto.Message { return &pb.CancelSessionRequest{SessionId: f.session()} }, "",
		[]string{yes, "SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_NOT_FOUND"}},
	{"SendMessages", func(f *fixture) proto.Message {
		return &pb.SendMessagesRequest{SessionId: f.session(), Instance: uuid.NewString(), Attempt: 1, Messages: []*pb.ProtocolMessage{{Sequence: 1, Mac: []byte("x")}}}
	}, "", []string{yes, "SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_NOT_FOUND", "SESSION_NOT_FOUND"}},
}

// session returns the id of a session of alice's.
func (f *fixture) session() string {
	first, ok := f.pendingRun.messages[0].(*pb.ProvisionWalletResponse)
	if !ok {
		panic("the first message of a run is not its progress")
	}
	return first.GetProgress().GetSessionId()
}

// badCredentials are credentials that are rejected on every RPC.
type badCredentials struct {
	name string
	// with returns what it calls with; what it says of the certificate is for gRPC alone.
	with func(t testing.TB, d *secured) (cert *authtest.Pair, tokens []string)
	// handshake reports whether the TLS handshake fails. Over HTTP, which asks for no certificate, it is a call
	// without credentials.
	handshake bool
}

const unauthenticated, handshakeFails = "UNAUTHENTICATED", "the handshake fails"

func badToken(name string, changes map[string]any) badCredentials {
	return badCredentials{name: name, with: func(t testing.TB, d *secured) (*authtest.Pair, []string) {
		return nil, []string{d.key.Token(t, authtest.Claims("alice", changes))}
	}}
}

func sentToken(name string, token func(t testing.TB, d *secured, claims map[string]any) string) badCredentials {
	return badCredentials{name: name, with: func(t testing.TB, d *secured) (*authtest.Pair, []string) {
		return nil, []string{token(t, d, authtest.Claims("alice", nil))}
	}}
}

func badCertificate(name string, handshake bool, issue func(t testing.TB, d *secured) authtest.Pair) badCredentials {
	with := func(t testing.TB, d *secured) (*authtest.Pair, []string) {
		p := issue(t, d)
		return &p, nil
	}
	return badCredentials{name: name, handshake: handshake, with: with}
}

// allBadCredentials are rejected on every RPC.
var allBadCredentials = []badCredentials{
	{name: "no credentials", with: func(testing.TB, *secured) (*authtest.Pair, []string) { return nil, nil }},
	badToken("a token that has expired", map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}),
	badToken("a token without an expiry", map[string]any{"exp": nil}),
	badToken("a token that is not valid yet", map[string]any{"nbf": time.Now().Add(10 * time.Minute).Unix()}),
	badToken("a token of another issuer", map[string]any{"iss": "https://issuer.example.com"}),
	badToken("a token for another audience", map[string]any{"aud": "another"}),
	badToken("a token without a subject", map[string]any{"sub": nil}),
	badToken("a token whose subject is a service's SPIFFE ID", map[string]any{"sub": "spiffe://example.org/reader", "scope": "wallets:read"}),
	badToken("a token whose subject is a service's common name", map[string]any{"sub": "cn:reader"}),
	badToken("a token of more than 8 KiB", map[string]any{"fill": strings.Repeat("a", 8<<10)}),
	sentToken("a token without a signature (`alg: none`)", func(t testing.TB, _ *secured, claims map[string]any) string {
		return authtest.Unsigned(t, map[string]any{"alg": "none", "kid": "k"}, claims) + "."
	}),
	sentToken("a token with a MAC by the public key", func(t testing.TB, d *secured, claims map[string]any) string {
		return d.key.SignWithMAC(t, claims)
	}),
	sentToken("a token signed with another key", func(t testing.TB, _ *secured, claims map[string]any) string {
		return authtest.NewKey(t, "k", "ES256").Token(t, claims)
	}),
	sentToken("a token of a key that the issuer does not show", func(
		t testing.TB, _ *secured, claims map[string]any,
	) string {
		return authtest.NewKey(t, "unknown", "ES256").Token(t, claims)
	}),
	sentToken("what is not a token", func(testing.TB, *secured, map[string]any) string { return "let-me-in" }),
	{name: "two tokens", with: func(t testing.TB, d *secured) (*authtest.Pair, []string) {
		return nil, []string{d.token(t, "alice"), d.token(t, "alice")}
	}},
	{name: "a bad token beside a good certificate", with: func(t testing.TB, d *secured) (*authtest.Pair, []string) {
		p := d.services.IssueTo(t, "", spiffe("admin"))
		return &p, []string{d.key.Token(t, authtest.Claims("alice", map[string]any{"exp": 1}))}
	}},
	badCertificate("a certificate of another CA", true, func(t testing.TB, _ *secured) authtest.Pair {
		return authtest.NewCA(t, "services").IssueTo(t, "", spiffe("admin"))
	}),
	badCertificate("a certificate that has expired", true, func(t testing.TB, d *secured) authtest.Pair {
		return d.services.Issue(t, func(c *x509.Certificate) { c.Subject.CommonName, c.NotAfter = "admin", time.Now().Add(-time.Minute) })
	}),
	badCertificate("a certificate with two URIs", false, func(t testing.TB, d *secured) authtest.Pair {
		return d.services.IssueTo(t, "", spiffe("admin"), spiffe("reader"))
	}),
	badCertificate("a certificate whose URI is not a SPIFFE ID", false, func(t testing.TB, d *secured) authtest.Pair {
		return d.services.IssueTo(t, "admin", "https://example.org/admin")
	}),
	badCertificate("a certificate of a service that is not configured", false, func(
		t testing.TB, d *secured,
	) authtest.Pair {
		return d.services.IssueTo(t, "", spiffe("nobody"))
	}),
}

func (n badCredentials) overGRPC() string {
	if n.handshake {
		return handshakeFails
	}
	return unauthenticated
}

// renderAccess returns the table as in docs/THREAT-MODEL.md.
func renderAccess() string {
	var b strings.Builder
	b.WriteString("| RPC |")
	for _, c := range accessColumns {
		b.WriteString(" " + c.name + " |")
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", len(accessColumns)+1) + "\n")
	for _, row := range accessTable {
		b.WriteString("| " + row.rpc + " |")
		for _, cell := range row.cells {
			if cell != yes {
				cell = "`" + cell + "`"
			}
			b.WriteString(" " + cell + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\nRequests with these credentials are rejected on every RPC:\n\n| caller with | over gRPC | over HTTP |\n| --- | --- | --- |\n")
	for _, n := range allBadCredentials {
		grpc := n.overGRPC()
		if grpc == unauthenticated {
			grpc = "`" + grpc + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` |\n", n.name, grpc, unauthenticated)
	}
	return b.String()
}

// The document contains the tested table. MPCD_UPDATE=1 regenerates it.
func TestThreatModelShowsTheAccessTable(t *testing.T) {
	t.Parallel()
	const file, begin, end = "../../docs/THREAT-MODEL.md", "<!-- access:begin -->\n", "<!-- access:end -->"
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(b), begin)
	require.True(t, ok, "%s has no %s", file, begin)
	shown, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "%s has no %s", file, end)
	want := "\n" + renderAccess() + "\n"
	if os.Getenv("MPCD_UPDATE") != "" {
		require.NoError(t, os.WriteFile(file, []byte(before+begin+want+end+after), 0o644))
		return
	}
	require.Equal(t, want, shown, "run MPCD_UPDATE=1 go test -run TestThreatModelShows ./internal/server")
}

// Every RPC with every kind of caller, with the real authenticators, over real sockets with TLS: tokens over gRPC and
// HTTP, certificates over gRPC.
func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{Wrap: func(p *session.Ports) { // so that no run computes
		p.PreParams = &servertest.PreParams{Source: p.PreParams, Before: func(context.Context) error { return errors.New("no pre-params here") }}
	}})
	owner := d.as(t, nil, d.token(t, "alice"))
	before := done[*pb.ListWalletsResponse](t, overGRPC(t, owner, nil, &pb.ListWalletsRequest{}))
	named := map[string]bool{}
	t.Run("case", func(t *testing.T) {
		for i, c := range accessColumns {
			byToken := d.as(t, nil, d.token(t, c.caller, c.scopes...))
			callers := map[string]func(proto.Message) answer{
				"token, gRPC": func(req proto.Message) answer { return overGRPC(t, byToken, nil, req) },
				"token, HTTP": func(req proto.Message) answer { return overHTTP(t, byToken, nil, req) },
			}
			if c.caller != "alice" { // she is a user
				for what, p := range map[string]authtest.Pair{"SPIFFE ID": d.services.IssueTo(t, "", spiffe(c.caller)), "common name": d.services.IssueTo(t, c.caller)} {
					s := d.as(t, &p)
					callers[what+", gRPC"] = func(req proto.Message) answer { return overGRPC(t, s, nil, req) }
				}
			}
			for how, do := range callers {
				for _, row := range accessTable {
					named[string(method(t, row.request(&d.fixture)).Name())] = true
					checkAccess(t, row, row.cells[i], do(row.request(&d.fixture)), c.name+" by "+how)
				}
			}
		}
	})
	require.Len(t, named, len(routes), "every RPC has its row")
	for _, n := range allBadCredentials {
		cert, tokens := n.with(t, d)
		s := d.as(t, cert, tokens...)
		for _, row := range accessTable {
			a := overHTTP(t, s, nil, row.request(&d.fixture))
			refused(t, a, codes.Unauthenticated, unauthenticated)
			require.Equal(t, 401, a.code)
			a = overGRPC(t, s, nil, row.request(&d.fixture))
			if n.handshake {
				require.Equal(t, codes.Unavailable, a.status.Code(), "%s: %v", n.name, a.status)
				continue
			}
			refused(t, a, codes.Unauthenticated, unauthenticated)
		}
	}
	after := done[*pb.ListWalletsResponse](t, overGRPC(t, owner, nil, &pb.ListWalletsRequest{}))
	require.True(t, proto.Equal(before, after), "something changed")
	d.logsNoToken(t)
}

func checkAccess(t *testing.T, row accessRow, cell string, a answer, who string) {
	t.Helper()
	i, _ := info(t, a.status)
	switch {
	case cell != yes:
		require.Equal(t, cell, i.GetReason(), "%s by %s", row.rpc, who)
		require.Equal(t, strings.HasSuffix(cell, "_NOT_FOUND"), a.status.Code() == codes.NotFound)
		require.Empty(t, a.messages)
	default:
		require.Equal(t, row.allowed, i.GetReason(), "%s by %s: %v", row.rpc, who, a.status)
	}
}

// A rejected call is logged once, with its origin and the reason.
func TestRejectedCallIsLogged(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{})
	expired := d.as(t, nil, d.key.Token(t, authtest.Claims("mallory", map[string]any{"exp": 1})))
	for i, do := range []call{overGRPC, overHTTP} {
		refused(t, do(t, expired, nil, &pb.GetWalletRequest{WalletId: d.first.wallet}), codes.Unauthenticated, unauthenticated)
		line := d.Log.Wait(t, `"finished call"`, `"level":"INFO"`, `"reason":"UNAUTHENTICATED"`, `"from":"127.0.0.1"`, `mallory`, `\"exp\" not satisfied`)
		require.Equal(t, i+1, strings.Count(d.Log.String(), "mallory"), line)
	}
	stranger := authtest.NewCA(t, "strangers").IssueTo(t, "mallory")
	a := overGRPC(t, d.as(t, &stranger), nil, &pb.GetWalletRequest{WalletId: d.first.wallet})
	require.Equal(t, codes.Unavailable, a.status.Code())
	d.Log.Wait(t, `"a TLS handshake failed"`, `"level":"INFO"`, `"from":"127.0.0.1:`, "unknown authority")
	d.logsNoToken(t)
}

// A stranger cannot tell another user's wallet from one that does not exist.
func TestStrangersLearnNothing(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	stranger := &session.Caller{Name: "stranger"}
	id := f.session()
	for _, do := range transports {
		for theirs, none := range map[proto.Message]proto.Message{
			&pb.GetWalletRequest{WalletId: f.first.wallet}: &pb.GetWalletRequest{WalletId: uuid.NewString()},
			provisionReq(f.backup):                         provisionReq(held{wallet: uuid.NewString(), share: f.backup.share}),
			signReq(f.first):                               signReq(held{wallet: uuid.NewString(), share: f.first.share}),
			confirmReq(f.pending):                          confirmReq(held{wallet: uuid.NewString(), set: f.pending.set, share: f.pending.share}),
			revokeReq(f.second):                            revokeReq(held{wallet: uuid.NewString(), set: f.second.set}),
			&pb.GetSessionRequest{SessionId: id}:           &pb.GetSessionRequest{SessionId: uuid.NewString()},
			&pb.CancelSessionRequest{SessionId: id}:        &pb.CancelSessionRequest{SessionId: uuid.NewString()},
			// The very request whose result waits for alice.
			f.pendingReq: edit(proto.CloneOf(f.pendingReq), func(r *pb.ProvisionWalletRequest) { r.WalletId = uuid.NewString() }),
		} {
			a, b := do(t, f.Service, stranger, theirs), do(t, f.Service, stranger, none)
			require.Equal(t, codes.NotFound, a.status.Code())
			require.True(t, proto.Equal(a.status.Proto(), b.status.Proto()), "%v\n%v", a.status, b.status)
		}
		// Nor does a caller with every scope see a session that it did not start.
		refused(t, do(t, f.Service, nil, &pb.GetSessionRequest{SessionId: id}), codes.NotFound, "SESSION_NOT_FOUND")
	}
}

// Health and reflection need no token, and reveal nothing about wallets.
func TestHealthAndReflectionAreOpen(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{})
	s := d.as(t, nil)
	resp, err := healthpb.NewHealthClient(s.Conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "mpcd.v1.WalletService"})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, resp.GetStatus())
	require.Contains(t, reflected(t, s.Conn), "mpcd.v1.WalletService")
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

// A panic is answered with INTERNAL, and its value is nowhere.
func TestHandlerPanicRevealsNothing(t *testing.T) {
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
	log := f.Log.Wait(t, "a handler panicked", "e2e_test.carrier")
	require.Contains(t, log, "TestHandlerPanicRevealsNothing", "the stack is there")
	require.NotContains(t, f.Log.String(), secret)
	require.Equal(t, 4, strings.Count(f.Log.String(), `"msg":"a handler panicked"`))
}
