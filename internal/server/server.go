package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
)

const (
	// maxMessage bounds a gRPC message and an HTTP body, in bytes. It is more than the
	// largest share (1 MiB) in base64, so that a share that is too large gets a reason.
	maxMessage = 2 << 20

	headerTimeout = 10 * time.Second // to send an HTTP request's header
	bodyTimeout   = 30 * time.Second // to send a whole HTTP request
	writeTimeout  = 30 * time.Second // for one write of an HTTP answer to be taken
	idleTimeout   = 2 * time.Minute  // between two requests on an HTTP connection
	lastWords     = 5 * time.Second  // for answers to be taken after the last run has ended

	// What bounds a gRPC connection. Nothing else would end a stream whose client answers
	// pings and takes no data: its calls have ended here, and their last messages wait. A
	// client that is cut off attaches again.
	maxStreams   = 512              // at once: more than the runs that may wait
	grpcIdleTime = 5 * time.Minute  // without a call
	grpcMaxAge   = 30 * time.Minute // then the client is told to open another connection
	grpcAgeGrace = 10 * time.Minute // for the calls on it, a run's deadline by default
)

// Server serves one session.Service on any number of listeners.
type Server struct {
	log      *slog.Logger
	sessions *session.Service
	metrics  http.Handler
	health   *health.Server
	grpc     *grpc.Server
	inner    *grpc.Server // for the gateway, in memory
}

// New returns a server that serves nothing yet. metrics is served on the admin listener.
func New(sessions *session.Service, auth Authenticator, metrics http.Handler, log *slog.Logger) *Server {
	s := &Server{log: log, sessions: sessions, metrics: metrics, health: health.NewServer()}
	s.health.SetServingStatus(pb.WalletService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	build := func(opts ...grpc.ServerOption) *grpc.Server {
		g := grpc.NewServer(append(append(interceptors(log, auth), grpc.MaxRecvMsgSize(maxMessage)), opts...)...)
		pb.RegisterWalletServiceServer(g, &handlers{sessions: sessions})
		healthpb.RegisterHealthServer(g, s.health)
		reflection.Register(g)
		return g
	}
	s.grpc = build(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: time.Minute, Timeout: 20 * time.Second,
			MaxConnectionIdle: grpcIdleTime, MaxConnectionAge: grpcMaxAge, MaxConnectionAgeGrace: grpcAgeGrace,
		}),
		grpc.MaxConcurrentStreams(maxStreams),
	)
	s.inner = build() // its one connection is in memory, and carries all HTTP calls
	return s
}

// Listeners are where a Server serves. A nil one is left out.
type Listeners struct {
	GRPC, HTTP, Admin net.Listener
}

// Serve serves until ctx is done, and returns nil; or it returns the first listener's
// error. It closes the listeners. When ctx is done, health says NOT_SERVING and new runs
// are refused, while runs that are going have up to grace to end, and their clients may
// still attach, ask and confirm; what runs then is ended as INTERRUPTED.
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
	for lis, handler := range map[net.Listener]http.Handler{l.HTTP: gateway, l.Admin: s.admin()} {
		if lis == nil {
			continue
		}
		web := httpServer(handler, s.log)
		group.Go(func() error {
			if err := web.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		stops = append(stops, func(ctx context.Context) { stopHTTP(ctx, web) })
	}
	group.Go(func() error {
		<-ctx.Done()
		s.health.Shutdown() // NOT_SERVING, so that nobody sends more
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		s.sessions.Drain(patience)
		// Every stream has its end now; this is for it to reach its client.
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

func httpServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// No WriteTimeout: it would end a stream in mid-run. See perWriteDeadline.
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
		_ = web.Close() // the grace time is over; its error has no reader
	}
}

// admin serves what operators look at. It has no authentication: it belongs on loopback
// or an internal network.
func (s *Server) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		resp, err := s.health.Check(r.Context(), &healthpb.HealthCheckRequest{Service: pb.WalletService_ServiceDesc.ServiceName})
		if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			http.Error(w, "not serving", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok") // a probe that went away needs no answer
	})
	mux.Handle("GET /metrics", s.metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
