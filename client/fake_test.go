package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net"
	"slices"
	"sync"
	"testing"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// fake is a service with real ED25519 keys, shares and signatures, all in memory. It can be made to lie. Tests with the
// real service are in internal/server.
type fake struct {
	mpcdv1.UnimplementedWalletServiceServer

	// Lies. They run with mu held.
	lieMade   func(*made)          // about a new set, before its share is encoded and sealed
	lieEvents func([]sent) []sent  // about what a stream sends
	lieWallet func(*mpcdv1.Wallet) // about a wallet
	lieSign   func(*mpcdv1.SignResponse)
	lieToken  string           // of every page of a list
	fail      map[string]error // by RPC, instead of an answer

	mu      sync.Mutex // guards what follows
	wallets map[string]*mpcdv1.Wallet
	sets    map[string]*set // by share set id
	calls   []string
	tickets []ticket
	revoked []*mpcdv1.RevokeShareSetRequest
}

var (
	madeMu   sync.Mutex // guards madeKeys
	madeKeys = map[*[2]tss.NewKey]*[2]tss.NewKey{}
)

// newKeys generates a key, or reshares one. Results are cached by their input for all tests, since a run takes a second
// under the race detector.
func newKeys(from *[2]tss.NewKey) (*[2]tss.NewKey, error) {
	madeMu.Lock()
	defer madeMu.Unlock()
	if keys, ok := madeKeys[from]; ok {
		return keys, nil
	}
	var keys *[2]tss.NewKey
	var err error
	if from == nil {
		keys, err = tsstest.Keygen(context.Background(), tss.Ed25519, [2]*tss.PreParams{}, tss.Observer{})
	} else {
		keys, err = tsstest.Reshare(context.Background(), &from[tss.Client].Record,
			[2]*tss.KeyShare{&from[tss.Client].Share, &from[tss.Server].Share}, [2]*tss.PreParams{}, tss.Observer{})
	}
	madeKeys[from] = keys
	return keys, err
}

// set is a share set as the fake stores it.
type set struct {
	keys *[2]tss.NewKey
	hash [sha256.Size]byte // of the client share
	pb   *mpcdv1.ShareSet
}

// made is a new set on its way to the client.
type made struct {
	walletID string
	set      *mpcdv1.ShareSet
	share    *tss.Share
	seal     func(share []byte, to string) []byte
}

// sent is one message of a stream, or its end.
type sent struct {
	progress *mpcdv1.Progress
	outcome  bool
	err      error
}

// ticket has the fields that streaming requests have in common.
type ticket struct {
	requestID, sealTo, displayName string
}

func newFake(t testing.TB) (*fake, *grpc.ClientConn) {
	t.Helper()
	f := &fake{wallets: map[string]*mpcdv1.Wallet{}, sets: map[string]*set{}, fail: map[string]error{}}
	server := grpc.NewServer()
	mpcdv1.RegisterWalletServiceServer(server, f)
	listener := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }() // ends with server.Stop
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		server.Stop()
		require.NoError(t, <-done)
	})
	return f, conn
}

// refusal returns an error like the real service's, of a kind that is not retried.
func refusal(code codes.Code, reason, message string) error {
	st, err := status.New(code, message).WithDetails(
		&errdetails.ErrorInfo{Domain: "mpcd", Reason: reason, Metadata: map[string]string{"round": "3"}})
	if err != nil {
		return err
	}
	return st.Err()
}

// begin records a call, and returns the error that it should fail with.
func (f *fake) begin(rpc string) error {
	f.calls = append(f.calls, rpc)
	return f.fail[rpc]
}

func (f *fake) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, what)
}

func (f *fake) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *fake) CreateWallet(req *mpcdv1.CreateWalletRequest, stream grpc.ServerStreamingServer[mpcdv1.CreateWalletResponse]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("CreateWallet"); err != nil {
		return err
	}
	keys, err := newKeys(nil)
	if err != nil {
		return err
	}
	w := &mpcdv1.Wallet{WalletId: uuid.NewString(), Owner: req.GetOwner()}
	f.wallets[w.GetWalletId()] = w
	f.tickets = append(f.tickets, ticket{req.GetRequestId(), req.GetSealTo(), req.GetDisplayName()})
	set := &mpcdv1.ShareSet{Purpose: mpcdv1.Purpose_PURPOSE_SIGNING, DisplayName: req.GetDisplayName()}
	m, share, err := f.addSet(w, keys, set, req.GetSealTo())
	if err != nil {
		return err
	}
	return f.stream(func(p *mpcdv1.Progress, outcome bool) error {
		if outcome {
			return stream.Send(&mpcdv1.CreateWalletResponse{Event: &mpcdv1.CreateWalletResponse_Outcome{
				Outcome: &mpcdv1.CreateWalletResult{WalletId: m.walletID, ShareSet: m.set, ClientShare: share}}})
		}
		return stream.Send(&mpcdv1.CreateWalletResponse{Event: &mpcdv1.CreateWalletResponse_Progress{Progress: p}})
	})
}

func (f *fake) BackupWallet(req *mpcdv1.BackupWalletRequest, stream grpc.ServerStreamingServer[mpcdv1.BackupWalletResponse]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("BackupWallet"); err != nil {
		return err
	}
	f.tickets = append(f.tickets, ticket{req.GetRequestId(), req.GetSealTo(), req.GetDisplayName()})
	m, share, err := f.reshare(req.GetSigningShare(), req.GetSealTo(), &mpcdv1.ShareSet{
		Purpose: mpcdv1.Purpose_PURPOSE_BACKUP, BackupMethod: req.GetBackupMethod(), DisplayName: req.GetDisplayName(),
	})
	if err != nil {
		return err
	}
	return f.stream(func(p *mpcdv1.Progress, outcome bool) error {
		if outcome {
			return stream.Send(&mpcdv1.BackupWalletResponse{Event: &mpcdv1.BackupWalletResponse_Outcome{
				Outcome: &mpcdv1.BackupWalletResult{ShareSet: m.set, ClientShare: share}}})
		}
		return stream.Send(&mpcdv1.BackupWalletResponse{Event: &mpcdv1.BackupWalletResponse_Progress{Progress: p}})
	})
}

func (f *fake) ProvisionWallet(req *mpcdv1.ProvisionWalletRequest, stream grpc.ServerStreamingServer[mpcdv1.ProvisionWalletResponse]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("ProvisionWallet"); err != nil {
		return err
	}
	f.tickets = append(f.tickets, ticket{req.GetRequestId(), req.GetSealTo(), req.GetDisplayName()})
	m, share, err := f.reshare(req.GetBackupShare(), req.GetSealTo(), &mpcdv1.ShareSet{
		Purpose: mpcdv1.Purpose_PURPOSE_SIGNING, DisplayName: req.GetDisplayName(),
	})
	if err != nil {
		return err
	}
	return f.stream(func(p *mpcdv1.Progress, outcome bool) error {
		if outcome {
			return stream.Send(&mpcdv1.ProvisionWalletResponse{Event: &mpcdv1.ProvisionWalletResponse_Outcome{
				Outcome: &mpcdv1.ProvisionWalletResult{ShareSet: m.set, ClientShare: share}}})
		}
		return stream.Send(&mpcdv1.ProvisionWalletResponse{Event: &mpcdv1.ProvisionWalletResponse_Progress{Progress: p}})
	})
}

// reshare makes a set from the one that a share belongs to.
func (f *fake) reshare(share []byte, sealTo string, pb *mpcdv1.ShareSet) (*made, []byte, error) {
	from, err := tss.ParseShare(share)
	if err != nil {
		return nil, nil, err
	}
	old, ok := f.sets[from.ShareSetID]
	if !ok || old.pb.GetState() != mpcdv1.ShareSetState_SHARE_SET_STATE_ACTIVE {
		return nil, nil, refusal(codes.FailedPrecondition, "SHARE_SET_PENDING", "the share set is not active")
	}
	if sha256.Sum256(share) != old.hash {
		return nil, nil, refusal(codes.InvalidArgument, "SHARE_SET_MISMATCH", "the share is not the set's")
	}
	keys, err := newKeys(old.keys)
	if err != nil {
		return nil, nil, err
	}
	pb.ParentShareSetId = from.ShareSetID
	return f.addSet(f.wallets[from.WalletID], keys, pb, sealTo)
}

// addSet stores new keys as a PENDING set, and returns it with its client share as it is sent.
func (f *fake) addSet(
	w *mpcdv1.Wallet, keys *[2]tss.NewKey, pb *mpcdv1.ShareSet, sealTo string,
) (*made, []byte, error) {
	pb.ShareSetId, pb.State = uuid.NewString(), mpcdv1.ShareSetState_SHARE_SET_STATE_PENDING
	id := tss.SetID{WalletID: w.GetWalletId(), ShareSetID: pb.GetShareSetId(), Purpose: tss.Purpose(pb.GetPurpose())}
	rec := tss.Record{SetID: id, Keys: []tss.KeyRecord{keys[tss.Client].Record}}
	record, err := rec.Encode()
	if err != nil {
		return nil, nil, err
	}
	m := &made{walletID: w.GetWalletId(), set: pb, seal: sealed, share: &tss.Share{
		SetID: id, Party: tss.Client, RecordHash: tss.Hash(record), Keys: []tss.KeyShare{keys[tss.Client].Share},
	}}
	w.ShareSets = append(w.ShareSets, pb)
	s := &set{keys: keys, pb: pb}
	f.sets[pb.GetShareSetId()] = s
	if f.lieMade != nil {
		f.lieMade(m)
	}
	b, err := m.share.Encode()
	if err != nil {
		return nil, nil, err
	}
	s.hash = sha256.Sum256(b.Reveal())
	return m, m.seal(b.Reveal(), sealTo), nil
}

func sealed(share []byte, to string) []byte {
	r, err := age.ParseX25519Recipient(to)
	if err != nil {
		return nil
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err != nil {
		return nil
	}
	if _, err := w.Write(share); err != nil || w.Close() != nil {
		return nil
	}
	return out.Bytes()
}

func (f *fake) stream(send func(p *mpcdv1.Progress, outcome bool) error) error {
	evs := []sent{
		step(mpcdv1.Status_STATUS_QUEUED, 0, 0), step(mpcdv1.Status_STATUS_READING_SHARE, 1, 0), step(mpcdv1.Status_STATUS_PARSING_SHARE, 2, 0),
		step(mpcdv1.Status_STATUS_GENERATING_SHARE, 10, 1), step(mpcdv1.Status_STATUS_GENERATING_SHARE, 60, 2),
		step(mpcdv1.Status_STATUS_STORING_SHARE, 95, 0), step(mpcdv1.Status_STATUS_DONE, 100, 0), {outcome: true},
	}
	for i := range evs {
		if evs[i].progress != nil {
			evs[i].progress.Sequence = uint32(i + 1)
		}
	}
	if f.lieEvents != nil {
		evs = f.lieEvents(evs)
	}
	for _, e := range evs {
		if e.err != nil {
			return e.err
		}
		if err := send(e.progress, e.outcome); err != nil {
			return err
		}
	}
	return nil
}

func step(s mpcdv1.Status, percent, round uint32) sent {
	p := &mpcdv1.Progress{Status: s, Percent: percent, SessionId: "session", Attempt: 1, Done: s == mpcdv1.Status_STATUS_DONE}
	if round > 0 {
		p.Curve, p.Round, p.Rounds = mpcdv1.Curve_CURVE_ED25519, round, 5
	}
	return sent{progress: p}
}

// answer returns a wallet as the service would, or its lie.
func (f *fake) answer(w *mpcdv1.Wallet) *mpcdv1.Wallet {
	out := proto.CloneOf(w)
	if f.lieWallet != nil {
		f.lieWallet(out)
	}
	return out
}

func (f *fake) ConfirmShareSet(_ context.Context, req *mpcdv1.ConfirmShareSetRequest) (*mpcdv1.ConfirmShareSetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("ConfirmShareSet"); err != nil {
		return nil, err
	}
	s, w := f.sets[req.GetShareSetId()], f.wallets[req.GetWalletId()]
	if s == nil || w == nil || !bytes.Equal(s.hash[:], req.GetShareSha256()) {
		return nil, refusal(codes.InvalidArgument, "SHARE_SET_MISMATCH", "the hash is not the share's")
	}
	s.pb.State = mpcdv1.ShareSetState_SHARE_SET_STATE_ACTIVE
	w.PublicKeys = []*mpcdv1.PublicKey{{Curve: mpcdv1.Curve_CURVE_ED25519, PublicKey: s.keys[0].Record.PublicKey}}
	return &mpcdv1.ConfirmShareSetResponse{Wallet: f.answer(w)}, nil
}

func (f *fake) RevokeShareSet(_ context.Context, req *mpcdv1.RevokeShareSetRequest) (*mpcdv1.RevokeShareSetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revoked = append(f.revoked, req)
	if err := f.begin("RevokeShareSet"); err != nil {
		return nil, err
	}
	s, w := f.sets[req.GetShareSetId()], f.wallets[req.GetWalletId()]
	if s == nil || w == nil {
		return nil, refusal(codes.NotFound, "SHARE_SET_NOT_FOUND", "there is no such share set")
	}
	s.pb.State = mpcdv1.ShareSetState_SHARE_SET_STATE_REVOKED
	return &mpcdv1.RevokeShareSetResponse{Wallet: f.answer(w)}, nil
}

func (f *fake) ReleaseShareSet(_ context.Context, req *mpcdv1.ReleaseShareSetRequest) (*mpcdv1.ReleaseShareSetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("ReleaseShareSet"); err != nil {
		return nil, err
	}
	s, w := f.sets[req.GetShareSetId()], f.wallets[req.GetWalletId()]
	if s == nil || w == nil {
		return nil, refusal(codes.NotFound, "SHARE_SET_NOT_FOUND", "there is no such share set")
	}
	s.pb.LockTime, s.pb.Aborts = nil, 0
	return &mpcdv1.ReleaseShareSetResponse{Wallet: f.answer(w)}, nil
}

func (f *fake) Sign(ctx context.Context, req *mpcdv1.SignRequest) (*mpcdv1.SignResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("Sign"); err != nil {
		return nil, err
	}
	share, err := tss.ParseShare(req.GetSigningShare())
	if err != nil {
		return nil, err
	}
	s := f.sets[share.ShareSetID]
	sig, err := tsstest.Sign(ctx, &s.keys[tss.Client].Record, [2]*tss.KeyShare{&share.Keys[0], &s.keys[tss.Server].Share}, req.GetPayload(), tss.Observer{})
	if err != nil {
		return nil, err
	}
	resp := &mpcdv1.SignResponse{Signature: sig.Bytes[:], ShareSetId: share.ShareSetID}
	if f.lieSign != nil {
		f.lieSign(resp)
	}
	return resp, nil
}

func (f *fake) GetWallet(_ context.Context, req *mpcdv1.GetWalletRequest) (*mpcdv1.GetWalletResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("GetWallet"); err != nil {
		return nil, err
	}
	w := f.wallets[req.GetWalletId()]
	if w == nil {
		return nil, refusal(codes.NotFound, "WALLET_NOT_FOUND", "there is no such wallet")
	}
	return &mpcdv1.GetWalletResponse{Wallet: f.answer(w)}, nil
}

// ListWallets returns one wallet a page.
func (f *fake) ListWallets(_ context.Context, req *mpcdv1.ListWalletsRequest) (*mpcdv1.ListWalletsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("ListWallets"); err != nil {
		return nil, err
	}
	var ids []string
	for id, w := range f.wallets {
		if w.GetOwner() == req.GetOwner() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if f.lieToken != "" {
		return &mpcdv1.ListWalletsResponse{Wallets: []*mpcdv1.Wallet{f.answer(f.wallets[ids[0]])}, NextPageToken: f.lieToken}, nil
	}
	i := slices.Index(ids, req.GetPageToken()) + 1
	if i == len(ids) {
		return &mpcdv1.ListWalletsResponse{}, nil
	}
	return &mpcdv1.ListWalletsResponse{Wallets: []*mpcdv1.Wallet{f.answer(f.wallets[ids[i]])}, NextPageToken: ids[i]}, nil
}
