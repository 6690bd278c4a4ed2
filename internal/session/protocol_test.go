package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// recordOperation returns the operation that the runner will run with a device.
func recordOperation(s *runner) *tss.Operation {
	op := new(tss.Operation)
	s.ports.ServerSide = func(_ context.Context, j *tss.Operation, _ tss.Link) (*tss.Output, error) {
		*op = *j
		return &tss.Output{Signature: new(tss.Signature)}, nil
	}
	return op
}

// The client's side of a device-held run is on the device. compute reports the start of operations that do not report
// it themselves.
func TestComputeWithADevice(t *testing.T) {
	t.Parallel()
	s := new(stub).runner(t, Config{})
	op := recordOperation(s)
	pre := func(context.Context) (*tss.PreParams, error) { return nil, errStub }
	for _, x := range []struct {
		curve Curve
		pre   func(context.Context) (*tss.PreParams, error)
		said  int
	}{{Secp256k1, pre, 0}, {Secp256k1, nil, 1}, {Ed25519, pre, 1}, {Ed25519, nil, 1}} {
		r := onDevice(s, Device{})
		w := &work{run: r, rec: signing(r)}
		side := s.serverOperation(w, []Curve{x.curve})
		side.PreParams = x.pre
		server, hosted, err := s.compute(t.Context(), w, new(plan), side)
		require.NoError(t, err)
		require.NotNil(t, server)
		require.Nil(t, hosted)
		require.Equal(t, "session", op.SessionID)
		require.Len(t, r.log, x.said)
	}
}

// A signing with a device calls beforeRelease, and its result is always sealed.
func TestSignWithADevice(t *testing.T) {
	t.Parallel()
	set := newPair(t)
	st := &stub{onArm: func() error { return errStub }, onSeal: func() ([]byte, error) { return []byte("sealed"), nil }}
	s := st.runner(t, Config{})
	s.ports.ServerShares = oneShare{share: set.shares[tss.Server]}
	op := recordOperation(s)
	r := onDevice(s, Device{})
	w := &work{run: r, rec: signing(r)}
	o := &sign{SignRequest: SignRequest{Device: &Device{}, Curve: Ed25519, Payload: []byte("hello")}}
	m, err := o.execute(t.Context(), s, w, set.plan())
	require.NoError(t, err)
	require.Equal(t, []byte("sealed"), w.rec.Result.Data)
	require.Equal(t, set.set.ID, m.Used)
	require.ErrorIs(t, op.BeforeRelease(t.Context(), tss.Arm), errStub)

	st.onSeal = func() ([]byte, error) { return nil, errStub }
	r = onDevice(s, Device{})
	_, err = o.execute(t.Context(), s, &work{run: r, rec: signing(r)}, set.plan())
	require.ErrorIs(t, err, errStub)
}

// oneShare is a custodian with one server share.
type oneShare struct {
	Custodian
	share *tss.Share
}

func (h oneShare) Fetch(context.Context, string, *StoredSet) (*tss.Share, error) { return h.share, nil }

// Invalid payloads are explained by curve; audit entries contain a digest.
func TestPayloads(t *testing.T) {
	t.Parallel()
	want := new(FieldError)
	require.ErrorAs(t, checkPayload(Secp256k1, []byte("short")), &want)
	require.Contains(t, want.Want, "32-byte digest")
	require.ErrorAs(t, checkPayload(Ed25519, make([]byte, tss.MaxMessageBytes+1)), &want)
	require.Contains(t, want.Want, "at most")
	digest := bytes.Repeat([]byte{7}, 32)
	require.NoError(t, checkPayload(Secp256k1, digest))
	require.NoError(t, checkPayload(Ed25519, nil))
	require.Equal(t, digest, payloadDigest(Secp256k1, digest))
	sum := sha256.Sum256(digest)
	require.Equal(t, sum[:], payloadDigest(Ed25519, digest))
}

// Pre-params whose moduli were used before are not used again, nor any that the store cannot check. If a device's are,
// it is at fault.
func TestUsedModuli(t *testing.T) {
	t.Parallel()
	var faults []error
	st := &stub{onModuli: func() error {
		if len(faults) == 0 {
			return nil
		}
		err := faults[0]
		faults = faults[1:]
		return err
	}}
	s := st.runner(t, Config{})
	src, claims := tsstest.NewSource(), 0
	claim := s.preParams(&work{rec: new(Session)}, func(ctx context.Context, p Party) (*tss.PreParams, error) {
		claims++
		return src.Claim(ctx, p)
	}, tss.Server)
	faults = []error{ErrModulusUsed}
	pp, err := claim(t.Context())
	require.NoError(t, err)
	require.NotNil(t, pp)
	require.Equal(t, 2, claims)
	require.Contains(t, st.logged(), "came a second time")
	faults = []error{errStub}
	_, err = claim(t.Context())
	require.ErrorIs(t, err, errStub)
	require.Equal(t, 3, claims)
	none := func(context.Context, Party) (*tss.PreParams, error) { return nil, errStub }
	_, err = s.preParams(&work{rec: new(Session)}, none, tss.Server)(t.Context())
	require.ErrorIs(t, err, errStub)

	fresh := func() error { return s.reserveDeviceModuli(t.Context(), "wallet", big.NewInt(1), big.NewInt(2)) }
	require.NoError(t, fresh())
	faults = []error{ErrModulusUsed, errStub}
	blamed := new(tss.ProtocolError)
	require.ErrorAs(t, fresh(), &blamed)
	require.Equal(t, tss.Client, blamed.Culprit)
	require.Equal(t, errStub, fresh())
}

// A message that arms, and the last one, are sent only after that is stored, and not after the run has ended.
func TestBeforeRelease(t *testing.T) {
	t.Parallel()
	var arm, disarm error
	var entries []Entry
	st := &stub{
		onArm:    func() error { return arm },
		onDisarm: func(e Entry) error { entries = append(entries, e); return disarm },
	}
	s := st.runner(t, Config{})
	r := onDevice(s, Device{})
	w := &work{run: r, rec: signing(r), busy: new(sync.WaitGroup)}
	digest := []byte("digest")
	pass := func(ctx context.Context, g tss.ReleasePoint) error {
		return s.beforeRelease(ctx, w, g, Secp256k1, digest)
	}

	over, cancel := context.WithCancelCause(t.Context())
	cancel(ErrSessionCancelled)
	for _, g := range []tss.ReleasePoint{tss.Arm, tss.Disarm} {
		err := pass(over, g)
		require.ErrorIs(t, err, tss.ErrStopped)
		require.ErrorIs(t, err, ErrSessionCancelled)
	}
	require.False(t, r.device.armed)
	require.Empty(t, entries)

	arm = new(BusyError)
	busy := new(BusyError)
	require.ErrorAs(t, pass(t.Context(), tss.Arm), &busy)
	require.Equal(t, maxBusyRetry, busy.RetryAfter)
	require.False(t, r.device.armed)
	arm = ErrShareSetRevoked
	require.ErrorIs(t, pass(t.Context(), tss.Arm), ErrShareSetRevoked)
	arm = nil
	require.NoError(t, pass(t.Context(), tss.Arm))
	require.True(t, r.device.armed)
	require.Empty(t, entries)

	disarm = errStub
	require.ErrorIs(t, pass(t.Context(), tss.Disarm), errStub)
	require.True(t, r.device.armed)
	disarm = nil
	require.NoError(t, pass(t.Context(), tss.Disarm))
	require.False(t, r.device.armed)
	require.Len(t, entries, 2)
	require.Equal(t, "session.release", entries[1].Action)
	require.Equal(t, "set", entries[1].ShareSetID)
	require.Contains(t, entries[1].Detail, hex.EncodeToString(digest))
}

// The client is never at fault in a hosted run; in a device-held run the culprit is.
func TestClassify(t *testing.T) {
	t.Parallel()
	s := new(stub).runner(t, Config{})
	broken := &tss.ProtocolError{Culprit: tss.Client, Round: 2, Err: errStub}
	aborted := new(AbortedError)
	require.ErrorAs(t, s.classify(broken, false), &aborted)
	require.Equal(t, "CLIENT", aborted.Culprit)
	require.Equal(t, 2, aborted.Round)
	err := s.classify(broken, true)
	require.ErrorIs(t, err, ErrInternal)
	require.NotErrorIs(t, err, ErrProtocolAborted)
	for _, hosted := range []bool{false, true} {
		require.ErrorIs(t, s.classify(errClosing, hosted), ErrInterrupted)
		require.ErrorIs(t, s.classify(ErrSuperseded, hosted), ErrInterrupted)
		require.Equal(t, errStub, s.classify(errStub, hosted))
	}
}
