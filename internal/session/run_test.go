package session

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// collect follows r from a sequence number to its end.
func collect(ctx context.Context, r *Run, after uint32) (all []Event, err error) {
	err = r.Follow(ctx, after, 0, func(e Event) error {
		all = append(all, e)
		return nil
	})
	return all, err
}

func sequences(all []Event) (seq []uint32) {
	for _, e := range all {
		if e.Progress != nil {
			seq = append(seq, e.Progress.Sequence)
		}
	}
	return seq
}

func startedRun() *Run {
	r := newRun(runKey{"alice", "1"}, []byte("fingerprint"))
	r.id, r.created = "id", time.Now()
	return r
}

func TestFollowFromAnywhere(t *testing.T) {
	t.Parallel()
	r := startedRun()
	for range 4 {
		r.report(Progress{Status: StatusGeneratingShare})
	}
	out := &Outcome{WalletID: "w"}
	r.end(out, nil)
	r.end(nil, errors.New("only the first end counts"))
	all := []uint32{1, 2, 3, 4}
	for after := range uint32(7) {
		got, err := collect(t.Context(), r, after)
		require.NoError(t, err)
		require.Equal(t, all[min(after, 4):], append([]uint32{}, sequences(got)...))
		last := got[len(got)-1]
		require.Nil(t, last.Progress)
		require.Same(t, out, last.Outcome, "the outcome is always sent, and last")
	}
}

// A device receives progress before the parts that follow it, also if both arrive while it attaches: it could not
// assign a part to a run before.
func TestPartsComeAfterTheirProgress(t *testing.T) {
	t.Parallel()
	r := startedRun()
	r.connectDevice(&Device{Instance: "i"}, time.Hour, nil)
	d := r.device
	d.mu.Lock() // the follower has read the progress, and blocks here before reading parts
	first, seen := make(chan Event, 1), errors.New("seen")
	ended := make(chan error, 1)
	go func() { // ends with the first event
		ended <- r.Follow(t.Context(), 0, 0, func(e Event) error {
			first <- e
			return seen
		})
	}()
	time.Sleep(100 * time.Millisecond) // it blocks by now, or will read both at once
	r.report(Progress{})
	require.NoError(t, d.end.Send(Part{MAC: []byte("x")}))
	d.mu.Unlock()
	require.NotNil(t, (<-first).Progress)
	require.ErrorIs(t, <-ended, seen)
}

// A device that starts the next attempt may still attach to the failed run: it gets its error, and none of its parts.
func TestARunThatFailedHasNoParts(t *testing.T) {
	t.Parallel()
	r := startedRun()
	r.connectDevice(&Device{Instance: "i"}, time.Hour, nil)
	r.report(Progress{})
	require.NoError(t, r.device.Send(t.Context(), Part{MAC: []byte("x")}))
	r.end(nil, ErrWebhookFailed)
	err := r.Follow(t.Context(), r.lastProgress().Sequence, 0, func(e Event) error {
		return fmt.Errorf("an event came: %v", e)
	})
	require.ErrorIs(t, err, ErrWebhookFailed)
}

func TestFollowersSeeTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startedRun()
		const followers = 20
		results := make(chan []Event, followers)
		for i := range followers {
			go func() { // ends with the run
				var all []Event
				err := r.Follow(t.Context(), 0, 0, func(e Event) error {
					time.Sleep(time.Duration(i) * time.Second) // some are slow
					all = append(all, e)
					return nil
				})
				if err != nil {
					all = nil
				}
				results <- all
			}()
		}
		for range 50 {
			r.report(Progress{})
			synctest.Wait() // slow followers do not delay the run
		}
		r.end(&Outcome{}, nil)
		first := <-results
		require.Len(t, first, 51)
		for range followers - 1 {
			require.Equal(t, first, <-results)
		}
	})
}

func TestFollowEnds(t *testing.T) {
	t.Parallel()
	cause := errors.New("the caller went away")
	r := startedRun()
	r.report(Progress{})

	ctx, cancel := context.WithCancelCause(t.Context())
	err := r.Follow(ctx, 0, 0, func(Event) error {
		cancel(cause)
		return nil
	})
	require.ErrorIs(t, err, cause)
	err = r.Follow(t.Context(), 0, 0, func(Event) error { return cause })
	require.ErrorIs(t, err, cause, "an error of send is returned as it is")

	r.end(nil, ErrProtocolAborted)
	all, err := collect(t.Context(), r, 0)
	require.ErrorIs(t, err, ErrProtocolAborted)
	require.Equal(t, []uint32{1}, sequences(all), "progress comes before the error")
	all, err = collect(t.Context(), r, 1)
	require.ErrorIs(t, err, ErrProtocolAborted)
	require.Empty(t, all)
}

func TestStampKeepsOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startedRun()
		require.Equal(t, Progress{}, r.lastProgress())
		for _, percent := range []uint32{0, 5, 3, 4, 90, 1, 100} {
			r.report(Progress{Percent: percent})
			time.Sleep(time.Second + time.Nanosecond)
		}
		var got []uint32
		for i, p := range r.log {
			require.Equal(t, uint32(i+1), p.Sequence)
			require.Equal(t, uint32(1), p.Attempt)
			require.Equal(t, time.Duration(i)*time.Second, p.Elapsed, "in microseconds, as it is stored")
			got = append(got, p.Percent)
		}
		require.Equal(t, []uint32{0, 5, 5, 5, 90, 90, 100}, got, "the percentage never decreases")
		require.Equal(t, r.log[6], r.lastProgress())
	})
}

func TestSpans(t *testing.T) {
	t.Parallel()
	for _, curves := range [][]Curve{{Secp256k1}, {Ed25519}, {Secp256k1, Ed25519}} {
		last := uint32(percentGenerating)
		for i, c := range curves {
			sp := newSpan(c, curves)
			require.Equal(t, last, sp.lo, "where the one before ended")
			require.Greater(t, sp.hi, sp.lo)
			const n = 9
			for k := range n + 1 {
				p := sp.progress(k, n)
				require.Equal(t, c, p.Curve)
				require.GreaterOrEqual(t, p.Percent, last)
				require.LessOrEqual(t, p.Percent, sp.hi)
				last = p.Percent
			}
			waiting := sp.progress(0, 0)
			require.Equal(t, Progress{Status: StatusGeneratingShare, Curve: c, Percent: sp.lo}, waiting, "rounds = 0: pre-params are being made")
			last = sp.hi
			if i == len(curves)-1 {
				require.Equal(t, uint32(percentStoring), sp.hi)
			}
		}
	}
}
