package e2e_test

import (
	"crypto/sha256"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// held is what a device keeps of one share set.
type held struct {
	wallet, set string
	share       []byte
}

// alice owns the wallets of most tests, and has no scope.
var alice = &session.Caller{Name: "alice"}

var onlyEd25519 = []pb.Curve{pb.Curve_CURVE_ED25519}

func createReq(curves ...pb.Curve) *pb.CreateWalletRequest {
	if len(curves) == 0 {
		curves = onlyEd25519
	}
	return &pb.CreateWalletRequest{RequestId: uuid.NewString(), Curves: curves}
}

func backupReq(from held) *pb.BackupWalletRequest {
	return &pb.BackupWalletRequest{
		WalletId: from.wallet, RequestId: uuid.NewString(), BackupMethod: pb.BackupMethod_BACKUP_METHOD_PASSWORD,
		ClientSide: &pb.BackupWalletRequest_SigningShare{SigningShare: from.share},
	}
}

func provisionReq(from held) *pb.ProvisionWalletRequest {
	return &pb.ProvisionWalletRequest{
		WalletId: from.wallet, RequestId: uuid.NewString(),
		ClientSide: &pb.ProvisionWalletRequest_BackupShare{BackupShare: from.share},
	}
}

func signReq(with held) *pb.SignRequest {
	return &pb.SignRequest{
		WalletId: with.wallet, RequestId: uuid.NewString(), SigningShare: with.share, Curve: pb.Curve_CURVE_ED25519, Payload: []byte("hello"),
	}
}

func confirmReq(h held) *pb.ConfirmShareSetRequest {
	sum := sha256.Sum256(h.share)
	return &pb.ConfirmShareSetRequest{WalletId: h.wallet, ShareSetId: h.set, ShareSha256: sum[:]}
}

func revokeReq(h held) *pb.RevokeShareSetRequest {
	return &pb.RevokeShareSetRequest{WalletId: h.wallet, ShareSetId: h.set}
}

func releaseReq(h held) *pb.ReleaseShareSetRequest {
	return &pb.ReleaseShareSetRequest{WalletId: h.wallet, ShareSetId: h.set}
}

// outcome is what the results of the streaming RPCs have in common.
type outcome interface {
	GetShareSet() *pb.ShareSet
	GetClientShare() []byte
}

// made returns the share set that a run made, not yet confirmed.
func made(t testing.TB, a answer, wallet string) held {
	t.Helper()
	var o outcome
	switch m := done[proto.Message](t, a).(type) {
	case *pb.CreateWalletResponse:
		o, wallet = m.GetOutcome(), m.GetOutcome().GetWalletId()
	case *pb.BackupWalletResponse:
		o = m.GetOutcome()
	case *pb.ProvisionWalletResponse:
		o = m.GetOutcome()
	}
	require.NotNil(t, o.GetShareSet(), "the last message is the outcome")
	require.Equal(t, pb.ShareSetState_SHARE_SET_STATE_PENDING, o.GetShareSet().GetState())
	require.NotEmpty(t, o.GetClientShare())
	return held{wallet: wallet, set: o.GetShareSet().GetShareSetId(), share: o.GetClientShare()}
}

// The operations as alice, over gRPC.

func create(t testing.TB, s *servertest.Service, curves ...pb.Curve) held {
	t.Helper()
	return made(t, overGRPC(t, s, alice, createReq(curves...)), "")
}

func backup(t testing.TB, s *servertest.Service, from held) held {
	t.Helper()
	return made(t, overGRPC(t, s, alice, backupReq(from)), from.wallet)
}

func provision(t testing.TB, s *servertest.Service, from held) held {
	t.Helper()
	return made(t, overGRPC(t, s, alice, provisionReq(from)), from.wallet)
}

func confirm(t testing.TB, s *servertest.Service, h held) held {
	t.Helper()
	w := done[*pb.ConfirmShareSetResponse](t, overGRPC(t, s, alice, confirmReq(h))).GetWallet()
	require.Equal(t, pb.ShareSetState_SHARE_SET_STATE_ACTIVE, state(w, h.set))
	return h
}

func state(w *pb.Wallet, set string) pb.ShareSetState {
	for _, s := range w.GetShareSets() {
		if s.GetShareSetId() == set {
			return s.GetState()
		}
	}
	return pb.ShareSetState_SHARE_SET_STATE_UNSPECIFIED
}

func wallet(t testing.TB, s *servertest.Service, id string) *pb.Wallet {
	t.Helper()
	return done[*pb.GetWalletResponse](t, overGRPC(t, s, alice, &pb.GetWalletRequest{WalletId: id})).GetWallet()
}
