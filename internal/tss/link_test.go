package tss

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
)

// A sealed message opens in its own session, attempt and direction, even to the key that it
// was sealed to, and on no other curve (tss-lib.md, row 17).
func TestRow17Sealed(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	messages, err := ReadMessages()
	require.NoError(t, err)
	ours := fuzzChannel(t, s)
	theirs := func() *channel {
		return &channel{joint: fuzzJoint(s, 2, Server), peer: &Hello{SessionKey: ours.key.PublicKey().Bytes()}}
	}
	payload := messages[typeOf(&edresharing.DGRound3Message1{})]
	for what, x := range map[string]struct {
		before func(*channel)
		after  func(*Sealable)
	}{
		"nothing":         {},
		"another session": {before: func(c *channel) { c.joint.SessionID = "6bd1f9c9-3d3f-4f5b-9a55-0d4d3b8c2b44" }},
		"another attempt": {before: func(c *channel) { c.joint.Attempt++ }},
		"our own":         {before: func(c *channel) { c.joint.Party = Client }},
		"another curve":   {after: func(m *Sealable) { m.Curve = Secp256k1 }},
		"no curve":        {after: func(m *Sealable) { m.Curve = 0 }},
		"cut":             {after: func(m *Sealable) { m.Payload = m.Payload[:len(m.Payload)-1] }},
		"empty":           {after: func(m *Sealable) { m.Payload = nil }},
	} {
		from := theirs()
		if x.before != nil {
			x.before(from)
		}
		sealed, err := from.seal(Message{Ed25519, payload})
		require.NoError(t, err)
		require.True(t, sealed.Private)
		if x.after != nil {
			x.after(sealed)
		}
		got, err := ours.open(sealed)
		if what == "nothing" {
			require.NoError(t, err)
			require.True(t, bytes.Equal(payload, got.Payload))
			continue
		}
		requireBlame(t, err, Server)
	}
}

// Keys with which an exchange has the same secret for everybody are refused, whoever uses
// them.
func TestSmallOrderSessionKey(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	messages, err := ReadMessages()
	require.NoError(t, err)
	ours := fuzzChannel(t, s)
	top := bytes.Repeat([]byte{0xff}, 32) // p - 1, and p, little-endian
	top[0], top[31] = 0xec, 0x7f
	p := bytes.Clone(top)
	p[0] = 0xed
	for _, key := range [][]byte{make([]byte, 32), append([]byte{1}, make([]byte, 31)...), top, p} {
		ours.peer = &Hello{SessionKey: key}
		_, err := ours.seal(Message{Ed25519, messages[typeOf(&edresharing.DGRound3Message1{})]})
		requireBlame(t, err, Server)
		_, err = ours.open(&Sealable{Curve: Ed25519, Private: true, Payload: append(bytes.Clone(key), make([]byte, 64)...)})
		requireBlame(t, err, Server)
	}
}
