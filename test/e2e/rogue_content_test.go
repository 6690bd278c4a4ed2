package e2e_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"

	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/mpcd/mpcd/internal/tss"
)

// payload encodes a tss-lib message as sent.
func payload(m proto.Message) []byte {
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // of a message that the test itself made
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&anypb.Any{
		TypeUrl: "type.googleapis.com/" + string(proto.MessageName(m)), Value: content,
	})
	if err != nil {
		panic(err)
	}
	return b
}

// said decodes an unencrypted payload; nil on failure.
func said(b []byte) proto.Message {
	var a anypb.Any
	if proto.Unmarshal(b, &a) != nil {
		return nil
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil
	}
	return m
}

// sealed encrypts a payload to the service's session key, as the device's parties would (ADR 5).
func (r *rogue) sealed(b []byte) []byte {
	r.mu.Lock()
	hello := r.heard[0].GetHello()
	r.mu.Unlock()
	to, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(hello.GetSessionKey())
	if err != nil {
		panic(err) // the service's key is valid
	}
	out, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), r.info("CLIENT"), b)
	if err != nil {
		panic(err)
	}
	return out
}

// info binds an encrypted payload to the attempt and its sender.
func (r *rogue) info(from string) []byte {
	h := sha256.New()
	for _, f := range [][]byte{[]byte("mpcd private 2"), []byte(r.joint.SessionID), binary.BigEndian.AppendUint32(nil, r.joint.Attempt), []byte(from)} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(f))))
		h.Write(f)
	}
	return h.Sum(nil)
}

// foreign is a valid message of the run's curve, but of another protocol.
func (r *rogue) foreign(private bool) []byte {
	scalar := bytes.Repeat([]byte{7}, 32)
	switch {
	case private && r.op == "CREATE":
		return payload(&edresharing.DGRound3Message1{Share: scalar})
	case private:
		return payload(&edkeygen.KGRound2Message1{Share: scalar})
	case r.op == tss.OperationSign:
		return payload(&edresharing.DGRound4Message{})
	}
	return payload(&edsigning.SignRound3Message{S: scalar})
}

// equal reports whether two parts are the same apart from their numbers.
func equal(a, b *outgoing) bool {
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	a.Sequence, a.Ack, b.Sequence, b.Ack = 0, 0, 0, 0
	return proto.Equal(a, b)
}
