package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The soft budget is stored as one time. It regains one abort per day, gradually.
func TestSoftBudget(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	b := NewBudget(5, now)
	require.Equal(t, Budget{Now: now, Set: 5, Wallet: 15, WalletSoft: 32}, b)
	set := &ShareSet{ID: "s"}
	for n := range 5 {
		require.Equal(t, n, b.Soft(set))
		require.Zero(t, b.LimitedUntil(set))
		set.SoftFullTime = b.Charged(set.SoftFullTime)
	}
	require.Equal(t, 5, b.Soft(set))
	require.Equal(t, now.Add(softRefill), b.LimitedUntil(set))
	for passed, want := range map[time.Duration]int{
		time.Microsecond: 5, softRefill - time.Microsecond: 5, softRefill: 4, softRefill + time.Microsecond: 4,
		2 * softRefill: 3, 5*softRefill - time.Microsecond: 1, 5 * softRefill: 0, 50 * softRefill: 0, -softRefill: 6,
	} {
		later := NewBudget(5, now.Add(passed))
		require.Equal(t, want, later.Soft(set), passed)
		require.Equal(t, want < 5, later.LimitedUntil(set).IsZero(), passed)
	}
	later := NewBudget(5, now.Add(5*softRefill+time.Hour))
	require.Equal(t, later.Now.Add(softRefill), later.Charged(set.SoftFullTime), "it is fully refunded, and not beyond")
	require.Equal(t, set.SoftFullTime, b.Refunded(b.Charged(set.SoftFullTime)))
}

// Hard aborts, soft ones and armed runs share one budget.
func TestCheckArmed(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := NewBudget(5, now)
	for name, c := range map[string]struct {
		hard, soft, armed int
		ofWallet          uint32
		armedOfWallet     int
		limited           time.Duration // of the BudgetError
		busy              bool
	}{
		"a new set":                      {armed: 1, armedOfWallet: 1},
		"the last one":                   {hard: 2, soft: 2, armed: 1, armedOfWallet: 1},
		"the last armed":                 {armed: 5, armedOfWallet: 5},
		"one armed too many":             {armed: 6, armedOfWallet: 6, busy: true},
		"one armed too many beside hard": {hard: 4, armed: 2, armedOfWallet: 2, busy: true},
		"soft ones":                      {soft: 5, armed: 1, limited: softRefill},
		"hard and soft ones":             {hard: 3, soft: 4, armed: 1, limited: 3 * softRefill},
		"one soft beside four hard":      {hard: 4, soft: 1, armed: 1, limited: softRefill},
		"the wallet's last":              {armed: 1, ofWallet: 31, armedOfWallet: 1},
		"the wallet's last, taken":       {armed: 1, ofWallet: 31, armedOfWallet: 2, busy: true},
		"a set that is locked":           {hard: 5, armed: 1, busy: true},
	} {
		set := &ShareSet{ID: "s", Aborts: uint32(c.hard)}
		for range c.soft {
			set.SoftFullTime = b.Charged(set.SoftFullTime)
		}
		err := b.CheckArmed(set, c.armed, c.ofWallet, c.armedOfWallet)
		switch {
		case c.limited > 0:
			require.Equal(t, &BudgetError{ShareSetID: "s", RetryAfter: c.limited}, err, name)
			require.ErrorIs(t, err, ErrShareSetLimited, name)
		case c.busy:
			require.Equal(t, &BusyError{ShareSetID: "s"}, err, name)
		default:
			require.NoError(t, err, name)
		}
	}
}

// Callers see the soft budget of usable sets.
func TestBudgetIsShown(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := NewBudget(1, now)
	full := now.Add(softRefill)
	w := &Wallet{Sets: []ShareSet{
		{State: SetActive, SoftFullTime: full}, {State: SetActive, SoftFullTime: now},
		{State: SetRevoked, SoftFullTime: full},
		{State: SetActive, SoftFullTime: full, LockTime: now},
	}}
	b.fillIn(w)
	for i, want := range []struct {
		soft    uint32
		limited time.Time
	}{{1, full}, {0, time.Time{}}, {1, time.Time{}}, {1, time.Time{}}} {
		require.Equal(t, want.soft, w.Sets[i].SoftAborts, i)
		require.Equal(t, want.limited, w.Sets[i].LimitedUntil, i)
	}
}
