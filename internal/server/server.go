package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
)

const (
	// maxMessage bounds a gRPC message and an HTTP body, in bytes. It is more than the largest share (1 MiB) in
	// base64, so that a share that is too large gets a specific reason.
	maxMessage = 2 << 20

	bodyTimeout  = 30 * time.Second // to send a whole HTTP request
	writeTimeout = 30 * time.Second // for a single write of an HTTP answer
	idleTimeout  = 2 * time.Minute  // between two requests on an HTTP connection
	lastWords    = 5 * time.Second  // for answers to be received after the last run has ended
	unaryTimeout = 30 * time.Second // for a unary call that waits for no run

	grpcIdleTime = 5 * time.Minute // of a gRPC connection without a call

	maxHeader  = 16 << 10 // size of a call's header in bytes: twice the largest token
	maxStreams = 512      // concurrent calls on one external connection: more than the runs that may wait
)

// Config configures a Server. The zero value has no TLS and no rate limits.
type Config struct {
	GRPCTLS, HTTPTLS *tls.Config // nil: no TLS there
	Limits           Limits
	// The maximum duration of a run, and so of a call that waits for one; default: session's.
	RunTimeout time.Duration
	// After which a gRPC connection takes no new calls, while its streams continue; default 30 minutes.
	ConnectionAge time.Duration
	Patience      time.Duration // for a new connection's handshake, or an HTTP request's header; default 10 seconds
	// CORSOrigins are the web origins whose pages may call over HTTP, as checked by CheckOrigin; nil: none.
	CORSOrigins []string
	// Dev says that callers need no credentials: HTTP is then only for programs on this machine, and for pages of
	// CORSOrigins (see localOnly).
	Dev bool
	// Detail returns what /readyz says about the services that this one depends on, by name; may be nil.
	Detail func() map[string]string
}

func (c Config) withDefaults() Config {
	c.RunTimeout = cmp.Or(c.RunTimeout, session.DefaultConfig().RunTimeout)
	c.ConnectionAge = cmp.Or(c.ConnectionAge, 30*time.Minute)
	c.Patience = cmp.Or(c.Patience, 10*time.Second)
	return c
}

// Server serves one session.Service on any number of listeners.
type Server struct {
	cfg      Config
	log      *slog.Logger
	limits   *limiter
	sessions *session.Service
	metrics  http.Handler
	health   *health.Server
	grpc     *grpc.Server
	inner    *grpc.Server // for the gateway, in memory
}

// New returns a server that serves nothing yet. metrics is served on the admin listener.
func New(sessions *session.Service, auth Authenticator, metrics http.Handler, log *slog.Logger, cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, log: log, limits: newLimiter(cfg.Limits), sessions: sessions, metrics: metrics, health: health.NewServer()}
	s.health.SetServingStatus(pb.WalletService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	g := gate{auth: auth, limits: s.limits, runTimeout: cfg.RunTimeout}
	outer, inner := g, g
	outer.from, inner.from = peerAddress, forwardedAddress
	s.grpc = s.build(outer, s.outside()...)
	s.inner = s.build(inner, grpc.ChainUnaryInterceptor(unary(withFaults)), grpc.ChainStreamInterceptor(stream(withFaults)))
	return s
}

func (s *Server) build(g gate, opts ...grpc.ServerOption) *grpc.Server {
	opts = append(opts, interceptors(s.log, g)...)
	server := grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(maxMessage))...)
	pb.RegisterWalletServiceServer(server, &handlers{sessions: s.sessions})
	healthpb.RegisterHealthServer(server, s.health)
	reflection.Register(server)
	return server
}

// outside returns options for external connections only: all of a gateway's calls share one connection, which these
// would limit.
func (s *Server) outside() []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.ConnectionTimeout(s.cfg.Patience),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: time.Minute, Timeout: 20 * time.Second,
			MaxConnectionIdle: grpcIdleTime,
			// Connections are renewed, so that certificates are verified again. No stream outlives its run: otherwise
			// one whose client answers pings but reads no data would never end.
			MaxConnectionAge: s.cfg.ConnectionAge, MaxConnectionAgeGrace: s.cfg.RunTimeout + lastWords,
		}),
	}
	if s.cfg.GRPCTLS != nil {
		opts = append(opts, grpc.Creds(handshakes{credentials.NewTLS(s.cfg.GRPCTLS), s.limits, s.log}))
	}
	return opts
}

// handshakes logs failed TLS handshakes: a client without a valid certificate gets no further.
type handshakes struct {
	credentials.TransportCredentials
	limits *limiter
	log    *slog.Logger
}

// ServerHandshake implements credentials.TransportCredentials.
func (h handshakes) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := h.TransportCredentials.ServerHandshake(conn)
	// A connection that sends nothing is a probe.
	if err != nil && !errors.Is(err, io.EOF) && h.limits.take("handshake", networkOf(conn.RemoteAddr().String())) == nil {
		h.log.Info("a TLS handshake failed", "from", conn.RemoteAddr().String(), "error", err)
	}
	return out, info, err
}

// Listeners are what a Server serves on. Nil ones are skipped.
type Listeners struct {
	GRPC, HTTP, Admin net.Listener
}

// Serve serves until ctx is done, and then returns nil; or it returns the first listener's error. It closes the
// listeners. When ctx is done, health is NOT_SERVING and new runs are refused, while current runs have up to grace to
// end, and their clients may still attach, query and confirm; runs still going after that end as INTERRUPTED.
func (s *Server) Serve(ctx context.Context, l Listeners, grace time.Duration) error {
	gateway, closeGateway, err := s.gateway(ctx)
	if err != nil {
		return err
	}
	defer closeGateway()
	group, ctx := errgroup.WithContext(ctx)
	var stops []func(context.Context)
	if l.GRPC != nil {
		group.Go(func() error {
			if err := s.grpc.Serve(l.GRPC); !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
				return err
			}
			return nil
		})
		stops = append(stops, func(ctx context.Context) { stopGRPC(ctx, s.grpc) })
	}
	for _, x := range []struct {
		lis     net.Listener
		handler http.Handler
		tls     *tls.Config
	}{{l.HTTP, gateway, s.cfg.HTTPTLS}, {l.Admin, s.localOnly(s.admin()), nil}} {
		if x.lis == nil {
			continue
		}
		web := s.httpServer(x.handler)
		web.TLSConfig = x.tls
		serve := web.Serve
		if x.tls != nil {
			serve = func(lis net.Listener) error { return web.ServeTLS(lis, "", "") }
		}
		group.Go(func() error {
			if err := serve(x.lis); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		stops = append(stops, func(ctx context.Context) { stopHTTP(ctx, web) })
	}
	group.Go(func() error {
		<-ctx.Done()
		s.health.Shutdown() // NOT_SERVING, so that load balancers send no more
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		s.sessions.Drain(patience)
		// Every stream has its end now; give it time to reach the client.
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		var all errgroup.Group
		for _, stop := range stops {
			all.Go(func() error { stop(bound); return nil })
		}
		return all.Wait()
	})
	return group.Wait()
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: s.cfg.Patience, // of a TLS handshake too
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: time.Minute, PingTimeout: 20 * time.Second},
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		// No WriteTimeout: it would end a stream during its run. See perWriteDeadline.
	}
}

func stopGRPC(ctx context.Context, g *grpc.Server) {
	done := make(chan struct{})
	go func() { // ends with GracefulStop, which Stop ends
		defer close(done)
		g.GracefulStop()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		g.Stop()
		<-done
	}
}

func stopHTTP(ctx context.Context, web *http.Server) {
	if err := web.Shutdown(ctx); err != nil {
		_ = web.Close() // after the grace time; its error is irrelevant
	}
}

// admin serves health, readiness, metrics and profiles for operators. It has no authentication: it must listen on
// loopback or an internal network only.
func (s *Server) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if !s.ready(r.Context()) {
			http.Error(w, "not serving", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok") // a probe that disconnected needs no answer
	})
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// ready reports whether the service takes new calls.
func (s *Server) ready(ctx context.Context) bool {
	resp, err := s.health.Check(ctx, &healthpb.HealthCheckRequest{Service: pb.WalletService_ServiceDesc.ServiceName})
	return err == nil && resp.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

// readyz is for load balancers and for operators who investigate failing calls. An unavailable custodian does not
// make the service unready: it can still sign.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	state := struct {
		Ready  bool              `json:"ready"`
		Detail map[string]string `json:"detail,omitempty"`
	}{Ready: s.ready(r.Context())}
	if s.cfg.Detail != nil {
		state.Detail = s.cfg.Detail()
	}
	w.Header().Set("Content-Type", "application/json")
	if !state.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(state) // a probe that disconnected needs no answer
}
