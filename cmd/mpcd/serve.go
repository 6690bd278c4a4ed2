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

// serveCmd has the service's configuration. Its values are declared by settings, and come from flags, MPCD_*
// environment variables and the YAML file, in this order of precedence.
type serveCmd struct {
	all settings // as returned by settings

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

// addFlags adds flags for the settings to the parser's command.
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
			help: "A loopback service WITHOUT authentication, for development. " +
				"Any program on this machine can use all of its wallets."},
		&text{name: "db", to: &s.db, value: "URL",
			help: "Database, as in sqlite:///var/lib/mpcd/mpcd.db (default: mpcd.db in the working directory)."},
	}, s.keyset.settings(), settings{
		&text{name: "grpc-addr", to: &s.addrs.grpc, def: "127.0.0.1:9090", value: "ADDR",
			help: "Address of the gRPC listener."},
		&text{name: "http-addr", to: &s.addrs.http, def: "127.0.0.1:8080", value: "ADDR",
			help: "Address of the HTTP/JSON gateway."},
		&text{name: "admin-addr", to: &s.addrs.admin, def: "127.0.0.1:9464", value: "ADDR",
			help: "Address of health, metrics and profiles; must not be reachable from outside."},
		&texts{name: "cors-origins", to: &s.corsOrigins, value: "ORIGIN",
			help: "Web origins whose pages may call over HTTP, as in https://app.example.com; exact, repeatable. " +
				"None by default."},
	}, s.runSettings(), s.access.settings(), s.webhooks.settings(), settings{
		&number{name: "preparams-depth", to: &s.pool.Depth, def: 16,
			help: "How many sets of pre-params to keep ready, half of them for each party. A hosted provision uses " +
				"one for each party, and generates those that are missing; a device-held one uses one for the " +
				"server, and is refused until there is one. 0: no pool, every run generates its own."},
		&duration{name: "preparams-max-age", to: &s.pool.MaxAge, def: 24 * time.Hour, least: 1,
			help: "Age at which an unused set is erased."},
		&number{name: "preparams-workers", to: &s.pool.Workers,
			help: "How many cores may fill the pool while no run is computing; 0: all."},
		&level{name: "log-level", to: &s.logLevel, def: slog.LevelInfo, value: "LEVEL",
			help: "debug, info, warn or error."},
	})
}

// runSettings are the settings of runs and sessions.
func (s *serveCmd) runSettings() settings {
	def := session.DefaultConfig()
	return settings{
		&number{name: "slots", to: &s.sessions.Slots,
			help: "How many runs compute at once; 0: one for each core."},
		&duration{name: "run-timeout", to: &s.sessions.RunTimeout, def: def.RunTimeout, least: 1,
			help: "Deadline of one run, including the time in the queue."},
		&number{name: "device-runs", to: &s.sessions.DeviceRuns,
			help: "How many device-held runs are under way at once, each in a worker process; 0: eight for each core."},
		&duration{name: "device-silence", to: &s.sessions.DeviceSilence, def: def.DeviceSilence, least: time.Second,
			help: "A run ends if its device sends nothing for this long."},
		&number{name: "workers", to: &s.workers.warm, def: 1,
			help: "How many idle worker processes wait for device-held runs; more are started on demand."},
		&number{name: "worker-memory", to: &s.workers.memory, def: workerMemory, least: 64, value: "MIB",
			help: "Memory of one worker process, in MiB. It is a soft limit: at twice as much the worker dies."},
		&duration{name: "worker-cpu", to: &s.workers.cpu, def: workerCPU, least: time.Second,
			help: "Processor time of one worker process, after which it is killed."},

		&number{name: "queue", to: &s.sessions.Queue, def: def.Queue, least: 1,
			help: "How many runs may wait in the queue; more are refused with RetryInfo."},
		&number{name: "queue-share", to: &s.sessions.QueueShare,
			help: "How many of them may belong to one caller, whose new wallets are counted separately; 0: a quarter " +
				"of --queue, and at least 2. Set it to --queue if a back end calls for all users with one token."},
		&number{name: "pending-sets", to: &s.sessions.PendingSets, def: def.PendingSets, least: 1,
			help: "How many unconfirmed share sets a wallet may have."},
		&number{name: "aborts", to: &s.sessions.Aborts, def: def.Aborts, least: 1,
			help: "How many runs broken by its client lock a share set, until an admin releases it; three times as " +
				"many, over all its sets, lock a wallet. ECDSA signings that a device leaves unfinished count too, " +
				"but limit the set instead of locking it, and one is paid back each day."},
		&duration{name: "session-ttl", to: &s.sessions.SessionTTL, def: def.SessionTTL, least: 1,
			help: "How long the record of an ended session, without secrets, is kept."},
		&duration{name: "result-ttl", to: &s.sessions.ResultTTL, def: def.ResultTTL, least: 1,
			help: "How long a new share set may wait for its confirmation."},
		&duration{name: "grace", to: &s.grace, def: 30 * time.Second,
			help: "How long calls in progress may take after SIGTERM."},
	}
}

// Help describes where settings come from.
func (s *serveCmd) Help() string {
	return `Every setting may come from its flag, from its MPCD_* environment variable or from the
YAML file, in this order of precedence. An unknown key or variable is an error; an empty
variable counts as not set, and the variables that Kubernetes sets for a Service called mpcd
(MPCD_PORT=tcp://..., MPCD_SERVICE_HOST) are ignored. Secrets are read from files only. The
command logs JSON to standard error, including a line "serving" with the addresses; SIGTERM
stops it.`
}

// BeforeResolve adds the YAML file as a source of flag values.
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

// check adds all faults of the configuration, and returns the keyset if it can be loaded without a KMS.
func (s *serveCmd) check(f *faults) *seal.Keyset {
	s.all.read(f)
	if !s.mayBeDev() && s.keyset.keyset == "" {
		f.add("--keyset is missing: without --dev the keyset must be created first (mpcd keyset create) " +
			"and kept separate from the database")
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

// mayBeDev reports whether --dev is set, or may have been meant to be: a malformed value should be one fault, and not
// cause others.
func (s *serveCmd) mayBeDev() bool { return s.dev || s.all.malformed("dev") }

func (s *serveCmd) checkAddresses(f *faults) {
	taken := map[string]string{}
	for _, x := range s.addresses(&server.Listeners{}) {
		host, port, err := net.SplitHostPort(x.addr)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
			f.add("%s: %q is not HOST:PORT, as in 127.0.0.1:9090", x.flag, x.addr)
		} else if s.dev && !isLoopback(host) {
			f.add("%s: %q is not loopback: a --dev service has no authentication, "+
				"so only 127.0.0.1, ::1 and localhost are allowed", x.flag, x.addr)
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
			continue
		}
		origins = append(origins, origin)
		if err := server.CheckOrigin(origin); err != nil {
			shown, _, _ := strings.Cut(origin, "?")
			f.add("--cors-origins: %q %w", shown[strings.LastIndexByte(shown, '@')+1:], err) // without a password
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
	access := s.access.open(s.mayBeDev(), s.addresses(&server.Listeners{})[:2], log, f)
	defer access.close()
	if len(*f) > 0 {
		return usageError{*f}
	}
	// Messages of gRPC and its gateway, for example about lost connections, go to the same log.
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
	options.Auth, options.Server = access.auth, access.config
	options.Server.RunTimeout, options.Server.CORSOrigins = s.sessions.RunTimeout, s.corsOrigins
	options.Server.Dev = s.dev
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
		log.Warn("DEVELOPMENT SERVICE: no authentication. Any program on this machine can use all of its wallets.")
	}
	log.Info("serving", "grpc", lis.GRPC.Addr().String(), "http", lis.HTTP.Addr().String(),
		"admin", lis.Admin.Addr().String(), "database", s.db, "tls", access.config.GRPCTLS != nil)
	err = svc.Server.Serve(ctx, lis, s.grace)
	log.Info("stopped")
	return err
}

// address is the address of one of the listeners.
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
