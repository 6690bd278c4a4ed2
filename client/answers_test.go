package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// Unit tests of each check of an answer. Other tests check answers end to end, with a fake service that lies.

const (
	aWallet  = "0b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
	aSet     = "1b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
	anOldSet = "2b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
	another  = "3b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
)

// Each field of an outcome is checked against the request.
func TestOutcomeIsChecked(t *testing.T) {
	t.Parallel()
	type answer struct {
		want  want
		set   *mpcdv1.ShareSet
		share *Share
	}
	backup := func() answer {
		return answer{
			want{
				source:  &Share{walletID: aWallet, shareSetID: anOldSet},
				purpose: PurposeBackup, method: MethodPassword, curves: []Curve{CurveEd25519},
			},
			&mpcdv1.ShareSet{
				ShareSetId: aSet, ParentShareSetId: anOldSet,
				Purpose: mpcdv1.Purpose_PURPOSE_BACKUP, BackupMethod: mpcdv1.BackupMethod_BACKUP_METHOD_PASSWORD,
			},
			&Share{walletID: aWallet, shareSetID: aSet, purpose: PurposeBackup, curves: []Curve{CurveEd25519}},
		}
	}
	create := func() answer {
		return answer{
			want{purpose: PurposeSigning, curves: []Curve{CurveEd25519}},
			&mpcdv1.ShareSet{ShareSetId: aSet, Purpose: mpcdv1.Purpose_PURPOSE_SIGNING},
			&Share{walletID: aWallet, shareSetID: aSet, purpose: PurposeSigning, curves: []Curve{CurveEd25519}},
		}
	}
	for _, good := range []answer{backup(), create()} {
		require.NoError(t, good.want.check(good.set, good.share))
	}
	for says, change := range map[string]func(a *answer){
		"another share set than the outcome names":       func(a *answer) { a.share.shareSetID = another },
		"the share set is not of purpose BACKUP":         func(a *answer) { a.share.purpose = PurposeSigning },
		"the share set is not of purpose BACKUP ":        func(a *answer) { a.set.Purpose = mpcdv1.Purpose_PURPOSE_SIGNING },
		"another backup method":                          func(a *answer) { a.set.BackupMethod = mpcdv1.BackupMethod_BACKUP_METHOD_CUSTOM },
		"the share has other curves":                     func(a *answer) { a.share.curves = []Curve{CurveSecp256k1} },
		"the share has other curves ":                    func(a *answer) { a.share.curves = nil },
		"the share is of another wallet":                 func(a *answer) { a.share.walletID = another },
		"was not made from the share that was sent":      func(a *answer) { a.set.ParentShareSetId = another },
		"was not made from the share that was sent ":     func(a *answer) { a.set.ParentShareSetId = "" },
		"was not made from the share that was sent  ":    func(a *answer) { a.share.shareSetID, a.set.ShareSetId = anOldSet, anOldSet },
		"another share set than the outcome names, none": func(a *answer) { a.set = nil },
	} {
		a := backup()
		change(&a)
		err := a.want.check(a.set, a.share)
		require.ErrorIs(t, err, ErrBadAnswer, says)
		says, _, _ = strings.Cut(says, ",")
		require.ErrorContains(t, err, strings.TrimSpace(says))
	}
	a := create()
	a.set.ParentShareSetId = anOldSet
	require.ErrorContains(t, a.want.check(a.set, a.share), "of a new wallet was made from another one")
}

// A signature must be well-formed, verify under the pinned key, and come from the requested set.
func TestSignatureIsChecked(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	payload := []byte("payload")
	share := &Share{shareSetID: aSet}
	good := func() *mpcdv1.SignResponse {
		return &mpcdv1.SignResponse{Signature: ed25519.Sign(private, payload), ShareSetId: aSet}
	}
	sig, err := checkSignature(good(), share, tss.Ed25519, public, payload)
	require.NoError(t, err)
	require.Equal(t, aSet, sig.ShareSetID)
	for says, change := range map[string]func(r *mpcdv1.SignResponse){
		"is malformed":           func(r *mpcdv1.SignResponse) { r.Signature = r.GetSignature()[:63] },
		"is malformed ":          func(r *mpcdv1.SignResponse) { r.Signature = append(r.GetSignature(), 0) },
		"is malformed  ":         func(r *mpcdv1.SignResponse) { r.RecoveryId = 4 },
		"does not verify":        func(r *mpcdv1.SignResponse) { r.Signature[0] ^= 1 },
		"is another share set's": func(r *mpcdv1.SignResponse) { r.ShareSetId = another },
	} {
		r := good()
		change(r)
		_, err := checkSignature(r, share, tss.Ed25519, public, payload)
		require.ErrorIs(t, err, ErrBadAnswer)
		require.ErrorContains(t, err, strings.TrimSpace(says))
	}
	_, err = checkSignature(good(), share, tss.Ed25519, public, []byte("another"))
	require.ErrorContains(t, err, "does not verify")
}

// An answer about a wallet must be about the requested one, and its keys must not change.
func TestWalletAnswerIsChecked(t *testing.T) {
	t.Parallel()
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	wallet := func(keys ...*mpcdv1.PublicKey) *mpcdv1.Wallet {
		return &mpcdv1.Wallet{WalletId: aWallet, PublicKeys: keys}
	}
	ed := func(b []byte) *mpcdv1.PublicKey {
		return &mpcdv1.PublicKey{Curve: mpcdv1.Curve_CURVE_ED25519, PublicKey: b}
	}
	c := &Client{keys: map[keyID][]byte{}}
	_, err := c.wallet(wallet(ed(key(1))), aWallet)
	require.NoError(t, err)
	_, err = c.wallet(wallet(ed(key(1)), &mpcdv1.PublicKey{Curve: 77, PublicKey: []byte{1}}), aWallet)
	require.NoError(t, err, "a curve that only a later service has")
	require.Equal(t, key(1), c.knownKey(keyID{aWallet, CurveEd25519}))
	for says, x := range map[string]struct {
		answer *mpcdv1.Wallet
		id     string
	}{
		"it is about another wallet":         {wallet(), another},
		"it is about another wallet, none":   {nil, aWallet},
		"is not a UUID in lower case":        {&mpcdv1.Wallet{WalletId: "x"}, "x"},
		"is not a UUID in lower case, upper": {&mpcdv1.Wallet{WalletId: strings.ToUpper(aWallet)}, strings.ToUpper(aWallet)},
		"has another ED25519 key":            {wallet(ed(key(2))), aWallet},
		"two ED25519 keys":                   {wallet(ed(key(1)), ed(key(2))), aWallet},
		"public key has 32 bytes":            {wallet(ed(key(1)[1:])), aWallet},
	} {
		_, err := c.wallet(x.answer, x.id)
		require.ErrorIs(t, err, ErrBadAnswer, says)
		says, _, _ = strings.Cut(says, ",")
		require.ErrorContains(t, err, says)
	}
	require.Equal(t, key(1), c.knownKey(keyID{aWallet, CurveEd25519}), "the first one stays")

	require.Error(t, c.PinKeys("x"))
	require.Error(t, c.PinKeys(aWallet, PublicKey{Curve: "P256", Bytes: key(1)}))
	require.NoError(t, c.PinKeys(aWallet, PublicKey{Curve: CurveEd25519, Bytes: key(1)}))
	require.Error(t, c.PinKeys(aWallet, PublicKey{Curve: CurveEd25519, Bytes: key(2)}))
}

// Descent is followed through parents, and ends even if the service reports a cycle.
func TestDescends(t *testing.T) {
	t.Parallel()
	w := &Wallet{ShareSets: []ShareSet{{ID: anOldSet}, {ID: aSet, ParentID: anOldSet}, {ID: another, ParentID: aSet}}}
	require.True(t, w.descends(aSet, anOldSet))
	require.True(t, w.descends(another, anOldSet))
	require.False(t, w.descends(anOldSet, aSet))
	require.False(t, w.descends(aSet, another))
	require.False(t, w.descends(aWallet, anOldSet), "an unknown set")
	w.ShareSets[0].ParentID = another // a cycle
	require.True(t, w.descends(aSet, another))
	require.False(t, w.descends(aSet, aWallet))
	require.Nil(t, w.ShareSet("x"))
	require.Nil(t, w.ShareSet(aWallet))
	require.Equal(t, aSet, w.ShareSet(strings.ToUpper(aSet)).ID)
}

// A missing share, or one of another purpose, is rejected.
func TestCheckPurpose(t *testing.T) {
	t.Parallel()
	share := &Share{purpose: PurposeSigning, encoded: secret.New([]byte("x"))}
	require.NoError(t, share.checkPurpose(PurposeSigning))
	require.ErrorContains(t, share.checkPurpose(PurposeBackup), "a BACKUP share is needed")
	require.ErrorContains(t, (*Share)(nil).checkPurpose(PurposeSigning), "it is empty")
	require.ErrorContains(t, (&Share{purpose: PurposeSigning}).checkPurpose(PurposeSigning), "it is empty")
}

// The service's messages are delivered in order, once each, one part a message, and no more than a run has.
func TestAttemptDeliver(t *testing.T) {
	t.Parallel()
	message := func(n uint32) *mpcdv1.ProtocolMessage { return &mpcdv1.ProtocolMessage{Sequence: n, Mac: []byte{1}} }
	a := &attempt{device: &mpcdv1.DeviceSide{}}
	require.ErrorContains(t, a.deliver(message(1)), "a message before the run has begun")
	require.NoError(t, (&attempt{}).deliver(message(1)), "a hosted run ignores messages")
	a.session, a.received = "session", make(chan tss.Part, 2)
	for _, n := range []uint32{0, 2, 7} {
		require.NoError(t, a.deliver(message(n)), "not the next one")
		require.Empty(t, a.received)
	}
	err := a.deliver(&mpcdv1.ProtocolMessage{Sequence: 1})
	require.ErrorIs(t, err, ErrBadAnswer)
	require.ErrorContains(t, err, "it is not one part")
	for n := range uint32(2) {
		require.NoError(t, a.deliver(message(n+1)))
		require.NoError(t, a.deliver(message(n+1)), "a duplicate")
		require.Len(t, a.received, int(n+1))
		require.Equal(t, n+1, a.device.GetAck())
	}
	require.ErrorContains(t, a.deliver(message(3)), "more messages than the protocol has")
}

// An outcome is accepted once this side has ended without an error. A signature is accepted without that.
func TestAttemptFinish(t *testing.T) {
	t.Parallel()
	ended := func(err error) *attempt {
		a := &attempt{device: &mpcdv1.DeviceSide{}, session: "session", ended: make(chan struct{}), err: err}
		a.operation.Kind = "BACKUP"
		close(a.ended)
		return a
	}
	notBegun := &attempt{device: &mpcdv1.DeviceSide{}}
	require.ErrorContains(t, notBegun.finish(t.Context()), "an outcome before the run has begun")
	require.NoError(t, ended(nil).finish(t.Context()))
	broken := &tss.ProtocolError{Curve: tss.Ed25519, Round: 1, Culprit: tss.Server, Err: errors.New("no")}
	err := ended(broken).finish(t.Context())
	require.ErrorIs(t, err, ErrBadAnswer)
	require.ErrorIs(t, err, broken)
	err = ended(io.ErrClosedPipe).finish(t.Context())
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.NotErrorIs(t, err, ErrBadAnswer)
	sign := ended(broken)
	sign.operation.Kind, sign.ended = tss.OperationSign, nil
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	require.NoError(t, sign.finish(gone))
	waits := ended(nil)
	waits.ended = nil
	require.ErrorIs(t, waits.finish(gone), io.ErrClosedPipe)
}

// A device-held run with an unknown curve or an invalid share is not begun.
func TestInvalidDeviceHeldRun(t *testing.T) {
	t.Parallel()
	run := func(w want) error {
		open := func(context.Context, ticket) (grpc.ServerStreamingClient[mpcdv1.BackupWalletResponse], error) {
			return nil, errors.New("it was begun")
		}
		_, err := run[mpcdv1.BackupWalletResponse, *mpcdv1.BackupWalletResult](
			t.Context(), &Client{deviceHeld: true}, w, newReporter(nil, OperationBackup), open)
		return err
	}
	require.ErrorContains(t, run(want{curves: []Curve{"P256"}}), "not a curve")
	require.ErrorIs(t, run(want{source: &Share{encoded: secret.New([]byte("x"))}}), ErrNotAShare)
}

// scriptedStream is a stream with scripted responses.
type scriptedStream struct {
	grpc.ServerStreamingClient[mpcdv1.BackupWalletResponse]
	all []recv[mpcdv1.BackupWalletResponse]
}

func (s *scriptedStream) Recv() (*mpcdv1.BackupWalletResponse, error) {
	r := s.all[0]
	s.all = s.all[1:]
	return r.msg, r.err
}

// silentService accepts calls and does not answer them.
type silentService struct{ mpcdv1.WalletServiceClient }

func (silentService) SendMessages(
	ctx context.Context, _ *mpcdv1.SendMessagesRequest, _ ...grpc.CallOption,
) (*mpcdv1.SendMessagesResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A device's new attempt continues from the sequence of its own progress, which is lower than what was seen if the
// service forgot the session. A hosted session is always recorded, and so is one that this attempt has begun: their
// sequence never falls.
func TestSequenceOfANewAttempt(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		side    *tss.Operation
		session string
		want    uint32
	}{
		"a device begins":   {&tss.Operation{Party: tss.Client, Kind: tss.OperationSign}, "", 3},
		"it attaches again": {&tss.Operation{Party: tss.Client, Kind: tss.OperationSign}, "session", 500},
		"hosted":            {nil, "", 500},
	} {
		ctx, fail := context.WithCancelCause(t.Context())
		a := newAttempt(&Client{service: silentService{}}, x.side)
		a.fail, a.session = fail, x.session
		s := &scriptedStream{all: []recv[mpcdv1.BackupWalletResponse]{
			{msg: &mpcdv1.BackupWalletResponse{Event: &mpcdv1.BackupWalletResponse_Progress{
				Progress: &mpcdv1.Progress{SessionId: "session", Sequence: 3, Attempt: 1},
			}}},
			{err: io.EOF},
		}}
		open := func(context.Context, ticket) (grpc.ServerStreamingClient[mpcdv1.BackupWalletResponse], error) {
			return s, nil
		}
		seen := ticket{after: 500}
		r := newReporter(nil, OperationBackup)
		_, err := attach[mpcdv1.BackupWalletResponse, *mpcdv1.BackupWalletResult](ctx, a, &seen, r, open)
		require.ErrorIs(t, err, ErrNoOutcome, name)
		require.Equal(t, x.want, seen.after, name)
		fail(nil)
		a.wg.Wait()
	}
}

// A stream ends with an error, or with a message that is rejected, unless its outcome came before.
func TestStreamEnd(t *testing.T) {
	t.Parallel()
	read := func(a *attempt, s *scriptedStream) (*mpcdv1.BackupWalletResult, error) {
		open := func(context.Context, ticket) (grpc.ServerStreamingClient[mpcdv1.BackupWalletResponse], error) {
			return s, nil
		}
		r := newReporter(nil, OperationBackup)
		return attach[mpcdv1.BackupWalletResponse, *mpcdv1.BackupWalletResult](t.Context(), a, &ticket{}, r, open)
	}
	type got = recv[mpcdv1.BackupWalletResponse]
	reset, end := got{nil, status.Error(codes.Unavailable, "reset")}, got{nil, io.EOF}
	s := &scriptedStream{all: []got{reset, end}}
	_, err := read(&attempt{}, s)
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Len(t, s.all, 1)

	want := &mpcdv1.BackupWalletResult{}
	outcome := got{&mpcdv1.BackupWalletResponse{Event: &mpcdv1.BackupWalletResponse_Outcome{Outcome: want}}, nil}
	s = &scriptedStream{all: []got{outcome, reset, end}}
	out, err := read(&attempt{}, s)
	require.NoError(t, err)
	require.Same(t, want, out)
	require.Len(t, s.all, 1, "the status was read")

	message := &mpcdv1.ProtocolMessage{Mac: []byte{1}}
	early := got{&mpcdv1.BackupWalletResponse{Event: &mpcdv1.BackupWalletResponse_Message{Message: message}}, nil}
	_, err = read(&attempt{device: &mpcdv1.DeviceSide{}}, &scriptedStream{all: []got{early, end}})
	require.ErrorIs(t, err, ErrBadAnswer, "a message before the run has begun")
}

// A failed call and an unknown curve are not answers of the service.
func TestNoSignature(t *testing.T) {
	t.Parallel()
	c := &Client{keys: map[keyID][]byte{{aWallet, CurveEd25519}: make([]byte, 32)}}
	share := &Share{walletID: aWallet, shareSetID: aSet}
	_, err := c.signature(t.Context(), nil, io.ErrClosedPipe, share, CurveEd25519, nil)
	require.Equal(t, io.ErrClosedPipe, err)
	_, err = c.signature(t.Context(), &mpcdv1.SignResponse{}, nil, share, "P256", nil)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrBadAnswer)
}
