// Package wire turns the parts of a device-held run into the API's messages, and back:
// the one place in which their fields stand beside each other, for the service and for the
// SDK.
//
// It checks that a message is one part and of a bounded size. What a part says is for
// package tss to judge.
package wire

import (
	"errors"

	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/link"
	"github.com/mpcd/mpcd/internal/tss"
)

// maxMessage bounds a message, in bytes, whatever part it is: the largest of an honest run,
// with its DLN proofs, has some 140 KiB. A worker's frame holds any that passes.
const maxMessage = 256 << 10

// Message returns a part as the API has it, without its numbers.
func Message(p tss.Part) *pb.ProtocolMessage {
	switch {
	case p.Hello != nil:
		h := p.Hello
		return &pb.ProtocolMessage{Hello: &pb.Hello{
			Nonce: h.Nonce, SessionKey: h.SessionKey, PartyKeys: h.PartyKeys, WalletId: h.WalletID, ShareSetId: h.ShareSetID, Record: h.Record,
			Proof: h.Proof,
		}}
	case p.Message != nil:
		return &pb.ProtocolMessage{Payload: p.Message.Payload, Curve: pb.Curve(p.Message.Curve), Private: p.Message.Private}
	case p.End != nil:
		return &pb.ProtocolMessage{End: &pb.End{ShareSha256: p.End.ShareHash}}
	}
	return &pb.ProtocolMessage{Mac: p.MAC}
}

// Numbered returns a part as the API has it, with its numbers.
func Numbered(n *link.Numbered) *pb.ProtocolMessage {
	m := Message(n.Part)
	m.Sequence, m.Ack = n.Sequence, n.Ack
	return m
}

var errForm = errors.New("it is not one part: a hello, a payload, an end or a mac")

// Part returns what a message says.
func Part(m *pb.ProtocolMessage) (tss.Part, error) {
	if proto.Size(m) > maxMessage {
		return tss.Part{}, errors.New("it is larger than any of the protocol")
	}
	var parts []tss.Part
	if h := m.GetHello(); h != nil {
		parts = append(parts, tss.Part{Hello: &tss.Hello{
			Nonce: h.GetNonce(), SessionKey: h.GetSessionKey(), PartyKeys: h.GetPartyKeys(),
			WalletID: h.GetWalletId(), ShareSetID: h.GetShareSetId(), Record: h.GetRecord(), Proof: h.GetProof(),
		}})
	}
	if len(m.GetPayload()) > 0 {
		parts = append(parts, tss.Part{Message: &tss.SealedMessage{Curve: curve(m.GetCurve()), Private: m.GetPrivate(), Payload: m.GetPayload()}})
	}
	if e := m.GetEnd(); e != nil {
		parts = append(parts, tss.Part{End: &tss.End{ShareHash: e.GetShareSha256()}})
	}
	if len(m.GetMac()) > 0 {
		parts = append(parts, tss.Part{MAC: m.GetMac()})
	}
	if len(parts) != 1 || len(m.GetPayload()) == 0 && (m.GetPrivate() || m.GetCurve() != 0) {
		return tss.Part{}, errForm
	}
	return parts[0], nil
}

// curve returns 0 for what is no curve.
func curve(c pb.Curve) tss.Curve {
	for _, known := range tss.Curves() {
		if pb.Curve(known) == c {
			return known
		}
	}
	return 0
}
