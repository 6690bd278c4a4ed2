package servertest

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
)

// Lock exhausts a set's budget of aborts, bypassing the service.
func (p *Parts) Lock(t testing.TB, walletID, setID string) {
	t.Helper()
	rec := &session.Session{
		ID: uuid.NewString(), Caller: "alice", RequestID: uuid.NewString(), Fingerprint: []byte("f"), WalletID: walletID,
		Used: setID, Operation: session.OpSign, State: session.Running, Attempt: 1, CreateTime: time.Now(),
	}
	e := session.Entry{Time: time.Now(), Action: "test", WalletID: walletID, Outcome: "ok"}
	_, created, err := p.Store.Begin(t.Context(), rec, e)
	require.NoError(t, err)
	require.True(t, created)
	rec.State, rec.Failure = session.Failed, &session.Failure{Reason: "PROTOCOL_ABORTED", Culprit: "CLIENT"}
	require.NoError(t, p.Store.Update(t.Context(), rec, session.Budget{Set: 1, Wallet: math.MaxInt32, WalletSoft: math.MaxInt32}, e))
	set, err := p.Store.Set(t.Context(), walletID, setID)
	require.NoError(t, err)
	require.True(t, set.Locked())
}
