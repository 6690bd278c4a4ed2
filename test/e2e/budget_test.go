package e2e_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/mpcd/mpcd/client"
	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// budget is a set's default number of aborts.
const budget = 5

// garbage is a valid hello, followed by a part that no honest device sends.
func garbage(t testing.TB, req deviceRun) []*pb.ProtocolMessage {
	t.Helper()
	return []*pb.ProtocolMessage{hello(t, req), {Sequence: 2, Mac: []byte("x")}}
}

type startsARun interface {
	proto.Message
	GetRequestId() string
}

func deviceBackupReq(h held) *pb.BackupWalletRequest {
	req := backupReq(h)
	req.ClientSide = &pb.BackupWalletRequest_Device{Device: &pb.DeviceSide{ShareSetId: h.set, Instance: uuid.NewString()}}
	return req
}

func deviceSignReq(h held) *pb.SignWithDeviceRequest {
	return &pb.SignWithDeviceRequest{
		WalletId: h.wallet, RequestId: uuid.NewString(), Curve: pb.Curve_CURVE_ED25519, Payload: []byte("hello"),
		Device: &pb.DeviceSide{ShareSetId: h.set, Instance: uuid.NewString()},
	}
}

// usesOf returns the requests that use a set: all are refused while it is locked.
func usesOf(h held, purpose session.Purpose) []startsARun {
	if purpose == session.Backup {
		return []startsARun{provisionReq(h), deviceReq(h, uuid.NewString())}
	}
	return []startsARun{signReq(h), deviceSignReq(h), backupReq(h), deviceBackupReq(h)}
}

// attacked breaks runs until the set that they use is locked, alternating between both transports, and returns the
// sessions.
func attacked(t *testing.T, f *stocked, h held, broken ...func() deviceRun) (ids []string) {
	t.Helper()
	for i := range budget {
		set := shareSet(wallet(t, f.Service, h.wallet), h)
		require.Equal(t, uint32(i), set.GetAborts())
		require.Nil(t, set.GetLockTime())
		req, do := broken[i%len(broken)](), overGRPC
		if i%2 == 1 {
			do = overHTTP
		}
		got := deviceSays(t, f.Service, do, req, h, garbage(t, req)...)
		refused(t, got, codes.Aborted, "PROTOCOL_ABORTED")
		rec, err := f.Store.ByRequest(t.Context(), "alice", req.GetRequestId())
		require.NoError(t, err)
		ids = append(ids, rec.ID)
	}
	return ids
}

// staysLocked requires that a set is refused over either transport, with advice for the caller.
func staysLocked(t *testing.T, f *stocked, h held, purpose session.Purpose) {
	t.Helper()
	set := shareSet(wallet(t, f.Service, h.wallet), h)
	require.Equal(t, pb.ShareSetState_SHARE_SET_STATE_ACTIVE, set.GetState())
	require.NotNil(t, set.GetLockTime())
	for _, do := range transports {
		for _, req := range usesOf(h, purpose) {
			var a answer
			if d, ok := req.(deviceRun); ok && d.GetDevice() != nil { // the device learns of it once it has shown its share
				a = deviceSays(t, f.Service, do, d, h, hello(t, d))
			} else {
				a = do(t, f.Service, alice, req)
				require.Empty(t, a.messages)
				_, err := f.Store.ByRequest(t.Context(), "alice", req.GetRequestId())
				require.ErrorIs(t, err, session.ErrSessionNotFound, "it is refused before any work")
			}
			refused(t, a, codes.FailedPrecondition, "SHARE_SET_LOCKED")
			require.Contains(t, a.status.Message(), "Provision a new set from a backup")
			require.Contains(t, a.status.Message(), "ask an admin to release it")
		}
	}
	require.Equal(t, set.GetAborts(), shareSet(wallet(t, f.Service, h.wallet), h).GetAborts(), "a refusal is not an abort")
}

// A device that breaks its runs locks its SIGNING set. The wallet's other sets continue to work, and a new one can be
// provisioned from the backup; the locked one stays locked until it is released.
func TestAbortsLockASigningSet(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	before := wallet(t, f.Service, f.second.wallet)
	ids := attacked(t, f, f.second,
		func() deviceRun { return deviceSignReq(f.second) }, func() deviceRun { return deviceBackupReq(f.second) })
	staysLocked(t, f, f.second, session.Signing)
	// Whether a set is locked is not revealed without its share.
	refused(t, overGRPC(t, f.Service, alice, signReq(f.second.flipped(1, 1))), codes.InvalidArgument, "SHARE_MALFORMED")
	for _, req := range []deviceRun{deviceSignReq(f.second), deviceBackupReq(f.second)} {
		refused(t, deviceSays(t, f.Service, overGRPC, req, f.first, hello(t, req)), codes.InvalidArgument, "SHARE_SET_MISMATCH")
	}

	lines, err := f.Store.Audit(t.Context(), f.second.wallet)
	require.NoError(t, err)
	var locks []session.Entry
	for _, l := range lines {
		if l.Action == "share_set.lock" {
			locks = append(locks, l.Entry)
		}
	}
	require.Len(t, locks, 1)
	require.Equal(t, session.Entry{
		Time: shareSet(wallet(t, f.Service, f.second.wallet), f.second).GetLockTime().AsTime(), Caller: "alice", Action: "share_set.lock",
		WalletID: f.second.wallet, ShareSetID: f.second.set, SessionID: ids[budget-1], Outcome: "ok", Detail: "SIGN culprit CLIENT",
	}, locks[0])

	signs(t, f.Service, before, f.first)
	third := confirm(t, f.Service, provision(t, f.Service, f.backup))
	signs(t, f.Service, before, third)
	confirm(t, f.Service, backup(t, f.Service, third))
	require.Zero(t, shareSet(wallet(t, f.Service, third.wallet), third).GetAborts())
	staysLocked(t, f, f.second, session.Signing)
	for _, other := range []held{f.first, f.backup, f.pending, f.pendingBackup} {
		require.Zero(t, shareSet(wallet(t, f.Service, other.wallet), other).GetAborts())
	}

	for _, do := range transports {
		refused(t, do(t, f.Service, alice, releaseReq(f.second)), codes.PermissionDenied, "PERMISSION_DENIED")
		refused(t, do(t, f.Service, &session.Caller{Name: "mallory"}, releaseReq(f.second)), codes.NotFound, "WALLET_NOT_FOUND")
	}
	staysLocked(t, f, f.second, session.Signing)
	for _, do := range transports { // the second changes nothing
		w := done[*pb.ReleaseShareSetResponse](t, do(t, f.Service, rootCaller, releaseReq(f.second))).GetWallet()
		require.True(t, proto.Equal(shareSet(before, f.second), shareSet(w, f.second)), "as it was before the attack")
		require.True(t, proto.Equal(w, wallet(t, f.Service, f.second.wallet)))
	}
	signs(t, f.Service, before, f.second)
	attacked(t, f, f.second, func() deviceRun { return deviceSignReq(f.second) })
	staysLocked(t, f, f.second, session.Signing)
}

// The same for a BACKUP set; a locked set can also be revoked.
func TestAbortsLockABackupSet(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	before := wallet(t, f.Service, f.backup.wallet)
	confirm(t, f.Service, f.pendingBackup)
	attacked(t, f, f.backup, func() deviceRun { return deviceReq(f.backup, uuid.NewString()) })
	staysLocked(t, f, f.backup, session.Backup)
	signs(t, f.Service, before, f.second) // it was made from the locked one, before
	signs(t, f.Service, before, confirm(t, f.Service, provision(t, f.Service, f.pendingBackup)))
	done[*pb.ReleaseShareSetResponse](t, overHTTP(t, f.Service, rootCaller, releaseReq(f.backup)))
	signs(t, f.Service, before, confirm(t, f.Service, provision(t, f.Service, f.backup)))
	attacked(t, f, f.backup, func() deviceRun { return deviceReq(f.backup, uuid.NewString()) })
	revokeAlone := edit(revokeReq(f.backup), func(r *pb.RevokeShareSetRequest) { r.KeepDescendants = true })
	done[*pb.RevokeShareSetResponse](t, overGRPC(t, f.Service, alice, revokeAlone))
	refused(t, overGRPC(t, f.Service, alice, provisionReq(f.backup)), codes.FailedPrecondition, "SHARE_SET_REVOKED")
	refused(t, overGRPC(t, f.Service, rootCaller, releaseReq(f.backup)), codes.FailedPrecondition, "SHARE_SET_REVOKED")
}

// Concurrent device-held runs of a set are limited to its remaining aborts, so that they cannot exceed the budget.
// Another set's are not counted.
func TestAbortsAreNotExceededByRunsAtOnce(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{Aborts: 2, DeviceSilence: time.Minute}})
	one, two := silent(t, f.Service, deviceSignReq(f.first), f.first), silent(t, f.Service, deviceSignReq(f.first), f.first)
	for _, req := range []deviceRun{deviceSignReq(f.first), deviceBackupReq(f.first)} {
		refused(t, deviceSays(t, f.Service, overGRPC, req, f.first, hello(t, req)), codes.ResourceExhausted, "SHARE_SET_BUSY")
	}
	silent(t, f.Service, deviceSignReq(f.second), f.second)()
	one()
	placed(t, f, f.first)
	silent(t, f.Service, deviceSignReq(f.first), f.first)()
	two()
	require.Zero(t, shareSet(wallet(t, f.Service, f.first.wallet), f.first).GetAborts())
}

// placed waits until a set allows one more run: a cancelled one counts until the service has processed what it
// received.
func placed(t *testing.T, f *stocked, h held) {
	t.Helper()
	share, err := client.ParseShare(h.share)
	require.NoError(t, err)
	phone := newDevicePhone(t, f.Service, &keychain{})
	_, err = phone.Sign(servertest.As(t.Context(), "alice"), share, client.CurveEd25519, []byte("hello"))
	require.NoError(t, err) // the SDK waits
}

// silent starts a run of a device that shows its share and then falls silent. It returns a function that ends it.
func silent(t testing.TB, s *servertest.Service, req deviceRun, h held) (end func()) {
	t.Helper()
	d := begins(t, s, alice, req)
	d.saysHello(t, h)
	d.runs(t)
	return func() {
		done[*pb.CancelSessionResponse](t, overGRPC(t, s, alice, &pb.CancelSessionRequest{SessionId: d.id}))
		<-d.ended
	}
}

// A device whose set is locked during its run gets no signature and no new set.
func TestDeviceIsInMidRunWhenItsSetIsLocked(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	f := start(t, servertest.Config{Auth: servertest.Always("alice"), Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: gate.Wait}
	}})
	phone := newDevicePhone(t, f.Service, &keychain{})
	share, err := client.ParseShare(f.second.share)
	require.NoError(t, err)
	ends := make(chan error, 2)
	go func() { // ends with its run
		sig, err := phone.Sign(t.Context(), share, client.CurveEd25519, []byte("hello"))
		if sig != nil {
			t.Error("the device has a signature")
		}
		ends <- err
	}()
	go func() { // ends with its run
		b, err := phone.BackupWallet(t.Context(), share, client.MethodICloud, nil)
		if b != nil {
			t.Error("the device has a backup")
		}
		ends <- err
	}()
	<-gate.Came
	<-gate.Came
	before := wallet(t, f.Service, f.second.wallet)
	f.Lock(t, f.second.wallet, f.second.set)
	gate.Open() // both have read their set by now
	for range 2 {
		require.Equal(t, "SHARE_SET_LOCKED", client.Reason(<-ends))
	}
	require.Len(t, wallet(t, f.Service, f.second.wallet).GetShareSets(), len(before.GetShareSets()))
	lines, err := f.Store.Audit(t.Context(), f.second.wallet)
	require.NoError(t, err)
	for _, l := range lines {
		require.NotEqual(t, "session.release", l.Action, "the last message that makes a signature never left")
	}
}
