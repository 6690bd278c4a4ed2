package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A silent stream repeats its last progress after twenty seconds, with the same sequence number; an active stream does
// not.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startedRun()
		type beat struct {
			at  time.Duration
			seq uint32
		}
		begun := time.Now()
		follow := func(after uint32) (seen *[]beat, ended chan error) {
			seen, ended = new([]beat), make(chan error, 1)
			go func() { // ends with the run
				ended <- r.Follow(t.Context(), after, 0, func(e Event) error {
					if e.Progress != nil {
						*seen = append(*seen, beat{time.Since(begun), e.Progress.Sequence})
					}
					return nil
				})
			}()
			return seen, ended
		}
		seen, ended := follow(0)
		time.Sleep(25 * time.Second) // nothing to repeat yet
		r.report(Progress{})
		time.Sleep(19 * time.Second)
		synctest.Wait()
		require.Len(t, *seen, 1)
		r.report(Progress{}) // at 44 s: one second before a beat
		late, lateEnded := follow(2)
		time.Sleep(45 * time.Second)
		for range 3 { // more often than the heartbeat
			r.report(Progress{})
			time.Sleep(15 * time.Second)
		}
		r.end(&Outcome{}, nil)
		require.NoError(t, <-ended)
		require.NoError(t, <-lateEnded)
		const s = time.Second
		require.Equal(t, []beat{{25 * s, 1}, {44 * s, 2}, {64 * s, 2}, {84 * s, 2}, {89 * s, 3}, {104 * s, 4}, {119 * s, 5}}, *seen)
		require.Equal(t, []beat{{64 * s, 2}, {84 * s, 2}, {89 * s, 3}, {104 * s, 4}, {119 * s, 5}}, *late,
			"a caller that attaches to a silent run gets heartbeats too")
	})
}

// A heartbeat never overtakes progress that has not been sent yet.
func TestHeartbeatKeepsOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startedRun()
		var seen []uint32
		ended := make(chan error, 1)
		go func() { // ends with the run
			ended <- r.Follow(t.Context(), 0, 0, func(e Event) error {
				if e.Progress != nil {
					seen = append(seen, e.Progress.Sequence)
				}
				return nil
			})
		}()
		for range 40 { // reports and heartbeats coincide
			r.report(Progress{})
			r.report(Progress{})
			time.Sleep(heartbeat)
		}
		r.end(&Outcome{}, nil)
		require.NoError(t, <-ended)
		require.IsNonDecreasing(t, seen)
		require.Equal(t, uint32(80), seen[len(seen)-1])
	})
}
