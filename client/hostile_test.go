package client_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"math/big"
	"slices"
	"sync"
	"testing"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/mpcd/mpcd/client"
	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// impostor is a malicious service: a real one whose messages to the device are altered by the test.
type impostor struct {
	mu      sync.Mutex // guards what follows
	said    int        // how many of the service's parts the device has received in this run
	session string     // of this run
	key     []byte     // the device's session key
	mac     []byte     // the device's
	heard   *sync.Cond // on mu; signalled when mac is set
	alter   func(i *impostor, n int, m *mpcdv1.ProtocolMessage)
}

func newImpostor() *impostor {
	i := &impostor{}
	i.heard = sync.NewCond(&i.mu)
	return i
}

// run sets the function that alters the next run's parts.
func (i *impostor) run(alter func(i *impostor, n int, m *mpcdv1.ProtocolMessage)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.said, i.session, i.key, i.mac, i.alter = 0, "", nil, nil, alter
}

func (i *impostor) dial() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := streamer(ctx, desc, cc, method, opts...)
			return &impostorStream{stream, i}, err
		}),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if r, ok := req.(*mpcdv1.SendMessagesRequest); ok {
				i.mu.Lock()
				for _, m := range r.GetMessages() {
					if h := m.GetHello(); h != nil {
						i.session, i.key = r.GetSessionId(), h.GetSessionKey()
					}
					if len(m.GetMac()) > 0 {
						i.mac = m.GetMac()
						i.heard.Broadcast()
					}
				}
				i.mu.Unlock()
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
	}
}

type impostorStream struct {
	grpc.ClientStream
	*impostor
}

func (s *impostorStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	if ev, ok := m.(interface {
		GetMessage() *mpcdv1.ProtocolMessage
	}); ok && ev.GetMessage() != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.alter != nil {
			s.alter(s.impostor, s.said, ev.GetMessage())
		}
		s.said++
	}
	return nil
}

// sealed encrypts a tss-lib message to the device as the service would (ADR 5).
func (i *impostor) sealed(m proto.Message) []byte {
	h := sha256.New()
	for _, f := range [][]byte{[]byte("mpcd private 2"), []byte(i.session), binary.BigEndian.AppendUint32(nil, 1), []byte("SERVER")} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(f))))
		h.Write(f)
	}
	to, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(i.key)
	if err != nil {
		panic(err) // the SDK's key is good
	}
	out, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), h.Sum(nil), wrapped(m))
	if err != nil {
		panic(err)
	}
	return out
}

// wrapped encodes a tss-lib message as it is sent.
func wrapped(m proto.Message) []byte {
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // the test made the message
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&anypb.Any{TypeUrl: "type.googleapis.com/" + string(proto.MessageName(m)), Value: content})
	if err != nil {
		panic(err)
	}
	return b
}

// flipBit returns b with one bit flipped.
func flipBit(b []byte) []byte {
	if len(b) == 0 {
		return []byte{1}
	}
	b = bytes.Clone(b)
	b[len(b)-1] ^= 1
	return b
}

// alterations are the ways in which a part can be altered, by the predicate that then holds for the part. Each reports
// whether it applies to the part.
var alterations = map[string]func(i *impostor, m *mpcdv1.ProtocolMessage) bool{
	"altered": func(_ *impostor, m *mpcdv1.ProtocolMessage) bool {
		switch {
		case m.GetHello() != nil:
			m.Hello.Nonce = flipBit(m.GetHello().GetNonce())
		case m.GetEnd() != nil:
			m.End.ShareSha256 = flipBit(m.GetEnd().GetShareSha256())
		case len(m.GetMac()) > 0:
			m.Mac = flipBit(m.GetMac())
		default:
			m.Payload = flipBit(m.GetPayload())
		}
		return true
	},
	"of another kind": func(_ *impostor, m *mpcdv1.ProtocolMessage) bool {
		kind := &mpcdv1.ProtocolMessage{Sequence: m.GetSequence(), Ack: m.GetAck(), Mac: make([]byte, 32)}
		if len(m.GetMac()) > 0 {
			kind.Mac, kind.End = nil, &mpcdv1.End{}
		}
		proto.Reset(m)
		proto.Merge(m, kind)
		return true
	},
	"larger than any": func(_ *impostor, m *mpcdv1.ProtocolMessage) bool {
		if len(m.GetPayload()) == 0 {
			return false
		}
		m.Payload = make([]byte, 300<<10)
		return true
	},
	"of another wallet":                     hello(func(h *mpcdv1.Hello) { h.WalletId = uuid.NewString() }),
	"of no wallet":                          hello(func(h *mpcdv1.Hello) { h.WalletId = "" }),
	"of another set":                        hello(func(h *mpcdv1.Hello) { h.ShareSetId = uuid.NewString() }),
	"with a record that is not the share's": hello(func(h *mpcdv1.Hello) { h.Record = flipBit(h.GetRecord()) }),
	"with a party key of zero": func(_ *impostor, m *mpcdv1.ProtocolMessage) bool {
		if len(m.GetHello().GetPartyKeys()) == 0 { // a signing has none
			return false
		}
		m.Hello.PartyKeys = make([]byte, len(m.GetHello().GetPartyKeys()))
		return true
	},
	"with a session key of its own": hello(func(h *mpcdv1.Hello) { h.SessionKey = flipBit(h.GetSessionKey()) }),
	"the device's own MAC": func(i *impostor, m *mpcdv1.ProtocolMessage) bool {
		if len(m.GetMac()) == 0 {
			return false
		}
		for len(i.mac) == 0 { // the device sends its MAC without waiting for the service's
			i.heard.Wait()
		}
		m.Mac = i.mac
		return true
	},
	"with a share of its own": func(i *impostor, m *mpcdv1.ProtocolMessage) bool {
		if !m.GetPrivate() {
			return false
		}
		m.Payload = i.sealed(&edresharing.DGRound3Message1{Share: []byte{7}})
		return true
	},
}

func hello(change func(*mpcdv1.Hello)) func(*impostor, *mpcdv1.ProtocolMessage) bool {
	return func(_ *impostor, m *mpcdv1.ProtocolMessage) bool {
		if m.GetHello() == nil {
			return false
		}
		change(m.GetHello())
		return true
	}
}

// A sample of the alterations; TestLongImpostor makes all of them.
func TestImpostor(t *testing.T) { impostors(t, 3) }

// impostors alters each of the service's parts of a backup, a provision and a signing in each way. The device must then
// store nothing and not sign. Only every n-th pair of part and way is tried. The wallet's sets must stay usable.
func impostors(t *testing.T, n int) {
	t.Helper()
	evil := newImpostor()
	service := servertest.Start(t, servertest.Config{Dial: evil.dial(), Sessions: session.Config{Aborts: 1 << 20}})
	stored := 0
	c, err := client.New(service.Conn, client.WithDeviceHeldShares(), client.WithCurves(client.CurveEd25519),
		client.WithCloudKey(client.MethodICloud, cloud{}),
		client.WithStore(func(context.Context, *client.Share) error { stored++; return nil }))
	require.NoError(t, err)
	evil.run(nil)
	share, err := c.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, 1, stored)
	backup, err := c.BackupWallet(t.Context(), share, client.MethodICloud, nil)
	require.NoError(t, err)
	require.NoError(t, c.ConfirmBackup(t.Context(), backup, backup.CipherText))
	stored = 0
	for operation, run := range map[string]func() error{
		"backup": func() error { _, err := c.BackupWallet(t.Context(), share, client.MethodICloud, nil); return err },
		"provision": func() error {
			_, err := c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodICloud, nil)
			return err
		},
		"sign": func() error { _, err := c.Sign(t.Context(), share, client.CurveEd25519, []byte("x")); return err },
	} {
		var parts []*mpcdv1.ProtocolMessage // of the service's
		evil.run(func(_ *impostor, _ int, m *mpcdv1.ProtocolMessage) {
			if operation != "sign" || m.GetEnd() == nil && len(m.GetMac()) == 0 { // sign does not check its end
				parts = append(parts, proto.CloneOf(m))
			}
		})
		require.NoError(t, run(), operation)
		require.Greater(t, len(parts), 3, operation)
		honest := &impostor{session: evil.session, key: evil.key, mac: make([]byte, 32)}
		stored = 0
		for i, way := range slices.Sorted(maps.Keys(alterations)) {
			lie := alterations[way]
			for part, m := range parts {
				if (i+part)%n != 0 || !lie(honest, proto.CloneOf(m)) {
					continue
				}
				told := false
				evil.run(func(i *impostor, n int, m *mpcdv1.ProtocolMessage) {
					if n == part {
						told = lie(i, m)
					}
				})
				err := run()
				require.True(t, told, "%s: part %d %s: %v", operation, part, way, err)
				require.True(t, errors.Is(err, client.ErrBadAnswer) || client.Reason(err) == "PROTOCOL_ABORTED",
					"%s: part %d %s: %v", operation, part, way, err)
				require.Zero(t, stored, "%s: part %d %s", operation, part, way)
				t.Logf("%s: part %d %s: %v", operation, part, way, err)
			}
		}
	}
	evil.run(nil)
	_, err = c.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
}

// The device rejects a bad Paillier key of the service's in a new wallet.
func TestImpostorSendsBadPaillierKey(t *testing.T) {
	evil := newImpostor()
	service := servertest.Start(t, servertest.Config{Dial: evil.dial()})
	source := newSource(t, 8)
	c := newECDSA(t, service, newMemoryStore(), newKey(t), source.next)
	for cause, plant := range map[string]func(n []byte) []byte{
		"N has a small factor": func(n []byte) []byte {
			x := new(big.Int).Div(new(big.Int).SetBytes(n), big.NewInt(3))
			if x.Bit(0) == 0 {
				x.Sub(x, big.NewInt(1))
			}
			return x.Mul(x, big.NewInt(3)).Bytes()
		},
		"N is not odd with 2048 bits": flipBit,
	} {
		evil.run(func(_ *impostor, _ int, m *mpcdv1.ProtocolMessage) {
			var a anypb.Any
			if m.GetPayload() == nil || m.GetPrivate() || proto.Unmarshal(m.GetPayload(), &a) != nil {
				return
			}
			var round1 eckeygen.KGRound1Message
			if a.MessageIs(&round1) && a.UnmarshalTo(&round1) == nil {
				round1.PaillierN = plant(round1.GetPaillierN())
				m.Payload = wrapped(&round1)
			}
		})
		_, err := c.CreateWallet(t.Context(), nil)
		require.ErrorIs(t, err, client.ErrBadAnswer)
		require.ErrorContains(t, err, cause)
		blamed := new(tss.ProtocolError)
		require.ErrorAs(t, err, &blamed)
		require.Equal(t, tss.Server, blamed.Culprit)
	}
}
