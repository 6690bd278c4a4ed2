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

// MaxParts is more than the number of parts that a run sends in one direction: with a buffer of this size, no sender
// ever waits for the receiver.
const MaxParts = 64

// Part is one unit of what the two sides of a run send each other. Exactly one field is set. In each direction there is
// one Hello, then the protocol's messages, then one End, then one MAC.
type Part struct {
	Hello   *Hello
	Message *Message
	End     *End
	MAC     []byte // of the transcript
}

// Hello is a side's first part.
type Hello struct {
	Nonce      []byte // 32 random bytes
	SessionKey []byte // X25519, 32 bytes: private messages to the sender are encrypted to it
	// PartyKeys are the sender's party keys in the new set: 32 bytes for each of the run's curves, in their order. Empty
	// when signing.
	PartyKeys []byte

	// From the server only.
	WalletID   string
	ShareSetID string // of the new set; empty when signing
	Record     []byte // of the set that is used, encoded; empty for a new wallet

	// From the client only, if a set is used: see HelloContext.
	Proof []byte
}

// End means that its sender has finished all protocols of the run.
type End struct {
	// ShareHash is the SHA-256 of the client's encoded new share, with which the client confirms the set later. From the
	// client only; empty when signing.
	ShareHash []byte
}

// Link carries parts to the other side and back, in order, each exactly once. The sender of a part is known from the
// Link: nothing in a part names it.
type Link interface {
	// Send sends p. It may return before the other side has received it.
	Send(ctx context.Context, p Part) error
	// Recv returns the next part, ctx's error once ctx is done, or ErrStopped.
	Recv(ctx context.Context) (Part, error)
}

const (
	nonceLen = 32
	keyLen   = 32 // X25519

	bindLabel    = "mpcd device-held 2"
	privateLabel = "mpcd private 2"
	confirmLabel = "mpcd confirm 2"
)

// addFields adds fields to a hash, each preceded by its length, so that two different lists of fields never hash alike.
func addFields(h hash.Hash, fields ...[]byte) {
	for _, f := range fields {
		_ = binary.Write(h, binary.BigEndian, uint32(len(f))) //nolint:gosec // G115: parts are bounded; a hash never fails
		h.Write(f)
	}
}

// addTo adds p, as it is sent, to the hash of its direction. A MAC adds nothing.
func (p *Part) addTo(h hash.Hash) {
	switch {
	case p.Hello != nil:
		x := p.Hello
		addFields(h, []byte("hello"), x.Nonce, x.SessionKey, x.PartyKeys,
			[]byte(x.WalletID), []byte(x.ShareSetID), x.Record, x.Proof)
	case p.Message != nil:
		private := byte(0)
		if p.Message.Private {
			private = 1
		}
		addFields(h, []byte("message"), []byte{byte(p.Message.Curve), private}, p.Message.Payload)
	case p.End != nil:
		addFields(h, []byte("end"), p.End.ShareHash)
	}
}

// sessionKey is the key to which private messages to this side are encrypted.
type sessionKey struct{ hpke.PrivateKey }

func newSessionKey() (sessionKey, error) {
	k, err := hpke.DHKEM(ecdh.X25519()).GenerateKey()
	return sessionKey{k}, err
}

// privateInfo returns the info with which HPKE binds a private message to the session, the attempt and its sender.
func (c *channel) privateInfo(from Party) []byte {
	h := sha256.New()
	addFields(h, []byte(privateLabel), []byte(c.operation.SessionID),
		binary.BigEndian.AppendUint32(nil, c.operation.Attempt), []byte(from.String()))
	return h.Sum(nil)
}

// seal returns m as a Link carries it. A message to one party is encrypted to the other side's session key (HPKE, RFC
// 9180), so that a proxy that terminates TLS learns no share, and a recorded message cannot be decrypted in another
// run.
func (c *channel) seal(m Message) (Message, error) {
	if _, m.Private = private(m.Payload); !m.Private {
		return m, nil
	}
	to, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(c.peer.SessionKey)
	if err == nil {
		info := c.privateInfo(c.operation.Party)
		m.Payload, err = hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), info, m.Payload)
	}
	if err != nil { // not a key, or one of small order
		return Message{}, c.blame(errors.New("an unusable session key"))
	}
	return m, nil
}

// open returns m decrypted. It checks that exactly the messages to one party came encrypted.
func (c *channel) open(m *Message) (Message, error) {
	out := Message{Curve: m.Curve, Payload: m.Payload}
	if m.Private {
		var err error
		info := c.privateInfo(c.operation.Party.Other())
		out.Payload, err = hpke.Open(c.key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, m.Payload)
		if err != nil {
			return out, c.blame(errors.New("a message that is not encrypted to this run's key"))
		}
	}
	if of, is := private(out.Payload); is != m.Private || is && of != out.Curve {
		return out, c.blame(errors.New("a message to one party in the clear, or a broadcast message encrypted"))
	}
	return out, nil
}

// transcript returns the hash that both sides must agree on: of the operation's parameters and of both directions'
// parts up to their End. record is the new set's, encoded; nil when signing.
func (c *channel) transcript(record []byte) []byte {
	j, sum := c.operation, Hash(record)
	h := sha256.New()
	addFields(h, []byte(bindLabel), []byte(j.Kind), []byte(j.SessionID), binary.BigEndian.AppendUint32(nil, j.Attempt),
		[]byte(c.wallet), []byte(j.source()), []byte(c.set), sum[:], j.digest())
	var sides [2][]byte
	sides[j.Party], sides[j.Party.Other()] = c.sent, c.received
	addFields(h, sides[Client], sides[Server])
	return h.Sum(nil)
}

// mac returns a party's MAC of the transcript. Its key is derived from the Diffie-Hellman secret of the two parties'
// shares of k, of which own is one.
func mac(transcript []byte, k *KeyRecord, own *KeyShare, of Party) ([]byte, error) {
	shared, err := k.Curve.sharedPoint(own.xi, &k.Parties[own.party(k).Other()])
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
	addFields(m, []byte(of.String()), transcript)
	return m.Sum(nil), nil
}

// party returns the share's owner, by its party key.
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
