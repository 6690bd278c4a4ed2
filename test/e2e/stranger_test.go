package e2e_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/big"
	"net/http"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// A third-party client. The wire format of a device-held run is tss-lib's own, and docs/adr/0005 and 0001 specify
// everything around it. The client of these tests was written from them, with only tss-lib and the generated stubs,
// as a client in another code base would be; it is an example for clients in other languages. (strangerparty_test.go
// has its use of tss-lib.) TestLongStranger covers a key on SECP256K1 too.
func TestStranger(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{Workers: servertest.Workers(1)})
	strangersLife(t, &stranger{t: t, wire: strangerGRPC{s.WalletServiceClient}}, pb.Curve_CURVE_ED25519)
}

// The same calls work over HTTP/1.1, through the gateway.
func TestStrangerOverHTTP(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{Workers: servertest.Workers(1)})
	strangersLife(t, &stranger{t: t, wire: strangerHTTP{s.HTTP, s.URL + "/v1"}}, pb.Curve_CURVE_ED25519)
}

// strangersLife is a wallet from its creation to a second device, with a signature by each device under each key.
func strangersLife(t *testing.T, s *stranger, curves ...pb.Curve) {
	t.Helper()
	first := s.create(curves)
	backup := s.backup(first)
	second := s.provision(backup)
	digest := sha256.Sum256([]byte("what the wallet signs"))
	for _, encoded := range [][]byte{first, second} {
		for _, curve := range curves {
			s.sign(encoded, curve, digest[:])
		}
	}
}

// stranger is a client that knows the service's API and tss-lib.
type stranger struct {
	t    *testing.T
	wire strangerWire
	used int // pre-params: each new SECP256K1 share takes a fresh set
}

// create makes a wallet and returns the first device's share, in the stranger's encoding: the service only sees its
// hash.
func (s *stranger) create(curves []pb.Curve) []byte {
	r := s.begin("CREATE", nil, curves)
	set, _ := r.follow(&pb.CreateWalletRequest{RequestId: uuid.NewString(), Curves: curves, ClientSide: &pb.CreateWalletRequest_Device{Device: r.device}})
	return s.confirm(r, set)
}

func (s *stranger) backup(signing []byte) []byte {
	from := s.decode(signing)
	r := s.begin("BACKUP", signing, from.curves())
	set, _ := r.follow(&pb.BackupWalletRequest{
		RequestId: uuid.NewString(), WalletId: from.WalletID, BackupMethod: pb.BackupMethod_BACKUP_METHOD_CUSTOM,
		ClientSide: &pb.BackupWalletRequest_Device{Device: r.device},
	})
	return s.confirm(r, set)
}

func (s *stranger) provision(backup []byte) []byte {
	from := s.decode(backup)
	r := s.begin("PROVISION", backup, from.curves())
	set, _ := r.follow(&pb.ProvisionWalletRequest{RequestId: uuid.NewString(), WalletId: from.WalletID, ClientSide: &pb.ProvisionWalletRequest_Device{Device: r.device}})
	return s.confirm(r, set)
}

// confirm confirms that the new share is stored, by its hash.
func (s *stranger) confirm(r *strangerRun, set *pb.ShareSet) []byte {
	require.Equal(s.t, r.made.ShareSetID, set.GetShareSetId())
	sum := sha256.Sum256(r.encoded)
	s.call(&pb.ConfirmShareSetRequest{WalletId: r.made.WalletID, ShareSetId: r.made.ShareSetID, ShareSha256: sum[:]}, new(pb.ConfirmShareSetResponse))
	return r.encoded
}

func (s *stranger) sign(signing []byte, curve pb.Curve, payload []byte) {
	from := s.decode(signing)
	r := s.begin("SIGN", signing, []pb.Curve{curve})
	r.payload = payload
	_, signature := r.follow(&pb.SignWithDeviceRequest{RequestId: uuid.NewString(), WalletId: from.WalletID, Device: r.device, Curve: curve, Payload: payload})
	require.Equal(s.t, r.signature, signature)
	public := from.publicKey(curve)
	if curve == pb.Curve_CURVE_ED25519 {
		require.True(s.t, ed25519.Verify(public, payload, r.signature))
		return
	}
	key, err := secp256k1.ParsePubKey(public)
	require.NoError(s.t, err)
	var rr, ss secp256k1.ModNScalar
	require.False(s.t, rr.SetByteSlice(r.signature[:32]) || ss.SetByteSlice(r.signature[32:]))
	require.True(s.t, ecdsa.NewSignature(&rr, &ss).Verify(payload, key))
}

func (s *stranger) call(req, resp proto.Message) {
	require.NoError(s.t, s.wire.call(s.t.Context(), req, resp))
}

// strangerRun is one attempt at one operation. It is a simple loop that answers each event.
type strangerRun struct {
	*stranger
	operation string
	source    []byte         // the share that is used, encoded; nil if there is none
	from      *strangerShare // the same, decoded
	curves    []pb.Curve     // of the run, in order
	payload   []byte         // what is signed
	device    *pb.DeviceSide

	session   string
	attempt   uint32
	key       hpke.PrivateKey // for messages to us only
	hello     *pb.Hello
	peer      *pb.Hello             // the service's
	queue     []*pb.ProtocolMessage // to be sent
	sent, got uint32                // the last numbers of both directions
	out, in   hash.Hash             // over both directions
	tss       *strangerTSS          // of the current curve; nil after the last
	early     []*pb.ProtocolMessage // of the next curve, which the service has already started
	peerEnded bool                  // its End has arrived
	expected  []byte                // the MAC that must arrive
	confirmed bool                  // it arrived
	made      *strangerShare        // the new share, and
	encoded   []byte                // its encoding for storage
	signature []byte
}

// begin prepares a run from the share in source, which may be nil.
func (s *stranger) begin(operation string, source []byte, curves []pb.Curve) *strangerRun {
	key, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
	require.NoError(s.t, err)
	r := &strangerRun{stranger: s, operation: operation, source: source, curves: curves, key: key, out: sha256.New(), in: sha256.New()}
	r.device = &pb.DeviceSide{Instance: uuid.NewString()}
	if source != nil {
		r.from = s.decode(source)
		r.device.ShareSetId = r.from.ShareSetID
	}
	r.hello = &pb.Hello{Nonce: make([]byte, 32), SessionKey: key.PublicKey().Bytes()}
	_, _ = rand.Read(r.hello.GetNonce()) // never fails
	if operation != "SIGN" {
		for _, curve := range curves {
			r.hello.PartyKeys = append(r.hello.PartyKeys, freshPartyKey(s.t, curve)...)
		}
	}
	return r
}

// follow executes the run from its request to its outcome: a new set, or a signature.
func (r *strangerRun) follow(req proto.Message) (set *pb.ShareSet, signature []byte) {
	next, err := r.wire.open(r.t.Context(), req)
	require.NoError(r.t, err)
	for set == nil && signature == nil {
		e, err := next()
		require.NoError(r.t, err)
		r.answer(e)
		set, signature = outcomeOf(e)
	}
	require.True(r.t, r.confirmed, "the service said that it saw the same")
	_, err = next()
	require.ErrorIs(r.t, err, io.EOF)
	return set, signature
}

// answer handles an event.
func (r *strangerRun) answer(e strangerEvent) {
	if p := e.GetProgress(); p != nil && r.session == "" {
		r.session, r.attempt = p.GetSessionId(), p.GetAttempt()
		if r.from != nil {
			r.hello.Proof = r.proof()
		}
		r.say(&pb.ProtocolMessage{Hello: r.hello})
	}
	if m := e.GetMessage(); m != nil {
		r.hear(m)
	}
	r.post()
}

// say adds a message to the queue and to the hash of our messages.
func (r *strangerRun) say(m *pb.ProtocolMessage) {
	r.sent++
	m.Sequence = r.sent
	addToHash(r.out, m)
	r.queue = append(r.queue, m)
}

// post sends the queue.
func (r *strangerRun) post() {
	if len(r.queue) == 0 {
		return
	}
	for _, m := range r.queue {
		m.Ack = r.got
	}
	var resp pb.SendMessagesResponse
	r.call(&pb.SendMessagesRequest{SessionId: r.session, Instance: r.device.GetInstance(), Attempt: r.attempt, Messages: r.queue}, &resp)
	require.Equal(r.t, r.sent, resp.GetAck())
	r.queue = nil
}

// hear handles a message of the service.
func (r *strangerRun) hear(m *pb.ProtocolMessage) {
	r.got++
	require.Equal(r.t, r.got, m.GetSequence())
	addToHash(r.in, m)
	switch {
	case m.GetHello() != nil:
		r.meet(m.GetHello())
	case m.GetEnd() != nil:
		r.peerEnded = true
	case m.GetMac() != nil:
		require.True(r.t, hmac.Equal(r.expected, m.GetMac()))
		r.confirmed = true
	case r.tss == nil || m.GetCurve() != r.tss.curve:
		r.early = append(r.early, m)
	default:
		r.tss.take(r.open(m))
	}
	for r.tss != nil && r.tss.ended() {
		r.keep()
	}
	if r.tss == nil && r.peerEnded && r.expected == nil {
		r.say(&pb.ProtocolMessage{Mac: r.mac("CLIENT")})
		r.expected = r.mac("SERVER")
	}
}

// meet checks the service's hello against what we know, and starts.
func (r *strangerRun) meet(peer *pb.Hello) {
	r.peer = peer
	if r.from != nil {
		require.Equal(r.t, r.from.WalletID, peer.GetWalletId())
		require.Equal(r.t, r.from.Record, peer.GetRecord())
		require.NotEqual(r.t, r.from.ShareSetID, peer.GetShareSetId())
	}
	if r.operation != "SIGN" {
		r.made = &strangerShare{WalletID: peer.GetWalletId(), ShareSetID: peer.GetShareSetId()}
	}
	r.work(0)
}

// work starts the i-th curve, with messages that have arrived for it already.
func (r *strangerRun) work(i int) {
	r.tss = r.parties(i)
	r.tss.start()
	early := r.early
	r.early = nil
	for _, m := range early {
		r.tss.take(r.open(m))
	}
}

// keep stores the result on the current curve, and continues with the next curve or the end.
func (r *strangerRun) keep() {
	r.tss.keep(r)
	for i, curve := range r.curves {
		if curve == r.tss.curve && i+1 < len(r.curves) {
			r.work(i + 1)
			return
		}
	}
	r.tss = nil
	end := &pb.End{}
	if r.made != nil {
		r.made.Record = r.made.record(r.t, r.operation)
		var err error
		r.encoded, err = json.Marshal(r.made)
		require.NoError(r.t, err)
		sum := sha256.Sum256(r.encoded)
		end.ShareSha256 = sum[:]
	}
	r.say(&pb.ProtocolMessage{End: end})
}

// emit sends one tss-lib message; one to a single party is encrypted to it.
func (r *strangerRun) emit(curve pb.Curve, payload []byte, private bool) {
	if private {
		to, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(r.peer.GetSessionKey())
		require.NoError(r.t, err)
		payload, err = hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), r.sealInfo("CLIENT"), payload)
		require.NoError(r.t, err)
	}
	r.say(&pb.ProtocolMessage{Curve: curve, Payload: payload, Private: private})
}

// open is the reverse: it returns tss-lib's bytes, and whether they are for one party only.
func (r *strangerRun) open(m *pb.ProtocolMessage) (payload []byte, private bool) {
	if !m.GetPrivate() {
		return m.GetPayload(), false
	}
	payload, err := hpke.Open(r.key, hpke.HKDFSHA256(), hpke.AES256GCM(), r.sealInfo("SERVER"), m.GetPayload())
	require.NoError(r.t, err)
	return payload, true
}

func (r *strangerRun) sealInfo(from string) []byte {
	h := sha256.New()
	addFields(h, []byte("mpcd private 2"), []byte(r.session), binary.BigEndian.AppendUint32(nil, r.attempt), []byte(from))
	return h.Sum(nil)
}

// mac returns a side's MAC over the transcript.
func (r *strangerRun) mac(role string) []byte {
	keyOf, source, set, record := r.from, "", "", []byte(nil)
	if r.from != nil {
		source = r.from.ShareSetID
	}
	if r.made != nil {
		set, record = r.made.ShareSetID, r.made.Record
	}
	if keyOf == nil {
		keyOf = r.made
	}
	signed := r.signed()
	recordHash := sha256.Sum256(record)
	h := sha256.New()
	addFields(h, []byte("mpcd device-held 2"), []byte(r.operation), []byte(r.session), binary.BigEndian.AppendUint32(nil, r.attempt),
		[]byte(r.peer.GetWalletId()), []byte(source), []byte(set), recordHash[:], signed, r.out.Sum(nil), r.in.Sum(nil))
	transcript := h.Sum(nil)
	key, err := hkdf.Key(sha256.New, keyOf.shared(), transcript, "mpcd confirm 2", 32)
	require.NoError(r.t, err)
	m := hmac.New(sha256.New, key)
	addFields(m, []byte(role), transcript)
	return m.Sum(nil)
}

// signed returns the digest of what is signed; empty for other operations.
func (r *strangerRun) signed() []byte {
	if r.operation != "SIGN" {
		return nil
	}
	sum := sha256.Sum256(r.payload)
	return sum[:]
}

// proof proves that we have the share: a signature over the hello and its context.
func (r *strangerRun) proof() []byte {
	record := sha256.Sum256(r.from.Record)
	h := sha256.New()
	addFields(h, []byte("mpcd hello 1"), []byte(r.operation), []byte(r.session), binary.BigEndian.AppendUint32(nil, r.attempt),
		[]byte(r.from.WalletID), []byte(r.from.ShareSetID), record[:], r.signed(), []byte("CLIENT"), []byte(r.device.GetInstance()),
		r.hello.GetNonce(), r.hello.GetSessionKey(), r.hello.GetPartyKeys())
	return r.from.prove(h.Sum(nil))
}

// addFields adds each field, prefixed by its length.
func addFields(h hash.Hash, fields ...[]byte) {
	for _, f := range fields {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(f))))
		h.Write(f)
	}
}

// addToHash adds a message to its direction's hash, but not a MAC, which is over that hash.
func addToHash(h hash.Hash, m *pb.ProtocolMessage) {
	switch x := m.GetHello(); {
	case x != nil:
		addFields(h, []byte("hello"), x.GetNonce(), x.GetSessionKey(), x.GetPartyKeys(), []byte(x.GetWalletId()), []byte(x.GetShareSetId()), x.GetRecord(), x.GetProof())
	case m.GetEnd() != nil:
		addFields(h, []byte("end"), m.GetEnd().GetShareSha256())
	case m.GetMac() == nil:
		flags := []byte{byte(m.GetCurve()), 0}
		if m.GetPrivate() {
			flags[1] = 1
		}
		addFields(h, []byte("message"), flags, m.GetPayload())
	}
}

// strangerWire is a transport to the service.
type strangerWire interface {
	// open makes a streaming call, and returns a function that reads its next event.
	open(ctx context.Context, req proto.Message) (func() (strangerEvent, error), error)
	call(ctx context.Context, req, resp proto.Message) error
}

// strangerEvent is a response of any of the streaming calls.
type strangerEvent interface {
	proto.Message
	GetProgress() *pb.Progress
	GetMessage() *pb.ProtocolMessage
}

func outcomeOf(e strangerEvent) (set *pb.ShareSet, signature []byte) {
	switch e := e.(type) {
	case *pb.CreateWalletResponse:
		return e.GetOutcome().GetShareSet(), nil
	case *pb.BackupWalletResponse:
		return e.GetOutcome().GetShareSet(), nil
	case *pb.ProvisionWalletResponse:
		return e.GetOutcome().GetShareSet(), nil
	case *pb.SignWithDeviceResponse:
		return nil, e.GetOutcome().GetSignature()
	}
	return nil, nil
}

// strangerGRPC uses the generated stubs.
type strangerGRPC struct{ service pb.WalletServiceClient }

func (w strangerGRPC) open(ctx context.Context, req proto.Message) (func() (strangerEvent, error), error) {
	switch req := req.(type) {
	case *pb.CreateWalletRequest:
		return events(w.service.CreateWallet(ctx, req))
	case *pb.BackupWalletRequest:
		return events(w.service.BackupWallet(ctx, req))
	case *pb.ProvisionWalletRequest:
		return events(w.service.ProvisionWallet(ctx, req))
	case *pb.SignWithDeviceRequest:
		return events(w.service.SignWithDevice(ctx, req))
	}
	return nil, fmt.Errorf("no stream takes a %T", req)
}

func events[R any, M interface {
	*R
	strangerEvent
}](stream grpc.ServerStreamingClient[R], err error) (func() (strangerEvent, error), error) {
	return func() (strangerEvent, error) {
		m, err := stream.Recv()
		return M(m), err
	}, err
}

func (w strangerGRPC) call(ctx context.Context, req, resp proto.Message) error {
	switch req := req.(type) {
	case *pb.SendMessagesRequest:
		got, err := w.service.SendMessages(ctx, req)
		proto.Merge(resp, got)
		return err
	case *pb.ConfirmShareSetRequest:
		got, err := w.service.ConfirmShareSet(ctx, req)
		proto.Merge(resp, got)
		return err
	}
	return fmt.Errorf("no call takes a %T", req)
}

// strangerHTTP posts JSON. A stream's events are lines of JSON.
type strangerHTTP struct {
	client *http.Client
	base   string
}

func (w strangerHTTP) open(ctx context.Context, req proto.Message) (func() (strangerEvent, error), error) {
	var path string
	var event strangerEvent
	switch req := req.(type) {
	case *pb.CreateWalletRequest:
		path, event = "/wallets", new(pb.CreateWalletResponse)
	case *pb.BackupWalletRequest:
		path, event = "/wallets/"+req.GetWalletId()+":backup", new(pb.BackupWalletResponse)
	case *pb.ProvisionWalletRequest:
		path, event = "/wallets/"+req.GetWalletId()+":provision", new(pb.ProvisionWalletResponse)
	case *pb.SignWithDeviceRequest:
		path, event = "/wallets/"+req.GetWalletId()+":signWithDevice", new(pb.SignWithDeviceResponse)
	}
	body, err := w.post(ctx, path, req)
	if err != nil {
		return nil, err
	}
	lines := json.NewDecoder(body)
	return func() (strangerEvent, error) {
		var line struct{ Result, Error json.RawMessage }
		if err := lines.Decode(&line); err != nil {
			return nil, errors.Join(err, body.Close())
		}
		if line.Error != nil {
			return nil, errors.New(string(line.Error))
		}
		proto.Reset(event)
		return event, protojson.Unmarshal(line.Result, event)
	}, nil
}

func (w strangerHTTP) call(ctx context.Context, req, resp proto.Message) error {
	var path string
	switch req := req.(type) {
	case *pb.SendMessagesRequest:
		path = "/sessions/" + req.GetSessionId() + "/messages"
	case *pb.ConfirmShareSetRequest:
		path = "/wallets/" + req.GetWalletId() + "/shareSets/" + req.GetShareSetId() + ":confirm"
	}
	body, err := w.post(ctx, path, req)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(body)
	return errors.Join(err, body.Close(), protojson.Unmarshal(b, resp))
}

func (w strangerHTTP) post(ctx context.Context, path string, req proto.Message) (io.ReadCloser, error) {
	b, err := protojson.Marshal(req)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := w.client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.ProtoMajor != 1 || resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(resp.Body)
		return nil, errors.Join(err, resp.Body.Close(), fmt.Errorf("%s %s: %s", resp.Proto, resp.Status, text))
	}
	return resp.Body, nil
}

// freshPartyKey returns 32 bytes: a number in [1, q).
func freshPartyKey(t *testing.T, curve pb.Curve) []byte {
	t.Helper()
	one := big.NewInt(1)
	k, err := rand.Int(rand.Reader, new(big.Int).Sub(tssCurve(curve).Params().N, one))
	require.NoError(t, err)
	return k.Add(k, one).FillBytes(make([]byte, 32))
}
