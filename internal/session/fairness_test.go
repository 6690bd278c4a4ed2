package session_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// One caller starts a hundred runs, then two hundred callers one each. Each of these waits for the earlier callers'
// first runs, not for the hundred. A caller that does not fit in the queue is told when to retry, and a waiting run
// needs little memory.
func TestQueueIsFair(t *testing.T) {
	const greedy, callers = 100, 200
	gate := servertest.NewGate()
	p := servertest.Open(t, servertest.Config{
		Sessions: session.Config{Slots: 1, Queue: greedy - 1 + callers, QueueShare: greedy, Creates: greedy + 1},
		Wrap: withPreParams(func(ctx context.Context) error {
			if err := gate.Wait(ctx); err != nil {
				return err
			}
			return errFault // so that nothing is computed
		}),
	})
	var runs []*session.Run
	enqueue := func(name string) (position uint32) {
		r, err := p.Sessions.Create(t.Context(), session.Caller{Name: name}, idle())
		require.NoError(t, err)
		runs = append(runs, r)
		rec, err := p.Sessions.Session(t.Context(), session.Caller{Name: name}, r.SessionID())
		require.NoError(t, err)
		return rec.Progress.QueuePosition
	}
	enqueue("greedy")
	<-gate.Came
	for i := range greedy - 1 {
		require.EqualValues(t, i+1, enqueue("greedy"))
	}
	before := heap()
	for i := range callers {
		// The greedy caller's next run is before them, and all its others behind.
		require.EqualValues(t, i+2, enqueue(fmt.Sprintf("caller %d", i)))
	}
	t.Logf("%d bytes of heap for each run that waits", (heap()-before)/callers)
	require.Less(t, heap()-before, int64(callers*64<<10))
	// The queue is full: the greedy caller's last run is displaced.
	require.EqualValues(t, callers+2, enqueue("late"))
	_, _, err := ended(t, runs[greedy-1], nil)
	var o *session.OverloadedError
	require.ErrorAs(t, err, &o)
	require.True(t, o.Own)
	require.Positive(t, o.RetryAfter)
	runs = slices.Delete(runs, greedy-1, greedy)
	over := make(chan struct{})
	defer close(over)
	go func() { // ends with the test
		for { // a run asks for its two parties' sets at once, and the first error ends it
			select {
			case <-gate.Came:
			case <-over:
				return
			}
		}
	}()
	gate.Open()
	for _, r := range runs {
		_, _, err := ended(t, r, nil)
		require.ErrorIs(t, err, errFault)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
