package session

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// drainOrder empties a full admission of one slot, and returns the callers in the order
// in which they got it.
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

func enter(t *testing.T, a *admission, caller string, op Operation) *ticket {
	t.Helper()
	tk, err := a.enqueue(caller, op)
	require.NoError(t, err)
	return tk
}

// A caller with one run waits for one run of the caller with many, not for all.
func TestCallersTakeTurns(t *testing.T) {
	a := newAdmission(1, 100)
	holder := enter(t, a, "first", OpProvision)
	var waiting []*ticket
	for range 4 {
		waiting = append(waiting, enter(t, a, "greedy", OpProvision))
	}
	waiting = append(waiting, enter(t, a, "modest", OpProvision), enter(t, a, "other", OpProvision))
	require.Equal(t, []string{"greedy", "modest", "other", "greedy", "greedy", "greedy"}, drainOrder(holder, waiting))
}

func TestSigningGoesAhead(t *testing.T) {
	a := newAdmission(1, 100)
	holder := enter(t, a, "x", OpProvision)
	slow := enter(t, a, "slow", OpProvision)
	quick := enter(t, a, "quick", OpSign)
	require.Equal(t, []string{"quick", "slow"}, drainOrder(holder, []*ticket{slow, quick}))
}

// A caller who signs without a pause keeps nobody from a share set for ever.
func TestSigningDoesNotGoAheadForEver(t *testing.T) {
	a := newAdmission(1, 100)
	signs := func() *ticket { return enter(t, a, "greedy", OpSign) }
	now, waiting := signs(), []*ticket{signs(), signs()}
	other := enter(t, a, "modest", OpProvision)
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
		require.Less(t, n, 3*maxSigningAhead, "it starves")
	}
}

// Positions are those of the order in which slots are given, and fall as it goes on.
func TestPositions(t *testing.T) {
	a := newAdmission(1, 100)
	holder := enter(t, a, "x", OpProvision)
	g1, g2, m := enter(t, a, "g", OpProvision), enter(t, a, "g", OpProvision), enter(t, a, "m", OpProvision)
	s := enter(t, a, "s", OpSign)
	position := func() []uint32 { return []uint32{s.position, g1.position, m.position, g2.position} }
	require.Equal(t, []uint32{1, 2, 3, 4}, position())
	holder.leave()
	require.Equal(t, []uint32{0, 1, 2, 3}, position())
	m.leave() // it gives up
	require.Equal(t, []uint32{0, 1, 0, 2}, []uint32{s.position, g1.position, 0, g2.position})
	s.leave()
	g1.leave()
	g1.leave() // a second time is nothing
	require.Zero(t, g2.position)
	g2.leave()
	require.Zero(t, a.busy)
	require.Zero(t, a.waiting)
	require.Empty(t, a.lanes[1].queues)
}

func TestWaitReportsAndObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(1, 100)
		holder := enter(t, a, "x", OpProvision)
		ahead, tk := enter(t, a, "y", OpProvision), enter(t, a, "z", OpProvision)
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

		holder = enter(t, a, "x", OpProvision)
		tk = enter(t, a, "z", OpProvision)
		stop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stop)
		require.ErrorIs(t, tk.wait(ctx, func(uint32) {}), stop)
		tk.leave()
		holder.leave()
		require.Zero(t, a.busy)
	})
}

// A full queue refuses, and says when to come back: the queue's length times what runs
// took lately, over the slots.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(2, 3)
		h1, h2 := enter(t, a, "x", OpProvision), enter(t, a, "x", OpProvision)
		time.Sleep(12 * time.Second)
		h1.leave()
		h1 = enter(t, a, "x", OpProvision)
		waiting := []*ticket{enter(t, a, "x", OpProvision), enter(t, a, "w", OpProvision), enter(t, a, "y", OpSign)}
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
