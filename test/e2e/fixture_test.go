package e2e_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// fixture has shares of sets in every state but REVOKED, all of alice's and on ED25519.
type fixture struct {
	first, backup, second    held // of one wallet, ACTIVE; each made from the previous one
	pending, pendingBackup   held // of the same wallet
	unbacked, unbackedBackup held // of a wallet whose only BACKUP set is PENDING

	pendingReq *pb.ProvisionWalletRequest // the request that made pending
	pendingRun answer                     // and its whole answer
}

// stocked is a service with the fixture.
type stocked struct {
	*servertest.Service
	fixture
}

// The fixture is made once, by seven runs, and every test begins with a copy.
var stock struct {
	sync.Mutex // guards the fields below
	fixture
	database []byte
	keyset   *seal.Keyset
}

// start starts a test's own service with the fixture.
func start(t testing.TB, cfg servertest.Config) *stocked {
	t.Helper()
	cfg, f := withFixture(t, cfg)
	return &stocked{servertest.Start(t, cfg), f}
}

// withFixture returns cfg with the fixture's database.
func withFixture(t testing.TB, cfg servertest.Config) (servertest.Config, fixture) {
	t.Helper()
	stock.Lock()
	defer stock.Unlock()
	if stock.database == nil {
		s := servertest.Start(t, servertest.Config{})
		stock.fixture = fill(t, s)
		stock.database, stock.keyset = s.Dump(t), s.Keyset
	}
	cfg.Database, cfg.Keyset = stock.database, stock.keyset
	return cfg, stock.fixture
}

func fill(t testing.TB, s *servertest.Service) (f fixture) {
	t.Helper()
	f.first = confirm(t, s, create(t, s))
	f.backup = confirm(t, s, backup(t, s, f.first))
	f.second = confirm(t, s, provision(t, s, f.backup))
	f.pendingReq = provisionReq(f.backup)
	f.pendingRun = overGRPC(t, s, alice, f.pendingReq)
	f.pending, f.pendingBackup = made(t, f.pendingRun, f.backup.wallet), backup(t, s, f.first)
	f.unbacked = confirm(t, s, create(t, s))
	f.unbackedBackup = backup(t, s, f.unbacked)
	return f
}

func revoke(t testing.TB, s *servertest.Service, h held) {
	t.Helper()
	w := done[*pb.RevokeShareSetResponse](t, overGRPC(t, s, alice, revokeReq(h))).GetWallet()
	require.Equal(t, pb.ShareSetState_SHARE_SET_STATE_REVOKED, state(w, h.set))
}
