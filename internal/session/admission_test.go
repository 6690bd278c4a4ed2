package session

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// drainOrder empties a full admission of one slot, and returns the callers in the order in which they got it.
func drainOrder(holder *ticket, tickets []*ticket) []string {
	var order []string
	holder.leave()
	for range tickets {
		for _, t := range tickets {
			select {
			case <-t.ready:
				if !t.left {
					order = append(order, t.caller)
					t.leave()
				}
			default:
			}
		}
	}
	return order
}

func enqueue(t *testing.T, a *admission, caller string, op Operation) *ticket {
	t.Helper()
	tk, err := a.enqueue(caller, op)
	require.NoError(t, err)
	return tk
}

// A caller with one run waits for one run of the caller with many, not for all of them.
func TestCallersTakeTurns(t *testing.T) {
	a := newAdmission(1, 100)
	holder := enqueue(t, a, "first", OpProvision)
	var waiting []*ticket
	for range 4 {
		waiting = append(waiting, enqueue(t, a, "greedy", OpProvision))
	}
	waiting = append(waiting, enqueue(t, a, "modest", OpProvision), enqueue(t, a, "other", OpProvision))
	require.Equal(t, []string{"greedy", "modest", "other", "greedy", "greedy", "greedy"}, drainOrder(holder, waiting))
}

func TestSigningGoesFirst(t *testing.T) {
	a := newAdmission(1, 100)
	holder := enqueue(t, a, "x", OpProvision)
	slow := enqueue(t, a, "slow", OpProvision)
	quick := enqueue(t, a, "quick", OpSign)
	require.Equal(t, []string{"quick", "slow"}, drainOrder(holder, []*ticket{slow, quick}))
}

// A caller that signs without pause does not keep others from making share sets.
func TestSigningDoesNotStarveOthers(t *testing.T) {
	a := newAdmission(1, 100)
	signs := func() *ticket { return enqueue(t, a, "greedy", OpSign) }
	now, waiting := signs(), []*ticket{signs(), signs()}
	other := enqueue(t, a, "modest", OpProvision)
	require.Equal(t, uint32(3), other.position)
	for n := 0; ; n++ {
		now.leave()
		select {
		case <-other.ready:
			require.Equal(t, maxSigningAhead, n)
			other.leave()
			<-waiting[0].ready
			return
		case <-waiting[0].ready:
			now, waiting = waiting[0], append(waiting[1:], signs())
		}
		require.Less(t, n, 3*maxSigningAhead, "the other caller starves")
	}
}

// Positions follow the order in which slots are given, and decrease.
func TestPositions(t *testing.T) {
	a := newAdmission(1, 100)
	holder := enqueue(t, a, "x", OpProvision)
	g1, g2, m := enqueue(t, a, "g", OpProvision), enqueue(t, a, "g", OpProvision), enqueue(t, a, "m", OpProvision)
	s := enqueue(t, a, "s", OpSign)
	position := func() []uint32 { return []uint32{s.position, g1.position, m.position, g2.position} }
	require.Equal(t, []uint32{1, 2, 3, 4}, position())
	holder.leave()
	require.Equal(t, []uint32{0, 1, 2, 3}, position())
	m.leave() // it gives up
	require.Equal(t, []uint32{0, 1, 0, 2}, []uint32{s.position, g1.position, 0, g2.position})
	s.leave()
	g1.leave()
	g1.leave() // no effect
	require.Zero(t, g2.position)
	g2.leave()
	require.Zero(t, a.busy)
	require.Zero(t, a.waiting)
	require.Empty(t, a.lanes[1].queues)
}

func TestWaitReportsAndObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(1, 100)
		holder := enqueue(t, a, "x", OpProvision)
		ahead, tk := enqueue(t, a, "y", OpProvision), enqueue(t, a, "z", OpProvision)
		var seen []uint32
		done := make(chan error)
		go func() { done <- tk.wait(t.Context(), func(p uint32) { seen = append(seen, p) }) }()
		synctest.Wait()
		holder.leave()
		time.Sleep(2 * reportEvery)
		ahead.leave()
		require.NoError(t, <-done)
		require.Equal(t, []uint32{2, 1}, seen)
		tk.leave()

		holder = enqueue(t, a, "x", OpProvision)
		tk = enqueue(t, a, "z", OpProvision)
		stop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stop)
		require.ErrorIs(t, tk.wait(ctx, func(uint32) {}), stop)
		tk.leave()
		holder.leave()
		require.Zero(t, a.busy)
	})
}

// A full queue refuses, with a retry time of its length times the recent duration of runs, divided by the slots.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(2, 3)
		h1, h2 := enqueue(t, a, "x", OpProvision), enqueue(t, a, "x", OpProvision)
		time.Sleep(12 * time.Second)
		h1.leave()
		h1 = enqueue(t, a, "x", OpProvision)
		waiting := []*ticket{enqueue(t, a, "x", OpProvision), enqueue(t, a, "w", OpProvision), enqueue(t, a, "y", OpSign)}
		_, err := a.enqueue("z", OpSign)
		require.ErrorIs(t, err, ErrOverloaded)
		var o *OverloadedError
		require.ErrorAs(t, err, &o)
		require.Equal(t, 10*time.Second, o.RetryAfter, "(4 s + (12 s - 4 s)/8) * 4 runs / 2 slots")
		for _, tk := range append(waiting, h1, h2) {
			tk.leave()
		}
		require.Zero(t, a.waiting)
	})
}
