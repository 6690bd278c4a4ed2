package tss

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
)

// role is the committee of a tss-lib party. Key generation and signing have one committee, with one party on each side;
// a resharing has two.
type role uint8

const (
	oldRole role = iota // in a resharing, the party with the old share
	newRole             // in a resharing, the party that gets the new share
)

// onlyRole is the role of all parties in other protocols.
const onlyRole = oldRole

// step is the place of one tss-lib message type in its protocol. tss-lib accepts messages of other protocols, or with
// wrong flags, without an error and then stalls (tss-lib.md, row 15). So a message's round, its sender's role, its
// receivers and its broadcast flag are taken from these tables, by its type.
type step struct {
	round     int
	from      role
	to        []role
	broadcast bool
}

// protocol is one of tss-lib's protocols on one curve.
type protocol struct {
	rounds int // as tss-lib numbers them
	steps  map[protoreflect.FullName]step
}

// last returns the last round in which messages are sent.
func (p *protocol) last() int {
	k := 0
	for _, st := range p.steps {
		k = max(k, st.round)
	}
	return k
}

// private reports whether a payload is a message to one party, which may contain a share, and returns the curve of its
// protocol. It returns 0, false for a payload that is not a message of any protocol.
func private(payload []byte) (of Curve, is bool) {
	var a anypb.Any
	if proto.Unmarshal(payload, &a) != nil {
		return 0, false
	}
	for _, all := range []map[Curve]*protocol{keygens, resharings, signings} {
		for c, p := range all {
			if st, ok := p.steps[a.MessageName()]; ok {
				return c, !st.broadcast
			}
		}
	}
	return 0, false
}

func typeOf(m proto.Message) protoreflect.FullName { return proto.MessageName(m) }

var (
	toOnly  = []role{onlyRole}
	toOld   = []role{oldRole}
	toNew   = []role{newRole}
	toBoth  = []role{oldRole, newRole}
	keygens = map[Curve]*protocol{
		Secp256k1: {rounds: 4, steps: map[protoreflect.FullName]step{
			typeOf(&eckeygen.KGRound1Message{}):  {1, onlyRole, toOnly, true},
			typeOf(&eckeygen.KGRound2Message1{}): {2, onlyRole, toOnly, false},
			typeOf(&eckeygen.KGRound2Message2{}): {2, onlyRole, toOnly, true},
			typeOf(&eckeygen.KGRound3Message{}):  {3, onlyRole, toOnly, true},
		}},
		Ed25519: {rounds: 3, steps: map[protoreflect.FullName]step{
			typeOf(&edkeygen.KGRound1Message{}):  {1, onlyRole, toOnly, true},
			typeOf(&edkeygen.KGRound2Message1{}): {2, onlyRole, toOnly, false},
			typeOf(&edkeygen.KGRound2Message2{}): {2, onlyRole, toOnly, true},
		}},
	}
	resharings = map[Curve]*protocol{
		Secp256k1: {rounds: 5, steps: map[protoreflect.FullName]step{
			typeOf(&ecresharing.DGRound1Message{}):  {1, oldRole, toNew, true},
			typeOf(&ecresharing.DGRound2Message1{}): {2, newRole, toNew, true},
			typeOf(&ecresharing.DGRound2Message2{}): {2, newRole, toOld, true},
			typeOf(&ecresharing.DGRound3Message1{}): {3, oldRole, toNew, false},
			typeOf(&ecresharing.DGRound3Message2{}): {3, oldRole, toNew, true},
			typeOf(&ecresharing.DGRound4Message1{}): {4, newRole, toNew, false},
			typeOf(&ecresharing.DGRound4Message2{}): {4, newRole, toBoth, true},
		}},
		Ed25519: {rounds: 5, steps: map[protoreflect.FullName]step{
			typeOf(&edresharing.DGRound1Message{}):  {1, oldRole, toNew, true},
			typeOf(&edresharing.DGRound2Message{}):  {2, newRole, toOld, true},
			typeOf(&edresharing.DGRound3Message1{}): {3, oldRole, toNew, false},
			typeOf(&edresharing.DGRound3Message2{}): {3, oldRole, toNew, true},
			typeOf(&edresharing.DGRound4Message{}):  {4, newRole, toBoth, true},
		}},
	}
	signings = map[Curve]*protocol{
		Secp256k1: {rounds: 10, steps: map[protoreflect.FullName]step{
			typeOf(&ecsigning.SignRound1Message1{}): {1, onlyRole, toOnly, false},
			typeOf(&ecsigning.SignRound1Message2{}): {1, onlyRole, toOnly, true},
			typeOf(&ecsigning.SignRound2Message{}):  {2, onlyRole, toOnly, false},
			typeOf(&ecsigning.SignRound3Message{}):  {3, onlyRole, toOnly, true},
			typeOf(&ecsigning.SignRound4Message{}):  {4, onlyRole, toOnly, true},
			typeOf(&ecsigning.SignRound5Message{}):  {5, onlyRole, toOnly, true},
			typeOf(&ecsigning.SignRound6Message{}):  {6, onlyRole, toOnly, true},
			typeOf(&ecsigning.SignRound7Message{}):  {7, onlyRole, toOnly, true},
			typeOf(&ecsigning.SignRound8Message{}):  {8, onlyRole, toOnly, true},
			typeOf(&ecsigning.SignRound9Message{}):  {9, onlyRole, toOnly, true},
		}},
		Ed25519: {rounds: 4, steps: map[protoreflect.FullName]step{
			typeOf(&edsigning.SignRound1Message{}): {1, onlyRole, toOnly, true},
			typeOf(&edsigning.SignRound2Message{}): {2, onlyRole, toOnly, true},
			typeOf(&edsigning.SignRound3Message{}): {3, onlyRole, toOnly, true},
		}},
	}
)
