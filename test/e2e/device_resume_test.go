package e2e_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mpcd/mpcd/client"
	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// badNetwork is a connection to the service that disrupts calls as a network may.
type badNetwork struct {
	to     atomic.Pointer[grpc.ClientConnInterface]
	opened atomic.Int32 // streams
	// before is called before a stream is opened; hear reads a stream's next event; send sends the device's messages.
	// Each may be nil.
	before func()
	hear   func(stream grpc.ClientStream, event any) error
	send   func(req *pb.SendMessagesRequest, send sender) (*pb.SendMessagesResponse, error)
}

type sender func(*pb.SendMessagesRequest) (*pb.SendMessagesResponse, error)

func newNetwork(to grpc.ClientConnInterface) *badNetwork {
	n := new(badNetwork)
	n.to.Store(&to)
	return n
}

func (n *badNetwork) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	req, ok := args.(*pb.SendMessagesRequest)
	if !ok || n.send == nil {
		return (*n.to.Load()).Invoke(ctx, method, args, reply, opts...)
	}
	resp, err := n.send(req, func(req *pb.SendMessagesRequest) (*pb.SendMessagesResponse, error) {
		got := new(pb.SendMessagesResponse)
		return got, (*n.to.Load()).Invoke(ctx, method, req, got, opts...)
	})
	if out, ok := reply.(*pb.SendMessagesResponse); ok && err == nil {
		proto.Merge(out, resp)
	}
	return err
}

func (n *badNetwork) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if n.before != nil {
		n.before()
	}
	n.opened.Add(1)
	stream, err := (*n.to.Load()).NewStream(ctx, desc, method, opts...)
	return &badStream{stream, n}, err
}

type badStream struct {
	grpc.ClientStream
	network *badNetwork
}

func (s *badStream) RecvMsg(m any) error {
	if s.network.hear != nil {
		return s.network.hear(s.ClientStream, m)
	}
	return s.ClientStream.RecvMsg(m)
}

var errGone = status.Error(codes.Unavailable, "the network is gone")

// overGateway is a connection over HTTP/1.1 for the SDK, which does not support HTTP.
type overGateway struct{ wire strangerHTTP }

func (g overGateway) Invoke(ctx context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	req, isRequest := args.(proto.Message)
	resp, isResponse := reply.(proto.Message)
	if !isRequest || !isResponse {
		return errors.New("no protobuf")
	}
	return g.wire.call(ctx, req, resp)
}

func (g overGateway) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return &gatewayStream{wire: g.wire, ctx: ctx}, nil
}

type gatewayStream struct {
	grpc.ClientStream // nil: the SDK uses only the methods below
	wire              strangerHTTP
	ctx               context.Context //nolint:containedctx // as in every stream
	next              func() (strangerEvent, error)
}

func (s *gatewayStream) SendMsg(m any) (err error) {
	req, ok := m.(proto.Message)
	if !ok {
		return errors.New("no protobuf")
	}
	s.next, err = s.wire.open(s.ctx, req)
	return err
}

func (s *gatewayStream) CloseSend() error { return nil }

func (s *gatewayStream) RecvMsg(m any) error {
	e, err := s.next()
	if err != nil {
		return err
	}
	to, ok := m.(proto.Message)
	if !ok {
		return errors.New("no protobuf")
	}
	proto.Merge(to, e)
	return nil
}

// networkPhone is a phone with ED25519 shares behind a network.
func networkPhone(t testing.TB, n *badNetwork) *client.Client {
	t.Helper()
	c, err := client.New(n, client.WithDeviceHeldShares(), client.WithCurves(client.CurveEd25519), client.WithCloudKey(client.MethodICloud, &keychain{}),
		client.WithStore(func(context.Context, *client.Share) error { return nil }))
	require.NoError(t, err)
	return c
}

// deviceBackup makes a wallet with a backup that the phone can decrypt.
func deviceBackup(t testing.TB, phone *client.Client) (share *client.Share, backup string) {
	t.Helper()
	share, err := phone.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	b, err := phone.BackupWallet(t.Context(), share, client.MethodICloud, nil)
	require.NoError(t, err)
	require.NoError(t, phone.ConfirmBackup(t.Context(), b, b.CipherText))
	return share, b.CipherText
}

// undisturbed requires that no session of a wallet's had a second attempt or an error.
func undisturbed(t testing.TB, s *servertest.Service, walletID string) {
	t.Helper()
	lines, err := s.Store.Audit(t.Context(), walletID)
	require.NoError(t, err)
	require.NotEmpty(t, lines)
	for _, l := range lines {
		require.NotEqual(t, "session.restart", l.Action)
		require.NotEqual(t, "session.end", l.Action)
	}
}

// The stream of a run that makes a set is lost at some of its events, over both transports, with the event: the
// device attaches again, and it stays one session with one attempt that makes one set.
// TestLongDeviceHeldDropsWhileASetIsMade loses it at each.
func TestDeviceHeldDropsWhileASetIsMade(t *testing.T) {
	t.Parallel()
	dropsWhileASetIsMade(t, map[string]int32{"gRPC": 4, "HTTP": 5}, 6)
}

// dropsWhileASetIsMade loses a provision's stream at every provision[transport]-th event, and a creation's at every
// create-th.
func dropsWhileASetIsMade(t *testing.T, provision map[string]int32, create int32) {
	t.Helper()
	for name, stride := range provision {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := servertest.Start(t, servertest.Config{Auth: servertest.Always("alice")})
			var conn grpc.ClientConnInterface = s.Conn
			if name == "HTTP" {
				conn = overGateway{strangerHTTP{s.HTTP, s.URL + "/v1"}}
			}
			n := newNetwork(conn)
			phone := networkPhone(t, n)
			share, backup := deviceBackup(t, phone)
			var last *client.Share
			provisions := loseEach(t, n, stride, func() (err error) {
				last, err = phone.ProvisionWallet(t.Context(), backup, client.MethodICloud, nil)
				return err
			})
			w := wallet(t, s, share.WalletID())
			require.Len(t, w.GetShareSets(), 2+provisions)
			_, err := phone.Sign(t.Context(), last, client.CurveEd25519, []byte("x"))
			require.NoError(t, err)
			undisturbed(t, s, w.GetWalletId())

			creates := loseEach(t, n, create, func() (err error) {
				last, err = phone.CreateWallet(t.Context(), nil)
				return err
			})
			_, err = phone.Sign(t.Context(), last, client.CurveEd25519, []byte("x"))
			require.NoError(t, err)
			all := done[*pb.ListWalletsResponse](t, overGRPC(t, s, nil, &pb.ListWalletsRequest{PageSize: 100})).GetWallets()
			require.Len(t, all, 1+creates)
			for _, w := range all {
				undisturbed(t, s, w.GetWalletId())
			}
		})
	}
}

// loseEach repeats an operation, each time losing the stream at a later event, until there are no more. It returns
// the number of repetitions.
func loseEach(t testing.TB, n *badNetwork, stride int32, do func() error) (runs int) {
	t.Helper()
	for at := int32(1); ; at += stride {
		var seen atomic.Int32
		n.hear = func(stream grpc.ClientStream, event any) error {
			if err := stream.RecvMsg(event); err != nil {
				return err
			}
			if seen.Add(1) == at {
				return errGone // with the message it carried
			}
			return nil
		}
		n.opened.Store(0)
		require.NoError(t, do(), "event %d", at)
		runs++
		if n.opened.Load() == 1 {
			require.Greater(t, at, int32(8), "a run has more events")
			n.hear = nil
			return runs
		}
		require.Equal(t, int32(2), n.opened.Load())
	}
}

// The device's messages arrive but the answers are lost: it sends all of them again, and none counts twice.
func TestDeviceHeldAnswersLost(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{Auth: servertest.Always("alice")})
	n := newNetwork(s.Conn)
	phone := networkPhone(t, n)
	share, backup := deviceBackup(t, phone)
	var mu sync.Mutex
	var acks []uint32
	lost := 0
	n.send = func(req *pb.SendMessagesRequest, send sender) (*pb.SendMessagesResponse, error) {
		resp, err := send(req)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		if slices.Contains(acks, resp.GetAck()) { // it is a repeated one
			return resp, nil
		}
		acks, lost = append(acks, resp.GetAck()), lost+1
		return nil, errGone
	}
	_, err := phone.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
	require.Greater(t, lost, 2)
	acks, lost = nil, 0
	second, err := phone.ProvisionWallet(t.Context(), backup, client.MethodICloud, nil)
	require.NoError(t, err)
	require.Greater(t, lost, 2)
	require.True(t, slices.IsSorted(acks))
	n.send = nil
	_, err = phone.Sign(t.Context(), second, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
	require.Len(t, wallet(t, s, share.WalletID()).GetShareSets(), 3)
	undisturbed(t, s, share.WalletID())
}

// The device's messages arrive one by one, the last one first, then each of them again, and others with used numbers:
// the service takes each number once, in order.
func TestDeviceHeldMessagesOutOfOrder(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{Auth: servertest.Always("alice")})
	n := newNetwork(s.Conn)
	phone := networkPhone(t, n)
	share, backup := deviceBackup(t, phone)
	var gaps, repeats atomic.Int32
	n.send = func(req *pb.SendMessagesRequest, send sender) (resp *pb.SendMessagesResponse, err error) {
		all := req.GetMessages()
		one := proto.CloneOf(req)
		for _, m := range slices.Backward(all) {
			one.Messages = []*pb.ProtocolMessage{m}
			if resp, err = send(one); err != nil {
				return nil, err
			}
			if resp.GetAck() < m.GetSequence() {
				gaps.Add(1)
			}
		}
		for range 2 {
			if resp, err = send(req); err != nil {
				return nil, err
			}
			repeats.Add(1)
		}
		one.Messages = nil
		for _, m := range all { // the first message with a number counts
			one.Messages = append(one.Messages, &pb.ProtocolMessage{Sequence: m.GetSequence(), Mac: []byte("another message")})
		}
		last := resp.GetAck()
		if resp, err = send(one); err == nil && resp.GetAck() != last {
			return nil, errors.New("a number was taken twice")
		}
		return resp, err
	}
	_, err := phone.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
	second, err := phone.ProvisionWallet(t.Context(), backup, client.MethodICloud, nil)
	require.NoError(t, err)
	require.Positive(t, gaps.Load())
	require.Positive(t, repeats.Load())
	_, err = phone.Sign(t.Context(), second, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
	require.Len(t, wallet(t, s, share.WalletID()).GetShareSets(), 3)
	undisturbed(t, s, share.WalletID())
}

// The run has ended and its set is stored, but the service's last event is lost and the service restarts: the device
// attaches, receives it, and has its share.
func TestDeviceHeldOutcomeIsKept(t *testing.T) {
	t.Parallel()
	cfg := servertest.Config{Auth: servertest.Always("alice"), Dir: t.TempDir()}
	s := servertest.Start(t, cfg)
	cfg.Keyset = s.Keyset
	n := newNetwork(s.Conn)
	phone := networkPhone(t, n)
	share, backup := deviceBackup(t, phone)

	var lost, arrived atomic.Bool
	n.hear = func(stream grpc.ClientStream, event any) error {
		err := stream.RecvMsg(event)
		if e, ok := event.(strangerEvent); ok && err == nil && e.GetMessage().GetMac() != nil {
			if !lost.Swap(true) {
				return errGone
			}
			arrived.Store(true)
		}
		return err
	}
	restarted := s
	n.before = func() {
		if !lost.Load() || restarted != s {
			return
		}
		require.Eventually(t, func() bool {
			w, err := s.Store.Wallet(t.Context(), share.WalletID())
			return err == nil && len(w.Sets) == 3
		}, 2*time.Minute, 5*time.Millisecond)
		s.Stop()
		restarted = servertest.Start(t, cfg)
		var conn grpc.ClientConnInterface = restarted.Conn
		n.to.Store(&conn)
	}
	n.opened.Store(0)
	second, err := phone.ProvisionWallet(t.Context(), backup, client.MethodICloud, nil)
	require.NoError(t, err)
	require.True(t, arrived.Load())
	require.Equal(t, int32(2), n.opened.Load())
	_, err = phone.Sign(t.Context(), second, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
	require.Len(t, wallet(t, restarted, share.WalletID()).GetShareSets(), 3)
	undisturbed(t, restarted, share.WalletID())
}

// The app restarts during a run, after every other event: its new parties begin the next attempt, independent of the
// previous one, and no blame is assigned. Messages of the old parties change nothing.
func TestDeviceIsRestarted(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{Auth: servertest.Always("alice"), Workers: servertest.Workers(1)})
	app := &stranger{t: t, wire: strangerGRPC{s.WalletServiceClient}}
	backup := app.backup(app.create(onlyEd25519))
	from := app.decode(backup)
	restarts := 0
	for ; ; restarts++ {
		before := wallet(t, s, from.WalletID)
		one := app.begin("PROVISION", backup, onlyEd25519)
		req := &pb.ProvisionWalletRequest{RequestId: uuid.NewString(), WalletId: from.WalletID, ClientSide: &pb.ProvisionWalletRequest_Device{Device: one.device}}
		if !cutAfter(t, one, req, 1+2*restarts) {
			require.Greater(t, restarts, 2, "a run has more events")
			break
		}
		require.True(t, proto.Equal(before, wallet(t, s, from.WalletID)))

		anew := &stranger{t: t, wire: &echoing{strangerGRPC{s.WalletServiceClient}, s, one}}
		two := anew.begin("PROVISION", backup, onlyEd25519)
		req.ClientSide = &pb.ProvisionWalletRequest_Device{Device: two.device}
		set, _ := two.follow(req)
		require.Equal(t, one.session, two.session)
		require.Equal(t, []uint32{1, 2}, []uint32{one.attempt, two.attempt})
		require.NotEqual(t, one.peer.GetShareSetId(), two.peer.GetShareSetId())
		require.NotEqual(t, one.peer.GetNonce(), two.peer.GetNonce())
		require.NotEqual(t, one.peer.GetSessionKey(), two.peer.GetSessionKey())
		require.NotEqual(t, one.peer.GetPartyKeys(), two.peer.GetPartyKeys())
		app.sign(anew.confirm(two, set), pb.Curve_CURVE_ED25519, []byte("x"))
		after := wallet(t, s, from.WalletID)
		require.Len(t, after.GetShareSets(), len(before.GetShareSets())+1)
		for _, set := range after.GetShareSets() {
			require.Zero(t, set.GetAborts())
		}
	}
	lines, err := s.Store.Audit(t.Context(), from.WalletID)
	require.NoError(t, err)
	for _, l := range lines {
		require.NotContains(t, l.Detail, "culprit")
		if l.Action == "session.restart" {
			restarts--
		}
	}
	require.Zero(t, restarts)
}

// cutAfter reads a run up to its events-th event and drops its stream. It returns false if the run ended before.
func cutAfter(t *testing.T, r *strangerRun, req proto.Message, events int) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next, err := r.wire.open(ctx, req)
	require.NoError(t, err)
	for range events {
		e, err := next()
		require.NoError(t, err)
		r.answer(e)
		if r.expected != nil {
			return false
		}
	}
	return true
}

// echoing is a connection on which the parties of an earlier attempt still send before each call, beginning after the
// hello, which ends that attempt.
type echoing struct {
	strangerGRPC
	s   *servertest.Service
	old *strangerRun
}

func (e *echoing) call(ctx context.Context, req, resp proto.Message) error {
	if m, ok := req.(*pb.SendMessagesRequest); ok && m.GetMessages()[0].GetHello() == nil {
		late := &pb.SendMessagesRequest{
			SessionId: e.old.session, Attempt: e.old.attempt, Instance: e.old.device.GetInstance(),
			Messages: []*pb.ProtocolMessage{{Sequence: m.GetMessages()[0].GetSequence(), Mac: []byte("of an attempt that is over")}},
		}
		refused(e.old.t, overGRPC(e.old.t, e.s, nil, late), codes.Aborted, "INTERRUPTED")
	}
	return e.strangerGRPC.call(ctx, req, resp)
}
