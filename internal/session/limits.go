package session

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mpcd/mpcd/internal/bucket"
)

// maxBuckets bounds the memory of one kind of buckets, to about 1 MiB.
const maxBuckets = 1 << 12

// newBuckets returns a token bucket for each caller, which gets a token after each time.
func newBuckets(burst int, every time.Duration) *bucket.Set[string] {
	return bucket.New[string](rate.Every(every), burst, maxBuckets)
}

// mayWaste refuses a run that takes pre-params where too many of its owner's took some and did
// not succeed: to begin one and to cancel it costs nothing, and a set is used once. New wallets,
// which need no share, are counted apart.
func (s *runner) mayWaste(p *plan) error {
	if usesPreParams(p.curves) {
		if wait := s.waste.Left(p.payer()); wait > 0 {
			return &LimitedError{Waste: true, RetryAfter: wait}
		}
	}
	return nil
}

// wasted counts such a run that ends with err.
func (s *runner) wasted(p *plan, err error) {
	none := new(NoPreParamsError) // it found the pool empty, and took nothing
	if err != nil && usesPreParams(p.curves) && !errors.As(err, &none) {
		s.waste.Spend(p.payer())
	}
}

func (p *plan) payer() string {
	if p.source == nil {
		return "new " + p.owner
	}
	return "old " + p.owner
}

// unproven are the runs of each caller whose device has not shown its share yet. No caller has
// more than maxUnproven: one more ends the oldest, and is not refused. A device shows its share
// within a round trip, so that whoever has a token alone keeps nobody out.
type unproven struct {
	mu sync.Mutex // guards what follows
	of map[string][]*Run
}

func (u *unproven) add(r *Run) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.of == nil {
		u.of = make(map[string][]*Run)
	}
	all := append(u.of[r.key.caller], r)
	if len(all) > maxUnproven {
		all[0].cancel(fmt.Errorf("%w: %d newer sessions of the caller wait for a hello", ErrInterrupted, maxUnproven))
		all = slices.Delete(all, 0, 1)
	}
	u.of[r.key.caller] = all
}

func (u *unproven) remove(r *Run) {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := slices.DeleteFunc(u.of[r.key.caller], func(x *Run) bool { return x == r })
	if len(all) == 0 {
		delete(u.of, r.key.caller)
	} else {
		u.of[r.key.caller] = all
	}
}

// maxRecording is how many requests of one caller are being recorded at once.
const maxRecording = 4

// turns lets so many requests of each caller be recorded at once. The store makes one change at
// a time: whoever sends a thousand requests must not have them all stand before another's.
type turns struct {
	mu sync.Mutex // guards what follows
	of map[string]*turn
}

type turn struct {
	users int           // who have it, or wait for it; guarded by turns.mu
	taken chan struct{} // one value for each who has it
}

// take waits for the caller's turn, and returns what ends it.
func (t *turns) take(caller string) (done func()) {
	t.mu.Lock()
	if t.of == nil {
		t.of = make(map[string]*turn)
	}
	x := t.of[caller]
	if x == nil {
		x = &turn{taken: make(chan struct{}, maxRecording)}
		t.of[caller] = x
	}
	x.users++
	t.mu.Unlock()
	x.taken <- struct{}{}
	return func() {
		<-x.taken
		t.mu.Lock()
		defer t.mu.Unlock()
		if x.users--; x.users == 0 {
			delete(t.of, caller)
		}
	}
}

// buffer bounds the bytes of what devices sent and no run has taken yet, over all runs.
type buffer struct {
	mu   sync.Mutex // guards what follows
	held int
}

// add notes n bytes more, where there is room or they are wanted always.
func (b *buffer) add(n int, always bool) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !always && b.held+n > maxWaiting {
		return false
	}
	b.held += n
	return true
}

func (b *buffer) free(n int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= n
}

// partOverhead is what a part takes besides what it says, about.
const partOverhead = 256

// sizeOf is how much memory a part takes, about.
func sizeOf(p Part) int {
	n := partOverhead + len(p.MAC)
	if h := p.Hello; h != nil {
		n += len(h.Nonce) + len(h.SessionKey) + len(h.PartyKeys) + len(h.Record) + len(h.Proof)
		n += len(h.WalletID) + len(h.ShareSetID)
	}
	if p.Message != nil {
		n += len(p.Message.Payload)
	}
	if p.End != nil {
		n += len(p.End.ShareHash)
	}
	return n
}
