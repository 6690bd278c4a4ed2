package tss

import (
	"bytes"
	"errors"
	"math/big"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// maxWireBytes is more than the longest honest message: an ECDSA resharing's DGRound2Message1, with two DLN proofs, a
// modulus proof and the moduli, has 176 kB.
const maxWireBytes = 192 << 10

// typePrefix precedes the type name in tss-lib's Any. protobuf accepts any other prefix, too.
const typePrefix = "type.googleapis.com/"

// ingress checks every message from the other side before tss-lib sees it. tss-lib trusts what it receives: it panics
// in goroutines where nothing can recover, accepts forged Paillier keys, and computes with integers of any size
// (tss-lib.md, rows 15 and 18 to 20). One ingress serves one side of one run.
//
// It checks everything but the equations of proofs, which tss-lib verifies. Its errors quote nothing that the other
// side sent.
type ingress struct {
	curve Curve
	me    Party
	proto *protocol
	// record is the set that signs; nil in the other protocols.
	record *KeyRecord
	// own are the Paillier N and NTilde of this side's new keys; empty if the run makes none.
	own []*big.Int
	// checkModuli is called once with the other side's new moduli. It may be nil.
	checkModuli func(n, nTilde *big.Int) error

	// The other side's new moduli, once they passed all checks here, and whether checkModuli was called. Owned by the
	// goroutine that receives.
	n, nTilde *big.Int
	asked     bool

	mu    sync.Mutex // guards sent and theta
	sent  map[protoreflect.FullName]bool
	theta *big.Int // this side's, from round 3 of an ECDSA signing
}

// setOwnModuli prepares the ingress for a run that makes new Paillier keys.
func (g *ingress) setOwnModuli(n, nTilde *big.Int, check func(n, nTilde *big.Int) error) {
	g.own = []*big.Int{new(big.Int).Set(n), new(big.Int).Set(nTilde)}
	g.checkModuli = check
}

// noteSent notes a message that is about to be sent to the other side.
func (g *ingress) noteSent(m lib.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sent == nil {
		g.sent = map[protoreflect.FullName]bool{}
	}
	g.sent[protoreflect.FullName(m.Type())] = true
	if p, ok := m.(lib.ParsedMessage); ok {
		if r3, ok := p.Content().(*ecsigning.SignRound3Message); ok {
			g.theta = new(big.Int).SetBytes(r3.GetTheta())
		}
	}
}

// due reports whether the other side can have reached st: a party sends a round's messages only after it has received
// everything addressed to it in earlier rounds (tss-lib.md, row 15). The two sides can be a round apart, and in an
// ECDSA resharing the old parties overtake the new ones, which the steps' receivers account for.
func (g *ingress) due(st step) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, ours := range g.proto.steps {
		if ours.round < st.round && slices.Contains(ours.to, st.from) && !g.sent[name] {
			return false
		}
	}
	return true
}

// check returns an error, for which the other side is to blame, if a message is malformed or comes too early.
func (g *ingress) check(a *anypb.Any, st step, payload []byte) error {
	m, err := canonical(a, payload)
	if err != nil {
		return err
	}
	if !g.due(st) {
		return errors.New("a message that comes too early")
	}
	r := &reader{curve: g.curve, message: m.ProtoReflect().Descriptor().Name()}
	g.checkContent(r, m)
	return r.err
}

// askCheckModuli calls checkModuli the first time that the other side's moduli are known. Its error is the caller's,
// for which the other side is not blamed.
func (g *ingress) askCheckModuli() error {
	if g.asked || g.n == nil || g.checkModuli == nil {
		return nil
	}
	g.asked = true
	return g.checkModuli(new(big.Int).Set(g.n), new(big.Int).Set(g.nTilde))
}

// canonical decodes a message and checks that it is encoded exactly as tss-lib encodes it, without unknown or repeated
// fields and in order: tss-lib would ignore such differences.
func canonical(a *anypb.Any, payload []byte) (proto.Message, error) {
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil, errors.New("a message that cannot be parsed")
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return nil, errors.New("a message with unknown fields")
	}
	deterministic := proto.MarshalOptions{Deterministic: true}
	content, err := deterministic.Marshal(m)
	var again []byte
	if err == nil {
		name := string(proto.MessageName(m))
		again, err = deterministic.Marshal(&anypb.Any{TypeUrl: typePrefix + name, Value: content})
	}
	if err != nil || !bytes.Equal(again, payload) {
		return nil, errors.New("a message that is not in canonical form")
	}
	return m, nil
}

// checkContent checks the fields of m.
func (g *ingress) checkContent(r *reader, m proto.Message) {
	switch g.proto {
	case keygens[Secp256k1]:
		g.ecKeygen(r, m)
	case resharings[Secp256k1]:
		g.ecResharing(r, m)
	case signings[Secp256k1]:
		g.ecSigning(r, m)
	default:
		g.edwards(r, m)
	}
}
