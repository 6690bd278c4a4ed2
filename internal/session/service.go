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
	RunTimeout time.Duration // a run's deadline, waiting for a slot included
	ResultTTL  time.Duration // how long a set waits for its confirmation
	SessionTTL time.Duration // how long an ended session is remembered
	Slots      int           // how many runs compute at once; 0: one for each core
	DeviceRuns int           // how many device-held runs are under way at once; 0: 8 for each core, since they mostly wait
	Queue      int           // how many runs wait for a slot at most, hosted and device-held
	QueueShare int           // how many of them may be one caller's; 0: a quarter of Queue, at least 2
	// Creates is how many device-held wallets of SECP256K1 one caller may begin where pre-params are
	// not plenty (see refillCreates), and how many of an owner's runs may waste some.
	Creates       int
	PendingSets   int           // how many unconfirmed sets a wallet has at most
	Aborts        int           // what a set may cost, see Budget
	DeviceSilence time.Duration // how long a device may say nothing while its run waits for it
	RequireSealTo bool          // refuse requests whose result would come back in plaintext
	// Wall is the clock on the wall; time.Now. Tests make it jump.
	Wall func() time.Time
}

// DefaultConfig returns the settings of a Service for which nothing else is said. What is 0 in it
// follows from others, or from the machine.
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
	c.QueueShare = cmp.Or(c.QueueShare, quarter(c.Queue))
	c.Creates = cmp.Or(c.Creates, def.Creates)
	c.PendingSets = cmp.Or(c.PendingSets, def.PendingSets)
	c.Aborts = cmp.Or(c.Aborts, def.Aborts)
	c.DeviceSilence = cmp.Or(c.DeviceSilence, def.DeviceSilence)
	if c.Wall == nil {
		c.Wall = time.Now
	}
	return c
}

// Ports are the parts that a Service works with. All but Policy are needed.
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
	Policy       Policy // nil: scopes and ownership are all
	// ServerSide runs the service's side of a device-held run, as (*tss.ServerSide).Run does, but
	// better in a process of its own; nil: here.
	ServerSide func(context.Context, *tss.Operation, tss.Link) (*tss.Output, error)
}

// Service runs sessions. Its methods may be called by any number of goroutines.
type Service struct{ *runner }

var errClosing = errors.New("the service is shutting down")

// New returns a service that is ready to run. The caller must Close it. Sessions that
// an earlier process left unfinished are marked INTERRUPTED first.
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
	// Whom an end blames would be forgotten. A database that cannot be used must not hold up the shutdown.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	s.storeEnds(last)
}

// Close is Drain without patience.
func (s *Service) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Drain(ctx)
}
