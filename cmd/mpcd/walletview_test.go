package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
)

// The text view shows how much of their abort budgets a wallet and its sets have used.
func TestWalletBudgetInWords(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	w := &client.Wallet{
		ID: "w", Owner: "alice", CreateTime: at, LockTime: at, Aborts: 6, SoftAborts: 32,
		ShareSets: []client.ShareSet{
			{ID: "1", Purpose: client.PurposeSigning, State: client.StateActive, Aborts: 5, LockTime: at},
			{ID: "2", Purpose: client.PurposeSigning, State: client.StateActive, Aborts: 1, SoftAborts: 4, LimitedUntil: at},
			{ID: "3", Purpose: client.PurposeSigning, State: client.StateActive},
		},
	}
	v := viewWallet(w)
	require.Equal(t, `wallet w  owner alice  created 2026-11-28T12:00:00Z
  all sets  LOCKED 2026-11-28T12:00:00Z, aborts: 6, soft aborts: 32
  set  1  SIGNING  ACTIVE   LOCKED 2026-11-28T12:00:00Z, aborts: 5
  set  2  SIGNING  ACTIVE   limited: no ECDSA signature with a device before 2026-11-28T12:00:00Z, `+
		`aborts: 1, soft aborts: 4
  set  3  SIGNING  ACTIVE
`, v.text())
	v = viewWallet(&client.Wallet{ID: "w", Owner: "alice", CreateTime: at})
	require.NotContains(t, v.text(), "all sets")
}
