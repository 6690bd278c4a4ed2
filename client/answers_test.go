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

// One test for each check of an answer, beside those with a lying service (make mutants).

const (
	aWallet  = "0b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
	aSet     = "1b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
	anOldSet = "2b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
	another  = "3b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
)

// An outcome is held against what was asked for, in each of its parts.
func TestOutcomeIsHeldAgainstTheRequest(t *testing.T) {
	t.Parallel()
	type answer struct {
		want  want
		set   *mpcdv1.ShareSet
		share *Share
	}
	backup := func() answer {
		return answer{
			want{source: &Share{walletID: aWallet, shareSetID: anOldSet}, purpose: PurposeBackup, method: MethodPassword, curves: []Curve{CurveEd25519}},
			&mpcdv1.ShareSet{
				ShareSetId: aSet, Purpose: mpcdv1.Purpose_PURPOSE_BACKUP, BackupMethod: mpcdv1.BackupMethod_BACKUP_METHOD_PASSWORD, ParentShareSetId: anOldSet,
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

// A signature has the form of one, is under the pinned key, and of the set that was asked.
func TestSignatureIsHeldAgainstTheRequest(t *testing.T) {
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
		"has not the form of one":   func(r *mpcdv1.SignResponse) { r.Signature = r.GetSignature()[:63] },
		"has not the form of one ":  func(r *mpcdv1.SignResponse) { r.Signature = append(r.GetSignature(), 0) },
		"has not the form of one  ": func(r *mpcdv1.SignResponse) { r.RecoveryId = 4 },
		"does not verify":           func(r *mpcdv1.SignResponse) { r.Signature[0] ^= 1 },
		"another share set signed":  func(r *mpcdv1.SignResponse) { r.ShareSetId = another },
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

// What the service says of a wallet is of the one that was asked for, and its keys never change.
func TestWalletIsHeldAgainstWhatIsKnown(t *testing.T) {
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
	require.NoError(t, err, "a curve of a later service's")
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

// Whose descendant a set is, whatever the service claims about parents.
func TestDescends(t *testing.T) {
	t.Parallel()
	w := &Wallet{ShareSets: []ShareSet{{ID: anOldSet}, {ID: aSet, ParentID: anOldSet}, {ID: another, ParentID: aSet}}}
	require.True(t, w.descends(aSet, anOldSet))
	require.True(t, w.descends(another, anOldSet))
	require.False(t, w.descends(anOldSet, aSet))
	require.False(t, w.descends(aSet, another))
	require.False(t, w.descends(aWallet, anOldSet), "one that is not there")
	w.ShareSets[0].ParentID = another // in a circle
	require.True(t, w.descends(aSet, another))
	require.False(t, w.descends(aSet, aWallet))
	require.Nil(t, w.ShareSet("x"))
	require.Nil(t, w.ShareSet(aWallet))
	require.Equal(t, aSet, w.ShareSet(strings.ToUpper(aSet)).ID)
}

// A share that is used is there, and of the purpose.
func TestShareOfAPurpose(t *testing.T) {
	t.Parallel()
	share := &Share{purpose: PurposeSigning, encoded: secret.New([]byte("x"))}
	require.NoError(t, share.of(PurposeSigning))
	require.ErrorContains(t, share.of(PurposeBackup), "a BACKUP share is needed")
	require.ErrorContains(t, (*Share)(nil).of(PurposeSigning), "there is none")
	require.ErrorContains(t, (&Share{purpose: PurposeSigning}).of(PurposeSigning), "there is none")
}

// What comes of a device-held run: in its order, once, as one part, and no more than a run has.
func TestWhatADeviceTakes(t *testing.T) {
	t.Parallel()
	word := func(n uint32) *mpcdv1.ProtocolMessage { return &mpcdv1.ProtocolMessage{Sequence: n, Mac: []byte{1}} }
	a := &attempt{device: &mpcdv1.DeviceSide{}}
	require.ErrorContains(t, a.deliver(word(1)), "a message before the run has begun")
	require.NoError(t, (&attempt{}).deliver(word(1)), "a hosted run has no use for it")
	a.session, a.in = "session", make(chan tss.Part, 2)
	for _, n := range []uint32{0, 2, 7} {
		require.NoError(t, a.deliver(word(n)), "not the next one")
		require.Empty(t, a.in)
	}
	err := a.deliver(&mpcdv1.ProtocolMessage{Sequence: 1})
	require.ErrorIs(t, err, ErrBadAnswer)
	require.ErrorContains(t, err, "it is not one part")
	for n := range uint32(2) {
		require.NoError(t, a.deliver(word(n+1)))
		require.NoError(t, a.deliver(word(n+1)), "again")
		require.Len(t, a.in, int(n+1))
		require.Equal(t, n+1, a.device.GetAck())
	}
	require.ErrorContains(t, a.deliver(word(3)), "more messages than the protocol has")
}

// An outcome counts when this side has what the service has; a signature stands for itself.
func TestWhatADeviceEndsWith(t *testing.T) {
	t.Parallel()
	begun := func(err error) *attempt {
		a := &attempt{device: &mpcdv1.DeviceSide{}, session: "session", ended: make(chan struct{}), err: err}
		a.operation.Kind = "BACKUP"
		close(a.ended)
		return a
	}
	require.ErrorContains(t, (&attempt{device: &mpcdv1.DeviceSide{}}).finish(t.Context()), "an outcome before the run has begun")
	require.NoError(t, begun(nil).finish(t.Context()))
	broken := &tss.ProtocolError{Curve: tss.Ed25519, Round: 1, Culprit: tss.Server, Err: errors.New("no")}
	err := begun(broken).finish(t.Context())
	require.ErrorIs(t, err, ErrBadAnswer)
	require.ErrorIs(t, err, broken)
	err = begun(io.ErrClosedPipe).finish(t.Context())
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.NotErrorIs(t, err, ErrBadAnswer)
	sign := begun(broken)
	sign.operation.Kind, sign.ended = tss.OperationSign, nil
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	require.NoError(t, sign.finish(gone))
	waits := begun(nil)
	waits.ended = nil
	require.ErrorIs(t, waits.finish(gone), io.ErrClosedPipe)
}

// A device-held run of no curve, or with a share that is none, is not begun.
func TestWhatADeviceBeginsWith(t *testing.T) {
	t.Parallel()
	run := func(w want) error {
		open := func(context.Context, ticket) (grpc.ServerStreamingClient[mpcdv1.BackupWalletResponse], error) {
			return nil, errors.New("it was begun")
		}
		_, err := run[mpcdv1.BackupWalletResponse, *mpcdv1.BackupWalletResult](
			t.Context(), &Client{deviceHeld: true}, w, newReporter(nil, OperationBackup), open)
		return err
	}
	require.ErrorContains(t, run(want{curves: []Curve{"P256"}}), "no curve")
	require.ErrorIs(t, run(want{source: &Share{encoded: secret.New([]byte("x"))}}), ErrNotAShare)
}

// said is a stream that says so much.
type said struct {
	grpc.ServerStreamingClient[mpcdv1.BackupWalletResponse]
	all []recv[mpcdv1.BackupWalletResponse]
}

func (s *said) Recv() (*mpcdv1.BackupWalletResponse, error) {
	r := s.all[0]
	s.all = s.all[1:]
	return r.msg, r.err
}

// What breaks a stream off ends it, unless its outcome came before, and so does what cannot be taken.
func TestWhatEndsAStream(t *testing.T) {
	t.Parallel()
	read := func(a *attempt, s *said) (*mpcdv1.BackupWalletResult, error) {
		open := func(context.Context, ticket) (grpc.ServerStreamingClient[mpcdv1.BackupWalletResponse], error) {
			return s, nil
		}
		r := newReporter(nil, OperationBackup)
		return attach[mpcdv1.BackupWalletResponse, *mpcdv1.BackupWalletResult](t.Context(), a, &ticket{}, r, open)
	}
	type got = recv[mpcdv1.BackupWalletResponse]
	reset, end := got{nil, status.Error(codes.Unavailable, "reset")}, got{nil, io.EOF}
	s := &said{all: []got{reset, end}}
	_, err := read(&attempt{}, s)
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Len(t, s.all, 1)

	want := &mpcdv1.BackupWalletResult{}
	outcome := got{&mpcdv1.BackupWalletResponse{Event: &mpcdv1.BackupWalletResponse_Outcome{Outcome: want}}, nil}
	s = &said{all: []got{outcome, reset, end}}
	out, err := read(&attempt{}, s)
	require.NoError(t, err)
	require.Same(t, want, out)
	require.Len(t, s.all, 1, "the status was read")

	message := &mpcdv1.ProtocolMessage{Mac: []byte{1}}
	early := got{&mpcdv1.BackupWalletResponse{Event: &mpcdv1.BackupWalletResponse_Message{Message: message}}, nil}
	_, err = read(&attempt{device: &mpcdv1.DeviceSide{}}, &said{all: []got{early, end}})
	require.ErrorIs(t, err, ErrBadAnswer, "a message before the run has begun")
}

// A signature that did not come, or is of no curve, is none.
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
