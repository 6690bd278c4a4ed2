package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// admission decides which run computes next. A fixed number of runs compute at once; the others wait in a bounded
// queue. Callers take turns, so that a caller with a hundred runs does not delay a caller with one. Each caller may
// use at most a share of the queue; when the queue is full anyway, the caller with the most waiting runs loses its
// newest one to a caller with fewer. Signings go before runs that make a share set, because they are short and their
// callers wait for them, but only maxSigningAhead in a row, so that share sets are made under a constant load of
// signings too.
//
// Creations of wallets are queued separately from the same caller's other runs. A stolen token is enough to start
// them, since they need no share, and they must not lock out the wallets' owner.
type admission struct {
	slots      int // how many compute at once
	maxQueue   int // how many wait at most
	share      int // how many waiting runs one caller may have
	maxCreates int // how many of the computing runs may create wallets

	mu           sync.Mutex // guards what follows
	busy         int
	creating     int            // busy runs that create wallets
	heldBy       map[string]int // busy runs by caller
	waiting      int
	lanes        [2]lane       // signing, then the rest
	signingAhead int           // signings in a row that went before other waiting runs
	recent       time.Duration // how long recent runs held their slot: a moving average
}

// queueKey identifies the queues that take turns: a caller has one for creating wallets and one for all other runs.
type queueKey struct {
	caller string
	create bool
}

// lane is a set of queues that take turns.
type lane struct {
	turn   []queueKey             // the non-empty queues, next one first
	queues map[queueKey][]*ticket // oldest first
}

// ticket is one run's slot, or its position in the queue.
type ticket struct {
	a    *admission
	lane *lane
	queueKey
	ready     chan struct{} // closed when the run has a slot
	moved     chan struct{} // receives a value when the position changed
	displaced chan struct{} // closed when another caller's run took its position; displacedErr is set
	// Guarded by a.mu:
	displacedErr error
	position     uint32    // 1 is the next run; 0 once it has a slot
	since        time.Time // when it got its slot
	left         bool      // neither in the queue nor in a slot any more
	yielded      bool      // gives its slot up for another caller, and is no longer counted in heldBy
}

// OverloadedError is an OVERLOADED: the queue, or the caller's share of it, is full.
type OverloadedError struct {
	RetryAfter time.Duration
	Own        bool // it is the caller's share that is full
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

// maxSigningAhead is how many signings in a row go before other waiting runs.
const maxSigningAhead = 8

// initialEstimate is the assumed duration of a run before any has ended: that of an ECDSA resharing with warm
// pre-params on two cores.
const initialEstimate = 4 * time.Second

func newAdmission(slots, maxQueue int) *admission {
	a := &admission{
		slots: slots, maxQueue: maxQueue, share: defaultShare(maxQueue), maxCreates: slots, recent: initialEstimate,
		heldBy: make(map[string]int),
	}
	for i := range a.lanes {
		a.lanes[i].queues = make(map[queueKey][]*ticket)
	}
	return a
}

// defaultShare returns a caller's share of a queue, unless configured otherwise. It is at least 2, so that a user with
// two devices can use both.
func defaultShare(queue int) int { return max(2, queue/4) }

// enqueue returns a ticket with a slot or a position in the queue, or fails with an OverloadedError. The caller must
// call leave on it.
func (a *admission) enqueue(caller string, op Operation) (*ticket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := &ticket{a: a, lane: a.lane(op), queueKey: queueKey{caller, op == OpCreate}}
	t.ready, t.moved, t.displaced = make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	displaced, err := a.checkQueue(t.queueKey)
	if err != nil {
		return nil, err
	}
	if displaced != nil {
		a.displace(displaced)
	}
	if len(t.lane.queues[t.queueKey]) == 0 {
		t.lane.turn = append(t.lane.turn, t.queueKey)
	}
	t.lane.queues[t.queueKey] = append(t.lane.queues[t.queueKey], t)
	a.waiting++
	a.admit()
	return t, nil
}

// checkCapacity returns the OverloadedError with which enqueue would fail now, or nil.
func (a *admission) checkCapacity(caller string, op Operation) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err := a.checkQueue(queueKey{caller, op == OpCreate})
	return err
}

func (a *admission) lane(op Operation) *lane {
	if op == OpSign {
		return &a.lanes[0]
	}
	return &a.lanes[1]
}

// hasFreeSlot reports whether one more run of w would get a slot at once. It must be called with mu held.
func (a *admission) hasFreeSlot(w queueKey) bool {
	return a.busy < a.slots && (!w.create || a.creating < a.maxCreates)
}

// checkQueue returns an OverloadedError if one more run of w can neither get a slot nor wait. If it can only wait in
// place of another run, that is displaced. It must be called with mu held.
func (a *admission) checkQueue(w queueKey) (displaced *ticket, err error) {
	switch {
	case a.hasFreeSlot(w):
		return nil, nil //nolint:nilnil // no run is displaced
	case a.waitingOf(w) >= a.share:
		return nil, a.shareFull(w)
	case a.waiting < a.maxQueue:
		return nil, nil //nolint:nilnil // no run is displaced
	}
	if displaced = a.findDisplaced(w); displaced == nil {
		err = &OverloadedError{RetryAfter: a.estimateWait(a.waiting + 1)}
	}
	return displaced, err
}

// waitingOf returns how many runs of w wait. It must be called with mu held.
func (a *admission) waitingOf(w queueKey) int {
	return len(a.lanes[0].queues[w]) + len(a.lanes[1].queues[w])
}

// shareFull returns the error for a caller whose share is used up. It may retry when the first of its waiting runs has
// a slot. It must be called with mu held.
func (a *admission) shareFull(w queueKey) error {
	first := uint32(0)
	for i := range a.lanes {
		if q := a.lanes[i].queues[w]; len(q) > 0 && (first == 0 || q[0].position < first) {
			first = q[0].position
		}
	}
	return &OverloadedError{RetryAfter: a.estimateWait(int(first)), Own: true}
}

// findDisplaced returns the ticket that one more run of w displaces in a full queue: the newest of the key with the
// most waiting runs, if these are more than w would then have, otherwise nil. It must be called with mu held.
func (a *admission) findDisplaced(w queueKey) (t *ticket) {
	most := a.waitingOf(w) + 1
	for i := range a.lanes {
		for other, q := range a.lanes[i].queues {
			if n := a.waitingOf(other); n > most {
				most, t = n, q[len(q)-1]
			}
		}
	}
	return t
}

// displace removes a ticket from the queue in favour of another. It must be called with mu held.
func (a *admission) displace(t *ticket) {
	t.displacedErr, t.left = a.shareFull(t.queueKey), true
	close(t.displaced)
	a.waiting--
	t.lane.remove(t)
}

// estimateWait estimates how long it takes until the given number of runs have got their slots. It must be called with
// mu held.
func (a *admission) estimateWait(runs int) time.Duration {
	return a.recent * time.Duration(runs) / time.Duration(a.slots)
}

// reportEvery is the minimum time between two reports of a position, which changes often in a busy queue.
const reportEvery = time.Second

// wait returns when the ticket has a slot, with an OverloadedError when it was displaced, or with ctx's cause. It
// reports each change of the position.
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
		case <-t.displaced:
			return t.displacedErr
		case <-moved:
			if position := t.currentPosition(); position > 0 {
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

// currentPosition returns the position and clears moved, so that wait reports only later changes.
func (t *ticket) currentPosition() uint32 {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	select {
	case <-t.moved:
	default:
	}
	return t.position
}

// yieldSlot reports whether the ticket must give its slot up: its caller has more than its share of the slots,
// computed like its share of the queue, while other callers wait. Such a ticket is no longer counted, so that of
// several runs that ask at the same time no more yield than are over the share.
func (t *ticket) yieldSlot() bool {
	a := t.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.left || t.yielded || a.heldBy[t.caller] <= max(1, a.slots*a.share/a.maxQueue) {
		return t.yielded
	}
	for i := range a.lanes {
		if slices.ContainsFunc(a.lanes[i].turn, func(w queueKey) bool { return w.caller != t.caller }) {
			t.yielded = true
			a.releaseSlot(t.caller)
			return true
		}
	}
	return false
}

// releaseSlot takes one slot off a caller's count. It must be called with mu held.
func (a *admission) releaseSlot(caller string) {
	if a.heldBy[caller]--; a.heldBy[caller] == 0 {
		delete(a.heldBy, caller)
	}
}

// leave gives up the slot, or the position in the queue. Later calls do nothing.
func (t *ticket) leave() {
	a := t.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	select {
	case <-t.ready:
		a.busy--
		if !t.yielded {
			a.releaseSlot(t.caller)
		}
		if t.create {
			a.creating--
		}
		// The newest counts an eighth, so that a few unusual runs do not distort the average.
		a.recent += (time.Since(t.since) - a.recent) / 8
	default:
		a.waiting--
		t.lane.remove(t)
	}
	a.admit()
}

// admit gives free slots to the next tickets and updates the positions of the others. It must be called with mu held.
func (a *admission) admit() {
	for {
		t := a.next()
		if t == nil {
			break
		}
		a.waiting--
		a.busy++
		a.heldBy[t.caller]++
		if t.create {
			a.creating++
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
		default: // wait reads the latest position
		}
	}
}

// next removes the next ticket from the queue and returns it, or nil if none can have a slot. It must be called with
// mu held.
func (a *admission) next() *ticket {
	signing, rest := &a.lanes[0], &a.lanes[1]
	restWaits := slices.ContainsFunc(rest.turn, a.hasFreeSlot)
	if !restWaits || a.signingAhead < maxSigningAhead {
		if t := signing.next(a.hasFreeSlot); t != nil {
			a.signingAhead++
			if !restWaits {
				a.signingAhead = 0
			}
			return t
		}
	}
	t := rest.next(a.hasFreeSlot)
	if t != nil {
		a.signingAhead = 0
	}
	return t
}

// inOrder returns the waiting tickets in the order in which next would return them. It must be called with mu held.
func (a *admission) inOrder() (all []*ticket) {
	signing, rest := a.lanes[0].inOrder(), a.lanes[1].inOrder()
	for ahead := a.signingAhead; len(signing)+len(rest) > 0; {
		if len(signing) > 0 && (len(rest) == 0 || ahead < maxSigningAhead) {
			all, signing, ahead = append(all, signing[0]), signing[1:], ahead+1
		} else {
			all, rest, ahead = append(all, rest[0]), rest[1:], 0
		}
	}
	return all
}

// next removes the oldest ticket of the first queue that hasFreeSlot accepts, moves that queue to the end, and returns
// the ticket; nil if there is none.
func (l *lane) next(hasFreeSlot func(queueKey) bool) *ticket {
	i := slices.IndexFunc(l.turn, hasFreeSlot)
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
	q := slices.DeleteFunc(l.queues[t.queueKey], func(x *ticket) bool { return x == t })
	l.queues[t.queueKey] = q
	if len(q) == 0 {
		delete(l.queues, t.queueKey)
		l.turn = slices.DeleteFunc(l.turn, func(w queueKey) bool { return w == t.queueKey })
	}
}

// inOrder returns the tickets in the order in which next would return them.
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
