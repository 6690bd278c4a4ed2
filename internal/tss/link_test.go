package tss

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
)

// An encrypted message can be decrypted only in its own session, attempt and direction, and for its own curve, even
// with the right key (tss-lib.md, row 17).
func TestRow17Sealed(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	messages, err := ReadMessages()
	require.NoError(t, err)
	ours := fuzzChannel(t, s)
	theirs := func() *channel {
		return &channel{operation: fuzzOperation(s, 2, Server), peer: &Hello{SessionKey: ours.key.PublicKey().Bytes()}}
	}
	payload := messages[typeOf(&edresharing.DGRound3Message1{})]
	for what, x := range map[string]struct {
		before func(*channel)
		after  func(*Message)
	}{
		"nothing":         {},
		"another session": {before: func(c *channel) { c.operation.SessionID = "6bd1f9c9-3d3f-4f5b-9a55-0d4d3b8c2b44" }},
		"another attempt": {before: func(c *channel) { c.operation.Attempt++ }},
		"our own":         {before: func(c *channel) { c.operation.Party = Client }},
		"another curve":   {after: func(m *Message) { m.Curve = Secp256k1 }},
		"no curve":        {after: func(m *Message) { m.Curve = 0 }},
		"truncated":       {after: func(m *Message) { m.Payload = m.Payload[:len(m.Payload)-1] }},
		"empty":           {after: func(m *Message) { m.Payload = nil }},
	} {
		from := theirs()
		if x.before != nil {
			x.before(from)
		}
		sealed, err := from.seal(Message{Curve: Ed25519, Payload: payload})
		require.NoError(t, err)
		require.True(t, sealed.Private)
		if x.after != nil {
			x.after(&sealed)
		}
		got, err := ours.open(&sealed)
		if what == "nothing" {
			require.NoError(t, err)
			require.True(t, bytes.Equal(payload, got.Payload))
			continue
		}
		requireBlame(t, err, Server)
	}
}

// Session keys of small order, with which the shared secret is a constant, are rejected by both sides.
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
		_, err := ours.seal(Message{Curve: Ed25519, Payload: messages[typeOf(&edresharing.DGRound3Message1{})]})
		requireBlame(t, err, Server)
		sealed := append(bytes.Clone(key), make([]byte, 64)...)
		_, err = ours.open(&Message{Curve: Ed25519, Private: true, Payload: sealed})
		requireBlame(t, err, Server)
	}
}

// A client rejects false ids and records in a hostile server's hello, which may be its only source for them. If it
// accepted another spelling of the used set's id for the new set, the new share could pass for one of the used set.
func TestHelloOfServer(t *testing.T) {
	t.Parallel()
	s, other := Vector(t, Signing), Vector(t, Backup)
	wallet, used, fresh := s.Record.WalletID, s.Record.ShareSetID, "0b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
	const provision, sign = 2, 3
	for what, x := range map[string]struct {
		operation byte
		hello     Hello
	}{
		"the used set's id": {provision, Hello{WalletID: wallet, ShareSetID: used, Record: s.Encoded}},
		"the used set's id in capitals": {provision, Hello{
			WalletID: wallet, ShareSetID: strings.ToUpper(used), Record: s.Encoded,
		}},
		"the used set's id in braces": {provision, Hello{
			WalletID: wallet, ShareSetID: "{" + used + "}", Record: s.Encoded,
		}},
		"the used set's id as a URN": {provision, Hello{
			WalletID: wallet, ShareSetID: "urn:uuid:" + used, Record: s.Encoded,
		}},
		"the used set's id without dashes": {provision, Hello{
			WalletID: wallet, ShareSetID: strings.ReplaceAll(used, "-", ""), Record: s.Encoded,
		}},
		"no new set":                         {provision, Hello{WalletID: wallet, Record: s.Encoded}},
		"another wallet":                     {provision, Hello{WalletID: fresh, ShareSetID: fresh, Record: s.Encoded}},
		"another set's record":               {provision, Hello{WalletID: wallet, ShareSetID: fresh, Record: other.Encoded}},
		"no record":                          {provision, Hello{WalletID: wallet, ShareSetID: fresh}},
		"a new set when signing":             {sign, Hello{WalletID: wallet, ShareSetID: fresh, Record: s.Encoded}},
		"no wallet":                          {sign, Hello{Record: s.Encoded}},
		"a record for a new wallet":          {0, Hello{WalletID: fresh, ShareSetID: fresh, Record: s.Encoded}},
		"a new wallet's id in capitals":      {0, Hello{WalletID: strings.ToUpper(fresh), ShareSetID: fresh}},
		"a new wallet's set in capitals":     {0, Hello{WalletID: fresh, ShareSetID: strings.ToUpper(fresh)}},
		"a new wallet's id with a separator": {0, Hello{WalletID: "../" + fresh, ShareSetID: fresh}},
	} {
		_, err := fuzzOperation(s, x.operation, Client).checkServerHello(&x.hello)
		require.Error(t, err, what)
		requireBlame(t, err, Server)
	}
	for operation, hello := range map[byte]*Hello{
		0:         {WalletID: fresh, ShareSetID: fresh},
		provision: {WalletID: wallet, ShareSetID: fresh, Record: s.Encoded},
		sign:      {WalletID: wallet, Record: s.Encoded},
	} {
		_, err := fuzzOperation(s, operation, Client).checkServerHello(hello)
		require.NoError(t, err)
	}
}

// A share without a key for the set's first curve cannot confirm a run, and is rejected before it.
func TestOperationWithOneCurveOfAShare(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	require.Equal(t, Secp256k1, s.Record.Keys[0].Curve)
	j := fuzzOperation(s, 3, Client)
	j.Curves = []Curve{Ed25519}
	var err error
	j.Share, err = j.Share.Only(Ed25519)
	require.NoError(t, err)
	_, err = j.checkServerHello(&Hello{WalletID: s.Record.WalletID, Record: s.Encoded})
	require.ErrorIs(t, err, ErrShareMismatch)
}

// The other side cannot make us decrypt more messages than a protocol has, even if they are consumed at once: a message
// repeated too often ends the run.
func TestTooManyMessages(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	messages, err := ReadMessages()
	require.NoError(t, err)
	c, err := newChannel(fuzzOperation(s, 2, Server), nil, nil)
	require.NoError(t, err)
	c.state = afterHello
	from := &channel{operation: fuzzOperation(s, 2, Client), peer: &Hello{SessionKey: c.key.PublicKey().Bytes()}}
	sealed, err := from.seal(Message{Curve: Ed25519, Payload: messages[typeOf(&edresharing.DGRound3Message1{})]})
	require.NoError(t, err)
	require.True(t, sealed.Private)
	for range MaxParts {
		require.NoError(t, c.dispatch(t.Context(), Part{Message: &sealed}))
		<-c.parts[Ed25519]
	}
	err = c.dispatch(t.Context(), Part{Message: &sealed})
	requireBlame(t, err, Client)
	require.ErrorContains(t, err, "more messages than the protocol has")
}
