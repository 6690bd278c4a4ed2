package server_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// shelf holds shares of sets in every state but REVOKED, all of alice's and of ED25519
// alone.
type shelf struct {
	first, backup, second  held // of one wallet, ACTIVE; each made from the one before
	pending, pendingBackup held // of the same wallet
	half, halfBackup       held // of a wallet whose only BACKUP set is PENDING

	pendingReq *pb.ProvisionWalletRequest // the request that made pending
	pendingRun answer                     // and all that it was answered
}

// stocked is a service that has a shelf.
type stocked struct {
	*servertest.Service
	shelf
}

// The shelf is stocked once, by seven runs, and every test begins with a copy.
var stock struct {
	sync.Mutex // guards what follows
	shelf
	database []byte
	keyset   *seal.Keyset
}

// start starts a service of the test's own that has the shelf.
func start(t testing.TB, cfg servertest.Config) *stocked {
	t.Helper()
	cfg, f := withShelf(t, cfg)
	return &stocked{servertest.Start(t, cfg), f}
}

// withShelf returns cfg with the shelf's database.
func withShelf(t testing.TB, cfg servertest.Config) (servertest.Config, shelf) {
	t.Helper()
	stock.Lock()
	defer stock.Unlock()
	if stock.database == nil {
		s := servertest.Start(t, servertest.Config{})
		stock.shelf = fill(t, s)
		stock.database, stock.keyset = s.Dump(t), s.Keyset
	}
	cfg.Database, cfg.Keyset = stock.database, stock.keyset
	return cfg, stock.shelf
}

func fill(t testing.TB, s *servertest.Service) (f shelf) {
	t.Helper()
	f.first = confirm(t, s, create(t, s))
	f.backup = confirm(t, s, backup(t, s, f.first))
	f.second = confirm(t, s, provision(t, s, f.backup))
	f.pendingReq = provisionReq(f.backup)
	f.pendingRun = overGRPC(t, s, alice, f.pendingReq)
	f.pending, f.pendingBackup = made(t, f.pendingRun, f.backup.wallet), backup(t, s, f.first)
	f.half = confirm(t, s, create(t, s))
	f.halfBackup = backup(t, s, f.half)
	return f
}

func revoke(t testing.TB, s *servertest.Service, h held) {
	t.Helper()
	w := done[*pb.RevokeShareSetResponse](t, overGRPC(t, s, alice, revokeReq(h))).GetWallet()
	require.Equal(t, pb.ShareSetState_SHARE_SET_STATE_REVOKED, state(w, h.set))
}
