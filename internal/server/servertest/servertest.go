// Package servertest is a whole mpcd service for tests: a real SQLite database in a temporary directory, real sealing
// and custody, tss-lib with committed pre-params, the gRPC server over a connection in memory and the gateway on a
// loopback port.
//
// Callers identify themselves with a bearer token (see As); without one the caller is Dev, which has every right.
// Tests inject faults by wrapping a port. Everything ends with the test. No program imports the package.
package servertest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/custody"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
	"github.com/mpcd/mpcd/internal/worker"
)

// Config says how a service differs from the default.
type Config struct {
	Sessions session.Config
	Dir      string               // of the database; empty: a new directory
	Database []byte               // from Dump, for a new Dir; nil: an empty database
	Keyset   *seal.Keyset         // nil: a new one
	Log      *Log                 // nil: the log is discarded
	Auth     server.Authenticator // nil: Authenticate
	Server   server.Config
	Wrap     func(*session.Ports) // may wrap the real ports
	Metrics  http.Handler         // may be nil
	Dial     []grpc.DialOption    // additional ones
	Workers  *worker.Config       // device-held runs use worker processes (see Main); nil: they run in the test's process
}

// Parts are a service without its server.
type Parts struct {
	Sessions *session.Service
	Store    *store.Store
	Keyset   *seal.Keyset
	Dir      string
	Database string // path of the file
	Log      *Log
	Workers  *worker.Pool // may be nil
	stop     func()
}

// Service is a service with its server.
type Service struct {
	*Parts
	pb.WalletServiceClient
	Conn  *grpc.ClientConn
	HTTP  *http.Client
	URL   string // of the gateway, without a trailing slash
	Admin string // URL of the admin listener
	dial  func() (*grpc.ClientConn, error)
}

// Connect returns the same service over an additional gRPC connection, which is closed with the test.
func (s *Service) Connect(t testing.TB) *Service {
	t.Helper()
	conn, err := s.dial()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	again := *s
	again.Conn, again.WalletServiceClient = conn, pb.NewWalletServiceClient(conn)
	return &again
}

// Open opens the parts of a service. They are closed with the test.
func Open(t testing.TB, cfg Config) *Parts {
	t.Helper()
	p := open(t, cfg)
	t.Cleanup(p.Stop)
	return p
}

func open(t testing.TB, cfg Config) *Parts {
	t.Helper()
	p := &Parts{Dir: cfg.Dir, Keyset: cfg.Keyset, Log: cfg.Log}
	if p.Dir == "" {
		p.Dir = t.TempDir()
	}
	if p.Log == nil {
		p.Log = NewLog()
	}
	var err error
	if p.Keyset == nil {
		p.Keyset, err = seal.Ephemeral()
		require.NoError(t, err)
	}
	p.Database = filepath.Join(p.Dir, "mpcd.db")
	if cfg.Database != nil {
		require.NoError(t, os.WriteFile(p.Database, cfg.Database, 0o600))
	}
	p.Store, err = store.Open(t.Context(), "sqlite://"+p.Database)
	require.NoError(t, err)
	p.Store.LogTo(p.Log.Logger())
	sealer, err := seal.New(t.Context(), p.Keyset, p.Store)
	require.NoError(t, err)
	keeper := custody.NewManaged(sealer)
	ports := session.Ports{
		Wallets: p.Store, Sessions: p.Store, Budgets: p.Store, Housekeeper: p.Store, Sealer: sealer, ServerShares: keeper, Custodian: keeper,
		PreParams: tsstest.NewSource(), Log: p.Log.Logger(),
	}
	if cfg.Workers != nil {
		p.Workers = worker.NewPool(*cfg.Workers, p.Log.Logger())
		ports.ServerSide = p.Workers.Run
	}
	if cfg.Wrap != nil {
		cfg.Wrap(&ports)
	}
	if cfg.Sessions.Creates == 0 { // otherwise a caller's ninth wallet would search for primes
		cfg.Sessions.Creates = 64
	}
	p.Sessions, err = session.New(t.Context(), ports, cfg.Sessions)
	require.NoError(t, err)
	p.stop = sync.OnceFunc(func() {
		p.Sessions.Close()
		if p.Workers != nil {
			p.Workers.Close()
		}
		require.NoError(t, p.Store.Close())
	})
	return p
}

// Stop ends the service before its test does, as a shutdown would.
func (p *Parts) Stop() { p.stop() }

// Dump stops the service and returns its database, from which any number of others can start with the same Keyset:
// protocol runs are slow under the race detector, and most tests need an existing wallet.
func (p *Parts) Dump(t testing.TB) []byte {
	t.Helper()
	p.Stop()
	b, err := os.ReadFile(p.Database)
	require.NoError(t, err)
	return b
}

// Start starts a service. It ends with the test, or with Stop.
func Start(t testing.TB, cfg Config) *Service {
	t.Helper()
	s := &Service{Parts: open(t, cfg)}
	if cfg.Auth == nil {
		cfg.Auth = Authenticate
	}
	if cfg.Metrics == nil {
		cfg.Metrics = http.NotFoundHandler()
	}
	memory := bufconn.Listen(1 << 20)
	var lc net.ListenConfig
	web, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	admin, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.URL, s.Admin = "http://"+web.Addr().String(), "http://"+admin.Addr().String()
	s.HTTP = &http.Client{Transport: &http.Transport{}}
	opts := append([]grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return memory.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}, cfg.Dial...)
	s.dial = func() (*grpc.ClientConn, error) { return grpc.NewClient("passthrough:///bufconn", opts...) }
	s.Conn, err = s.dial()
	require.NoError(t, err)
	s.WalletServiceClient = pb.NewWalletServiceClient(s.Conn)

	srv := server.New(s.Sessions, cfg.Auth, cfg.Metrics, s.Log.Logger(), cfg.Server)
	// Not the test's context: that one ends before the cleanups run.
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { // ends with cancel
		served <- srv.Serve(ctx, server.Listeners{GRPC: memory, HTTP: web, Admin: admin}, 5*time.Second)
	}()
	closeParts := s.stop
	s.stop = sync.OnceFunc(func() {
		s.HTTP.CloseIdleConnections()
		require.NoError(t, s.Conn.Close())
		cancel()
		require.NoError(t, <-served)
		closeParts()
	})
	t.Cleanup(s.Stop)
	return s
}

// Dev is the caller of calls without a token.
var Dev = session.Caller{Name: "dev", Scopes: []session.Scope{session.ScopeRead, session.ScopeWrite, session.ScopeSign, session.ScopeAdmin}}

// Bearer returns an Authorization header for a caller with this name and scopes.
func Bearer(name string, scopes ...session.Scope) string {
	b := "Bearer " + name
	for _, s := range scopes {
		b += " " + string(s)
	}
	return b
}

// As returns a context for gRPC calls by a caller with this name and scopes.
func As(ctx context.Context, name string, scopes ...session.Scope) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", Bearer(name, scopes...))
}

// Always is an Authenticator for which every caller has this name, and no scope.
func Always(name string) server.Authenticator {
	return func(context.Context) (session.Caller, error) { return session.Caller{Name: name}, nil }
}

// Authenticate is an Authenticator that trusts Bearer's headers.
func Authenticate(ctx context.Context) (session.Caller, error) {
	tokens := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(tokens) == 0 {
		return Dev, nil
	}
	words := strings.Fields(tokens[0])
	if len(tokens) != 1 || len(words) < 2 || words[0] != "Bearer" {
		return session.Caller{}, status.Error(codes.Unauthenticated, fmt.Sprintf("%d tokens", len(tokens)))
	}
	c := session.Caller{Name: words[1]}
	for _, w := range words[2:] {
		c.Scopes = append(c.Scopes, session.Scope(w))
	}
	return c, nil
}
