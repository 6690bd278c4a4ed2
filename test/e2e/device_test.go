package e2e_test

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
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
	"github.com/mpcd/mpcd/internal/tss"
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
	made.check(t, client.StatusQueued, client.StatusGenerating, client.StatusStoring, client.StatusDone)
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

// A wallet's whole life with its shares on devices: no client share reaches the service, its log or its database; and
// no hosted call brings both shares together later.
func TestDeviceHeldLife(t *testing.T) {
	t.Parallel()
	log := servertest.NewLog()
	s := servertest.Start(t, servertest.Config{Log: log, Sessions: session.Config{RequireSealTo: true}, Workers: servertest.Workers(1)})
	first, second, backup := life(t, s, client.CurveEd25519)
	w := done[*pb.GetWalletResponse](t, overGRPC(t, s, nil, &pb.GetWalletRequest{WalletId: first.WalletID()})).GetWallet()
	require.Nil(t, w.GetHostedSince())
	again := &pb.ConfirmShareSetRequest{WalletId: first.WalletID(), ShareSetId: second.ShareSetID()}
	done[*pb.ConfirmShareSetResponse](t, overGRPC(t, s, nil, again)) // the transcript confirmed it
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
	require.Equal(t, 2, released, "each signature was recorded before it left")
	s.Stop()
	for _, name := range []string{s.Database, s.Database + "-wal"} {
		if b, err := os.ReadFile(name); err == nil {
			for _, share := range []*client.Share{first, second, backup} {
				require.Empty(t, leaks.Find(b, share.Bytes()))
			}
		}
	}
}

// A hosted wallet's sets can be used in device-held runs.
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

// The network fails after each event of a run: the stream ends, and the SDK attaches again. It stays one session with
// one attempt.
func TestDeviceHeldDrops(t *testing.T) {
	t.Parallel()
	cfg, fixture := withFixture(t, servertest.Config{Auth: servertest.Always("alice")})
	var after, seen atomic.Int32
	var calls atomic.Int32
	cfg.Dial = append(cfg.Dial, grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		calls.Add(1)
		stream, err := streamer(ctx, desc, cc, method, opts...)
		return &dropped{stream, &after, &seen}, err
	}))
	s := servertest.Start(t, cfg)
	phone := newDevicePhone(t, s, &keychain{})
	share, err := client.ParseShare(fixture.second.share)
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
	lines, err := s.Store.Audit(t.Context(), fixture.second.wallet)
	require.NoError(t, err)
	for _, l := range lines {
		require.NotEqual(t, "session.restart", l.Action)
	}
}

// dropped is a stream that ends after a total number of messages over all streams, once.
type dropped struct {
	grpc.ClientStream
	after, seen *atomic.Int32
}

func (d *dropped) RecvMsg(m any) error {
	if err := d.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	if d.seen.Add(1) == d.after.Load() {
		return status.Error(codes.Unavailable, "the network is gone") // with the message it carried
	}
	return nil
}

// deviceReq asks for a device-held provision from the fixture's backup.
func deviceReq(h held, instance string) *pb.ProvisionWalletRequest {
	req := provisionReq(h)
	req.ClientSide = &pb.ProvisionWalletRequest_Device{Device: &pb.DeviceSide{ShareSetId: h.set, Instance: instance}}
	return req
}

// A device that falls silent, or comes back as another instance, ends its attempt without blame, and frees its slot;
// other users cannot send messages for it.
func TestDeviceFallsSilent(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{DeviceSilence: briefly, DeviceRuns: 1}, Workers: servertest.Workers(1)})
	before := wallet(t, f.Service, f.backup.wallet)
	req := deviceReq(f.backup, uuid.NewString())
	first := begins(t, f.Service, alice, req)
	first.saysHello(t, f.backup)
	first.runs(t)

	one, two := req.GetDevice().GetInstance(), uuid.NewString()
	message := func(instance string, attempt, sequence uint32) *pb.SendMessagesRequest {
		return &pb.SendMessagesRequest{SessionId: first.id, Instance: instance, Attempt: attempt, Messages: []*pb.ProtocolMessage{{Sequence: sequence, Mac: []byte("x")}}}
	}
	for _, do := range transports {
		refused(t, do(t, f.Service, &session.Caller{Name: "bob"}, message(one, 1, 1)), codes.NotFound, "SESSION_NOT_FOUND")
		refused(t, do(t, f.Service, alice, message(two, 1, 1)), codes.Aborted, "INTERRUPTED")
		refused(t, do(t, f.Service, alice, message(one, 2, 1)), codes.Aborted, "INTERRUPTED")
		ack := done[*pb.SendMessagesResponse](t, do(t, f.Service, alice, message(one, 1, 3))).GetAck()
		require.Equal(t, uint32(1), ack, "there is a gap before it")
	}
	for _, bad := range [][]*pb.ProtocolMessage{nil, {{Sequence: 1}}, {{Sequence: 1, Mac: []byte("x"), End: &pb.End{}}}, {{Sequence: 1, Payload: make([]byte, 300<<10)}}} {
		a := overGRPC(t, f.Service, alice, &pb.SendMessagesRequest{SessionId: first.id, Instance: one, Attempt: 1, Messages: bad})
		require.Equal(t, codes.InvalidArgument, a.status.Code())
	}

	other := proto.CloneOf(req)
	other.GetDevice().Instance = two
	second := begins(t, f.Service, alice, other)
	require.Equal(t, first.id, second.id)
	require.Equal(t, uint32(2), second.attempt)
	second.saysHello(t, f.backup)
	refused(t, <-first.ended, codes.Aborted, "INTERRUPTED")
	refused(t, <-second.ended, codes.Aborted, "INTERRUPTED") // after the permitted silence
	late := proto.CloneOf(other)
	late.GetDevice().Attempt = 2 // its parties belong to a past attempt
	refused(t, overGRPC(t, f.Service, alice, late), codes.Aborted, "INTERRUPTED")
	require.True(t, proto.Equal(before, wallet(t, f.Service, f.backup.wallet)))
	require.Zero(t, f.Workers.Stats().Busy)
	signs(t, f.Service, before, f.second)
}

// When callers learn that a run was cancelled, its worker has exited.
func TestDeviceHeldCancel(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Workers: servertest.Workers(0)})
	before := wallet(t, f.Service, f.backup.wallet)
	d := begins(t, f.Service, alice, deviceReq(f.backup, uuid.NewString()))
	d.saysHello(t, f.backup)
	<-d.heard
	require.Equal(t, 1, f.Workers.Stats().Busy)
	_, err := f.CancelSession(servertest.As(t.Context(), "alice"), &pb.CancelSessionRequest{SessionId: d.id})
	require.NoError(t, err)
	refused(t, <-d.ended, codes.Canceled, "SESSION_CANCELLED")
	require.Eventually(t, func() bool { return f.Workers.Stats().Busy == 0 }, 2*time.Minute, 5*time.Millisecond)
	require.Zero(t, f.Workers.Stats().Died)
	require.True(t, proto.Equal(before, wallet(t, f.Service, f.backup.wallet)))
}

// A device that has the share and violates the protocol is blamed: PROTOCOL_ABORTED with CLIENT as the culprit, and
// nothing else.
func TestDeviceSendsGarbage(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{Aborts: 100}})
	before := wallet(t, f.Service, f.backup.wallet)
	hello := func(change func(*pb.Hello)) *pb.ProtocolMessage {
		h := goodHello(t, nil)
		change(h)
		return &pb.ProtocolMessage{Sequence: 1, Hello: h}
	}
	good := hello(func(*pb.Hello) {})
	for name, messages := range map[string][]*pb.ProtocolMessage{
		"a party key of zero": {hello(func(h *pb.Hello) { h.PartyKeys = make([]byte, 32) })},
		"a short nonce":       {hello(func(h *pb.Hello) { h.Nonce = []byte("x") })},
		"names sets":          {hello(func(h *pb.Hello) { h.WalletId = f.backup.wallet })},
		"a mac too early":     {good, {Sequence: 2, Mac: []byte("x")}},
		"no tss message":      {good, {Sequence: 2, Payload: []byte("garbage"), Curve: pb.Curve_CURVE_ED25519}},
		"another curve":       {good, {Sequence: 2, Payload: []byte("garbage"), Curve: pb.Curve_CURVE_SECP256K1}},
		"not for us":          {good, {Sequence: 2, Payload: make([]byte, 100), Curve: pb.Curve_CURVE_ED25519, Private: true}},
		"a second hello":      {good, {Sequence: 2, Hello: goodHello(t, nil)}},
	} {
		got := deviceSays(t, f.Service, overGRPC, deviceReq(f.backup, uuid.NewString()), f.backup, messages...)
		refused(t, got, codes.Aborted, "PROTOCOL_ABORTED")
		i, _ := info(t, got.status)
		require.Equal(t, "CLIENT", i.GetMetadata()["culprit"], name)
	}
	after := wallet(t, f.Service, f.backup.wallet)
	require.Equal(t, uint32(8), shareSet(after, f.backup).GetAborts())
	after.Aborts, shareSet(after, f.backup).Aborts = 0, 0
	require.True(t, proto.Equal(before, after))
	signs(t, f.Service, before, f.second)
}

// deviceRun is a request for a device-held run.
type deviceRun interface {
	proto.Message
	GetRequestId() string
	GetDevice() *pb.DeviceSide
}

// deviceSays starts a run as alice's device, sends messages until the service has acknowledged them all, and returns
// how the run ended. Hellos among them are proven with h's share.
func deviceSays(t testing.TB, s *servertest.Service, do call, req deviceRun, h held, messages ...*pb.ProtocolMessage) answer {
	t.Helper()
	ended := later(func() answer { return do(t, s, alice, req) })
	last := messages[len(messages)-1].GetSequence()
	line := s.Log.Wait(t, "waits for its device's hello", req.GetRequestId()) // it is in no database
	var told struct {
		ID      string `json:"session_id"`
		Attempt uint32 `json:"attempt"`
	}
	require.NoError(t, json.Unmarshal([]byte(line), &told))
	rec := &session.Session{ID: told.ID, Attempt: told.Attempt, Operation: operationOf(req)}
	var a answer
	over := false
	require.Eventually(t, func() bool {
		select {
		case a = <-ended:
			over = true
			return true
		default:
		}
		for _, m := range messages {
			if m.GetHello() != nil {
				m.Hello.Proof = proof(t, m.GetHello(), req, rec, h)
			}
		}
		said := do(t, s, alice, &pb.SendMessagesRequest{
			SessionId: rec.ID, Instance: req.GetDevice().GetInstance(), Attempt: rec.Attempt, Messages: messages,
		})
		return said.status.Code() == codes.OK && done[*pb.SendMessagesResponse](t, said).GetAck() == last
	}, 2*time.Minute, 5*time.Millisecond)
	if !over {
		a = <-ended
	}
	return a
}

// proof returns the proof for a hello that begins rec, with h's share.
func proof(t testing.TB, hello *pb.Hello, req deviceRun, rec *session.Session, h held) []byte {
	t.Helper()
	share, err := tss.ParseShare(h.share)
	require.NoError(t, err)
	about := &tss.HelloContext{
		Operation: rec.Operation.String(), SessionID: rec.ID, Attempt: rec.Attempt, WalletID: share.WalletID, ShareSetID: share.ShareSetID,
		RecordHash: share.RecordHash, Instance: req.GetDevice().GetInstance(),
	}
	if r, ok := req.(*pb.SignWithDeviceRequest); ok {
		about.Payload = r.GetPayload()
	}
	return proofOf(hello, about, share)
}

func shareSet(w *pb.Wallet, h held) *pb.ShareSet {
	for _, s := range w.GetShareSets() {
		if s.GetShareSetId() == h.set {
			return s
		}
	}
	return nil
}

// goodHello returns a device's hello for a run on ED25519, without its proof.
func goodHello(t testing.TB, req deviceRun) *pb.Hello {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, err)
	h := &pb.Hello{Nonce: make([]byte, 32), SessionKey: key.PublicKey().Bytes()}
	_, _ = rand.Read(h.GetNonce()) // never fails
	if _, signs := req.(*pb.SignWithDeviceRequest); !signs {
		h.PartyKeys = append(make([]byte, 31), 7)
	}
	return h
}

func recipient(t *testing.T) string {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	return id.Recipient().String()
}
