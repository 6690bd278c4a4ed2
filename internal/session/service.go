package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/mpcd/mpcd/internal/tss"
)

// Config holds the settings of a Service. Zero values mean the defaults.
type Config struct {
	RunTimeout    time.Duration // a run's deadline, waiting for a slot included; 10 minutes
	ResultTTL     time.Duration // how long a set waits for its confirmation; 15 minutes
	SessionTTL    time.Duration // how long an ended session is remembered; 30 days
	Slots         int           // how many runs compute at once; one for each core
	DeviceRuns    int           // how many device-held runs are under way at once: most of their time they wait; 8 for each core
	Queue         int           // how many runs wait for a slot at most, hosted and device-held; 256
	QueueShare    int           // how many of them may be one caller's; a quarter of Queue, at least 2
	Creates       int           // how many device-held wallets of SECP256K1 one caller may begin where pre-params are not plenty (see refillCreates), and how many of an owner's runs may waste some; 8
	PendingSets   int           // how many unconfirmed sets a wallet has at most; DefaultPendingSets
	Aborts        int           // what a set may cost, see Budget; DefaultAborts
	DeviceSilence time.Duration // how long a device may say nothing while its run waits for it; 2 minutes
	RequireSealTo bool          // refuse requests whose result would come back in plaintext
	// Wall is the clock on the wall; time.Now. Tests make it jump.
	Wall func() time.Time
}

// DefaultAborts is how many aborts a set has, if nothing else is said.
const DefaultAborts = 5

// DefaultPendingSets is how many unconfirmed sets a wallet has at most, if nothing else is said.
const DefaultPendingSets = 16

func (c Config) withDefaults() Config {
	if c.RunTimeout == 0 {
		c.RunTimeout = 10 * time.Minute
	}
	if c.ResultTTL == 0 {
		c.ResultTTL = 15 * time.Minute
	}
	if c.SessionTTL == 0 {
		c.SessionTTL = 30 * 24 * time.Hour
	}
	if c.Aborts == 0 {
		c.Aborts = DefaultAborts
	}
	if c.DeviceSilence == 0 {
		c.DeviceSilence = 2 * time.Minute
	}
	if c.Slots == 0 {
		c.Slots = runtime.GOMAXPROCS(0)
	}
	if c.DeviceRuns == 0 {
		c.DeviceRuns = 8 * runtime.GOMAXPROCS(0)
	}
	if c.Queue == 0 {
		c.Queue = 256
	}
	if c.QueueShare == 0 {
		c.QueueShare = quarter(c.Queue)
	}
	if c.Creates == 0 {
		c.Creates = 8
	}
	if c.PendingSets == 0 {
		c.PendingSets = DefaultPendingSets
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	return c
}

// Ports are the parts that a Service works with. All but Policy are needed.
type Ports struct {
	Wallets   Wallets
	Sessions  Sessions
	Budgets   Budgets
	Keeping   Housekeeper
	Sealer    Sealer
	Halves    Custodian // keeps the server's share of SIGNING sets
	Custodian Custodian // keeps the server's share of BACKUP sets
	PreParams PreParams
	Log       *slog.Logger
	Policy    Policy // nil: scopes and ownership are all
	// Joint runs the service's side of a device-held run, as (*tss.Joint).Run does, but
	// better in a process of its own; nil: here.
	Joint func(context.Context, *tss.Joint, tss.Link) (*tss.Joined, error)
}

// Service runs sessions. Its methods may be called by any number of goroutines.
type Service struct{ *runner }

var errClosing = errors.New("the service is shutting down")

// New returns a service that is ready to run. The caller must Close it. Sessions that
// an earlier process left unfinished are marked INTERRUPTED first.
func New(ctx context.Context, ports Ports, cfg Config) (*Service, error) {
	cfg = cfg.withDefaults()
	steady := newClock(cfg.Wall)
	n, err := ports.Keeping.InterruptAll(ctx, NewBudget(cfg.Aborts, steady.now()))
	if err != nil {
		return nil, fmt.Errorf("look for unfinished sessions: %w", err)
	}
	if n > 0 {
		ports.Log.Warn("sessions were interrupted by a restart", "count", n)
	}
	if ports.Joint == nil {
		ports.Joint = func(ctx context.Context, j *tss.Joint, link tss.Link) (*tss.Joined, error) { return j.Run(ctx, link) }
	}
	return &Service{newRunner(ctx, ports, cfg, steady)}, nil
}

// Drain refuses new runs and lets the running ones end, until ctx is done; then it ends
// them as INTERRUPTED. It returns when nothing computes any more. Calls that look at
// sessions or confirm sets go on working.
func (s *Service) Drain(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	idle := make(chan struct{})
	go func() { // ends with the last run, at the latest after the cancel below
		defer close(idle)
		s.wg.Wait()
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	s.cancel(errClosing)
	<-idle
	s.storeEnds(context.WithoutCancel(ctx)) // a hard abort would be lost
}

// Close is Drain without patience.
func (s *Service) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Drain(ctx)
}
