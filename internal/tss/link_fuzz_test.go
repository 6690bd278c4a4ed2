package tss

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"math/big"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
)

// fuzzOperation returns an operation of one of the four kinds, with the committed set if it uses one.
func fuzzOperation(s *Set, operation byte, party Party) *Operation {
	j := &Operation{
		Party: party, Kind: []string{"CREATE", "BACKUP", "PROVISION", OperationSign}[operation%4],
		SessionID: "d7a9c1f5-55a5-4a3e-9a65-2b4b2a0f3a11", Attempt: 1, Curves: Curves(),
	}
	if operation%4 != 0 {
		j.Share = s.Shares[party]
	}
	return j
}

// newCurves returns the curves for which a hello has party keys.
func (j *Operation) newCurves() []Curve {
	if j.Kind == OperationSign {
		return nil
	}
	return j.Curves
}

// Every hello that a side accepts has a session key and party keys that are scalars. Only a server's has ids, and the
// record that the share commits to. Only a client's that was signed with the share has a valid proof.
func FuzzHello(f *testing.F) {
	s := Vector(f, Signing)
	scalars := bytes.Repeat([]byte{7}, 2*scalarLen)
	nonce, id := bytes.Repeat([]byte{1}, nonceLen), "0b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11"
	none := []byte(nil)
	f.Add(byte(0), byte(Client), nonce, nonce, scalars, id, id, none, none)
	f.Add(byte(1), byte(Client), nonce, nonce, scalars, s.Record.WalletID, id, s.Encoded, none)
	f.Add(byte(2), byte(Client), nonce, nonce, scalars, s.Record.WalletID, s.Record.ShareSetID, s.Encoded, none)
	f.Add(byte(3), byte(Client), nonce, nonce, none, s.Record.WalletID, "", s.Encoded, none)
	upper := strings.ToUpper(s.Record.ShareSetID)
	f.Add(byte(2), byte(Client), nonce, nonce, scalars, s.Record.WalletID, upper, s.Encoded, none)
	f.Add(byte(0), byte(Server), nonce, nonce, scalars, "", "", none, none)
	f.Add(byte(2), byte(Server), nonce, nonce, scalars, "", "", none, make([]byte, proofLen))
	f.Add(byte(3), byte(Server), nonce, nonce, none, "", "", none, make([]byte, proofLen))
	honest := newProven(f, Secp256k1, Signing, 3)
	f.Add(byte(3), byte(Server), honest.hello.Nonce, honest.hello.SessionKey, none, "", "", none, honest.hello.Proof)
	f.Fuzz(func(t *testing.T, operation, me byte, nonce, key, partyKeys []byte, wallet, set string, record, proof []byte) {
		j := fuzzOperation(s, operation, Party(me%2))
		h := &Hello{
			Nonce: nonce, SessionKey: key, PartyKeys: partyKeys,
			WalletID: wallet, ShareSetID: set, Record: record, Proof: proof,
		}
		if h.VerifyProof(&honest.context, s.Record) == nil {
			want := [4][]byte{honest.hello.Nonce, honest.hello.SessionKey, none, honest.hello.Proof}
			require.Equal(t, want, [4][]byte{nonce, key, append(none, partyKeys...), proof})
		}
		if h.checkForm(j.Party.Other(), j.newCurves(), j.Share != nil) != nil {
			return
		}
		require.Len(t, nonce, 32)
		require.Len(t, key, 32)
		require.Len(t, partyKeys, 32*len(j.newCurves()))
		for i, c := range j.newCurves() {
			x := new(big.Int).SetBytes(partyKeys[32*i : 32*i+32])
			require.True(t, x.Sign() > 0 && x.Cmp(c.Order()) < 0)
		}
		if j.Party == Server {
			require.Empty(t, wallet+set)
			require.Empty(t, record)
			require.Len(t, proof, 64*min(1, int(operation%4)))
			return
		}
		require.Empty(t, proof)
		rec, err := j.checkServerHello(h)
		if err != nil {
			require.Nil(t, rec)
			return
		}
		id, err := uuid.Parse(wallet)
		require.NoError(t, err)
		require.Equal(t, id.String(), wallet)
		require.Equal(t, j.Kind == OperationSign, set == "")
		require.Equal(t, j.Share == nil, rec == nil)
		if rec != nil {
			require.Equal(t, j.Share.WalletID, wallet)
			require.False(t, strings.EqualFold(j.Share.ShareSetID, set))
			require.True(t, bytes.Equal(s.Encoded, record))
		}
	})
}

// fuzzChannel returns a client's channel whose session key is the same in every process.
func fuzzChannel(t testing.TB, s *Set) *channel {
	seed := sha256.Sum256([]byte("a fuzz target's key"))
	raw, err := ecdh.X25519().NewPrivateKey(seed[:])
	require.NoError(t, err)
	key, err := hpke.NewDHKEMPrivateKey(raw)
	require.NoError(t, err)
	return &channel{operation: fuzzOperation(s, 2, Client), key: sessionKey{key}}
}

// Only messages that the other side encrypted decrypt without an error, and private messages are not accepted in the
// clear.
func FuzzOpen(f *testing.F) {
	s := Vector(f, Signing)
	messages, err := ReadMessages()
	require.NoError(f, err)
	ours := fuzzChannel(f, s)
	theirs := &channel{operation: fuzzOperation(s, 2, Server), peer: &Hello{SessionKey: ours.key.PublicKey().Bytes()}}
	var sealed [][]byte // the plaintexts that the other side encrypted
	add := func(m Message) {
		out, err := theirs.seal(m)
		require.NoError(f, err)
		if out.Private {
			sealed = append(sealed, m.Payload)
		}
		f.Add(byte(out.Curve), out.Private, out.Payload)
		f.Add(byte(Secp256k1+Ed25519-out.Curve), out.Private, out.Payload)
		f.Add(byte(out.Curve), !out.Private, out.Payload)
		f.Add(byte(out.Curve), false, m.Payload)
	}
	add(Message{Curve: Ed25519, Payload: messages[typeOf(&edresharing.DGRound3Message1{})]})
	add(Message{Curve: Ed25519, Payload: messages[typeOf(&edkeygen.KGRound2Message1{})]})
	add(Message{Curve: Ed25519, Payload: messages[typeOf(&edresharing.DGRound3Message2{})]})
	require.Len(f, sealed, 2)
	f.Fuzz(func(t *testing.T, curve byte, private bool, payload []byte) {
		m, err := ours.open(&Message{Curve: Curve(curve), Private: private, Payload: payload})
		if err != nil {
			requireBlame(t, err, Server)
			return
		}
		require.Equal(t, Curve(curve), m.Curve)
		if private {
			require.Contains(t, sealed, m.Payload)
			return
		}
		require.Equal(t, payload, m.Payload)
		require.NotContains(t, sealed, m.Payload)
	})
}
