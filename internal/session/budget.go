package session

import "time"

// Budget limits what the clients of a share set, and of all sets of a wallet, may cost before the set is limited or
// locked.
//
// A hard abort is a run that the client broke. A soft abort is a run that ended without success while it was armed:
// between the first message of the server that depends on what a dishonest client may have changed, and the one that
// proves that nothing was changed (docs/adr/0007). A success does not refund anything.
type Budget struct {
	Now time.Time // the service's steady clock
	// Set is how many hard aborts lock a set. It is also the limit for the sum of its hard aborts, soft aborts and armed
	// runs.
	Set        int
	Wallet     int  // how many hard aborts lock a wallet
	WalletSoft int  // how many soft aborts lock a wallet; they are never refunded by time
	Refund     bool // the service is shutting down: soft aborts are not charged
}

const (
	softRefill   = 24 * time.Hour // after which a set regains one soft abort
	walletFactor = 3              // a wallet's limit of hard aborts, as a multiple of a set's
	walletSoft   = 32
)

// NewBudget returns the budget of a service that locks a set after the given number of hard aborts.
func NewBudget(aborts int, now time.Time) Budget {
	return Budget{Now: now, Set: aborts, Wallet: walletFactor * aborts, WalletSoft: walletSoft}
}

func (s *runner) budget() Budget { return NewBudget(s.cfg.Aborts, s.clock.now()) }

// Charged returns the new SoftFullTime of a set whose SoftFullTime was full, after one more soft abort.
func (b *Budget) Charged(full time.Time) time.Time {
	if full.Before(b.Now) {
		full = b.Now
	}
	return full.Add(softRefill)
}

// Refunded reverses Charged.
func (b *Budget) Refunded(full time.Time) time.Time { return full.Add(-softRefill) }

// Soft returns how many soft aborts of a set have not been refunded by time.
func (b *Budget) Soft(set *ShareSet) int {
	left := set.SoftFullTime.Sub(b.Now)
	if left <= 0 {
		return 0
	}
	return int((left + softRefill - 1) / softRefill)
}

// LimitedUntil returns when a set can be armed again, or zero if it can be now, or is locked.
func (b *Budget) LimitedUntil(set *ShareSet) time.Time {
	allowed := b.Set - 1 - int(set.Aborts) // soft aborts that leave capacity for one more
	if allowed < 0 || b.Soft(set) <= allowed {
		return time.Time{}
	}
	return set.SoftFullTime.Add(-time.Duration(allowed) * softRefill)
}

// CheckArmed returns nil if the set may have the given number of armed runs, and its wallet, with its soft aborts,
// armedOfWallet over all of its sets. Otherwise it returns a BudgetError if time must pass, or a BusyError if other
// runs must end first.
func (b *Budget) CheckArmed(set *ShareSet, armed int, softOfWallet uint32, armedOfWallet int) error {
	if until := b.LimitedUntil(set); !until.IsZero() {
		return &BudgetError{ShareSetID: set.ID, RetryAfter: until.Sub(b.Now)}
	}
	if int(set.Aborts)+b.Soft(set)+armed > b.Set || int(softOfWallet)+armedOfWallet > b.WalletSoft {
		return &BusyError{ShareSetID: set.ID}
	}
	return nil
}

// fillIn sets the fields of a wallet's sets that show the soft budget.
func (b *Budget) fillIn(w *Wallet) {
	for i := range w.Sets {
		set := &w.Sets[i]
		set.SoftAborts = uint32(b.Soft(set)) //nolint:gosec // G115: some, never negative
		if set.State == SetActive && !set.Locked() {
			set.LimitedUntil = b.LimitedUntil(set)
		}
	}
}
