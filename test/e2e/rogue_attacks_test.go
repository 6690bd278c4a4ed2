package e2e_test

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"math/big"
	"strings"
	"testing"
	"time"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// known is an attack on a message's content, and what the service's log must say: it is not enough that the run was
// broken, it must be for this reason.
type known struct {
	op    string
	do    trick
	cause string
}

// editing changes an unencrypted message of type M.
func editing[M proto.Message](change func(r *rogue, m M)) trick {
	return func(r *rogue, _ int, m *outgoing) {
		if x, ok := said(m.GetPayload()).(M); ok {
			change(r, x)
			m.Payload = payload(x)
		}
		r.say(m)
	}
}

// planting replaces the k-th sealed message, from 0.
func planting(k int, what func(r *rogue) proto.Message) trick {
	return func(r *rogue, n int, m *outgoing) {
		private := -1
		for _, p := range r.sent[:n+1] {
			if p.GetPrivate() {
				private++
			}
		}
		if m.GetPrivate() && private == k {
			m.Payload = r.sealed(payload(what(r)))
		}
		r.say(m)
	}
}

// saidBy waits for a message of type M from the service, and returns it.
func saidBy[M proto.Message](r *rogue) (found M) {
	for range 60_000 {
		r.mu.Lock()
		for _, m := range r.heard {
			if x, ok := said(m.GetPayload()).(M); ok {
				found = x
			}
		}
		r.mu.Unlock()
		if any(found) != any(*new(M)) {
			return found
		}
		time.Sleep(time.Millisecond)
	}
	panic("the service has not said it")
}

var (
	edOrder = lib.Edwards().Params().N
	huge    = append([]byte{1}, make([]byte, 64<<10)...)
)

// offCurve returns changed coordinates of a point.
func offCurve(parts [][]byte) [][]byte {
	parts[1] = bitFlip(parts[1], 1, 1)
	return parts
}

// knownEd are the attacks on the protocols of ED25519.
var knownEd = map[string]known{
	"keygen: a share of q":     {"CREATE", planting(0, func(*rogue) proto.Message { return &edkeygen.KGRound2Message1{Share: edOrder.Bytes()} }), "share is not in (0, q)"},
	"keygen: no share":         {"CREATE", planting(0, func(*rogue) proto.Message { return &edkeygen.KGRound2Message1{} }), "share has 0 bytes"},
	"keygen: a share of 64KiB": {"CREATE", planting(0, func(*rogue) proto.Message { return &edkeygen.KGRound2Message1{Share: huge} }), "share has 65537 bytes"},
	"keygen: another share":    {"CREATE", planting(0, func(*rogue) proto.Message { return &edkeygen.KGRound2Message1{Share: []byte{7}} }), "caused by CLIENT"},
	"keygen: a point off the curve": {"CREATE", editing(func(_ *rogue, m *edkeygen.KGRound2Message2) {
		m.DeCommitment = offCurve(m.GetDeCommitment())
	}), "decommitment is not a point"},
	"keygen: a Schnorr response of zero": {"CREATE", editing(func(_ *rogue, m *edkeygen.KGRound2Message2) { m.ProofT = edOrder.Bytes() }), "t is not in (0, q)"},
	"resharing: a share of q":            {"PROVISION", planting(0, func(*rogue) proto.Message { return &edresharing.DGRound3Message1{Share: edOrder.Bytes()} }), "share is not in (0, q)"},
	"resharing: no share":                {"PROVISION", planting(0, func(*rogue) proto.Message { return &edresharing.DGRound3Message1{} }), "share has 0 bytes"},
	"resharing: a share of 64KiB":        {"PROVISION", planting(0, func(*rogue) proto.Message { return &edresharing.DGRound3Message1{Share: huge} }), "share has 65537 bytes"},
	"resharing: another share":           {"BACKUP", planting(0, func(*rogue) proto.Message { return &edresharing.DGRound3Message1{Share: []byte{7}} }), "caused by CLIENT"},
	"resharing: another wallet's key": {"PROVISION", editing(func(_ *rogue, m *edresharing.DGRound1Message) {
		m.EddsaPubX, m.EddsaPubY = lib.Edwards().Params().Gx.Bytes(), lib.Edwards().Params().Gy.Bytes()
	}), "caused by CLIENT"},
	"resharing: a point off the curve": {"BACKUP", editing(func(_ *rogue, m *edresharing.DGRound3Message2) {
		m.VDecommitment = offCurve(m.GetVDecommitment())
	}), "decommitment is not a point"},
	"resharing: three coefficients": {"PROVISION", editing(func(_ *rogue, m *edresharing.DGRound3Message2) {
		m.VDecommitment = append(m.GetVDecommitment(), m.GetVDecommitment()[1:3]...)
	}), "decommitment has 7 parts"},
	"signing: R off the curve": {tss.OperationSign, editing(func(_ *rogue, m *edsigning.SignRound2Message) {
		m.DeCommitment = offCurve(m.GetDeCommitment())
	}), "decommitment is not a point"},
	"signing: R of order two": {tss.OperationSign, editing(func(_ *rogue, m *edsigning.SignRound2Message) {
		p := lib.Edwards().Params().P
		m.DeCommitment[1], m.DeCommitment[2] = p.Bytes(), new(big.Int).Sub(p, big.NewInt(1)).Bytes()
	}), "decommitment is not a point"},
	"signing: a Schnorr response of zero": {tss.OperationSign, editing(func(_ *rogue, m *edsigning.SignRound2Message) { m.ProofT = edOrder.Bytes() }), "t is not in (0, q)"},
	"signing: an s of zero":               {tss.OperationSign, editing(func(_ *rogue, m *edsigning.SignRound3Message) { m.S = edOrder.Bytes() }), "s is not in (0, q)"},
	"signing: an s of 64KiB":              {tss.OperationSign, editing(func(_ *rogue, m *edsigning.SignRound3Message) { m.S = huge }), "s has 65537 bytes"},
	"signing: another s":                  {tss.OperationSign, editing(func(_ *rogue, m *edsigning.SignRound3Message) { m.S = []byte{7} }), "caused by CLIENT"},
	"signing: round 2 replaced in round 3": {tss.OperationSign, func(r *rogue, n int, m *outgoing) {
		if _, ok := said(m.GetPayload()).(*edsigning.SignRound3Message); ok {
			again := proto.CloneOf(r.sent[n-1])
			x := said(again.GetPayload()).(*edsigning.SignRound2Message) //nolint:errcheck,forcetypeassert // it precedes it
			x.ProofT = []byte{7}
			again.Payload = payload(x)
			r.say(again)
		}
		r.say(m)
	}, "a second, different SignRound2Message"},
	"confirmation: the service's own MAC, echoed": {"PROVISION", func(r *rogue, _ int, m *outgoing) {
		if kindOf(m) == aMAC {
			m.Mac = r.serversMAC()
		}
		r.say(m)
	}, "the two sides did not see the same run"},
	"confirmation: of another share": {"BACKUP", func(r *rogue, _ int, m *outgoing) {
		if kindOf(m) == anEnd {
			m.End.ShareSha256 = make([]byte, 32)
		}
		r.say(m)
	}, "the two sides did not see the same run"},
	"an end without a share's hash": {"CREATE", func(r *rogue, _ int, m *outgoing) {
		if kindOf(m) == anEnd {
			m.End.ShareSha256 = nil
		}
		r.say(m)
	}, "an end with an unexpected share hash"},
	"an earlier run, replayed step by step after a hello": {tss.OperationSign, func(r *rogue, n int, m *outgoing) {
		if n > 0 {
			m = proto.CloneOf(r.stage.honest[r.op][n])
		}
		r.say(m)
	}, "caused by CLIENT"},
	"an earlier run, replayed at once after a hello": {"PROVISION", func(r *rogue, n int, m *outgoing) {
		if n == 0 {
			all := []*outgoing{m}
			for _, m := range r.stage.honest[r.op][1:] {
				all = append(all, proto.CloneOf(m))
			}
			r.say(all...)
		}
	}, "caused by CLIENT"},
}

// serversMAC waits for the service's last part.
func (r *rogue) serversMAC() []byte {
	for range 60_000 {
		r.mu.Lock()
		last := r.heard[len(r.heard)-1]
		r.mu.Unlock()
		if len(last.GetMac()) > 0 {
			return last.GetMac()
		}
		time.Sleep(time.Millisecond)
	}
	panic("the service has not confirmed")
}

// stopped runs an attack and requires that it is stopped for the expected reason.
func (s *stage) stopped(t testing.TB, name string, r *rogue, cause string) {
	t.Helper()
	way := r.ends(t, brokenOff)
	line := s.Log.Wait(t, "session failed", r.id)
	require.Contains(t, line, cause, name)
	_, why, _ := strings.Cut(line, `"error":`)
	t.Logf("%s: %.160s", name, why)
	s.requireClean(t, way)
}

// Each known attack on the protocols of ED25519, with the service's side in a worker: it is stopped for the right
// reason, and the worker survives.
func TestRogueKnownAttacks(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true), tss.OperationSign, "PROVISION")
	for name, x := range knownEd {
		s.stopped(t, name, s.rogue(t, x.op, x.do), x.cause)
	}
	require.Len(t, s.children(t), 1, "the warm one")
	s.Stop()
	require.Empty(t, s.children(t))
}

// An attacker with the token and the request, including its id, but without the device: it can listen, but cannot
// decrypt what it hears. The device's run continues.
func TestRogueStolenToken(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true))
	heard := make(chan (<-chan answer), 1)
	victim := s.rogue(t, "PROVISION", nil)
	thief := proto.CloneOf(victim.req.(*pb.ProvisionWalletRequest)) //nolint:errcheck,forcetypeassert // it has this type
	victim.trick = func(r *rogue, n int, m *outgoing) {
		if n == 0 {
			heard <- later(func() answer { return overGRPC(t, s.Service, alice, thief) })
		}
		r.say(m)
	}
	way := victim.ends(t, succeeded)
	private := 0
	for _, m := range (<-<-heard).messages {
		ev, ok := m.(deviceEvent)
		require.True(t, ok)
		if !ev.GetMessage().GetPrivate() {
			continue
		}
		private++
		require.Nil(t, said(ev.GetMessage().GetPayload()))
		for _, from := range []string{"CLIENT", "SERVER"} {
			own, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
			require.NoError(t, err)
			_, err = hpke.Open(own, hpke.HKDFSHA256(), hpke.AES256GCM(), victim.info(from), ev.GetMessage().GetPayload())
			require.Error(t, err)
		}
	}
	require.Positive(t, private, "a message with a share of the new sharing passed")
	s.requireClean(t, way)

	// Taking over as another instance needs a proof of the share.
	victim = s.rogue(t, "PROVISION", nil)
	reached, goOn := victim.pausesAt(3)
	ended := later(func() answer { return victim.run(t) })
	<-reached
	thief = proto.CloneOf(victim.req.(*pb.ProvisionWalletRequest)) //nolint:errcheck,forcetypeassert // it has this type
	thief.GetDevice().Instance = uuid.NewString()
	instead := begins(t, s.Service, alice, thief)
	require.Equal(t, victim.id, instead.id)
	require.Equal(t, uint32(2), instead.attempt)
	instead.saysHello(t, s.pendingBackup) // not the set's share
	refused(t, <-instead.ended, codes.InvalidArgument, "SHARE_SET_MISMATCH")
	close(goOn)
	require.Equal(t, codes.OK, (<-ended).status.Code())
	require.Equal(t, uint32(1), victim.record(t).Attempt)
	s.requireClean(t, succeeded)
}

// preParams returns the committed set of that number.
func preParams(t testing.TB, number int) func(context.Context) (*tss.PreParams, error) {
	t.Helper()
	return func(ctx context.Context) (pp *tss.PreParams, err error) {
		source := tsstest.NewSource()
		for range number + 1 {
			if pp, err = source.PreParams(ctx); err != nil {
				return nil, err
			}
		}
		return pp, nil
	}
}

// The service uses the committed pre-params from the first on, the device from the last.
const lastSet = 31

// ecRogue is alice's device for an operation on SECP256K1.
func (s *stage) ecRogue(t testing.TB, op string, h held, do trick) *rogue {
	t.Helper()
	r := s.rogue(t, op, do)
	r.joint.Curves, r.joint.PreParams = []tss.Curve{tss.Secp256k1}, preParams(t, lastSet)
	switch req := r.req.(type) {
	case *pb.CreateWalletRequest:
		req.Curves = []pb.Curve{pb.Curve_CURVE_SECP256K1}
		return r
	case *pb.SignWithDeviceRequest:
		r.joint.Payload = digest("hello")
		req.WalletId, req.Payload, req.Curve = h.wallet, r.joint.Payload, pb.Curve_CURVE_SECP256K1
		req.Device.ShareSetId = h.set
	case *pb.BackupWalletRequest:
		req.WalletId, req.GetDevice().ShareSetId = h.wallet, h.set
	}
	r.holds(t, h)
	return r
}

// planted returns a modulus of n's length with the factor 3.
func planted(n []byte) []byte {
	x := new(big.Int).Div(new(big.Int).SetBytes(n), big.NewInt(3))
	if x.Bit(0) == 0 {
		x.Sub(x, big.NewInt(1))
	}
	return x.Mul(x, big.NewInt(3)).Bytes()
}

// badModuli are malicious Paillier keys, in the message that brings a new wallet's.
func badModuli(t testing.TB) map[string]known {
	t.Helper()
	prime, err := rand.Prime(rand.Reader, 2048)
	require.NoError(t, err)
	times := func(b []byte, k int64) []byte {
		return new(big.Int).Mul(new(big.Int).SetBytes(b), big.NewInt(k)).Bytes()
	}
	create := func(cause string, change func(r *rogue, m *eckeygen.KGRound1Message)) known {
		return known{"CREATE", editing(change), cause}
	}
	return map[string]known{
		"N with a small factor": create("N has a small factor", func(_ *rogue, m *eckeygen.KGRound1Message) { m.PaillierN = planted(m.GetPaillierN()) }),
		"6N":                    create("N has 257 bytes", func(_ *rogue, m *eckeygen.KGRound1Message) { m.PaillierN = times(m.GetPaillierN(), 6) }),
		"an even N":             create("N is not odd with 2048 bits", func(_ *rogue, m *eckeygen.KGRound1Message) { m.PaillierN = bitFlip(m.GetPaillierN(), 1, 1) }),
		"no N":                  create("N has 0 bytes", func(_ *rogue, m *eckeygen.KGRound1Message) { m.PaillierN = nil }),
		"N of 8 KiB":            create("N has 8193 bytes", func(_ *rogue, m *eckeygen.KGRound1Message) { m.PaillierN = append([]byte{1}, make([]byte, 8<<10)...) }),
		"a prime N":             create("N is not composite", func(_ *rogue, m *eckeygen.KGRound1Message) { m.PaillierN = prime.Bytes() }),
		"the service's own N": create("N has a factor in common with our own", func(r *rogue, m *eckeygen.KGRound1Message) {
			m.PaillierN = saidBy[*eckeygen.KGRound1Message](r).GetPaillierN()
		}),
		"the service's own NTilde": create("NTilde has a factor in common with our own", func(r *rogue, m *eckeygen.KGRound1Message) {
			m.NTilde = saidBy[*eckeygen.KGRound1Message](r).GetNTilde()
		}),
		"N for NTilde":          create("N and NTilde have a common factor", func(_ *rogue, m *eckeygen.KGRound1Message) { m.NTilde = m.GetPaillierN() }),
		"h1 for h2":             create("h1 equals h2", func(_ *rogue, m *eckeygen.KGRound1Message) { m.H2 = m.GetH1() }),
		"a negative DLN length": create("dlnproof_1 has 2 bytes", func(_ *rogue, m *eckeygen.KGRound1Message) { m.Dlnproof_1[0] = []byte{255, 255} }),
	}
}

// A malicious Paillier key is detected by the worker. TestLongRogueModuli covers all kinds.
func TestRogueModuli(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true))
	const name = "N with a small factor"
	x := badModuli(t)[name]
	s.stopped(t, name, s.ecRogue(t, x.op, held{}, x.do), x.cause)
}

// slowBudgets delays recording a signature until the test allows it.
type slowBudgets struct {
	session.Budgets
	wait func()
}

func (k slowBudgets) Disarm(ctx context.Context, s *session.Session, e session.Entry) error {
	k.wait()
	return k.Budgets.Disarm(ctx, s, e)
}

// A device breaks the run while the service records that it is about to sign: the worker has reported why it ended,
// and has exited when it is answered. That does not count as a worker's death, and its report counts.
func TestRogueBreaksARunWhileItsWorkerAsks(t *testing.T) {
	t.Parallel()
	asked, ended := make(chan struct{}), make(chan struct{})
	cfg := rogueConfig(0, true)
	cfg.Workers.Warm = 0
	cfg.Wrap = func(p *session.Ports) {
		p.Budgets = slowBudgets{p.Budgets, func() {
			close(asked)
			<-ended
		}}
	}
	s := newStage(t, cfg)
	r := s.rogue(t, tss.OperationSign, editing(func(_ *rogue, m *edsigning.SignRound3Message) {
		<-asked
		m.S = []byte{7}
	}))
	gone := make(chan bool, 1)
	go func() { // ends with the worker
		defer close(ended)
		<-asked
		for range 20_000 {
			if len(s.children(t)) == 0 {
				gone <- true
				return
			}
			time.Sleep(time.Millisecond)
		}
		gone <- false
	}()
	r.ends(t, brokenOff)
	require.True(t, <-gone)
	require.Contains(t, s.Log.Wait(t, "session failed", r.id), "signature verification failed")
	require.Zero(t, s.Workers.Stats().Died)
}
