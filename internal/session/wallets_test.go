package session

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPickRevoked(t *testing.T) {
	t.Parallel()
	//  a -> b (backup) -> c, d;  a -> e (backup, pending);  f stands alone;  g is revoked, its child h is not
	sets := []ShareSet{
		{ID: "a", Purpose: Signing, State: SetActive},
		{ID: "b", Purpose: Backup, State: SetActive, ParentID: "a"},
		{ID: "c", Purpose: Signing, State: SetActive, ParentID: "b"},
		{ID: "d", Purpose: Signing, State: SetPending, ParentID: "b"},
		{ID: "e", Purpose: Backup, State: SetPending, ParentID: "a"},
		{ID: "f", Purpose: Signing, State: SetActive},
		{ID: "g", Purpose: Backup, State: SetRevoked},
		{ID: "h", Purpose: Signing, State: SetActive, ParentID: "g"},
	}
	for name, c := range map[string]struct {
		sets      []ShareSet
		id        string
		keep, all bool
		want      []string
		err       error
	}{
		"a leaf":                                  {sets, "c", false, false, []string{"c"}, nil},
		"a pending one":                           {sets, "d", false, false, []string{"d"}, nil},
		"an unknown one":                          {sets, "x", false, false, nil, ErrShareSetNotFound},
		"an unknown one, whatever is allowed":     {sets, "x", true, true, nil, ErrShareSetNotFound},
		"no id":                                   {sets, "", false, true, nil, ErrShareSetNotFound},
		"one with descendants, all backups gone":  {sets, "a", false, false, nil, ErrLastShareSet},
		"the same, allowed":                       {sets, "a", false, true, []string{"a", "b", "c", "d", "e"}, nil},
		"one alone":                               {sets, "a", true, false, []string{"a"}, nil},
		"the last backup":                         {sets, "b", true, false, nil, ErrLastShareSet},
		"the last backup, allowed":                {sets, "b", true, true, []string{"b"}, nil},
		"the pending backup beside the last":      {sets, "e", false, false, []string{"e"}, nil},
		"a revoked one whose child lives":         {sets, "g", false, false, []string{"g", "h"}, nil},
		"a revoked one alone":                     {sets, "g", true, false, []string{"g"}, nil},
		"the only set":                            {sets[:1], "a", false, false, nil, ErrLastShareSet},
		"the only set, pending":                   {[]ShareSet{{ID: "a", Purpose: Signing, State: SetPending}}, "a", false, false, []string{"a"}, nil},
		"the only active one beside pending ones": {[]ShareSet{sets[0], sets[3]}, "a", false, false, nil, ErrLastShareSet},
	} {
		got, err := pickRevoked(c.sets, c.id, c.keep, c.all)
		require.ErrorIs(t, err, c.err, name)
		require.Equal(t, c.want, got, name)
	}
}

func TestConfirmedAndActive(t *testing.T) {
	t.Parallel()
	pending, active, revoked := ShareSet{ID: "p", Purpose: Signing, State: SetPending}, ShareSet{ID: "a", Purpose: Backup, State: SetActive}, ShareSet{ID: "r", Purpose: Backup, State: SetRevoked}
	require.False(t, (&Wallet{}).Confirmed())
	require.False(t, (&Wallet{Sets: []ShareSet{pending}}).Confirmed())
	require.True(t, (&Wallet{Sets: []ShareSet{pending, revoked}}).Confirmed(), "it was, once")
	w := &Wallet{Sets: []ShareSet{pending, active, revoked}}
	require.True(t, w.Confirmed())
	require.Equal(t, []ShareSet{active}, w.Active(Backup))
	require.Empty(t, w.Active(Signing))
	require.Len(t, w.Sets, 3, "asking changes nothing")
}

// A set is confirmed by the hash of its client share. In a wallet that was never hosted, no hash is needed.
func TestConfirmHashes(t *testing.T) {
	t.Parallel()
	right := sha256.Sum256([]byte("share"))
	for name, x := range map[string]struct {
		hosted bool
		sum    []byte
		want   error
	}{
		"hosted":               {hosted: true, sum: right[:]},
		"hosted, without":      {hosted: true, want: ErrInvalidArgument},
		"hosted, wrong":        {hosted: true, sum: make([]byte, 32), want: ErrShareSetMismatch},
		"on a device":          {sum: right[:]},
		"on a device, without": {},
		"on a device, wrong":   {sum: make([]byte, 32), want: ErrShareSetMismatch},
	} {
		wallet := &Wallet{ID: "wallet", Owner: "alice"}
		if x.hosted {
			wallet.HostedSince = time.Now()
		}
		confirmed := 0
		st := &stub{
			onWallet: func() (*Wallet, error) { return wallet, nil },
			onSet: func() (*StoredSet, error) {
				set := &StoredSet{ShareSet: ShareSet{State: SetPending}, ClientShare: right}
				set.ExpireTime = time.Now().Add(time.Hour)
				return set, nil
			},
			onConfirm: func() (bool, error) { confirmed++; return true, nil },
		}
		s := st.runner(t, Config{})
		confirm := func() error {
			_, err := s.confirm(t.Context(), Caller{Name: "alice"}, "wallet", "set", x.sum)
			return err
		}
		if x.want != nil {
			require.ErrorIs(t, confirm(), x.want, name)
			require.Zero(t, confirmed, name)
			continue
		}
		require.NoError(t, confirm(), name)
		require.Equal(t, 1, confirmed, name)
		st.onConfirm = func() (bool, error) { confirmed++; return confirmed > 2, errStub }
		require.ErrorIs(t, confirm(), errStub, name)
		require.Equal(t, 2, confirmed, "%s: it is not tried again", name)
	}
}

// The policy is not asked about an impossible revocation, and nothing is revoked if it denies one.
func TestRevokeAsksThePolicy(t *testing.T) {
	t.Parallel()
	asked, revoked, answer, fault := 0, 0, error(nil), error(nil)
	st := &stub{
		onWallet: func() (*Wallet, error) {
			return &Wallet{ID: "wallet", Owner: "alice", Sets: []ShareSet{{ID: "set", State: SetPending}}}, nil
		},
		onRevoke: func() error { revoked++; return fault },
	}
	s := st.runner(t, Config{})
	s.ports.Policy = policy(func() error { asked++; return answer })
	revoke := func(set string) error {
		_, err := s.revoke(t.Context(), Caller{Name: "alice"}, "wallet", set, false, false)
		return err
	}
	require.ErrorIs(t, revoke("other"), ErrShareSetNotFound)
	require.Zero(t, asked)
	require.NoError(t, revoke("set"))
	require.Equal(t, []int{1, 1}, []int{asked, revoked})
	answer = new(DeniedError)
	require.ErrorIs(t, revoke("set"), ErrPolicyDenied)
	require.Equal(t, 1, revoked)
	answer, fault = nil, errStub
	require.ErrorIs(t, revoke("set"), errStub)
}
