package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/mpcd/mpcd/internal/tss"
)

// Config holds the settings of a Service. Zero values mean those of DefaultConfig.
type Config struct {
	RunTimeout time.Duration // a run's deadline, including its wait for a slot
	ResultTTL  time.Duration // how long a set may wait for its confirmation
	SessionTTL time.Duration // how long an ended session is kept
	Slots      int           // how many hosted runs compute at once; 0: one per core
	DeviceRuns int           // how many device-held runs are active at once; 0: 8 per core, since they mostly wait
	Queue      int           // how many runs wait for a slot at most, hosted and device-held
	QueueShare int           // how many of them may be from one caller; 0: a quarter of Queue, at least 2
	// Creates is how many device-held SECP256K1 wallets one caller may start while pre-params are scarce (see
	// refillCreates), and how many of an owner's runs may take pre-params without success.
	Creates       int
	PendingSets   int           // how many unconfirmed sets a wallet may have
	Aborts        int           // how many hard aborts lock a set, see Budget
	DeviceSilence time.Duration // how long a device may be silent while its run waits for it
	RequireSealTo bool          // refuse requests whose result would be returned in plaintext
	// Wall returns the wall-clock time; nil: time.Now. Tests replace it.
	Wall func() time.Time
}

// DefaultConfig returns the default settings. A setting that is 0 in it is derived from others, or from the machine.
func DefaultConfig() Config {
	return Config{
		RunTimeout:    10 * time.Minute,
		ResultTTL:     15 * time.Minute,
		SessionTTL:    30 * 24 * time.Hour,
		Queue:         256,
		Creates:       8,
		PendingSets:   16,
		Aborts:        5,
		DeviceSilence: 2 * time.Minute,
	}
}

func (c Config) withDefaults() Config {
	def := DefaultConfig()
	c.RunTimeout = cmp.Or(c.RunTimeout, def.RunTimeout)
	c.ResultTTL = cmp.Or(c.ResultTTL, def.ResultTTL)
	c.SessionTTL = cmp.Or(c.SessionTTL, def.SessionTTL)
	c.Slots = cmp.Or(c.Slots, runtime.GOMAXPROCS(0))
	c.DeviceRuns = cmp.Or(c.DeviceRuns, 8*runtime.GOMAXPROCS(0))
	c.Queue = cmp.Or(c.Queue, def.Queue)
	c.QueueShare = cmp.Or(c.QueueShare, defaultShare(c.Queue))
	c.Creates = cmp.Or(c.Creates, def.Creates)
	c.PendingSets = cmp.Or(c.PendingSets, def.PendingSets)
	c.Aborts = cmp.Or(c.Aborts, def.Aborts)
	c.DeviceSilence = cmp.Or(c.DeviceSilence, def.DeviceSilence)
	if c.Wall == nil {
		c.Wall = time.Now
	}
	return c
}

// Ports are the dependencies of a Service. Policy and ServerSide may be nil.
type Ports struct {
	Wallets      Wallets
	Sessions     Sessions
	Budgets      Budgets
	Housekeeper  Housekeeper
	Sealer       Sealer
	ServerShares Custodian // keeps the server's share of SIGNING sets
	Custodian    Custodian // keeps the server's share of BACKUP sets
	PreParams    PreParams
	Log          *slog.Logger
	Policy       Policy // nil: scopes and ownership decide
	// ServerSide runs the server's side of a device-held run like (*tss.Operation).Run, preferably in a separate
	// process; nil: in this one.
	ServerSide func(context.Context, *tss.Operation, tss.Link) (*tss.Output, error)
}

// Service runs sessions. It is safe for concurrent use.
type Service struct{ *runner }

var errClosing = errors.New("the service is shutting down")

// New returns a running service. The caller must Close it. Sessions that an earlier process left unfinished are first
// marked INTERRUPTED.
func New(ctx context.Context, ports Ports, cfg Config) (*Service, error) {
	cfg = cfg.withDefaults()
	steady := newClock(cfg.Wall)
	n, err := ports.Housekeeper.InterruptAll(ctx, NewBudget(cfg.Aborts, steady.now()))
	if err != nil {
		return nil, fmt.Errorf("look for unfinished sessions: %w", err)
	}
	if n > 0 {
		ports.Log.Warn("sessions were interrupted by a restart", "count", n)
	}
	if ports.ServerSide == nil {
		ports.ServerSide = func(ctx context.Context, j *tss.Operation, link tss.Link) (*tss.Output, error) {
			return j.Run(ctx, link)
		}
	}
	return &Service{newRunner(ctx, ports, cfg, steady)}, nil
}

// Drain refuses new runs and lets the current ones finish until ctx is done; then it ends them as INTERRUPTED. It
// returns when no computation is left. Sessions can still be read, and sets confirmed.
func (s *Service) Drain(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	idle := make(chan struct{})
	go func() { // ends with the last run, at the latest after the cancellation below
		defer close(idle)
		s.wg.Wait()
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	s.cancel(errClosing)
	<-idle
	// An end that is not stored now is lost, and its client not charged. But a database that fails must not block the
	// shutdown.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	s.storeEnds(last)
}

// Close is Drain without waiting for current runs.
func (s *Service) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Drain(ctx)
}
