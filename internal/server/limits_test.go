package server

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
)

func TestLimiterBucketsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // a fake clock
		l := newLimiter(Limits{Rate: 1, Burst: 1})
		require.NoError(t, l.take("Sign", "alice"))
		require.NoError(t, l.take("GetWallet", "alice"), "each method has its own")
		require.NoError(t, l.take("Sign", "bob"), "each caller has its own")
		err := l.take("Sign", "alice")
		require.ErrorIs(t, err, session.ErrRateLimited)
		require.Equal(t, "RATE_LIMITED", session.Reason(err))
		wait, ok := retryIn(err, session.Reason(err))
		require.True(t, ok)
		require.Positive(t, wait)
		for i := range 2 * maxBuckets {
			require.NoError(t, l.take("Sign", fmt.Sprint(i)))
			if i%1000 == 0 {
				require.ErrorIs(t, l.take("Sign", "alice"), session.ErrRateLimited, "a bucket in use is kept")
			}
		}
		require.NoError(t, l.take("Sign", "0"), "the number is bounded: its bucket was dropped")
		for range 10 {
			require.NoError(t, newLimiter(Limits{}).take("Sign", "alice"), "zero sets no limit")
		}
	})
}

func TestNetworkOf(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.7:1": "192.0.2.7", "192.0.2.7": "192.0.2.7", "[::ffff:192.0.2.7]:1": "192.0.2.7",
		"[2001:db8:1:2:3::4]:1": "2001:db8:1:2::/64", "2001:db8:1:2::": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64",
		"bufconn": "unknown", "": "unknown", "example.org:1": "unknown",
	} {
		require.Equal(t, want, networkOf(addr), addr)
	}
}
