// Package preparams provides the pre-params that ECDSA parties need: a Paillier key and
// ring-Pedersen parameters from four fresh safe primes, used once.
//
// A Pool makes them ahead, while nothing else computes, and keeps them sealed in the
// store. Each set goes to one taker: it is deleted as it is claimed. An empty pool is no
// error, since a taker then makes its own.
//
// It never hands out a set twice or one that failed validation, and never logs one. It
// trusts the safe-prime search, the sealer, and the store to delete what it hands out.
package preparams

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// Store keeps sealed sets. What a method changed is durable when it returns nil.
type Store interface {
	// AddPreParams keeps a set under an id of its own.
	AddPreParams(ctx context.Context, id string, sealed []byte, made time.Time) error
	// ClaimPreParams removes the oldest set and returns it; id is "" where there is none.
	// Of callers that race, in any process, no two get the same one.
	ClaimPreParams(ctx context.Context) (id string, sealed []byte, err error)
	// DropPreParams erases the sets that were made before a time, and says how many.
	DropPreParams(ctx context.Context, before time.Time) (int, error)
	// CountPreParams says how many sets there are, and when the oldest was made.
	CountPreParams(ctx context.Context) (n int, oldest time.Time, err error)
}

// Config holds the settings of a Pool.
type Config struct {
	Depth   int           // how many sets to keep ready; 0 keeps none
	MaxAge  time.Duration // a set that is older is erased unused
	Workers int           // how many goroutines fill; 0: one for each core
}

// Pool makes and keeps sets. Its methods may be called by any number of goroutines.
type Pool struct {
	store   Store
	sealer  session.Sealer
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	taken   chan struct{} // holds a token after a set was claimed: there is room to fill

	mu      sync.Mutex         // guards what follows
	running int                // runs that compute now
	idle    chan struct{}      // closed while running is 0
	stop    context.CancelFunc // ends the filler's step under way; nil between steps
}

var _ session.PreParams = (*Pool)(nil)

// NewPool returns a pool on what the store has. It fills only while Fill runs.
func NewPool(store Store, sealer session.Sealer, cfg Config, log *slog.Logger) *Pool {
	idle := make(chan struct{})
	close(idle)
	p := &Pool{store: store, sealer: sealer, cfg: cfg, log: log, taken: make(chan struct{}, 1), idle: idle}
	p.metrics = newMetrics(p)
	return p
}

// PreParams claims a set, or makes one on all cores where the pool is empty. It returns
// ctx's error once ctx is done. Sets that cannot be opened or fail validation are
// dropped and counted.
func (p *Pool) PreParams(ctx context.Context) (*tss.PreParams, error) {
	for {
		id, sealed, err := p.store.ClaimPreParams(ctx)
		if err != nil {
			return nil, err
		}
		if id == "" {
			p.metrics.misses.Inc()
			return tss.GeneratePreParams(ctx, 0)
		}
		select {
		case p.taken <- struct{}{}:
		default: // the filler knows
		}
		pp, err := p.open(id, sealed)
		if err == nil {
			p.metrics.claimed.Inc()
			return pp, nil
		}
		p.metrics.invalid.Inc()
		p.log.Error("pre-params from the pool were dropped", "id", id, "error", err)
	}
}

func (p *Pool) open(id string, sealed []byte) (*tss.PreParams, error) {
	plain, err := p.sealer.Open(sealed, session.PreParamsLabel(id))
	if err != nil {
		return nil, err
	}
	defer plain.Wipe()
	return tss.ParsePreParams(plain)
}

// Add seals a set and keeps it. The set is used up.
func (p *Pool) Add(ctx context.Context, pp *tss.PreParams) error {
	defer pp.Wipe()
	plain, err := pp.Encode()
	if err != nil {
		return err
	}
	defer plain.Wipe()
	id := uuid.NewString()
	sealed, err := p.sealer.Seal(plain, session.PreParamsLabel(id))
	if err != nil {
		return fmt.Errorf("seal pre-params: %w", err)
	}
	if err := p.store.AddPreParams(ctx, id, sealed, time.Now()); err != nil {
		return err
	}
	p.metrics.made.Inc()
	return nil
}

// Pause implements session.PreParams: a run computes, so filling stops within 50 ms.
// Safe primes are found without memory of what was searched before, so that little is
// lost.
func (p *Pool) Pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == 0 {
		p.idle = make(chan struct{})
		if p.stop != nil {
			p.stop()
		}
	}
	p.running++
}

// Resume implements session.PreParams.
func (p *Pool) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	if p.running == 0 {
		close(p.idle)
	}
}

// housekeeping is how often old sets are looked for.
const housekeeping = time.Minute

// Fill keeps the pool at its depth until ctx is done, and returns nil then. It works
// only while no run does. Errors of the store are logged and tried again.
func (p *Pool) Fill(ctx context.Context) error {
	var search tss.PreParamsSearch
	defer search.Wipe()
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	for {
		missing, err := p.missing(ctx)
		if err == nil && missing {
			err = p.step(ctx, &search)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			p.log.Error("the pool of pre-params could not be filled", "error", err)
		} else if missing {
			continue
		}
		select { // full, or in trouble: wait for a change, or for some time
		case <-p.taken:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// missing erases old sets and reports whether there are too few.
func (p *Pool) missing(ctx context.Context) (bool, error) {
	old, err := p.store.DropPreParams(ctx, time.Now().Add(-p.cfg.MaxAge))
	if err != nil {
		return false, err
	}
	p.metrics.expired.Add(float64(old))
	n, _, err := p.store.CountPreParams(ctx)
	return n < p.cfg.Depth, err
}

// step waits until nothing computes, finds one more prime, and adds the set that it may
// complete. It returns nil when a run interrupted it.
func (p *Pool) step(ctx context.Context, search *tss.PreParamsSearch) error {
	work, done, err := p.turn(ctx)
	if err != nil {
		return err
	}
	defer done()
	pp, err := search.Step(work, p.cfg.Workers, 1)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil || pp == nil {
		return err
	}
	return p.Add(ctx, pp)
}

// turn waits until no run computes, and returns a context that ends when one begins.
func (p *Pool) turn(ctx context.Context) (work context.Context, done func(), err error) {
	for {
		p.mu.Lock()
		idle := p.idle
		if p.running == 0 {
			work, cancel := context.WithCancel(ctx)
			p.stop = cancel
			p.mu.Unlock()
			return work, func() {
				p.mu.Lock()
				p.stop = nil
				p.mu.Unlock()
				cancel()
			}, nil
		}
		p.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// Status is what the pool holds.
type Status struct {
	Depth  int       // sets that are ready
	Target int       // sets that there should be
	Oldest time.Time // when the oldest was made; zero where there is none
}

// Status returns what the pool holds.
func (p *Pool) Status(ctx context.Context) (Status, error) {
	n, oldest, err := p.store.CountPreParams(ctx)
	return Status{Depth: n, Target: p.cfg.Depth, Oldest: oldest}, err
}
