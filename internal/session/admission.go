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
// hundred runs does not starve another with one. Signing goes ahead of everything that
// makes a share set, since it is short and somebody waits at a till.
type admission struct {
	slots    int // how many compute at once
	maxQueue int // how many wait at most

	mu      sync.Mutex // guards what follows
	busy    int
	waiting int
	lanes   [2]lane       // signing, then the rest
	recent  time.Duration // how long a run held its slot lately, a moving average
}

// lane is one queue of callers that take turns.
type lane struct {
	turn   []string             // callers with somebody waiting, the next one first
	queues map[string][]*ticket // by caller, the oldest first
}

// ticket is one run's place.
type ticket struct {
	a      *admission
	lane   *lane
	caller string
	ready  chan struct{} // closed when it has a slot
	moved  chan struct{} // holds a token when the position changed
	// Guarded by a.mu:
	position uint32 // how many go ahead of it, and itself; 0 once it has a slot
	since    time.Time
	gone     bool
}

// OverloadedError says that the queue is full.
type OverloadedError struct{ RetryAfter time.Duration }

// Error implements error.
func (e *OverloadedError) Error() string {
	return fmt.Sprintf("%v: the queue is full, retry after %v", ErrOverloaded, e.RetryAfter)
}

// Is makes an OverloadedError an ErrOverloaded.
func (e *OverloadedError) Is(target error) bool { return target == ErrOverloaded }

// firstGuess is how long a run is taken to be before any has ended: an ECDSA resharing
// with warm pre-params on two cores.
const firstGuess = 4 * time.Second

func newAdmission(slots, maxQueue int) *admission {
	a := &admission{slots: slots, maxQueue: maxQueue, recent: firstGuess}
	for i := range a.lanes {
		a.lanes[i].queues = make(map[string][]*ticket)
	}
	return a
}

// enter takes a place, in a slot or in the queue, or fails with an OverloadedError. The
// place is kept until leave.
func (a *admission) enter(caller string, op Operation) (*ticket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := &ticket{a: a, lane: &a.lanes[1], caller: caller, ready: make(chan struct{}), moved: make(chan struct{}, 1)}
	if op == OpSign {
		t.lane = &a.lanes[0]
	}
	if a.busy >= a.slots && a.waiting >= a.maxQueue {
		return nil, &OverloadedError{RetryAfter: a.recent * time.Duration(a.waiting+1) / time.Duration(a.slots)}
	}
	if len(t.lane.queues[caller]) == 0 {
		t.lane.turn = append(t.lane.turn, caller)
	}
	t.lane.queues[caller] = append(t.lane.queues[caller], t)
	a.waiting++
	a.admit()
	return t, nil
}

// reportEvery is how often a position is reported at most: in a crowd it changes with
// everybody who comes or goes.
const reportEvery = time.Second

// wait returns when the ticket has a slot, or ctx's cause. It reports the position when it
// changed.
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
	for a.busy < a.slots && a.waiting > 0 {
		t := a.lanes[0].next()
		if t == nil {
			t = a.lanes[1].next()
		}
		a.waiting--
		a.busy++
		t.position, t.since = 0, time.Now()
		close(t.ready)
	}
	ahead := uint32(0)
	for i := range a.lanes {
		for _, t := range a.lanes[i].inOrder() {
			ahead++
			if t.position == ahead {
				continue
			}
			t.position = ahead
			select {
			case t.moved <- struct{}{}:
			default: // one token says it all
			}
		}
	}
}

// next takes out the oldest ticket of the caller whose turn it is.
func (l *lane) next() *ticket {
	if len(l.turn) == 0 {
		return nil
	}
	caller := l.turn[0]
	t := l.queues[caller][0]
	l.turn = l.turn[1:]
	l.queues[caller] = l.queues[caller][1:]
	if len(l.queues[caller]) > 0 {
		l.turn = append(l.turn, caller)
	} else {
		delete(l.queues, caller)
	}
	return t
}

func (l *lane) remove(t *ticket) {
	q := slices.DeleteFunc(l.queues[t.caller], func(x *ticket) bool { return x == t })
	l.queues[t.caller] = q
	if len(q) == 0 {
		delete(l.queues, t.caller)
		l.turn = slices.DeleteFunc(l.turn, func(c string) bool { return c == t.caller })
	}
}

// inOrder lists the tickets in the order in which next would take them.
func (l *lane) inOrder() []*ticket {
	var all []*ticket
	for round := 0; ; round++ {
		found := false
		for _, caller := range l.turn {
			if q := l.queues[caller]; round < len(q) {
				all = append(all, q[round])
				found = true
			}
		}
		if !found {
			return all
		}
	}
}
