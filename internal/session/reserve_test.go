package session

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// oneSet is a store with one set.
type oneSet struct {
	Wallets
	set *StoredSet
	err error
}

func (w oneSet) Set(context.Context, string, string) (*StoredSet, error) { return w.set, w.err }

func TestCheckUsable(t *testing.T) {
	t.Parallel()
	require.NoError(t, (&ShareSet{State: SetActive}).checkUsable())
	require.ErrorIs(t, (&ShareSet{State: SetPending}).checkUsable(), ErrShareSetPending)
	require.ErrorIs(t, (&ShareSet{State: SetRevoked}).checkUsable(), ErrShareSetRevoked)
	require.ErrorIs(t, (&ShareSet{State: SetRevoked, LockTime: time.Now()}).checkUsable(), ErrShareSetRevoked)
	require.ErrorIs(t, (&ShareSet{State: SetActive, LockTime: time.Now()}).checkUsable(), ErrShareSetLocked)
}

// A set, and its wallet, have no more device-held runs than aborts left. Hosted runs, which blame no client, are not
// limited. A refused run is not counted.
func TestNoMoreRunsThanAbortsLeft(t *testing.T) {
	t.Parallel()
	begin := func(aborts, wallet, soft uint32, others ...string) (*runner, *Run) {
		s := &runner{cfg: Config{Aborts: 3}.withDefaults(), live: map[runKey]*Run{}, clock: newClock(time.Now)}
		set := ShareSet{ID: "set", State: SetActive, Aborts: aborts}
		s.ports.Wallets = oneSet{set: &StoredSet{ShareSet: set, WalletHard: wallet, WalletSoft: soft}}
		for i, uses := range others {
			key := runKey{"alice", string(rune('a' + i))}
			s.live[key] = &Run{key: key, device: &device{}, ofWallet: "wallet", uses: uses}
		}
		r := &Run{device: &device{}}
		s.live[runKey{"alice", "z"}] = r
		return s, r
	}
	p := &plan{walletID: "wallet", uses: "set"}
	for _, x := range []struct {
		aborts, wallet, soft uint32
		others               []string
		arms, fits           bool
	}{
		{0, 0, 0, nil, false, true},
		{2, 0, 0, nil, false, true},
		{3, 0, 0, nil, false, false},
		{1, 0, 0, []string{"set"}, false, true},
		{1, 0, 0, []string{"set", "set"}, false, false},
		{1, 0, 0, []string{"set", "other"}, false, true},
		{0, 8, 0, []string{"other"}, false, false}, // three times as many for a wallet
		{0, 7, 0, []string{"other"}, false, true},
		{0, 0, 31, nil, true, true},
		{0, 0, 32, nil, true, false},
		{0, 0, 32, nil, false, true},
	} {
		s, r := begin(x.aborts, x.wallet, x.soft, x.others...)
		p.arms = x.arms
		err := s.reserveSet(t.Context(), r, p)
		require.Equal(t, x.fits, err == nil, "%+v: %v", x, err)
		if x.fits {
			require.Equal(t, "set", r.uses)
		} else {
			require.Empty(t, r.uses)
			require.Empty(t, r.ofWallet)
		}
		r.device = nil
		require.NoError(t, s.reserveSet(t.Context(), r, p), "hosted")
	}
	gone := errors.New("gone")
	s, r := begin(0, 0, 0)
	s.ports.Wallets = oneSet{err: gone}
	require.ErrorIs(t, s.reserveSet(t.Context(), r, p), gone)
	require.Empty(t, r.uses)
	s.ports.Wallets = oneSet{set: &StoredSet{ShareSet: ShareSet{State: SetRevoked}}}
	require.ErrorIs(t, s.reserveSet(t.Context(), r, p), ErrShareSetRevoked)
}
