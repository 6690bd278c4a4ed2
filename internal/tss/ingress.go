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

// maxWireBytes is more than the longest honest message, an ECDSA resharing's
// DGRound2Message1: two DLN proofs, a modulus proof and the moduli, 176 kB.
const maxWireBytes = 192 << 10

// typePrefix is how tss-lib's Any names a type; protobuf takes any other prefix too.
const typePrefix = "type.googleapis.com/"

// ingress checks every message of the other side before tss-lib sees it: tss-lib
// trusts what it is sent, panics where nothing can recover, accepts forged Paillier
// keys, and computes with integers of any size (tss-lib.md, rows 15 and 18 to 20). One
// ingress serves one side of one run.
//
// What it can compute itself, it checks here; a proof's equations are left to tss-lib.
// Its errors hold nothing of what the other side sent.
type ingress struct {
	curve Curve
	me    Party
	proto *protocol
	// record is the set that signs; nil in the other protocols.
	record *KeyRecord
	// own are the Paillier N and NTilde of this side's new keys; none where there are none.
	own []*big.Int
	// fresh is asked once for the other side's new moduli. It may be nil.
	fresh func(n, nTilde *big.Int) error

	// The other side's new moduli, once they passed, and whether fresh was asked. They
	// belong to the one goroutine that receives.
	n, nTilde *big.Int
	asked     bool

	mu    sync.Mutex // guards what follows
	sent  map[protoreflect.FullName]bool
	theta *big.Int // what this side sent in round 3 of an ECDSA signing
}

// newModuli prepares the ingress of a run that makes new Paillier keys.
func (g *ingress) newModuli(n, nTilde *big.Int, fresh func(n, nTilde *big.Int) error) {
	g.own = []*big.Int{new(big.Int).Set(n), new(big.Int).Set(nTilde)}
	g.fresh = fresh
}

// note takes down a message that is about to leave for the other side.
func (g *ingress) note(m lib.Message) {
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

// due reports whether the other side may have come as far as st: a party sends its
// messages of a round when it has taken all of earlier rounds that are meant for it
// (tss-lib.md, row 15). The two sides can be a round apart, and in an ECDSA resharing
// the old parties overtake the new ones, which the steps' receivers account for.
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

// check returns what is wrong with a message for which the other side is to blame.
func (g *ingress) check(a *anypb.Any, st step, payload []byte) error {
	m, err := canonical(a, payload)
	if err != nil {
		return err
	}
	if !g.due(st) {
		return errors.New("a message that comes before its time")
	}
	r := &reader{curve: g.curve, message: m.ProtoReflect().Descriptor().Name()}
	g.read(r, m)
	return r.err
}

// askFresh asks, once, whether the other side's moduli are new to the wallet. Its error
// is the caller's own, and not the other side's fault.
func (g *ingress) askFresh() error {
	if g.asked || g.n == nil || g.fresh == nil {
		return nil
	}
	g.asked = true
	return g.fresh(new(big.Int).Set(g.n), new(big.Int).Set(g.nTilde))
}

// canonical decodes a message, which must be encoded as tss-lib encodes it: what
// tss-lib would skip, unknown fields, repeated ones, another order, must not be there.
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
		again, err = deterministic.Marshal(&anypb.Any{TypeUrl: typePrefix + string(proto.MessageName(m)), Value: content})
	}
	if err != nil || !bytes.Equal(again, payload) {
		return nil, errors.New("a message that is not in canonical form")
	}
	return m, nil
}

// read checks the content of m.
func (g *ingress) read(r *reader, m proto.Message) {
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
