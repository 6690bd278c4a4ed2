package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"google.golang.org/grpc/grpclog"

	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
)

// serveCmd holds the service's whole configuration: settings declares each of its values, which
// come from flags, MPCD_* environment variables and the YAML file, in this order of precedence.
type serveCmd struct {
	all settings // what settings declared to the parser

	config      string
	dev         bool
	db          string
	keyset      keysetFlags
	addrs       struct{ grpc, http, admin string }
	corsOrigins []string
	access      accessFlags
	webhooks    webhookFlags
	sessions    session.Config
	pool        preparams.Config
	workers     workerFlags
	grace       time.Duration
	logLevel    slog.Level
}

// addFlags gives the parser's command the flags of the settings.
func (s *serveCmd) addFlags(parser *kong.Kong) error {
	s.all = s.settings()
	for _, command := range parser.Model.Children {
		if command.Target.Addr().Interface() == any(s) {
			s.all.addTo(command)
		}
	}
	return nil
}

func (s *serveCmd) settings() settings {
	return slices.Concat(settings{
		&text{name: "config", to: &s.config, value: "FILE",
			help: "YAML file with these settings, by the names of the flags (grpc-addr: ...)."},
		&toggle{name: "dev", to: &s.dev,
			help: "A loopback service WITHOUT authentication, for trying things out. " +
				"Anybody on this machine can use every wallet in it."},
		&text{name: "db", to: &s.db, value: "URL",
			help: "Database, as in sqlite:///var/lib/mpcd/mpcd.db (default: mpcd.db in the working directory)."},
	}, s.keyset.settings(), settings{
		&text{name: "grpc-addr", to: &s.addrs.grpc, def: "127.0.0.1:9090", value: "ADDR",
			help: "Where gRPC is served."},
		&text{name: "http-addr", to: &s.addrs.http, def: "127.0.0.1:8080", value: "ADDR",
			help: "Where the HTTP/JSON gateway is served."},
		&text{name: "admin-addr", to: &s.addrs.admin, def: "127.0.0.1:9464", value: "ADDR",
			help: "Where health and profiles are served; keep it internal."},
		&texts{name: "cors-origins", to: &s.corsOrigins, value: "ORIGIN",
			help: "Web origins whose pages may call over HTTP, as in https://app.example.com; exact ones, repeatable. " +
				"None by default."},
	}, s.runSettings(), s.access.settings(), s.webhooks.settings(), settings{
		&number{name: "preparams-depth", to: &s.pool.Depth, def: 16,
			help: "How many sets of pre-params to keep ready, half of them for each party. A hosted provision uses one of " +
				"each, and makes its own where there are none; a device-held one uses one of the server's, and is refused " +
				"until there is one. 0: none, and every run makes its own."},
		&duration{name: "preparams-max-age", to: &s.pool.MaxAge, def: 24 * time.Hour, least: 1,
			help: "A set that is older is erased unused."},
		&number{name: "preparams-workers", to: &s.pool.Workers,
			help: "How many cores may fill the pool while no run computes; 0: all."},
		&level{name: "log-level", to: &s.logLevel, def: slog.LevelInfo, value: "LEVEL",
			help: "debug, info, warn or error."},
	})
}

// runSettings are those of runs, and of what they leave behind.
func (s *serveCmd) runSettings() settings {
	def := session.DefaultConfig()
	return settings{
		&number{name: "slots", to: &s.sessions.Slots,
			help: "How many runs compute at once; 0: one for each core."},
		&duration{name: "run-timeout", to: &s.sessions.RunTimeout, def: def.RunTimeout, least: 1,
			help: "Deadline of one run, waiting included."},
		&number{name: "device-runs", to: &s.sessions.DeviceRuns,
			help: "How many device-held runs are under way at once, each in a worker process; 0: eight for each core."},
		&duration{name: "device-silence", to: &s.sessions.DeviceSilence, def: def.DeviceSilence, least: time.Second,
			help: "A device that says nothing for so long ends its run."},
		&number{name: "workers", to: &s.workers.warm, def: 1,
			help: "How many worker processes wait for a device-held run; more are started as they are needed."},
		&number{name: "worker-memory", to: &s.workers.memory, def: workerMemory, least: 64, value: "MIB",
			help: "Memory of one worker process, in MiB: it dies at twice as much."},
		&duration{name: "worker-cpu", to: &s.workers.cpu, def: workerCPU, least: time.Second,
			help: "Processor time of one worker process, after which it is killed."},

		&number{name: "queue", to: &s.sessions.Queue, def: def.Queue, least: 1,
			help: "How many runs wait for their turn at most; more are refused with RetryInfo."},
		&number{name: "queue-share", to: &s.sessions.QueueShare,
			help: "How many of them may be one caller's, whose new wallets are counted apart; 0: a quarter of --queue, " +
				"and 2 at least. Where a back end calls for all users with one token, as many as --queue."},
		&number{name: "pending-sets", to: &s.sessions.PendingSets, def: def.PendingSets, least: 1,
			help: "How many unconfirmed share sets a wallet has at most."},
		&number{name: "aborts", to: &s.sessions.Aborts, def: def.Aborts, least: 1,
			help: "How many runs that its client breaks lock a share set, until an admin releases it; three times as many, " +
				"over all its sets, lock a wallet. ECDSA signings that a device leaves unfinished count too, but limit the " +
				"set instead of locking it, and one is paid back each day."},
		&duration{name: "session-ttl", to: &s.sessions.SessionTTL, def: def.SessionTTL, least: 1,
			help: "How long an ended session is remembered, without secrets."},
		&duration{name: "result-ttl", to: &s.sessions.ResultTTL, def: def.ResultTTL, least: 1,
			help: "How long a new share set waits for its confirmation."},
		&duration{name: "grace", to: &s.grace, def: 30 * time.Second,
			help: "How long calls in flight may take after SIGTERM."},
	}
}

// Help says what flags alone do not.
func (s *serveCmd) Help() string {
	return `Every setting may come from its flag, from its MPCD_* environment variable or from the
YAML file, in this order of precedence. An unknown key or variable is refused; an empty
variable counts as not set, and what Kubernetes sets for a Service called mpcd is let be
(MPCD_PORT=tcp://..., MPCD_SERVICE_HOST). Secrets come in files only. The command logs JSON
to standard error, one line of it "serving" with the addresses; SIGTERM ends it.`
}

// BeforeResolve loads the YAML file for the flags that are not given otherwise.
func (s *serveCmd) BeforeResolve(ctx *kong.Context, trace *kong.Path, f *faults) error {
	for _, flag := range trace.Command.Flags {
		if path, ok := ctx.FlagValue(flag).(string); ok && flag.Name == "config" && path != "" {
			c, err := loadConfig(path, trace.Command, f)
			if err != nil {
				return err
			}
			ctx.AddResolver(c)
		}
	}
	return nil
}

// check adds every fault of the configuration, and returns the keyset where one is named.
func (s *serveCmd) check(f *faults) *seal.Keyset {
	s.all.read(f)
	if !s.mayBeDev() && s.keyset.keyset == "" {
		f.add("--keyset is missing: outside --dev the keyset is made by hand (mpcd keyset create) " +
			"and kept apart from the database")
	}
	if s.db != "" {
		if _, err := store.Path(s.db); err != nil {
			f.add("--db: %w", err)
		}
	}
	s.checkAddresses(f)
	s.checkOrigins(f)
	return s.keyset.check(f)
}

// mayBeDev is whether --dev was meant, as far as one can tell: what is wrong with it is one fault,
// not more.
func (s *serveCmd) mayBeDev() bool { return s.dev || s.all.malformed("dev") }

func (s *serveCmd) checkAddresses(f *faults) {
	taken := map[string]string{}
	for _, x := range s.addresses(&server.Listeners{}) {
		host, port, err := net.SplitHostPort(x.addr)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
			f.add("%s: %q is not HOST:PORT, as in 127.0.0.1:9090", x.flag, x.addr)
		} else if s.dev && !isLoopback(host) {
			f.add("%s: %q is not loopback: a --dev service has no authentication, so only 127.0.0.1, ::1 and localhost "+
				"are allowed", x.flag, x.addr)
		} else if other := taken[x.addr]; other != "" && n != 0 {
			f.add("%s: %q is the address of %s too", x.flag, x.addr, other)
		}
		taken[x.addr] = x.flag
	}
}

func (s *serveCmd) checkOrigins(f *faults) {
	var origins []string
	for _, origin := range s.corsOrigins {
		if origin = strings.TrimSpace(origin); origin == "" {
			continue // MPCD_CORS_ORIGINS= is none
		}
		origins = append(origins, origin)
		if err := server.CheckOrigin(origin); err != nil {
			shown, _, _ := strings.Cut(origin, "?")
			f.add("--cors-origins: %q %w", shown[strings.LastIndexByte(shown, '@')+1:], err) // no password
		}
	}
	s.corsOrigins = origins
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Run serves until a signal.
func (s *serveCmd) Run(ctx context.Context, f *faults) (err error) {
	keyset := s.check(f)
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: s.logLevel}))
	var options app.Options
	s.webhooks.open(log, f, &options)
	door := s.access.open(s.mayBeDev(), s.addresses(&server.Listeners{})[:2], log, f)
	defer door.close()
	if len(*f) > 0 {
		return usageError{*f}
	}
	// What gRPC and its gateway have to say, such as that a caller went away, is a line like
	// any other.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard,
		slog.NewLogLogger(log.Handler(), slog.LevelInfo).Writer()))
	if s.db == "" {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		s.db = (&url.URL{Scheme: "sqlite", Path: filepath.Join(dir, "mpcd.db")}).String()
	}
	if keyset == nil {
		if keyset, err = s.keyset.open(ctx, s.db, log); err != nil {
			return err
		}
	}
	lock, err := store.Lock(s.db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	options.DB, options.Lock, options.Keyset = s.db, lock, keyset
	options.Sessions, options.Pool, options.Worker = s.sessions, s.pool, s.workers.config()
	options.Sessions.RequireSealTo = !s.dev
	options.Auth, options.Server = door.auth, door.config
	options.Server.RunTimeout, options.Server.CORSOrigins, options.Server.Dev = s.sessions.RunTimeout, s.corsOrigins, s.dev
	svc, err := app.Open(ctx, options, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, svc.Close()) }()
	lis, err := s.listen(ctx)
	if err != nil {
		return err
	}
	if s.dev {
		log.Warn("DEVELOPMENT SERVICE: no authentication. Anybody on this machine can use every wallet in it.")
	}
	log.Info("serving", "grpc", lis.GRPC.Addr().String(), "http", lis.HTTP.Addr().String(),
		"admin", lis.Admin.Addr().String(), "database", s.db, "tls", door.config.GRPCTLS != nil)
	err = svc.Server.Serve(ctx, lis, s.grace)
	log.Info("stopped")
	return err
}

// address is where one of the listeners listens.
type address struct {
	flag, addr string
	to         *net.Listener
}

func (s *serveCmd) addresses(l *server.Listeners) []address {
	return []address{
		{"--grpc-addr", s.addrs.grpc, &l.GRPC},
		{"--http-addr", s.addrs.http, &l.HTTP},
		{"--admin-addr", s.addrs.admin, &l.Admin},
	}
}

func (s *serveCmd) listen(ctx context.Context) (l server.Listeners, err error) {
	var lc net.ListenConfig
	for _, a := range s.addresses(&l) {
		*a.to, err = lc.Listen(ctx, "tcp", a.addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			return l, fmt.Errorf("%s %s is in use: stop what listens there, or name another address", a.flag, a.addr)
		}
		if err != nil {
			return l, fmt.Errorf("%s %s: %w", a.flag, a.addr, err)
		}
	}
	return l, nil
}
