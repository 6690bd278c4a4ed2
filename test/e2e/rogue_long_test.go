//go:build long

package e2e_test

import (
	"maps"
	"math/big"
	"slices"
	"testing"

	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
)

var ecOrder = lib.S256().Params().N

// Every part of every operation, with every change that the service must detect.
func TestLongRogueParts(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"CREATE", "BACKUP", "PROVISION", tss.OperationSign} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, rogueConfig(0, false), op)
			for i, name := range slices.Sorted(maps.Keys(attacks)) {
				for _, n := range s.parts(op, name) {
					if (i+n)%sample(op) == 0 {
						s.tries(t, op, name, n)
					}
				}
			}
		})
	}
}

// sample returns how many of an operation's cases to skip between two: some operations share messages.
func sample(op string) int {
	if op == "CREATE" || op == "BACKUP" {
		return 4
	}
	return 1
}

// Each part of each operation, omitted, and swapped with the next.
func TestLongRogueLate(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"CREATE", "BACKUP", "PROVISION", tss.OperationSign} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			s, brief := stages(t, op)
			for n := range s.honest[op] {
				s.left(t, brief, op, n)
			}
		})
	}
}

// Every malicious Paillier key, in the message that brings a new wallet's.
func TestLongRogueModuli(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true))
	for name, x := range badModuli(t) {
		s.stopped(t, name, s.ecRogue(t, x.op, held{}, x.do), x.cause)
	}
}

// An attacking device in signings and resharings of an ECDSA wallet.
func TestLongRogueECDSA(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true))
	h := confirm(t, s.Service, create(t, s.Service, pb.Curve_CURVE_SECP256K1))
	before := wallet(t, s.Service, h.wallet)
	ones := func(n int) (all [][]byte) {
		for range n {
			all = append(all, []byte{1})
		}
		return all
	}
	s1 := ones(12)
	s1[6], s1[10], s1[11] = ecOrder.Bytes(), lib.S256().Params().Gx.Bytes(), lib.S256().Params().Gy.Bytes()
	facProof := ones(11)
	for name, x := range map[string]known{
		"a ciphertext that is no unit": {tss.OperationSign, planting(0, func(r *rogue) proto.Message {
			return &ecsigning.SignRound1Message1{C: r.ownN(), RangeProofAlice: ones(6)}
		}), "c is not a unit mod N^2"},
		"a range proof of nothing": {tss.OperationSign, planting(0, func(*rogue) proto.Message {
			return &ecsigning.SignRound1Message1{C: []byte{2}, RangeProofAlice: ones(6)}
		}), "caused by CLIENT"},
		"S1 of zero mod q": {tss.OperationSign, planting(1, func(*rogue) proto.Message {
			return &ecsigning.SignRound2Message{C1: []byte{2}, C2: []byte{2}, ProofBob: ones(10), ProofBobWc: s1}
		}), "S1 that is zero mod q"},
		"a theta that cancels": {tss.OperationSign, editing(func(r *rogue, m *ecsigning.SignRound3Message) {
			theirs := new(big.Int).SetBytes(saidBy[*ecsigning.SignRound3Message](r).GetTheta())
			m.Theta = theirs.Sub(ecOrder, theirs).Bytes()
		}), "theta cancels ours"},
		"R off the curve": {tss.OperationSign, editing(func(_ *rogue, m *ecsigning.SignRound4Message) {
			m.DeCommitment = offCurve(m.GetDeCommitment())
		}), "decommitment is not a point"},
		"a Schnorr response of zero": {tss.OperationSign, editing(func(_ *rogue, m *ecsigning.SignRound4Message) { m.ProofT = ecOrder.Bytes() }), "t is not in (0, q)"},
		"round 7 replaced in round 9": {tss.OperationSign, func(r *rogue, n int, m *outgoing) {
			if _, ok := said(m.GetPayload()).(*ecsigning.SignRound9Message); ok {
				r.say(&outgoing{Curve: m.GetCurve(), Payload: payload(&ecsigning.SignRound7Message{Commitment: []byte{7}})})
			}
			r.say(m)
		}, "a second, different SignRound7Message"},
		"another session id": {"BACKUP", editing(func(_ *rogue, m *ecresharing.DGRound1Message) { m.Ssid = bitFlip(m.GetSsid(), 1, 2) }), "session id"},
		"N with a small factor, reshared": {"BACKUP", editing(func(_ *rogue, m *ecresharing.DGRound2Message1) {
			m.PaillierN = planted(m.GetPaillierN())
		}), "N has a small factor"},
		"a modulus proof with a W that is a residue": {"BACKUP", editing(func(_ *rogue, m *ecresharing.DGRound2Message1) { m.ModProof[0] = []byte{4} }), "Jacobi symbol -1"},
		"a factor proof of nothing": {"BACKUP", planting(1, func(*rogue) proto.Message {
			return &ecresharing.DGRound4Message1{FacProof: facProof}
		}), "caused by CLIENT"},
	} {
		s.stopped(t, name, s.ecRogue(t, x.op, h, x.do), x.cause)
	}
	// The moduli of the run that got as far as the last proof count as used; so do those that came with the wallet,
	// the committed sets 0 and 1.
	for _, number := range []int{lastSet, 0, 1} {
		r := s.ecRogue(t, "BACKUP", h, nil)
		r.joint.PreParams = preParams(t, number)
		s.stopped(t, "moduli of an earlier run", r, "modulus")
	}
	now := wallet(t, s.Service, h.wallet)
	require.Positive(t, now.GetShareSets()[0].GetAborts())
	now.Aborts, now.GetShareSets()[0].Aborts = 0, 0
	require.True(t, proto.Equal(before, now))
	s.ecRogue(t, tss.OperationSign, h, nil).well(t)
}

// ownN is the modulus of the device's Paillier key in the set that signs.
func (r *rogue) ownN() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, err := tss.ParseRecord(r.heard[0].GetHello().GetRecord())
	if err != nil {
		panic(err) // the service's record is valid
	}
	return rec.Keys[0].Parties[tss.Client].PaillierN.Bytes()
}

// For every operation, with and without workers.
func TestLongRogueProofs(t *testing.T) {
	t.Parallel()
	for i, op := range []string{"BACKUP", "PROVISION", tss.OperationSign} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			provesNothing(t, op, i == 0)
		})
	}
}
