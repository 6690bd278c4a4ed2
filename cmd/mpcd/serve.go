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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"google.golang.org/grpc/grpclog"

	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/service"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
)

// serveCmd holds the service's whole configuration. Every field is a flag, an MPCD_*
// environment variable and a key of the YAML file, in this order of precedence.
type serveCmd struct {
	Config string `help:"YAML file with these settings, by the names of the flags (grpc-addr: ...)." placeholder:"FILE" env:"MPCD_CONFIG"`
	Dev    toggle `help:"A loopback service WITHOUT authentication, for trying things out. Anybody on this machine can use every wallet in it." env:"MPCD_DEV"`
	DB     string `help:"Database, as in sqlite:///var/lib/mpcd/mpcd.db (default: mpcd.db in the working directory)." placeholder:"URL" env:"MPCD_DB"`
	keysetFlags

	GRPCAddr  string `name:"grpc-addr" help:"Where gRPC is served (default: ${default})." default:"127.0.0.1:9090" placeholder:"ADDR" env:"MPCD_GRPC_ADDR"`
	HTTPAddr  string `name:"http-addr" help:"Where the HTTP/JSON gateway is served (default: ${default})." default:"127.0.0.1:8080" placeholder:"ADDR" env:"MPCD_HTTP_ADDR"`
	AdminAddr string `name:"admin-addr" help:"Where health and profiles are served; keep it internal (default: ${default})." default:"127.0.0.1:9464" placeholder:"ADDR" env:"MPCD_ADMIN_ADDR"`

	CORSOrigins []string `name:"cors-origins" help:"Web origins whose pages may call over HTTP, as in https://app.example.com; exact ones, repeatable. None by default." placeholder:"ORIGIN,..." env:"MPCD_CORS_ORIGINS"`

	Slots         setting[int]           `help:"How many runs compute at once; 0: one for each core." default:"0" env:"MPCD_SLOTS" placeholder:"N"`
	RunTimeout    setting[time.Duration] `help:"Deadline of one run, waiting included (default: ${default})." default:"10m" env:"MPCD_RUN_TIMEOUT" placeholder:"TIME"`
	DeviceRuns    setting[int]           `help:"How many device-held runs are under way at once, each in a worker process; 0: eight for each core." default:"0" env:"MPCD_DEVICE_RUNS" placeholder:"N"`
	DeviceSilence setting[time.Duration] `help:"A device that says nothing for so long ends its run (default: ${default})." default:"2m" env:"MPCD_DEVICE_SILENCE" placeholder:"TIME"`
	Workers       setting[int]           `help:"How many worker processes wait for a device-held run; more are started as they are needed (default: ${default})." default:"1" env:"MPCD_WORKERS" placeholder:"N"`
	WorkerMemory  setting[int]           `help:"Memory of one worker process, in MiB: it dies at twice as much (default: ${default})." default:"256" env:"MPCD_WORKER_MEMORY" placeholder:"MIB"`
	WorkerCPU     setting[time.Duration] `name:"worker-cpu" help:"Processor time of one worker process, after which it is killed (default: ${default})." default:"1m" env:"MPCD_WORKER_CPU" placeholder:"TIME"`

	Queue       setting[int]           `help:"How many runs wait for their turn at most; more are refused with RetryInfo (default: ${default})." default:"256" env:"MPCD_QUEUE" placeholder:"N"`
	QueueShare  setting[int]           `help:"How many of them may be one caller's, whose new wallets are counted apart; 0: a quarter of --queue, and 2 at least. Where a back end calls for all users with one token, as many as --queue." default:"0" env:"MPCD_QUEUE_SHARE" placeholder:"N"`
	PendingSets setting[int]           `help:"How many unconfirmed share sets a wallet has at most (default: ${default})." default:"16" env:"MPCD_PENDING_SETS" placeholder:"N"`
	Aborts      setting[int]           `help:"How many runs that its client breaks lock a share set, until an admin releases it; three times as many, over all its sets, lock a wallet. ECDSA signings that a device leaves unfinished count too, but limit the set instead of locking it, and one is paid back each day (default: ${default})." default:"5" env:"MPCD_ABORTS" placeholder:"N"`
	SessionTTL  setting[time.Duration] `name:"session-ttl" help:"How long an ended session is remembered, without secrets (default: ${default})." default:"720h" env:"MPCD_SESSION_TTL" placeholder:"TIME"`
	ResultTTL   setting[time.Duration] `name:"result-ttl" help:"How long a new share set waits for its confirmation (default: ${default})." default:"15m" env:"MPCD_RESULT_TTL" placeholder:"TIME"`
	Grace       setting[time.Duration] `help:"How long calls in flight may take after SIGTERM (default: ${default})." default:"30s" env:"MPCD_GRACE" placeholder:"TIME"`

	accessFlags
	webhookFlags

	PreparamsDepth   setting[int]           `help:"How many sets of pre-params to keep ready, half of them for each party. A hosted provision uses one of each, and makes its own where there are none; a device-held one uses one of the server's, and is refused until there is one. 0: none, and every run makes its own (default: ${default})." default:"16" env:"MPCD_PREPARAMS_DEPTH" placeholder:"N"`
	PreparamsMaxAge  setting[time.Duration] `help:"A set that is older is erased unused (default: ${default})." default:"24h" env:"MPCD_PREPARAMS_MAX_AGE" placeholder:"TIME"`
	PreparamsWorkers setting[int]           `help:"How many cores may fill the pool while no run computes; 0: all." default:"0" env:"MPCD_PREPARAMS_WORKERS" placeholder:"N"`

	LogLevel setting[slog.Level] `help:"debug, info, warn or error (default: ${default})." default:"info" env:"MPCD_LOG_LEVEL" placeholder:"LEVEL"`
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
	if s.Dev.err == nil && !s.Dev.value && s.Keyset == "" {
		f.add("--keyset is missing: outside --dev the keyset is made by hand (mpcd keyset create) and kept apart from the database")
	}
	if s.DB != "" {
		if _, err := store.Path(s.DB); err != nil {
			f.add("--db: %w", err)
		}
	}
	s.checkAddresses(f)
	s.checkOrigins(f)
	s.checkValues(f)
	return s.keysetFlags.check(f)
}

func (s *serveCmd) checkAddresses(f *faults) {
	taken := map[string]string{}
	for _, x := range s.addresses(&server.Listeners{}) {
		host, port, err := net.SplitHostPort(x.addr)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
			f.add("%s: %q is not HOST:PORT, as in 127.0.0.1:9090", x.flag, x.addr)
		} else if s.Dev.value && !isLoopback(host) {
			f.add("%s: %q is not loopback: a --dev service has no authentication, so only 127.0.0.1, ::1 and localhost are allowed", x.flag, x.addr)
		} else if other := taken[x.addr]; other != "" && n != 0 {
			f.add("%s: %q is the address of %s too", x.flag, x.addr, other)
		}
		taken[x.addr] = x.flag
	}
}

func (s *serveCmd) checkOrigins(f *faults) {
	var origins []string
	for _, origin := range s.CORSOrigins {
		if origin = strings.TrimSpace(origin); origin == "" {
			continue // MPCD_CORS_ORIGINS= is none
		}
		origins = append(origins, origin)
		if err := server.CheckOrigin(origin); err != nil {
			shown, _, _ := strings.Cut(origin, "?")
			f.add("--cors-origins: %q %w", shown[strings.LastIndexByte(shown, '@')+1:], err) // no password
		}
	}
	s.CORSOrigins = origins
}

func (s *serveCmd) checkValues(f *faults) {
	for _, x := range []struct {
		flag    string
		setting setting[int]
		least   int
	}{
		{"--slots", s.Slots, 0}, {"--device-runs", s.DeviceRuns, 0}, {"--workers", s.Workers, 0}, {"--worker-memory", s.WorkerMemory, 64}, {"--queue", s.Queue, 1}, {"--queue-share", s.QueueShare, 0}, {"--pending-sets", s.PendingSets, 1}, {"--aborts", s.Aborts, 1},
		{"--preparams-depth", s.PreparamsDepth, 0}, {"--preparams-workers", s.PreparamsWorkers, 0},
	} {
		if x.setting.err == nil && x.setting.value < x.least {
			f.add("%s: %d is less than %d", x.flag, x.setting.value, x.least)
		}
	}
	for _, x := range []struct {
		flag    string
		setting setting[time.Duration]
		least   time.Duration
	}{
		{"--device-silence", s.DeviceSilence, time.Second}, {"--worker-cpu", s.WorkerCPU, time.Second}, {"--run-timeout", s.RunTimeout, 1}, {"--result-ttl", s.ResultTTL, 1}, {"--session-ttl", s.SessionTTL, 1}, {"--preparams-max-age", s.PreparamsMaxAge, 1}, {"--grace", s.Grace, 0},
	} {
		if x.setting.err == nil && x.setting.value < x.least {
			f.add("%s: %v is too short", x.flag, x.setting.value)
		}
	}
	for _, x := range []struct {
		flag string
		err  error
	}{
		{"--dev", s.Dev.err}, {"--slots", s.Slots.err}, {"--device-runs", s.DeviceRuns.err}, {"--device-silence", s.DeviceSilence.err}, {"--workers", s.Workers.err},
		{"--worker-memory", s.WorkerMemory.err}, {"--worker-cpu", s.WorkerCPU.err}, {"--queue", s.Queue.err}, {"--queue-share", s.QueueShare.err}, {"--pending-sets", s.PendingSets.err}, {"--aborts", s.Aborts.err}, {"--session-ttl", s.SessionTTL.err}, {"--run-timeout", s.RunTimeout.err}, {"--result-ttl", s.ResultTTL.err},
		{"--grace", s.Grace.err}, {"--preparams-depth", s.PreparamsDepth.err}, {"--preparams-max-age", s.PreparamsMaxAge.err},
		{"--preparams-workers", s.PreparamsWorkers.err}, {"--log-level", s.LogLevel.err},
	} {
		if x.err != nil {
			f.add("%s: %w", x.flag, x.err)
		}
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Run serves until a signal.
func (s *serveCmd) Run(ctx context.Context, f *faults) (err error) {
	keyset := s.check(f)
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: s.LogLevel.value}))
	var options service.Options
	s.webhookFlags.open(log, f, &options)
	door := s.accessFlags.open(s.Dev.value || s.Dev.err != nil, s.addresses(&server.Listeners{})[:2], log, f)
	defer door.close()
	if len(*f) > 0 {
		return usageError{*f}
	}
	door.config.RunTimeout, door.config.CORSOrigins, door.config.Dev = s.RunTimeout.value, s.CORSOrigins, s.Dev.value
	// What gRPC and its gateway have to say, such as that a caller went away, is a line like
	// any other.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, slog.NewLogLogger(log.Handler(), slog.LevelInfo).Writer()))
	if s.DB == "" {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		s.DB = (&url.URL{Scheme: "sqlite", Path: filepath.Join(dir, "mpcd.db")}).String()
	}
	if keyset == nil {
		if keyset, err = s.keysetFlags.open(ctx, s.DB, log); err != nil {
			return err
		}
	}
	lock, err := store.Lock(s.DB)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	cfg := session.Config{
		RunTimeout: s.RunTimeout.value, ResultTTL: s.ResultTTL.value, SessionTTL: s.SessionTTL.value,
		Slots: s.Slots.value, Queue: s.Queue.value, QueueShare: s.QueueShare.value, PendingSets: s.PendingSets.value, Aborts: s.Aborts.value, RequireSealTo: !s.Dev.value,
		DeviceRuns: s.DeviceRuns.value, DeviceSilence: s.DeviceSilence.value,
	}
	pool := preparams.Config{Depth: s.PreparamsDepth.value, MaxAge: s.PreparamsMaxAge.value, Workers: s.PreparamsWorkers.value}
	options.DB, options.Lock, options.Keyset, options.Sessions, options.Pool, options.Auth, options.Server = s.DB, lock, keyset, cfg, pool, door.auth, door.config
	options.Worker = workerConfig(s.Workers.value, s.WorkerMemory.value, s.WorkerCPU.value)
	svc, err := service.Open(ctx, options, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, svc.Close()) }()
	lis, err := s.listen(ctx)
	if err != nil {
		return err
	}
	if s.Dev.value {
		log.Warn("DEVELOPMENT SERVICE: no authentication. Anybody on this machine can use every wallet in it.")
	}
	log.Info("serving", "grpc", lis.GRPC.Addr().String(), "http", lis.HTTP.Addr().String(), "admin", lis.Admin.Addr().String(), "database", s.DB, "tls", door.config.GRPCTLS != nil)
	err = svc.Server.Serve(ctx, lis, s.Grace.value)
	log.Info("stopped")
	return err
}

// address is where one of the listeners listens.
type address struct {
	flag, addr string
	to         *net.Listener
}

func (s *serveCmd) addresses(l *server.Listeners) []address {
	return []address{{"--grpc-addr", s.GRPCAddr, &l.GRPC}, {"--http-addr", s.HTTPAddr, &l.HTTP}, {"--admin-addr", s.AdminAddr, &l.Admin}}
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
