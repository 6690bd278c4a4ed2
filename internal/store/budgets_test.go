package store_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/store/storetest"
)

// budgeted is a session that uses the ACTIVE set of a wallet, with the budget it is charged under.
type budgeted struct {
	*store.Store
	db     *sql.DB // the same database, bypassing the store
	t      *testing.T
	n      *session.Session
	budget session.Budget
}

// newBudgeted returns one with a budget under which one hard abort locks the set and the wallet, and two soft ones
// the wallet.
func newBudgeted(t *testing.T) *budgeted {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mpcd.db")
	s := open(t, path)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	_, set := storetest.NewWallet(t, s, "owner")
	x := &budgeted{
		Store: s, db: sqlite(t, path), t: t, n: storetest.NewSession(set.WalletID, session.OpSign),
		budget: session.Budget{Now: time.Now(), Set: 1, Wallet: 1, WalletSoft: 2},
	}
	x.n.Used = set.ID
	_, err := s.Confirm(t.Context(), set.WalletID, set.ID, x.entry("confirm"))
	require.NoError(t, err)
	_, _, err = s.Begin(t.Context(), x.n, x.entry("begin"))
	require.NoError(t, err)
	return x
}

func (x *budgeted) sql(query string) {
	_, err := x.db.ExecContext(x.t.Context(), query)
	require.NoError(x.t, err, query)
}

func (x *budgeted) entry(action string) session.Entry {
	return storetest.Audit(action, x.n.WalletID)
}

func (x *budgeted) arm() error { return x.Arm(x.t.Context(), x.n, x.budget) }

func (x *budgeted) disarm() error { return x.Disarm(x.t.Context(), x.n, x.entry("pass")) }

// interrupt ends the session as INTERRUPTED; breaks ends it with its client as the culprit.
func (x *budgeted) interrupt() error {
	return x.end(session.Interrupted, &session.Failure{Reason: "INTERRUPTED"})
}

func (x *budgeted) breaks() error {
	return x.end(session.Failed, &session.Failure{Reason: "PROTOCOL_ABORTED", Culprit: "CLIENT"})
}

func (x *budgeted) end(state session.State, f *session.Failure) error {
	n := *x.n
	n.State, n.Failure = state, f
	return x.Update(x.t.Context(), &n, x.budget, x.entry("end"))
}

func (x *budgeted) blame() error { return x.Blame(x.t.Context(), x.n, x.budget, x.entry("blame")) }

func (x *budgeted) release() error {
	return x.Release(x.t.Context(), x.n.WalletID, x.n.Used, x.budget, x.entry("release"))
}

func (x *budgeted) start() error {
	_, err := x.InterruptAll(x.t.Context(), x.budget)
	return err
}

// reach raises the set's and the wallet's aborts to the limits without locking them.
func (x *budgeted) reach() error {
	x.sql("UPDATE share_sets SET aborts = 1")
	x.sql("UPDATE wallets SET hard_aborts = 1")
	return nil
}

// seen returns everything that a change to the budgets may change.
func (x *budgeted) seen() []any {
	w, err := x.Wallet(x.t.Context(), x.n.WalletID)
	require.NoError(x.t, err)
	n, err := x.Session(x.t.Context(), x.n.ID)
	require.NoError(x.t, err)
	log, err := x.Audit(x.t.Context(), x.n.WalletID)
	require.NoError(x.t, err)
	var armed int
	err = x.db.QueryRowContext(x.t.Context(), "SELECT armed FROM sessions WHERE id = ?", x.n.ID).Scan(&armed)
	require.NoError(x.t, err)
	return []any{w, n, log, armed}
}

// fault makes one of the store's statements fail: the SQL that causes it, the SQL that undoes that, and the error
// text.
type fault struct{ spoil, mend, says string }

// at makes a change to the database fail.
func at(change string) fault {
	const fails = " BEGIN SELECT RAISE(ABORT, 'a fault'); END"
	return fault{"CREATE TRIGGER fault BEFORE " + change + fails, "DROP TRIGGER fault", "a fault"}
}

// logging makes writing an audit entry fail.
func logging(action string) fault { return at("INSERT ON audit WHEN NEW.action = '" + action + "'") }

// beyond puts numbers into a column that the service cannot read.
func beyond(table, column string) fault {
	set := "UPDATE " + table + " SET " + column + " = " + column
	return fault{set + " + (1 << 32)", set + " - (1 << 32)", "value out of range"}
}

// A charge or credit to a budget is stored together with everything that belongs to it or not at all, whichever
// statement fails.
func TestBudgetsAreAllOrNothing(t *testing.T) {
	t.Parallel()
	armed, blamed := at("UPDATE OF armed ON sessions"), at("INSERT ON blames")
	soft, softOfWallet := at("UPDATE OF soft_full_time ON share_sets"), at("UPDATE OF soft_aborts ON wallets")
	hard, hardOfWallet := at("UPDATE OF aborts ON share_sets"), at("UPDATE OF hard_aborts ON wallets")
	lock, lockOfWallet := at("UPDATE OF lock_time ON share_sets"), at("UPDATE OF lock_time ON wallets")
	locked, lockedWallet := logging("share_set.lock"), logging("wallet.lock")
	type step = func(*budgeted) error
	last := func(x *budgeted) error { x.budget.WalletSoft = 1; return nil } // the next soft abort locks
	for name, c := range map[string]struct {
		before []step
		change step
		faults []fault
	}{
		"arm":    {nil, (*budgeted).arm, []fault{armed, beyond("wallets", "soft_aborts")}},
		"disarm": {[]step{(*budgeted).arm}, (*budgeted).disarm, []fault{armed, logging("test.pass")}},
		"a soft abort": {[]step{last, (*budgeted).arm}, (*budgeted).interrupt, []fault{
			armed, soft, softOfWallet, logging("share_set.charge"), lockOfWallet, lockedWallet,
			beyond("share_sets", "aborts"),
		}},
		"a hard abort": {[]step{(*budgeted).arm}, (*budgeted).breaks, []fault{
			blamed, armed, hard, hardOfWallet, lock, locked, lockOfWallet, lockedWallet,
		}},
		"a hard abort in place of a soft one": {[]step{(*budgeted).arm, (*budgeted).interrupt}, (*budgeted).blame, []fault{
			blamed, soft, softOfWallet, armed, hard, hardOfWallet, lock, locked, lockOfWallet, lockedWallet,
			logging("test.blame"), beyond("sessions", "attempt"),
		}},
		"a release": {[]step{(*budgeted).breaks}, (*budgeted).release, []fault{
			hard, hardOfWallet, logging("test.release"), beyond("wallets", "hard_aborts"),
		}},
		"a start": {[]step{(*budgeted).reach}, (*budgeted).start, []fault{
			lock, locked, lockOfWallet, lockedWallet,
			{"ALTER TABLE wallets RENAME lock_time TO x", "ALTER TABLE wallets RENAME x TO lock_time", "no such column"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newBudgeted(t)
			for _, do := range c.before {
				require.NoError(t, do(x))
			}
			before := x.seen()
			for _, f := range c.faults {
				x.sql(f.spoil)
				err := c.change(x)
				x.sql(f.mend)
				require.ErrorContains(t, err, f.says, f.spoil)
				require.Equal(t, before, x.seen(), f.spoil)
			}
			require.NoError(t, c.change(x))
			require.NotEqual(t, before, x.seen())
		})
	}
}
