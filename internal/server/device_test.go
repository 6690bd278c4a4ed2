package server_test

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mpcd/mpcd/client"
	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/leaks"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// newDevicePhone is a phone whose shares never leave it.
func newDevicePhone(t testing.TB, s *servertest.Service, cloud *keychain, curves ...client.Curve) *phone {
	t.Helper()
	p := &phone{}
	c, err := client.New(s.Conn, client.WithDeviceHeldShares(), client.WithCurves(curves...), client.WithCloudKey(client.MethodICloud, cloud),
		client.WithStore(func(_ context.Context, share *client.Share) error {
			p.stored = append(p.stored, share.Bytes())
			return nil
		}))
	require.NoError(t, err)
	p.Client = c
	return p
}

// life is a wallet from its creation to a second device, device-held.
func life(t *testing.T, s *servertest.Service, curves ...client.Curve) (first, second, backup *client.Share) {
	t.Helper()
	cloud := &keychain{}
	phone := newDevicePhone(t, s, cloud, curves...)
	var made, backed, provisioned steps
	first, err := phone.CreateWallet(t.Context(), made.add)
	require.NoError(t, err)
	made.check(t, client.StatusGenerating, client.StatusStoring, client.StatusDone)
	b, err := phone.BackupWallet(t.Context(), first, client.MethodICloud, backed.add)
	require.NoError(t, err)
	require.NoError(t, phone.ConfirmBackup(t.Context(), b, b.CipherText))
	tablet := newDevicePhone(t, s, cloud)
	backup, err = tablet.DecryptBackup(t.Context(), b.CipherText, client.MethodICloud)
	require.NoError(t, err)
	second, err = tablet.ProvisionWallet(t.Context(), b.CipherText, client.MethodICloud, provisioned.add)
	require.NoError(t, err)
	payload := make([]byte, 32)
	payload[5] = 1
	for _, share := range []*client.Share{first, second} {
		for _, curve := range share.Curves() {
			sig, err := tablet.Sign(t.Context(), share, curve, payload)
			require.NoError(t, err)
			require.Equal(t, share.ShareSetID(), sig.ShareSetID)
		}
	}
	return first, second, backup
}

// A wallet's whole life with its shares on devices: no share of the client's comes into the
// service, its log or its database; and no hosted call brings both halves together later.
func TestDeviceHeldLife(t *testing.T) {
	t.Parallel()
	log := servertest.NewLog()
	s := servertest.Start(t, servertest.Config{Log: log, Sessions: session.Config{RequireSealTo: true}, Workers: servertest.Workers(1)})
	first, second, backup := life(t, s, client.CurveEd25519)
	w := done[*pb.GetWalletResponse](t, overGRPC(t, s, nil, &pb.GetWalletRequest{WalletId: first.WalletID()})).GetWallet()
	require.Nil(t, w.GetHostedSince())
	again := &pb.ConfirmShareSetRequest{WalletId: first.WalletID(), ShareSetId: second.ShareSetID()}
	done[*pb.ConfirmShareSetResponse](t, overGRPC(t, s, nil, again)) // the transcript said it
	again.ShareSha256 = make([]byte, 32)
	refused(t, overGRPC(t, s, nil, again), codes.InvalidArgument, "SHARE_SET_MISMATCH")
	require.Len(t, w.GetShareSets(), 3)
	require.Equal(t, w.GetShareSets()[1].GetShareSetId(), w.GetShareSets()[2].GetParentShareSetId())

	to := recipient(t)
	hosted := []proto.Message{
		&pb.BackupWalletRequest{WalletId: w.GetWalletId(), RequestId: uuid.NewString(), SealTo: to, ClientSide: &pb.BackupWalletRequest_SigningShare{SigningShare: first.Bytes()}, BackupMethod: pb.BackupMethod_BACKUP_METHOD_CUSTOM},
		&pb.ProvisionWalletRequest{WalletId: w.GetWalletId(), RequestId: uuid.NewString(), SealTo: to, ClientSide: &pb.ProvisionWalletRequest_BackupShare{BackupShare: backup.Bytes()}},
		&pb.SignRequest{WalletId: w.GetWalletId(), RequestId: uuid.NewString(), SigningShare: second.Bytes(), Curve: pb.Curve_CURVE_ED25519, Payload: []byte("x")},
	}
	log.Wait(t, "SignWithDevice")
	for _, share := range []*client.Share{first, second, backup} {
		require.Empty(t, leaks.Find([]byte(log.String()), share.Bytes()))
	}
	for _, req := range hosted {
		for _, do := range transports {
			refused(t, do(t, s, nil, req), codes.FailedPrecondition, "DEVICE_HELD_WALLET")
		}
	}
	_, _, err := s.Store.VerifyAudit(t.Context())
	require.NoError(t, err)
	lines, err := s.Store.Audit(t.Context(), w.GetWalletId())
	require.NoError(t, err)
	released := 0
	for _, l := range lines {
		if l.Action == "session.release" {
			released++
		}
	}
	require.Equal(t, 2, released, "each signature was noted before it left")
	s.Stop()
	for _, name := range []string{s.Database, s.Database + "-wal"} {
		if b, err := os.ReadFile(name); err == nil {
			for _, share := range []*client.Share{first, second, backup} {
				require.Empty(t, leaks.Find(b, share.Bytes()))
			}
		}
	}
}

// A hosted wallet's sets serve device-held runs too.
func TestDeviceHeldRunOfAHostedWallet(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Auth: servertest.Always("alice")})
	phone := newDevicePhone(t, f.Service, &keychain{})
	share, err := client.ParseShare(f.second.share)
	require.NoError(t, err)
	_, err = phone.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
	signs(t, f.Service, wallet(t, f.Service, f.second.wallet), f.second)
}

// The network is lost after each event of a run: the stream ends, and the SDK attaches
// again. It stays one session with one attempt.
func TestDeviceHeldDrops(t *testing.T) {
	t.Parallel()
	cfg, shelf := withShelf(t, servertest.Config{Auth: servertest.Always("alice")})
	var after, seen atomic.Int32
	var calls atomic.Int32
	cfg.Dial = append(cfg.Dial, grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		calls.Add(1)
		stream, err := streamer(ctx, desc, cc, method, opts...)
		return &dropped{stream, &after, &seen}, err
	}))
	s := servertest.Start(t, cfg)
	phone := newDevicePhone(t, s, &keychain{})
	share, err := client.ParseShare(shelf.second.share)
	require.NoError(t, err)
	for n := int32(1); ; n++ {
		after.Store(n)
		seen.Store(0)
		calls.Store(0)
		_, err = phone.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
		require.NoError(t, err)
		if calls.Load() == 1 {
			require.Greater(t, n, int32(8), "a run has more events")
			break
		}
		require.Equal(t, int32(2), calls.Load())
	}
	lines, err := s.Store.Audit(t.Context(), shelf.second.wallet)
	require.NoError(t, err)
	for _, l := range lines {
		require.NotEqual(t, "session.restart", l.Action)
	}
}

// dropped is a stream that ends after so many messages of all streams, once.
type dropped struct {
	grpc.ClientStream
	after, seen *atomic.Int32
}

func (d *dropped) RecvMsg(m any) error {
	if err := d.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	if d.seen.Add(1) == d.after.Load() {
		return status.Error(codes.Unavailable, "the network is gone") // and what it carried with it
	}
	return nil
}

// deviceReq asks for a device-held provision from the shelf's backup.
func deviceReq(h held, instance string) *pb.ProvisionWalletRequest {
	req := provisionReq(h)
	req.ClientSide = &pb.ProvisionWalletRequest_Device{Device: &pb.DeviceSide{ShareSetId: h.set, Instance: instance}}
	return req
}

// A device that says nothing, or comes back as another instance of itself, ends its attempt
// without blame, and frees its slot; who is not the device's user cannot speak for it.
func TestDeviceGoesSilent(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{DeviceSilence: briefly, DeviceRuns: 1}, Workers: servertest.Workers(1)})
	before := wallet(t, f.Service, f.backup.wallet)
	one, two := uuid.NewString(), uuid.NewString()
	req := deviceReq(f.backup, one)
	first := later(func() answer { return overGRPC(t, f.Service, alice, req) })
	var id string
	require.Eventually(t, func() bool {
		rec, err := f.Store.ByRequest(t.Context(), "alice", req.GetRequestId())
		if err == nil {
			id = rec.ID
		}
		return err == nil && rec.State == session.Running
	}, 2*time.Minute, 5*time.Millisecond)

	message := func(instance string, attempt, sequence uint32) *pb.SendMessagesRequest {
		return &pb.SendMessagesRequest{SessionId: id, Instance: instance, Attempt: attempt, Messages: []*pb.ProtocolMessage{{Sequence: sequence, Mac: []byte("x")}}}
	}
	for _, do := range transports {
		refused(t, do(t, f.Service, &session.Caller{Name: "bob"}, message(one, 1, 1)), codes.NotFound, "SESSION_NOT_FOUND")
		refused(t, do(t, f.Service, alice, message(two, 1, 1)), codes.Aborted, "INTERRUPTED")
		refused(t, do(t, f.Service, alice, message(one, 2, 1)), codes.Aborted, "INTERRUPTED")
		ack := done[*pb.SendMessagesResponse](t, do(t, f.Service, alice, message(one, 1, 2))).GetAck()
		require.Zero(t, ack, "there is a gap before it")
	}
	for _, bad := range [][]*pb.ProtocolMessage{nil, {{Sequence: 1}}, {{Sequence: 1, Mac: []byte("x"), End: &pb.End{}}}, {{Sequence: 1, Payload: make([]byte, 300<<10)}}} {
		a := overGRPC(t, f.Service, alice, &pb.SendMessagesRequest{SessionId: id, Instance: one, Attempt: 1, Messages: bad})
		require.Equal(t, codes.InvalidArgument, a.status.Code())
	}

	other := proto.CloneOf(req)
	other.GetDevice().Instance = two
	second := overGRPC(t, f.Service, alice, other) // ends when it has said nothing
	refused(t, <-first, codes.Aborted, "INTERRUPTED")
	refused(t, second, codes.Aborted, "INTERRUPTED")
	all := progress(t, answer{messages: onlyProgress(second)})
	require.Equal(t, uint32(2), all[len(all)-1].GetAttempt())
	late := proto.CloneOf(other)
	late.GetDevice().Attempt = 2 // its parties are of an attempt that is over
	refused(t, overGRPC(t, f.Service, alice, late), codes.Aborted, "INTERRUPTED")
	require.True(t, proto.Equal(before, wallet(t, f.Service, f.backup.wallet)))
	require.Zero(t, f.Workers.Stats().Busy)
	signs(t, f.Service, before, f.second)
}

// A run that is cancelled in the middle has no worker any more when its callers hear of it.
func TestDeviceHeldCancel(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Workers: servertest.Workers(0)})
	before := wallet(t, f.Service, f.backup.wallet)
	req := deviceReq(f.backup, uuid.NewString())
	stream, err := f.ProvisionWallet(servertest.As(t.Context(), "alice"), req)
	require.NoError(t, err)
	for began := false; !began; {
		m, err := stream.Recv()
		require.NoError(t, err)
		began = m.GetMessage() != nil
	}
	rec, err := f.Store.ByRequest(t.Context(), "alice", req.GetRequestId())
	require.NoError(t, err)
	require.Equal(t, 1, f.Workers.Stats().Busy)
	_, err = f.CancelSession(servertest.As(t.Context(), "alice"), &pb.CancelSessionRequest{SessionId: rec.ID})
	require.NoError(t, err)
	for err == nil {
		_, err = stream.Recv()
	}
	require.Equal(t, codes.Canceled, status.Code(err))
	require.Eventually(t, func() bool { return f.Workers.Stats().Busy == 0 }, 2*time.Minute, 5*time.Millisecond)
	require.Zero(t, f.Workers.Stats().Died)
	require.True(t, proto.Equal(before, wallet(t, f.Service, f.backup.wallet)))
}

func onlyProgress(a answer) (out []proto.Message) {
	for _, m := range a.messages {
		if p, ok := m.(withProgress); ok && p.GetProgress() != nil {
			out = append(out, m)
		}
	}
	return out
}

// What a device sends that is not of the protocol is its fault: PROTOCOL_ABORTED with its
// name, and nothing else.
func TestDeviceSendsGarbage(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{Aborts: 100}})
	before := wallet(t, f.Service, f.backup.wallet)
	hello := &pb.Hello{Nonce: make([]byte, 32), SessionKey: make([]byte, 32), PartyKeys: make([]byte, 32)}
	for name, messages := range map[string][]*pb.ProtocolMessage{
		"a mac first":         {{Sequence: 1, Mac: []byte("x")}},
		"an end first":        {{Sequence: 1, End: &pb.End{}}},
		"a message first":     {{Sequence: 1, Payload: []byte("x"), Curve: pb.Curve_CURVE_ED25519}},
		"a party key of zero": {{Sequence: 1, Hello: hello}},
		"a short nonce":       {{Sequence: 1, Hello: &pb.Hello{Nonce: []byte("x")}}},
		"names sets":          {{Sequence: 1, Hello: &pb.Hello{Nonce: make([]byte, 32), SessionKey: make([]byte, 32), PartyKeys: []byte{31: 1}, WalletId: f.backup.wallet}}},
		"no tss message":      {{Sequence: 1, Hello: goodHello(t)}, {Sequence: 2, Payload: []byte("garbage"), Curve: pb.Curve_CURVE_ED25519}},
		"another curve":       {{Sequence: 1, Hello: goodHello(t)}, {Sequence: 2, Payload: []byte("garbage"), Curve: pb.Curve_CURVE_SECP256K1}},
		"not for us":          {{Sequence: 1, Hello: goodHello(t)}, {Sequence: 2, Payload: make([]byte, 100), Curve: pb.Curve_CURVE_ED25519, Private: true}},
		"a second hello":      {{Sequence: 1, Hello: goodHello(t)}, {Sequence: 2, Hello: goodHello(t)}},
	} {
		got := deviceSays(t, f.Service, overGRPC, deviceReq(f.backup, uuid.NewString()), messages...)
		refused(t, got, codes.Aborted, "PROTOCOL_ABORTED")
		i, _ := info(t, got.status)
		require.Equal(t, "CLIENT", i.GetMetadata()["culprit"], name)
	}
	after := wallet(t, f.Service, f.backup.wallet)
	require.Equal(t, uint32(10), shareSet(after, f.backup).GetAborts())
	after.Aborts, shareSet(after, f.backup).Aborts = 0, 0
	require.True(t, proto.Equal(before, after))
	signs(t, f.Service, before, f.second)
}

// deviceRun is a request for a run whose client's side is on a device.
type deviceRun interface {
	proto.Message
	GetRequestId() string
	GetDevice() *pb.DeviceSide
}

// deviceSays starts a run as alice's device, sends messages once it listens, and returns how
// it ended.
func deviceSays(t testing.TB, s *servertest.Service, do call, req deviceRun, messages ...*pb.ProtocolMessage) answer {
	t.Helper()
	ended := later(func() answer { return do(t, s, alice, req) })
	require.Eventually(t, func() bool {
		rec, err := s.Store.ByRequest(t.Context(), "alice", req.GetRequestId())
		if err != nil || rec.State != session.Running {
			return false
		}
		a := do(t, s, alice, &pb.SendMessagesRequest{SessionId: rec.ID, Instance: req.GetDevice().GetInstance(), Attempt: 1, Messages: messages})
		return a.status.Code() == codes.OK
	}, 2*time.Minute, 5*time.Millisecond)
	return <-ended
}

func shareSet(w *pb.Wallet, h held) *pb.ShareSet {
	for _, s := range w.GetShareSets() {
		if s.GetShareSetId() == h.set {
			return s
		}
	}
	return nil
}

func goodHello(t *testing.T) *pb.Hello {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, err)
	nonce := make([]byte, 32)
	_, _ = rand.Read(nonce) // never fails
	return &pb.Hello{Nonce: nonce, SessionKey: key.PublicKey().Bytes(), PartyKeys: append(make([]byte, 31), 7)}
}

func recipient(t *testing.T) string {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	return id.Recipient().String()
}
