package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/session"
)

// serveCmd holds the service's whole configuration. Every field is a flag, an MPCD_*
// environment variable and a key of the YAML file, in this order of precedence.
type serveCmd struct {
	Config configFile `help:"YAML file with these settings, by the names of the flags (grpc-addr: ...)." placeholder:"FILE" env:"MPCD_CONFIG"`
	Dev    bool       `help:"A loopback service WITHOUT authentication, for trying things out. Anybody on this machine can use every wallet in it." env:"MPCD_DEV"`
	DB     string     `help:"Database, as in sqlite:///var/lib/mpcd/mpcd.db (default: mpcd.db in the working directory)." placeholder:"URL" env:"MPCD_DB"`
	Keyset string     `help:"File with the keyset that encrypts what is stored, mode 0600. With --dev one is made beside the database." placeholder:"FILE" env:"MPCD_KEYSET"`

	GRPCAddr  string `name:"grpc-addr" help:"Where gRPC is served (default: ${default})." default:"127.0.0.1:9090" placeholder:"ADDR" env:"MPCD_GRPC_ADDR"`
	HTTPAddr  string `name:"http-addr" help:"Where the HTTP/JSON gateway is served (default: ${default})." default:"127.0.0.1:8080" placeholder:"ADDR" env:"MPCD_HTTP_ADDR"`
	AdminAddr string `name:"admin-addr" help:"Where health and profiles are served; keep it internal (default: ${default})." default:"127.0.0.1:9464" placeholder:"ADDR" env:"MPCD_ADMIN_ADDR"`

	Slots      int           `help:"How many runs compute at once; 0: one for each core." default:"0" env:"MPCD_SLOTS"`
	RunTimeout time.Duration `help:"Deadline of one run, waiting included." default:"10m" env:"MPCD_RUN_TIMEOUT"`
	ResultTTL  time.Duration `name:"result-ttl" help:"How long a new share set waits for its confirmation." default:"15m" env:"MPCD_RESULT_TTL"`
	Grace      time.Duration `help:"How long calls in flight may take after SIGTERM." default:"30s" env:"MPCD_GRACE"`
	LogLevel   slog.Level    `help:"debug, info, warn or error." default:"info" env:"MPCD_LOG_LEVEL"`
}

// configFile is a YAML file, read before the other flags are filled.
type configFile string

// BeforeResolve loads the file for the flags that are not given otherwise.
func (c configFile) BeforeResolve(k *kong.Kong, ctx *kong.Context, trace *kong.Path) error {
	path, ok := ctx.FlagValue(trace.Flag).(configFile)
	if !ok || path == "" {
		return nil
	}
	resolver, err := loadConfig(string(path), trace.Node())
	if err != nil {
		return err
	}
	ctx.AddResolver(resolver)
	return nil
}

// check returns every fault of the configuration at once.
func (s *serveCmd) check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !s.Dev {
		fault("--dev is missing: this release has no authentication yet, and refuses to serve without it anywhere but on loopback")
		if s.Keyset == "" {
			fault("--keyset is missing: outside --dev the keyset is made by hand and kept apart from the database")
		}
	}
	for flag, addr := range map[string]string{"--grpc-addr": s.GRPCAddr, "--http-addr": s.HTTPAddr, "--admin-addr": s.AdminAddr} {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			fault("%s %q is not HOST:PORT", flag, addr)
		} else if s.Dev && !isLoopback(host) {
			fault("%s %q is not loopback: a --dev service has no authentication, so only 127.0.0.1, ::1 and localhost are allowed", flag, addr)
		}
	}
	if s.Slots < 0 {
		fault("--slots %d is negative", s.Slots)
	}
	for flag, d := range map[string]time.Duration{"--run-timeout": s.RunTimeout, "--result-ttl": s.ResultTTL} {
		if d <= 0 {
			fault("%s %v is not positive", flag, d)
		}
	}
	if s.Grace < 0 {
		fault("--grace %v is negative", s.Grace)
	}
	if len(faults) > 0 {
		return usageError{errors.Join(faults...)}
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Run serves until a signal.
func (s *serveCmd) Run(ctx context.Context) (err error) {
	if err := s.check(); err != nil {
		return err
	}
	if s.DB == "" {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		s.DB = "sqlite://" + filepath.Join(dir, "mpcd.db")
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: s.LogLevel}))
	keyset, err := s.loadKeyset(log)
	if err != nil {
		return err
	}
	cfg := session.Config{RunTimeout: s.RunTimeout, ResultTTL: s.ResultTTL, Slots: s.Slots, RequireSealTo: !s.Dev}
	svc, err := openService(ctx, s.DB, keyset, cfg, devCaller, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, svc.Close()) }()
	lis, err := s.listen(ctx)
	if err != nil {
		return err
	}
	if s.Dev {
		log.Warn("DEVELOPMENT SERVICE: no authentication. Anybody on this machine can use every wallet in it.")
	}
	log.Info("serving", "grpc", lis.GRPC.Addr().String(), "http", lis.HTTP.Addr().String(), "admin", lis.Admin.Addr().String(), "database", s.DB)
	err = svc.server.Serve(ctx, lis, s.Grace)
	log.Info("stopped")
	return err
}

// loadKeyset reads the keyset. A --dev service makes its own where there is none.
func (s *serveCmd) loadKeyset(log *slog.Logger) (*seal.Keyset, error) {
	path := s.Keyset
	if path == "" {
		file := strings.TrimPrefix(s.DB, "sqlite://")
		path = filepath.Join(filepath.Dir(file), strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))+".keyset")
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := seal.Create(path); err != nil {
				return nil, err
			}
			log.Warn("made a development keyset", "path", path)
		}
	}
	return seal.Load(path)
}

func (s *serveCmd) listen(ctx context.Context) (l server.Listeners, err error) {
	var lc net.ListenConfig
	for _, x := range []struct {
		to   *net.Listener
		addr string
	}{{&l.GRPC, s.GRPCAddr}, {&l.HTTP, s.HTTPAddr}, {&l.Admin, s.AdminAddr}} {
		if *x.to, err = lc.Listen(ctx, "tcp", x.addr); err != nil {
			return l, fmt.Errorf("listen on %s: %w", x.addr, err)
		}
	}
	return l, nil
}
