package tss

import (
	"context"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
)

// MaxParts is more than the parts of any whole run in one direction: who keeps as many never
// has to wait for the other side.
const MaxParts = 64

// Part is one unit of what the two sides of a run send each other where they are on two
// machines. Exactly one of its fields is set. In each direction there is one Hello, then
// the protocol's messages, then one End, then one MAC.
type Part struct {
	Hello   *Hello
	Message *SealedMessage
	End     *End
	MAC     []byte // see transcript
}

// SealedMessage is one of tss-lib's messages on its way. One to a single party, which may carry
// a share, is encrypted to the receiver's session key.
type SealedMessage struct {
	Curve   Curve
	Private bool
	Payload []byte // tss-lib's own bytes; where Private: HPKE's encapsulated key and ciphertext
}

// Hello says with whom, and about what, a run is.
type Hello struct {
	Nonce      []byte // 32 random bytes
	SessionKey []byte // X25519: messages to one party alone are encrypted to it
	PartyKeys  []byte // 32 bytes for each of the run's curves, in their order: the sender's in the new set; none when signing
	// From the server alone.
	WalletID   string
	ShareSetID string // of the new set; empty when signing
	Record     []byte // of the set that is used, encoded; none for a new wallet
	// From the client alone, where a set is used: see HelloContext.
	Proof []byte
}

// End says that its sender has done its part.
type End struct {
	ShareHash []byte // SHA-256 of the client's encoded new share, by which it is confirmed later; from the client alone, none when signing
}

// Link carries parts between two machines, in order, each once. It says by itself who is
// at the other end.
type Link interface {
	// Send hands p over. It may return before the other side has it.
	Send(ctx context.Context, p Part) error
	// Recv waits for the next part, or returns ctx's error once ctx is done.
	Recv(ctx context.Context) (Part, error)
}

const (
	nonceLen = 32
	keyLen   = 32 // of X25519

	bindLabel    = "mpcd device-held 2"
	privateLabel = "mpcd private 2"
	confirmLabel = "mpcd confirm 2"
)

// put adds fields to a hash, each with its length before it, so that no two lists of
// fields look the same.
func put(h hash.Hash, fields ...[]byte) {
	for _, f := range fields {
		_ = binary.Write(h, binary.BigEndian, uint32(len(f))) //nolint:gosec // G115: parts are bounded; a hash never fails
		h.Write(f)
	}
}

// put adds p to a direction's hash, as it travels.
func (p *Part) put(h hash.Hash) {
	switch {
	case p.Hello != nil:
		x := p.Hello
		put(h, []byte("hello"), x.Nonce, x.SessionKey, x.PartyKeys, []byte(x.WalletID), []byte(x.ShareSetID), x.Record, x.Proof)
	case p.Message != nil:
		private := byte(0)
		if p.Message.Private {
			private = 1
		}
		put(h, []byte("message"), []byte{byte(p.Message.Curve), private}, p.Message.Payload)
	case p.End != nil:
		put(h, []byte("end"), p.End.ShareHash)
	}
}

// sessionKey is one side's key for the messages that are for it alone.
type sessionKey struct{ hpke.PrivateKey }

func newSessionKey() (sessionKey, error) {
	k, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
	return sessionKey{k}, err
}

func (c *channel) privateInfo(from Party) []byte {
	h := sha256.New()
	put(h, []byte(privateLabel), []byte(c.operation.SessionID), binary.BigEndian.AppendUint32(nil, c.operation.Attempt), []byte(from.String()))
	return h.Sum(nil)
}

// seal brings a message into the form in which it travels: one to a single party is
// encrypted to the other side's session key (HPKE, RFC 9180), so that what ends TLS on the
// way learns no share, and what was recorded opens for no other run.
func (c *channel) seal(m Message) (*SealedMessage, error) {
	_, is := private(m.Payload)
	out := &SealedMessage{Curve: m.Curve, Private: is, Payload: m.Payload}
	if !out.Private {
		return out, nil
	}
	to, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(c.peer.SessionKey)
	if err == nil {
		out.Payload, err = hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), c.privateInfo(c.operation.Party), m.Payload)
	}
	if err != nil { // no key, or one of small order
		return nil, c.blame(errors.New("a session key that nothing can be encrypted to"))
	}
	return out, nil
}

func (c *channel) open(m *SealedMessage) (Message, error) {
	out := Message{Curve: m.Curve, Payload: m.Payload}
	if m.Private {
		var err error
		out.Payload, err = hpke.Open(c.key, hpke.HKDFSHA256(), hpke.AES256GCM(), c.privateInfo(c.operation.Party.Other()), m.Payload)
		if err != nil {
			return out, c.blame(errors.New("a message that is not encrypted to this run's key"))
		}
	}
	if of, is := private(out.Payload); is != m.Private || is && of != out.Curve {
		return out, c.blame(errors.New("a message to one party that came in the clear, or another that did not"))
	}
	return out, nil
}

// transcript is what both sides must have seen alike: what the run is about, and both
// directions' parts up to their End. made is the new set's encoded record.
func (c *channel) transcript(made []byte) []byte {
	j, sum := c.operation, Hash(made)
	h := sha256.New()
	put(h, []byte(bindLabel), []byte(j.Kind), []byte(j.SessionID), binary.BigEndian.AppendUint32(nil, j.Attempt),
		[]byte(c.wallet), []byte(j.source()), []byte(c.set), sum[:], j.digest())
	var sides [2][]byte
	sides[j.Party], sides[j.Party.Other()] = c.sent, c.received
	put(h, sides[Client], sides[Server])
	return h.Sum(nil)
}

// mac is one side's word on the transcript, under a key that the two sides of a set
// have, and nobody on the way between them: x*Y = y*X, of their shares of it.
func mac(transcript []byte, k *KeyRecord, own *KeyShare, of Party) ([]byte, error) {
	shared, err := k.Curve.shared(own.xi, &k.Parties[own.party(k).Other()])
	if err != nil {
		return nil, err
	}
	defer clear(shared)
	key, err := hkdf.Key(sha256.New, shared, transcript, confirmLabel, sha256.Size)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	m := hmac.New(sha256.New, key)
	put(m, []byte(of.String()), transcript)
	return m.Sum(nil), nil
}

// party says whose share it is, by its party key.
func (k *KeyShare) party(r *KeyRecord) Party {
	if k.PartyKey.Cmp(r.Parties[Client].PartyKey) == 0 {
		return Client
	}
	return Server
}

func newNonce() []byte {
	b := make([]byte, nonceLen)
	_, _ = rand.Read(b) // never fails
	return b
}
