// Package preparams provides the pre-params that ECDSA parties need: a Paillier key and
// ring-Pedersen parameters from four fresh safe primes, used once.
//
// A Pool makes them ahead, while nothing else computes, and keeps them sealed in the
// store. Each set is made for one party, CLIENT or SERVER, and goes to one taker: it is
// deleted as it is claimed. Where none is left, a hosted run makes its own, and a
// device-held one is refused.
//
// It never hands out a set twice, to the other party, or one that failed validation, and
// never logs one. It trusts the safe-prime search, the sealer, and the store to delete what
// it hands out and to know a copy of itself.
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
	// AddPreParams keeps a party's set under an id of its own.
	AddPreParams(ctx context.Context, id string, p session.Party, sealed []byte, made time.Time) error
	// ClaimPreParams removes a party's oldest set that was made after a time and in the store's
	// present incarnation, and returns it; id is "" where there is none. Of callers that race,
	// in any process, no two get the same one.
	ClaimPreParams(ctx context.Context, p session.Party, after time.Time) (id string, sealed []byte, err error)
	// DropPreParams erases the sets that were made before a time, and says how many.
	DropPreParams(ctx context.Context, before time.Time) (int, error)
	// CountPreParams says how many sets each party has, and when the oldest was made.
	CountPreParams(ctx context.Context) (n [2]int, oldest time.Time, err error)
}

// Config holds the settings of a Pool.
type Config struct {
	Depth   int           // how many sets to keep ready, one half for each party; 0 keeps none
	MaxAge  time.Duration // a set that is older is erased unused; 0: none is too old
	Workers int           // how many goroutines fill; 0: one for each core
}

// targets says how many sets each party is to have. Every run needs one of the server's.
func (c *Config) targets() [2]int {
	return [2]int{tss.Client: c.Depth / 2, tss.Server: (c.Depth + 1) / 2}
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
	refused bool               // a run was, and no set was made since
	free    chan struct{}      // closed while the filler may work
	stop    context.CancelFunc // ends the filler's step under way; nil between steps
	took    time.Duration      // to make a set lately, a moving average
}

var _ session.PreParams = (*Pool)(nil)

// firstGuess is how long a set is taken to take before any was made.
const firstGuess = 4 * time.Second

// NewPool returns a pool on what the store has. It fills only while Fill runs.
func NewPool(store Store, sealer session.Sealer, cfg Config, log *slog.Logger) *Pool {
	free := make(chan struct{})
	close(free)
	p := &Pool{
		store: store, sealer: sealer, cfg: cfg, log: log,
		taken: make(chan struct{}, 1), free: free, took: firstGuess,
	}
	p.metrics = newMetrics(p)
	return p
}

// Claim claims a party's set, or makes one on all cores where the pool has none. It returns
// ctx's error once ctx is done. Sets that cannot be opened or fail validation are dropped
// and counted.
func (p *Pool) Claim(ctx context.Context, party tss.Party) (*tss.PreParams, error) {
	pp, err := p.take(ctx, party)
	if pp != nil || err != nil {
		return pp, err
	}
	p.metrics.misses.Inc()
	return tss.GeneratePreParams(ctx, 0)
}

// ClaimReady is Claim where the pool has a depth of 0. Otherwise it fails with a
// session.NoPreParamsError where Claim would make a set.
func (p *Pool) ClaimReady(ctx context.Context, party tss.Party) (*tss.PreParams, error) {
	if p.cfg.Depth == 0 {
		return p.Claim(ctx, party)
	}
	pp, err := p.take(ctx, party)
	if pp != nil || err != nil {
		return pp, err
	}
	return nil, p.empty()
}

// Ready implements session.PreParams.
func (p *Pool) Ready(ctx context.Context, party tss.Party) (plenty bool, err error) {
	if p.cfg.Depth == 0 {
		return true, nil
	}
	n, _, err := p.store.CountPreParams(ctx)
	if err == nil && n[party] == 0 {
		err = p.empty()
	}
	return 4*n[party] > 3*p.cfg.targets()[party], err
}

// empty refuses a run. The filler makes the next set even while runs compute: else hosted
// runs, one after another, would keep every device-held one out.
func (p *Pool) empty() error {
	p.metrics.refused.Inc()
	p.change(func() { p.refused = true })
	p.mu.Lock()
	defer p.mu.Unlock()
	return &session.NoPreParamsError{RetryAfter: max(p.took, time.Second)}
}

// take claims a party's set that opens, or nil.
func (p *Pool) take(ctx context.Context, party tss.Party) (*tss.PreParams, error) {
	for {
		id, sealed, err := p.store.ClaimPreParams(ctx, party, p.oldest())
		if err != nil || id == "" {
			return nil, err
		}
		select {
		case p.taken <- struct{}{}:
		default: // the filler knows
		}
		pp, err := p.open(id, party, sealed)
		if err == nil {
			p.metrics.claimed.Inc()
			return pp, nil
		}
		p.metrics.invalid.Inc()
		p.log.Error("pre-params from the pool were dropped", "id", id, "error", err)
	}
}

// oldest is when the oldest set was made that may still be used.
func (p *Pool) oldest() time.Time {
	if p.cfg.MaxAge == 0 {
		return time.Time{}
	}
	return time.Now().Add(-p.cfg.MaxAge)
}

func (p *Pool) open(id string, party tss.Party, sealed []byte) (*tss.PreParams, error) {
	plain, err := p.sealer.Open(sealed, session.PreParamsLabel(id, party))
	if err != nil {
		return nil, err
	}
	defer plain.Wipe()
	return tss.ParsePreParams(plain)
}

// Add seals a set and keeps it for a party. The set is used up.
func (p *Pool) Add(ctx context.Context, party tss.Party, pp *tss.PreParams) error {
	defer pp.Wipe()
	plain, err := pp.Encode()
	if err != nil {
		return err
	}
	defer plain.Wipe()
	id := uuid.NewString()
	sealed, err := p.sealer.Seal(plain, session.PreParamsLabel(id, party))
	if err != nil {
		return fmt.Errorf("seal pre-params: %w", err)
	}
	if err := p.store.AddPreParams(ctx, id, party, sealed, time.Now()); err != nil {
		return err
	}
	p.metrics.made.Inc()
	return nil
}

// Pause implements session.PreParams: a run computes, so filling stops within 50 ms.
// Safe primes are found without memory of what was searched before, so that little is
// lost.
func (p *Pool) Pause() { p.change(func() { p.running++ }) }

// Resume implements session.PreParams.
func (p *Pool) Resume() { p.change(func() { p.running-- }) }

// change changes what decides whether the filler may work, and tells it.
func (p *Pool) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	may := func() bool { return p.running == 0 || p.refused }
	before := may()
	f()
	switch after := may(); {
	case before && !after:
		p.free = make(chan struct{})
		if p.stop != nil {
			p.stop()
		}
	case after && !before:
		close(p.free)
	}
}

// housekeeping is how often old sets are looked for.
const housekeeping = time.Minute

// Fill keeps the pool at its depth until ctx is done, and returns nil then. It works only
// while no run does, or after one was refused for want of a set. Errors of the store are
// logged and tried again.
func (p *Pool) Fill(ctx context.Context) error {
	var search search
	defer search.Wipe()
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	for {
		party, missing, err := p.missing(ctx)
		if err == nil && missing {
			err = p.step(ctx, party, &search)
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

// missing erases old sets and reports which party has too few, and lacks most.
func (p *Pool) missing(ctx context.Context) (party tss.Party, missing bool, err error) {
	old, err := p.store.DropPreParams(ctx, p.oldest())
	if err != nil {
		return 0, false, err
	}
	p.metrics.expired.Add(float64(old))
	n, _, err := p.store.CountPreParams(ctx)
	if err != nil {
		return 0, false, err
	}
	target := p.cfg.targets()
	party = tss.Server
	if target[tss.Client]-n[tss.Client] > target[tss.Server]-n[tss.Server] {
		party = tss.Client
	}
	return party, n[party] < target[party], nil
}

// search is one for a set, and how long it has taken so far.
type search struct {
	tss.PreParamsSearch
	took time.Duration
}

// step waits until the filler may work, finds one more prime, and adds the set that it may
// complete to the party's. It returns nil when a run interrupted it.
func (p *Pool) step(ctx context.Context, party tss.Party, s *search) error {
	work, done, err := p.turn(ctx)
	if err != nil {
		return err
	}
	defer done()
	start := time.Now()
	pp, err := s.Step(work, p.cfg.Workers, 1)
	s.took += time.Since(start)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil || pp == nil {
		return err
	}
	if err := p.Add(ctx, party, pp); err != nil {
		return err
	}
	p.change(func() {
		p.refused = false
		p.took += (s.took - p.took) / 8 // an eighth of the newest: a search takes as long as luck has it
		s.took = 0
	})
	return nil
}

// turn waits until the filler may work, and returns a context that ends when it no longer
// may.
func (p *Pool) turn(ctx context.Context) (work context.Context, done func(), err error) {
	for {
		p.mu.Lock()
		free := p.free
		select {
		case <-free:
			work, cancel := context.WithCancel(ctx)
			p.stop = cancel
			p.mu.Unlock()
			return work, func() {
				p.mu.Lock()
				p.stop = nil
				p.mu.Unlock()
				cancel()
			}, nil
		default:
		}
		p.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// Status is what the pool holds.
type Status struct {
	Sets   [2]int    // that are ready, by Party
	Target int       // sets that there should be, of both parties together
	Oldest time.Time // when the oldest was made; zero where there is none
}

// Depth is how many sets are ready, of both parties together.
func (s *Status) Depth() int { return s.Sets[tss.Client] + s.Sets[tss.Server] }

// Status returns what the pool holds.
func (p *Pool) Status(ctx context.Context) (Status, error) {
	n, oldest, err := p.store.CountPreParams(ctx)
	return Status{Sets: n, Target: p.cfg.Depth, Oldest: oldest}, err
}
