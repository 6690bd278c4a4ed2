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

// maxBuckets bounds the memory of each kind of buckets to about 1 MiB.
const maxBuckets = 1 << 12

// newBuckets returns token buckets by caller or owner that regain one token per interval.
func newBuckets(burst int, every time.Duration) *bucket.Set[string] {
	return bucket.New[string](rate.Every(every), burst, maxBuckets)
}

// checkWaste refuses a run that takes pre-params if too many runs of the same owner took some without success:
// starting and cancelling a run is free, and pre-params can be used only once. New wallets, which need no share, are
// counted separately.
func (s *runner) checkWaste(p *plan) error {
	if usesPreParams(p.curves) {
		if wait := s.waste.Left(p.wasteKey()); wait > 0 {
			return &LimitedError{Waste: true, RetryAfter: wait}
		}
	}
	return nil
}

// countWaste counts a run that took pre-params and ended with err.
func (s *runner) countWaste(p *plan, err error) {
	none := new(NoPreParamsError) // the pool was empty: the run took none
	if err != nil && usesPreParams(p.curves) && !errors.As(err, &none) {
		s.waste.Spend(p.wasteKey())
	}
}

func (p *plan) wasteKey() string {
	if p.source == nil {
		return "new " + p.owner
	}
	return "old " + p.owner
}

// unproven holds each caller's runs whose device has not proved its share yet. One more than maxUnproven is not
// refused, but ends the caller's oldest. A device sends its proof within a round trip, so that a stolen token cannot
// lock out the real devices.
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

// maxRecording is how many requests of one caller are recorded at the same time.
const maxRecording = 4

// recordingLimits bounds how many requests of each caller are recorded at the same time. The store makes one change at
// a time: a caller with a thousand requests must not delay those of others behind all of them.
type recordingLimits struct {
	mu sync.Mutex // guards what follows
	of map[string]*recordingLimit
}

type recordingLimit struct {
	users int           // goroutines that record, or wait to; guarded by recordingLimits.mu
	taken chan struct{} // one value for each request that is being recorded
}

// acquire waits until one more request of the caller may be recorded. The caller must call done afterwards.
func (t *recordingLimits) acquire(caller string) (done func()) {
	t.mu.Lock()
	if t.of == nil {
		t.of = make(map[string]*recordingLimit)
	}
	x := t.of[caller]
	if x == nil {
		x = &recordingLimit{taken: make(chan struct{}, maxRecording)}
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

// buffer bounds the bytes that devices sent and no run has processed yet, over all runs.
type buffer struct {
	mu   sync.Mutex // guards what follows
	held int
}

// reserve adds n bytes and returns true, or returns false if that exceeds maxWaiting and always is not set.
func (b *buffer) reserve(n int, always bool) bool {
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

func (b *buffer) release(n int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= n
}

// partOverhead is roughly the memory of a part without its contents, in bytes.
const partOverhead = 256

// sizeOf returns roughly the memory of a part, in bytes.
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
