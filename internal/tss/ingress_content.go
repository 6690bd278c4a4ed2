package tss

import (
	"math/big"

	"google.golang.org/protobuf/proto"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
)

// The checks of each message's fields, by protocol. side.accept rejects messages of other protocols before these run,
// and they reject them again.

func (r *reader) failProtocol() { r.fail("not of this protocol") }

func (g *ingress) ecKeygen(r *reader, m proto.Message) {
	switch m := m.(type) {
	case *eckeygen.KGRound1Message:
		r.bytes("commitment", m.GetCommitment(), hashLen)
		r.dln("dlnproof_1", m.GetDlnproof_1())
		r.dln("dlnproof_2", m.GetDlnproof_2())
		g.checkNewKeys(r, m)
	case *eckeygen.KGRound2Message1:
		r.scalar("share", m.GetShare())
		r.list("factor proof", m.GetFacProof(), facLimits)
	case *eckeygen.KGRound2Message2:
		r.decommitment(m.GetDeCommitment(), vssPoints)
		r.list("modulus proof", m.GetModProof(), modLimits)
		g.checkNonResidue(r, m.GetModProof())
	case *eckeygen.KGRound3Message:
		r.list("Paillier proof", m.GetPaillierProof(), paillierLimits)
	default:
		r.failProtocol()
	}
}

func (g *ingress) ecResharing(r *reader, m proto.Message) {
	switch m := m.(type) {
	case *ecresharing.DGRound1Message:
		// checkRound1 compares the public key and the session id with this side's.
		r.bytes("public key", m.GetEcdsaPubX(), scalarLen)
		r.bytes("public key", m.GetEcdsaPubY(), scalarLen)
		r.bytes("commitment", m.GetVCommitment(), hashLen)
		r.bytes("session id", m.GetSsid(), hashLen)
	case *ecresharing.DGRound2Message1:
		r.dln("dlnproof_1", m.GetDlnproof_1())
		r.dln("dlnproof_2", m.GetDlnproof_2())
		r.list("modulus proof", m.GetModProof(), modLimits)
		g.checkNewKeys(r, m)
		g.checkNonResidue(r, m.GetModProof())
	case *ecresharing.DGRound3Message1:
		r.scalar("share", m.GetShare())
	case *ecresharing.DGRound3Message2:
		r.decommitment(m.GetVDecommitment(), vssPoints)
	case *ecresharing.DGRound4Message1:
		r.list("factor proof", m.GetFacProof(), facLimits)
	case *ecresharing.DGRound2Message2, *ecresharing.DGRound4Message2: // empty
	default:
		r.failProtocol()
	}
}

func (g *ingress) ecSigning(r *reader, m proto.Message) {
	theirs, ours := g.record.Parties[g.me.Other()].PaillierN, g.record.Parties[g.me].PaillierN
	switch m := m.(type) {
	case *ecsigning.SignRound1Message1:
		r.ciphertext("c", m.GetC(), theirs)
		r.list("range proof", m.GetRangeProofAlice(), aliceLimits)
	case *ecsigning.SignRound1Message2:
		r.bytes("commitment", m.GetCommitment(), hashLen)
	case *ecsigning.SignRound2Message:
		r.ciphertext("c1", m.GetC1(), ours)
		r.ciphertext("c2", m.GetC2(), ours)
		r.list("proof_bob", m.GetProofBob(), bobLimits)
		r.bobWC(m.GetProofBobWc())
	case *ecsigning.SignRound3Message:
		g.checkTheta(r, r.scalar("theta", m.GetTheta()))
	case *ecsigning.SignRound4Message:
		r.decommitment(m.GetDeCommitment(), 1)
		r.schnorr(m.GetProofAlphaX(), m.GetProofAlphaY(), m.GetProofT())
	case *ecsigning.SignRound5Message:
		r.bytes("commitment", m.GetCommitment(), hashLen)
	case *ecsigning.SignRound6Message:
		r.decommitment(m.GetDeCommitment(), 2)
		r.schnorr(m.GetProofAlphaX(), m.GetProofAlphaY(), m.GetProofT())
		r.schnorr(m.GetVProofAlphaX(), m.GetVProofAlphaY(), m.GetVProofT())
		r.scalar("u", m.GetVProofU())
	case *ecsigning.SignRound7Message:
		r.bytes("commitment", m.GetCommitment(), hashLen)
	case *ecsigning.SignRound8Message:
		r.decommitment(m.GetDeCommitment(), 2)
	case *ecsigning.SignRound9Message:
		r.scalar("s", m.GetS())
	default:
		r.failProtocol()
	}
}

// bobWC checks the form of Bob's proof with check (GG18): its U must be a point, and tss-lib panics if S1 is a multiple
// of q.
func (r *reader) bobWC(parts [][]byte) {
	const what = "proof_bob_wc"
	if r.list(what, parts, bobWCLimits); r.err != nil {
		return
	}
	r.point(what, parts[len(bobLimits)], parts[len(bobLimits)+1])
	s1 := new(big.Int).SetBytes(parts[bobS1])
	if s1.Mod(s1, r.curve.order()).Sign() == 0 {
		r.fail("%s has an S1 that is zero mod q", what)
	}
}

// checkTheta rejects a theta whose sum with ours is zero: the sum has no inverse, and tss-lib panics. The other side
// can choose such a theta only after it has seen ours, which noteSent stores before it is sent. Before that, the sum is
// zero with probability 1/q, and the panic ends only a worker process.
func (g *ingress) checkTheta(r *reader, theta *big.Int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.theta == nil {
		return
	}
	sum := new(big.Int).Add(theta, g.theta)
	if sum.Mod(sum, r.curve.order()).Sign() == 0 {
		r.fail("theta cancels ours")
	}
}

// edwards checks a message of one of the three Ed25519 protocols.
func (g *ingress) edwards(r *reader, m proto.Message) {
	if _, ok := g.proto.steps[typeOf(m)]; !ok {
		r.failProtocol()
		return
	}
	switch m := m.(type) {
	case *edkeygen.KGRound1Message:
		r.bytes("commitment", m.GetCommitment(), hashLen)
	case *edkeygen.KGRound2Message1:
		r.scalar("share", m.GetShare())
	case *edkeygen.KGRound2Message2:
		r.decommitment(m.GetDeCommitment(), vssPoints)
		r.schnorr(m.GetProofAlphaX(), m.GetProofAlphaY(), m.GetProofT())
	case *edresharing.DGRound1Message:
		r.bytes("public key", m.GetEddsaPubX(), scalarLen) // compared by checkRound1
		r.bytes("public key", m.GetEddsaPubY(), scalarLen)
		r.bytes("commitment", m.GetVCommitment(), hashLen)
	case *edresharing.DGRound3Message1:
		r.scalar("share", m.GetShare())
	case *edresharing.DGRound3Message2:
		r.decommitment(m.GetVDecommitment(), vssPoints)
	case *edresharing.DGRound2Message, *edresharing.DGRound4Message: // empty
	case *edsigning.SignRound1Message:
		r.bytes("commitment", m.GetCommitment(), hashLen)
	case *edsigning.SignRound2Message:
		r.decommitment(m.GetDeCommitment(), 1)
		r.schnorr(m.GetProofAlphaX(), m.GetProofAlphaY(), m.GetProofT())
	case *edsigning.SignRound3Message:
		r.scalar("s", m.GetS())
	default:
		r.failProtocol()
	}
}
