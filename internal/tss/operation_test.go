package tss_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// wire is one end of an in-memory Link. tamper, which may be nil, returns what is sent in place of each part.
type wire struct {
	in     <-chan tss.Part
	out    chan<- tss.Part
	tamper func(tss.Part) []tss.Part
}

func (w *wire) Send(ctx context.Context, p tss.Part) error {
	parts := []tss.Part{p}
	if w.tamper != nil {
		parts = w.tamper(p)
	}
	for _, p := range parts {
		select {
		case w.out <- p:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (w *wire) Recv(ctx context.Context) (tss.Part, error) {
	select {
	case p := <-w.in:
		return p, nil
	case <-ctx.Done():
		return tss.Part{}, context.Cause(ctx)
	}
}

// device is both sides of a device-held operation, on the two ends of a wire.
type device struct {
	operations [2]*tss.Operation
	tamper     [2]func(tss.Part) []tss.Part // by the sender
}

// set is a share set with both shares.
type set struct {
	record []byte
	shares [2]*tss.Share
}

func newDevice(operation string, from *set, curves ...tss.Curve) *device {
	d := &device{}
	session, source := uuid.NewString(), tsstest.NewSource()
	purpose := tss.Signing
	if operation == "BACKUP" {
		purpose = tss.Backup
	}
	for p := range d.operations {
		d.operations[p] = &tss.Operation{
			Party: tss.Party(p), Kind: operation, SessionID: session, Attempt: 1, Curves: curves, Purpose: purpose,
			PreParams: source.PreParams,
		}
		if from != nil {
			d.operations[p].Share = from.shares[p]
		}
	}
	s := d.operations[tss.Server]
	s.WalletID, s.ShareSetID = uuid.NewString(), uuid.NewString()
	if from != nil {
		s.WalletID, s.Record = from.shares[0].WalletID, from.record
	}
	return d
}

// run runs both sides. It returns when neither computes any more, since a cancelled side still writes to its wire.
func (d *device) run(ctx context.Context) (out [2]*tss.Output, errs [2]error) {
	var busy sync.WaitGroup
	defer busy.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up, down := make(chan tss.Part, 64), make(chan tss.Part, 64)
	ends := [2]*wire{
		tss.Client: {in: down, out: up, tamper: d.tamper[tss.Client]},
		tss.Server: {in: up, out: down, tamper: d.tamper[tss.Server]},
	}
	var wg sync.WaitGroup
	for p, j := range d.operations {
		j.Observer.Busy = &busy
		wg.Go(func() {
			if out[p], errs[p] = j.Run(ctx, ends[p]); errs[p] != nil {
				cancel() // a session ends for both sides, too
			}
		})
	}
	wg.Wait()
	return out, errs
}

// makeSet runs d, and returns the new set after checking both outputs.
func (d *device) makeSet(t *testing.T) *set {
	t.Helper()
	out, errs := d.run(t.Context())
	require.NoError(t, errors.Join(errs[:]...))
	require.Equal(t, out[0].Record, out[1].Record)
	require.Equal(t, out[tss.Client].ShareHash, out[tss.Server].ShareHash)
	require.Zero(t, out[tss.Server].Encoded.Len())
	rec, err := tss.ParseRecord(out[0].Record)
	require.NoError(t, err)
	s := &set{record: out[0].Record}
	for p := range out {
		require.NoError(t, rec.Check(out[p].Share, tss.Party(p), s.record))
		s.shares[p] = out[p].Share
	}
	return s
}

// A wallet's whole life, device-held; its sets can then be used in a hosted run, too. TestLongOperation does it with
// both curves.
func TestOperation(t *testing.T) {
	t.Parallel()
	operationLife(t, tss.Ed25519)
}

func operationLife(t *testing.T, curves ...tss.Curve) {
	t.Helper()
	first := newDevice("CREATE", nil, curves...).makeSet(t)
	backup := newDevice("BACKUP", first, curves...).makeSet(t)
	second := newDevice("PROVISION", backup, curves...).makeSet(t)
	for _, s := range []*set{first, second} {
		for _, c := range curves {
			d := newDevice("SIGN", s, c)
			payload := digest("device-held")
			var asked []tss.ReleasePoint
			for _, j := range d.operations {
				j.Payload = payload
			}
			d.operations[tss.Server].ShareSetID = ""
			d.operations[tss.Server].BeforeRelease = func(_ context.Context, p tss.ReleasePoint) error {
				asked = append(asked, p)
				return nil
			}
			out, errs := d.run(t.Context())
			require.NoError(t, errors.Join(errs[:]...))
			rec, err := tss.ParseRecord(s.record)
			require.NoError(t, err)
			key, _ := rec.Key(c)
			for _, o := range out {
				require.NoError(t, tss.Verify(c, key.PublicKey, payload, o.Signature))
			}
			require.Equal(t, releasePointsOf(c), asked)
			require.Equal(t, out[0].Signature, out[1].Signature)
		}
	}
	rec, err := tss.ParseRecord(second.record)
	require.NoError(t, err)
	key, _ := rec.Key(tss.Ed25519)
	shares := [2]*tss.KeyShare{second.shares[0].Key(tss.Ed25519), second.shares[1].Key(tss.Ed25519)}
	_, err = tsstest.Sign(t.Context(), key, shares, []byte("hosted"), tss.Observer{})
	require.NoError(t, err)
}

// A client's hello, which is its first part, proves with the set's record that the client has its share; the proof is
// not valid in another attempt.
func TestOperationProof(t *testing.T) {
	t.Parallel()
	s := newDevice("CREATE", nil, tss.Ed25519).makeSet(t)
	rec, err := tss.ParseRecord(s.record)
	require.NoError(t, err)
	for _, operation := range []string{"CREATE", "BACKUP", "PROVISION", "SIGN"} {
		from := s
		if operation == "CREATE" {
			from = nil
		}
		d := newDevice(operation, from, tss.Ed25519)
		client := d.operations[tss.Client]
		client.Instance = uuid.NewString()
		for _, j := range d.operations {
			j.Payload = []byte("x")
		}
		if operation == "SIGN" {
			d.operations[tss.Server].ShareSetID = ""
		}
		var first, hello *tss.Hello
		for p := range d.tamper {
			d.tamper[p] = func(part tss.Part) []tss.Part {
				if part.Hello != nil && p == int(tss.Client) {
					first = part.Hello
				} else if part.Hello != nil {
					hello = part.Hello
				}
				return []tss.Part{part}
			}
		}
		_, errs := d.run(t.Context())
		require.NoError(t, errors.Join(errs[:]...))
		require.Empty(t, hello.Proof, "the server's hello")
		if operation == "CREATE" {
			require.Empty(t, first.Proof)
			continue
		}
		helloContext := tss.HelloContext{
			Operation: operation, SessionID: client.SessionID, Attempt: 1,
			WalletID: rec.WalletID, ShareSetID: rec.ShareSetID,
			RecordHash: tss.Hash(s.record), Instance: client.Instance,
		}
		if operation == "SIGN" {
			helloContext.Payload = client.Payload
		}
		require.NoError(t, first.VerifyProof(&helloContext, rec), operation)
		helloContext.Attempt++
		require.ErrorIs(t, first.VerifyProof(&helloContext, rec), tss.ErrShareMismatch)
	}
}

// releasePointsOf returns the release points of a signing, in order.
func releasePointsOf(c tss.Curve) []tss.ReleasePoint {
	if c == tss.Secp256k1 {
		return []tss.ReleasePoint{tss.Arm, tss.Disarm}
	}
	return []tss.ReleasePoint{tss.Disarm}
}

// If BeforeRelease fails, the other side gets no signature.
func TestOperationBeforeRelease(t *testing.T) {
	t.Parallel()
	s := newDevice("CREATE", nil, tss.Ed25519).makeSet(t)
	for range 3 {
		d := newDevice("SIGN", s, tss.Ed25519)
		denied := errors.New("denied")
		for _, j := range d.operations {
			j.Payload = []byte("x")
		}
		d.operations[tss.Server].ShareSetID = ""
		d.operations[tss.Server].BeforeRelease = func(context.Context, tss.ReleasePoint) error { return denied }
		out, errs := d.run(t.Context())
		require.ErrorIs(t, errs[tss.Server], denied)
		require.Error(t, errs[tss.Client])
		require.Nil(t, out[tss.Client])
	}
}

// TestLongOperationTampering tampers with every part.
func TestOperationTampering(t *testing.T) {
	t.Parallel()
	operationTampering(t, 3)
}

// An attacker between the two sides can end a run, but nothing else. The test changes every so many parts of a run,
// of either side: it alters or repeats one, or sends a MAC before it.
func operationTampering(t *testing.T, each int) {
	t.Helper()
	s := newDevice("CREATE", nil, tss.Ed25519).makeSet(t)
	alter := func(p tss.Part) tss.Part {
		flip := func(b []byte) []byte {
			b = append([]byte{}, b...)
			if len(b) == 0 {
				return []byte{1}
			}
			b[len(b)/2] ^= 4
			return b
		}
		switch {
		case p.Hello != nil:
			h := *p.Hello
			h.Nonce = flip(h.Nonce)
			p.Hello = &h
		case p.Message != nil:
			m := *p.Message
			m.Payload = flip(m.Payload)
			p.Message = &m
		case p.End != nil:
			p.End = &tss.End{ShareHash: flip(p.End.ShareHash)}
		default:
			p.MAC = flip(p.MAC)
		}
		return p
	}
	ways := map[string]func(tss.Part) []tss.Part{
		"altered": func(p tss.Part) []tss.Part { return []tss.Part{alter(p)} },
		"twice":   func(p tss.Part) []tss.Part { return []tss.Part{p, p} },
		"doubled": func(p tss.Part) []tss.Part { return []tss.Part{p, alter(p)} },
		"early":   func(p tss.Part) []tss.Part { return []tss.Part{{MAC: make([]byte, 32)}, p} },
	}
	for way, change := range ways {
		for party := range 2 {
			for n := 0; ; n += each {
				d := newDevice("PROVISION", s, tss.Ed25519)
				count, changed, isMAC := 0, false, false
				d.tamper[party] = func(p tss.Part) []tss.Part {
					if count++; count-1 == n {
						changed, isMAC = true, p.MAC != nil
						return change(p)
					}
					return []tss.Part{p}
				}
				out, errs := d.run(t.Context())
				if !changed {
					require.Greater(t, n, 5, "the run has more parts")
					break
				}
				err := errors.Join(errs[:]...)
				if isMAC && (way == "twice" || way == "doubled") {
					require.NoError(t, err, "nothing is read after the last part")
					continue
				}
				require.Error(t, err, "%s %s %d", way, tss.Party(party), n)
				other := 1 - party
				if errs[other] != nil && !errors.Is(errs[other], context.Canceled) {
					blamed := new(tss.ProtocolError)
					require.ErrorAs(t, errs[other], &blamed, "%s %s %d", way, tss.Party(party), n)
					require.Equal(t, tss.Party(party), blamed.Culprit)
				}
				require.Nil(t, out[other], "%s %s %d: the deceived side has a result", way, tss.Party(party), n)
			}
		}
	}
}
