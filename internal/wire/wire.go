// Package wire converts the parts of a device-held run to and from the API's messages, for the service and the SDK.
//
// It checks that a message is exactly one part and of a bounded size. Package tss checks what the part contains.
package wire

import (
	"errors"

	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/link"
	"github.com/mpcd/mpcd/internal/tss"
)

// maxMessage bounds an encoded message of any kind, in bytes. The largest of an honest run, with its DLN proofs, is
// some 140 KiB. A worker's frame can carry any message within this bound.
const maxMessage = 256 << 10

// Message returns the API's message for a part, without its sequence numbers.
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

// Part returns the part in a message. It returns an error if the message is not exactly one part, or is too large.
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
		parts = append(parts, tss.Part{Message: &tss.Message{Curve: curve(m.GetCurve()), Private: m.GetPrivate(), Payload: m.GetPayload()}})
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

// curve returns 0 for an unknown curve.
func curve(c pb.Curve) tss.Curve {
	for _, known := range tss.Curves() {
		if pb.Curve(known) == c {
			return known
		}
	}
	return 0
}
