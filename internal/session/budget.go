package session

import "time"

// Budget is how much the clients of a share set, and of all sets of a wallet, may cost before
// what they use is limited or locked, and the time by which that is counted.
//
// A hard abort is a run that the client broke. A soft abort is one that ended, in whatever
// way but success, while it was armed: after the message of ours from which on our answers
// depend on what a dishonest client has changed, and before the one that shows that it has
// changed nothing (docs/adr/0007). Success pays nothing back.
type Budget struct {
	Now time.Time // by the service's steady clock
	// Set is how many hard aborts lock a set. Its hard and soft aborts, and its armed runs that
	// are under way, are never more together.
	Set        int
	Wallet     int  // how many hard aborts lock a wallet
	WalletSoft int  // how many soft aborts lock a wallet; time does not pay them back
	Refund     bool // the service ends the run because it shuts down: nothing soft is charged
}

const (
	softRefill   = 24 * time.Hour // in which a set gets one soft abort back
	walletFactor = 3              // a wallet's hard aborts, in those of a set
	walletSoft   = 32
)

// NewBudget returns the budget of a service whose sets are locked by so many hard aborts.
func NewBudget(aborts int, now time.Time) Budget {
	return Budget{Now: now, Set: aborts, Wallet: walletFactor * aborts, WalletSoft: walletSoft}
}

func (s *runner) budget() Budget { return NewBudget(s.cfg.Aborts, s.clock.now()) }

// Charged returns when a set whose soft budget is whole again at full has it back after one
// more soft abort.
func (b *Budget) Charged(full time.Time) time.Time {
	if full.Before(b.Now) {
		full = b.Now
	}
	return full.Add(softRefill)
}

// Refunded takes back what Charged did.
func (b *Budget) Refunded(full time.Time) time.Time { return full.Add(-softRefill) }

// Soft returns how many soft aborts a set has that time has not paid back.
func (b *Budget) Soft(set *ShareSet) int {
	left := set.SoftFullTime.Sub(b.Now)
	if left <= 0 {
		return 0
	}
	return int((left + softRefill - 1) / softRefill)
}

// LimitedUntil returns when a set can be armed again, or zero where it can be now, or is locked.
func (b *Budget) LimitedUntil(set *ShareSet) time.Time {
	may := b.Set - 1 - int(set.Aborts) // soft aborts that leave room for one more
	if may < 0 || b.Soft(set) <= may {
		return time.Time{}
	}
	return set.SoftFullTime.Add(-time.Duration(may) * softRefill)
}

// Room returns nil where a set may have as many armed runs, and its wallet, which has so many
// soft aborts, as many of all its sets. Otherwise it returns a BudgetError where time must
// pass, and a BusyError where other runs must end.
func (b *Budget) Room(set *ShareSet, armed int, softOfWallet uint32, armedOfWallet int) error {
	if until := b.LimitedUntil(set); !until.IsZero() {
		return &BudgetError{ShareSetID: set.ID, RetryAfter: until.Sub(b.Now)}
	}
	if int(set.Aborts)+b.Soft(set)+armed > b.Set || int(softOfWallet)+armedOfWallet > b.WalletSoft {
		return &BusyError{ShareSetID: set.ID}
	}
	return nil
}

// count notes what callers see of the soft budget of a wallet's sets.
func (b *Budget) count(w *Wallet) {
	for i := range w.Sets {
		set := &w.Sets[i]
		set.SoftAborts = uint32(b.Soft(set)) //nolint:gosec // G115: some, never negative
		if set.State == SetActive && !set.Locked() {
			set.LimitedUntil = b.LimitedUntil(set)
		}
	}
}
