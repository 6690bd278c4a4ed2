// Package preparams provides the pre-params of ECDSA parties: a Paillier key and ring-Pedersen parameters from four
// fresh safe primes, used once.
//
// A Pool generates them ahead of time, while no run computes, and keeps them sealed in the store. Each set is for one
// party, CLIENT or SERVER, and for one run: claiming it deletes it. When the pool is empty, a hosted run generates
// its own set, and a device-held one is refused.
//
// It never hands out a set twice, or to the other party, or one that failed validation, and never logs one. It trusts
// the safe-prime search, the sealer, and the store to delete what it hands out and to detect that it is a copy.
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

// Store keeps sealed sets. Changes are durable when a method returns nil.
type Store interface {
	// AddPreParams stores a party's set under a new id.
	AddPreParams(ctx context.Context, id string, p session.Party, sealed []byte, made time.Time) error
	// ClaimPreParams removes and returns a party's oldest set that was made after a given time in the store's present
	// incarnation; id is "" if there is none. Concurrent callers, in any process, never get the same set.
	ClaimPreParams(ctx context.Context, p session.Party, after time.Time) (id string, sealed []byte, err error)
	// DropPreParams erases the sets made before a given time, and returns how many.
	DropPreParams(ctx context.Context, before time.Time) (int, error)
	// CountPreParams returns how many sets each party has, and when the oldest was made.
	CountPreParams(ctx context.Context) (n [2]int, oldest time.Time, err error)
}

// Config holds the settings of a Pool.
type Config struct {
	Depth   int           // how many sets to keep ready, half of them for each party; 0 disables the pool
	MaxAge  time.Duration // older sets are erased unused; 0: no limit
	Workers int           // how many goroutines search; 0: one per core
}

// targets returns how many sets each party should have. Every run needs one of the server's.
func (c *Config) targets() [2]int {
	return [2]int{tss.Client: c.Depth / 2, tss.Server: (c.Depth + 1) / 2}
}

// Pool generates and keeps sets. Its methods are safe for concurrent use.
type Pool struct {
	store   Store
	sealer  session.Sealer
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	taken   chan struct{} // has a token after a set was claimed: the pool is below its depth

	mu      sync.Mutex         // guards the fields below
	running int                // runs that compute now
	refused bool               // a run was refused, and no set was added since
	free    chan struct{}      // closed while the filler may work
	stop    context.CancelFunc // cancels the filler's current step; nil between steps
	took    time.Duration      // to generate a set, as a moving average
}

var _ session.PreParams = (*Pool)(nil)

// firstGuess is the assumed time to generate a set before one was generated.
const firstGuess = 4 * time.Second

// NewPool returns a pool on the store's sets. It fills only while Fill runs.
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

// Claim claims a set for a party, or generates one on all cores if the pool has none. It returns ctx's error once ctx
// is done. Sets that cannot be decrypted or fail validation are dropped and counted.
func (p *Pool) Claim(ctx context.Context, party tss.Party) (*tss.PreParams, error) {
	pp, err := p.take(ctx, party)
	if pp != nil || err != nil {
		return pp, err
	}
	p.metrics.misses.Inc()
	return tss.GeneratePreParams(ctx, 0)
}

// ClaimReady is Claim if the pool's depth is 0. Otherwise, when Claim would generate a set, it fails with a
// session.NoPreParamsError.
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

// empty returns the error for a refused run. The filler will make the next set even while runs compute: otherwise a
// steady load of hosted runs would block all device-held ones.
func (p *Pool) empty() error {
	p.metrics.refused.Inc()
	p.change(func() { p.refused = true })
	p.mu.Lock()
	defer p.mu.Unlock()
	return &session.NoPreParamsError{RetryAfter: max(p.took, time.Second)}
}

// take claims a valid set for a party; nil if there is none.
func (p *Pool) take(ctx context.Context, party tss.Party) (*tss.PreParams, error) {
	for {
		id, sealed, err := p.store.ClaimPreParams(ctx, party, p.oldest())
		if err != nil || id == "" {
			return nil, err
		}
		select {
		case p.taken <- struct{}{}:
		default: // the filler has been told already
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

// oldest returns the time before which sets are too old.
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

// Add seals a set and stores it for a party. The set must not be used afterwards.
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

// Pause implements session.PreParams: a run computes, so filling stops within 50 ms. The search for safe primes is
// memoryless, so little is lost.
func (p *Pool) Pause() { p.change(func() { p.running++ }) }

// Resume implements session.PreParams.
func (p *Pool) Resume() { p.change(func() { p.running-- }) }

// change changes the state that decides whether the filler may work, and notifies it.
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

// housekeeping is how often old sets are erased.
const housekeeping = time.Minute

// Fill keeps the pool at its depth until ctx is done, and then returns nil. It works only while no run computes, or
// after a run was refused for lack of a set. Errors of the store are logged and retried.
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
		select { // full, or after an error: wait for a change, or for some time
		case <-p.taken:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// missing erases old sets, and returns which party lacks the most, if any.
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

// search is the search for one set, with the time it has taken so far.
type search struct {
	tss.PreParamsSearch
	took time.Duration
}

// step waits until the filler may work, finds one more prime, and, if that completes a set, adds it to the party's.
// It returns nil when a run interrupted it.
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
		p.took += (s.took - p.took) / 8 // weighs the newest by an eighth: search times vary a lot
		s.took = 0
	})
	return nil
}

// turn waits until the filler may work, and returns a context that is cancelled when it no longer may.
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

// Status describes the pool.
type Status struct {
	Sets   [2]int    // ready, by Party
	Target int       // for both parties together
	Oldest time.Time // when the oldest was made; zero if there is none
}

// Depth returns how many sets are ready, for both parties together.
func (s *Status) Depth() int { return s.Sets[tss.Client] + s.Sets[tss.Server] }

// Status returns the pool's status.
func (p *Pool) Status(ctx context.Context) (Status, error) {
	n, oldest, err := p.store.CountPreParams(ctx)
	return Status{Sets: n, Target: p.cfg.Depth, Oldest: oldest}, err
}
