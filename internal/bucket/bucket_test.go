package bucket

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// Each key has its own bucket, which refills.
func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[string](rate.Every(10*time.Second), 2, 100)
		require.Zero(t, s.Take("a"))
		require.Zero(t, s.Take("a"))
		require.Equal(t, 10*time.Second, s.Take("a").Round(time.Millisecond))
		require.Equal(t, 10*time.Second, s.Take("a").Round(time.Millisecond), "a refused Take costs nothing")
		require.Zero(t, s.Take("b"))
		time.Sleep(10 * time.Second)
		require.Zero(t, s.Take("a"))
		require.Positive(t, s.Take("a"))
	})
}

// Spend may overdraw the bucket; the next Take has to wait for that as well.
func TestSpend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[string](rate.Every(time.Minute), 2, 100)
		require.Zero(t, s.Left("a"))
		s.Spend("a")
		require.Zero(t, s.Left("a"))
		s.Spend("a")
		s.Spend("a")
		require.InDelta(t, 2*time.Minute, s.Left("a"), float64(time.Millisecond))
		require.Zero(t, s.Left("b"))
		time.Sleep(2*time.Minute + time.Millisecond)
		require.Zero(t, s.Left("a"))
	})
}

// The number of buckets is bounded, and those in use are kept.
func TestMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a fake clock
		const most = 100
		s := New[int](1, 1, most)
		require.Zero(t, s.Take(-1))
		for i := range 2 * most {
			require.Zero(t, s.Take(i))
			if i%10 == 0 {
				require.Positive(t, s.Take(-1), "a bucket in use is kept")
			}
		}
		require.Len(t, s.of, most)
		require.Equal(t, most, s.recent.Len())
		require.Zero(t, s.Take(0), "its bucket was dropped")
	})
}
