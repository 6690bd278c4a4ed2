package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// admission decides which run computes next. At most so many compute at once; behind
// them waits a bounded queue, fair between callers: they take turns, so that one with a
// hundred runs does not starve another with one, and each has at most a share of it, so that
// none fills it; where several do, the one with the most gives way to a caller who has less.
// Signing goes ahead of everything that makes a share set, since it is short and its caller
// waits for it; but not for ever, so that no caller who signs without a pause keeps everybody
// else from a share set.
//
// New wallets are counted apart from the same caller's other runs: they take no share, so
// that a stolen token is enough to begin them, and they must not keep its owner out.
type admission struct {
	slots    int // how many compute at once
	maxQueue int // how many wait at most
	share    int // how many of them may be one caller's
	anew     int // how many of those that compute may make new wallets

	mu      sync.Mutex // guards what follows
	busy    int
	making  int            // of the busy ones, those that make new wallets
	held    map[string]int // the busy ones, by caller
	waiting int
	lanes   [2]lane       // signing, then the rest
	ahead   int           // how many went ahead of the rest that waits, one after another
	recent  time.Duration // how long a run held its slot lately, a moving average
}

// who is whose turn it is: a caller with its new wallets, or with its other runs.
type who struct {
	caller string
	anew   bool
}

// lane is one queue of callers that take turns.
type lane struct {
	turn   []who             // those with somebody waiting, the next one first
	queues map[who][]*ticket // the oldest first
}

// ticket is one run's place.
type ticket struct {
	a    *admission
	lane *lane
	who
	ready chan struct{} // closed when it has a slot
	moved chan struct{} // holds a token when the position changed
	lost  chan struct{} // closed when it has lost its place in the queue, and why is set
	// Guarded by a.mu:
	why      error
	position uint32 // how many go ahead of it, and itself; 0 once it has a slot
	since    time.Time
	gone     bool
	gives    bool // its slot to others: it is in held no more
}

// OverloadedError says that the queue is full, or the caller's share of it.
type OverloadedError struct {
	RetryAfter time.Duration
	Own        bool // it is the caller's share
}

// Error implements error.
func (e *OverloadedError) Error() string {
	full := "the queue is full"
	if e.Own {
		full = "the caller's share of the queue is full"
	}
	return fmt.Sprintf("%v: %s, retry after %v", ErrOverloaded, full, e.RetryAfter)
}

// Is makes an OverloadedError an ErrOverloaded.
func (e *OverloadedError) Is(target error) bool { return target == ErrOverloaded }

// Later implements LaterError.
func (e *OverloadedError) Later() time.Duration { return e.RetryAfter }

// maxAhead is how many signings go ahead of the rest, one after another.
const maxAhead = 8

// firstGuess is how long a run is taken to be before any has ended: an ECDSA resharing
// with warm pre-params on two cores.
const firstGuess = 4 * time.Second

func newAdmission(slots, maxQueue int) *admission {
	a := &admission{slots: slots, maxQueue: maxQueue, share: quarter(maxQueue), anew: slots, recent: firstGuess, held: make(map[string]int)}
	for i := range a.lanes {
		a.lanes[i].queues = make(map[who][]*ticket)
	}
	return a
}

// quarter is the share of a queue that one caller has where nobody says otherwise. The two
// runs that a user with two devices begins have room in any.
func quarter(queue int) int { return max(2, queue/4) }

// enqueue takes a place, in a slot or in the queue, or fails with an OverloadedError. The
// place is kept until leave.
func (a *admission) enqueue(caller string, op Operation) (*ticket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := &ticket{a: a, lane: a.lane(op), who: who{caller, op == OpCreate}}
	t.ready, t.moved, t.lost = make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	spare, err := a.full(t.who)
	if err != nil {
		return nil, err
	}
	if spare != nil {
		a.drop(spare)
	}
	if len(t.lane.queues[t.who]) == 0 {
		t.lane.turn = append(t.lane.turn, t.who)
	}
	t.lane.queues[t.who] = append(t.lane.queues[t.who], t)
	a.waiting++
	a.admit()
	return t, nil
}

// hasPlace fails with the OverloadedError with which enter would fail now.
func (a *admission) hasPlace(caller string, op Operation) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err := a.full(who{caller, op == OpCreate})
	return err
}

func (a *admission) lane(op Operation) *lane {
	if op == OpSign {
		return &a.lanes[0]
	}
	return &a.lanes[1]
}

// free reports whether one more of w would get a slot at once. It must be called with mu held.
func (a *admission) free(w who) bool { return a.busy < a.slots && (!w.anew || a.making < a.anew) }

// full says why there is no place for one more of w. Where there is none but by another's giving
// way, that one is spare. It must be called with mu held.
func (a *admission) full(w who) (spare *ticket, err error) {
	switch {
	case a.free(w):
		return nil, nil //nolint:nilnil // nobody has to give way
	case a.own(w) >= a.share:
		return nil, a.ownFull(w)
	case a.waiting < a.maxQueue:
		return nil, nil //nolint:nilnil // nobody has to give way
	}
	if spare = a.spare(w); spare == nil {
		err = &OverloadedError{RetryAfter: a.after(a.waiting + 1)}
	}
	return spare, err
}

// own counts what waits of w. It must be called with mu held.
func (a *admission) own(w who) int { return len(a.lanes[0].queues[w]) + len(a.lanes[1].queues[w]) }

// ownFull is the error of who has its share: there is room when the first of them has its slot.
// It must be called with mu held.
func (a *admission) ownFull(w who) error {
	first := uint32(0)
	for i := range a.lanes {
		if q := a.lanes[i].queues[w]; len(q) > 0 && (first == 0 || q[0].position < first) {
			first = q[0].position
		}
	}
	return &OverloadedError{RetryAfter: a.after(int(first)), Own: true}
}

// spare finds the ticket that gives way to one more of w in a full queue: the newest of whom the
// most wait, where those are more than w would have; nil where there is none. It must be called
// with mu held.
func (a *admission) spare(w who) (t *ticket) {
	most := a.own(w) + 1
	for i := range a.lanes {
		for other, q := range a.lanes[i].queues {
			if n := a.own(other); n > most {
				most, t = n, q[len(q)-1]
			}
		}
	}
	return t
}

// drop takes a ticket's place in the queue from it. It must be called with mu held.
func (a *admission) drop(t *ticket) {
	t.why, t.gone = a.ownFull(t.who), true
	close(t.lost)
	a.waiting--
	t.lane.remove(t)
}

// after estimates when so many runs have got their slots. It must be called with mu held.
func (a *admission) after(runs int) time.Duration {
	return a.recent * time.Duration(runs) / time.Duration(a.slots)
}

// reportEvery is how often a position is reported at most: in a crowd it changes with
// everybody who comes or goes.
const reportEvery = time.Second

// wait returns when the ticket has a slot, with an OverloadedError when it has lost its place to
// another caller's, or with ctx's cause. It reports the position when it changed.
func (t *ticket) wait(ctx context.Context, report func(position uint32)) error {
	moved := t.moved
	var pause <-chan time.Time
	for {
		select {
		case <-t.ready:
			return nil
		default:
		}
		select {
		case <-t.ready:
			return nil
		case <-t.lost:
			return t.why
		case <-moved:
			if position := t.at(); position > 0 {
				report(position)
			}
			moved, pause = nil, time.After(reportEvery)
		case <-pause:
			moved, pause = t.moved, nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// at returns the position as it is now, so that wait reports only what changes after.
func (t *ticket) at() uint32 {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	select {
	case <-t.moved:
	default:
	}
	return t.position
}

// givesWay reports whether the ticket's caller has more than its share of the slots, of which each
// caller has as large a part as of the queue, while others wait for one. Where it has, this one
// must leave, and does not count from now on: of several that look at the same moment, no more
// give way than are too many.
func (t *ticket) givesWay() bool {
	a := t.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.gone || t.gives || a.held[t.caller] <= max(1, a.slots*a.share/a.maxQueue) {
		return t.gives
	}
	for i := range a.lanes {
		if slices.ContainsFunc(a.lanes[i].turn, func(w who) bool { return w.caller != t.caller }) {
			t.gives = true
			a.release(t.caller)
			return true
		}
	}
	return false
}

// release notes that a caller has a slot less. It must be called with mu held.
func (a *admission) release(caller string) {
	if a.held[caller]--; a.held[caller] == 0 {
		delete(a.held, caller)
	}
}

// leave gives the place back, whether it is a slot or still in the queue. Only the
// first call counts.
func (t *ticket) leave() {
	a := t.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.gone {
		return
	}
	t.gone = true
	select {
	case <-t.ready:
		a.busy--
		if !t.gives {
			a.release(t.caller)
		}
		if t.anew {
			a.making--
		}
		// An eighth of the newest: a few odd runs do not throw the estimate off.
		a.recent += (time.Since(t.since) - a.recent) / 8
	default:
		a.waiting--
		t.lane.remove(t)
	}
	a.admit()
}

// admit gives free slots to who is next, and tells the others where they stand. It must
// be called with mu held.
func (a *admission) admit() {
	for {
		t := a.next()
		if t == nil {
			break
		}
		a.waiting--
		a.busy++
		a.held[t.caller]++
		if t.anew {
			a.making++
		}
		t.position, t.since = 0, time.Now()
		close(t.ready)
	}
	for i, t := range a.inOrder() {
		position := uint32(i) + 1
		if t.position == position {
			continue
		}
		t.position = position
		select {
		case t.moved <- struct{}{}:
		default: // one token says it all
		}
	}
}

// next takes out who is next, or returns nil where there is nobody, or no slot. It must be called
// with mu held.
func (a *admission) next() *ticket {
	signing, rest := &a.lanes[0], &a.lanes[1]
	waits := slices.ContainsFunc(rest.turn, a.free)
	if !waits || a.ahead < maxAhead {
		if t := signing.next(a.free); t != nil {
			a.ahead++
			if !waits {
				a.ahead = 0
			}
			return t
		}
	}
	t := rest.next(a.free)
	if t != nil {
		a.ahead = 0
	}
	return t
}

// inOrder lists those that wait in the order in which next would take them. It must be called
// with mu held.
func (a *admission) inOrder() (all []*ticket) {
	signing, rest := a.lanes[0].inOrder(), a.lanes[1].inOrder()
	for ahead := a.ahead; len(signing)+len(rest) > 0; {
		if len(signing) > 0 && (len(rest) == 0 || ahead < maxAhead) {
			all, signing, ahead = append(all, signing[0]), signing[1:], ahead+1
		} else {
			all, rest, ahead = append(all, rest[0]), rest[1:], 0
		}
	}
	return all
}

// next takes out the oldest ticket of whose turn it is, of those that there is a slot for; nil
// where there is none.
func (l *lane) next(free func(who) bool) *ticket {
	i := slices.IndexFunc(l.turn, free)
	if i < 0 {
		return nil
	}
	w := l.turn[i]
	t := l.queues[w][0]
	l.turn = slices.Delete(l.turn, i, i+1)
	l.queues[w] = l.queues[w][1:]
	if len(l.queues[w]) > 0 {
		l.turn = append(l.turn, w)
	} else {
		delete(l.queues, w)
	}
	return t
}

func (l *lane) remove(t *ticket) {
	q := slices.DeleteFunc(l.queues[t.who], func(x *ticket) bool { return x == t })
	l.queues[t.who] = q
	if len(q) == 0 {
		delete(l.queues, t.who)
		l.turn = slices.DeleteFunc(l.turn, func(w who) bool { return w == t.who })
	}
}

// inOrder lists the tickets in the order in which next would take them.
func (l *lane) inOrder() []*ticket {
	var all []*ticket
	for round := 0; ; round++ {
		found := false
		for _, w := range l.turn {
			if q := l.queues[w]; round < len(q) {
				all = append(all, q[round])
				found = true
			}
		}
		if !found {
			return all
		}
	}
}
