package tss

import (
	"testing"

	"github.com/stretchr/testify/require"

	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
)

// Whatever a hello says, it is refused, or what it says of the wallet and its sets fits what
// this side has: for the device that hears the service's, and the other way round.
func FuzzHello(f *testing.F) {
	set := Vector(f, Backup)
	keys, err := newPartyKeys(Curves())
	require.NoError(f, err)
	id := "7c1b9f0e-3f0a-4f6e-9d4c-2f4b6f1f4a11"
	f.Add(true, newNonce(), make([]byte, keyLen), keys, set.Record.WalletID, id, set.Encoded)
	f.Add(false, newNonce(), make([]byte, keyLen), keys, "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, fromServer bool, nonce, key, partyKeys []byte, wallet, setID string, record []byte) {
		x := &Hello{Nonce: nonce, SessionKey: key, PartyKeys: partyKeys, WalletID: wallet, ShareSetID: setID, Record: record}
		from := Client
		if fromServer {
			from = Server
		}
		if x.check(from, Curves()) != nil {
			return
		}
		require.Len(t, x.Nonce, nonceLen)
		for i, c := range Curves() {
			require.True(t, c.isScalar(x.partyKey(i)))
		}
		if from == Client {
			require.Empty(t, x.WalletID+x.ShareSetID)
			return
		}
		j := &Joint{Party: Client, Operation: "PROVISION", Share: set.Shares[Client]}
		rec, err := j.about(x)
		if err != nil {
			return
		}
		require.Equal(t, set.Encoded, x.Record, "only the record that the share commits to")
		require.Equal(t, set.Record.WalletID, x.WalletID)
		require.NotEqual(t, set.Record.ShareSetID, x.ShareSetID)
		require.NoError(t, rec.Check(set.Shares[Client], Client, x.Record))
	})
}

// Nothing opens but what was sealed to this run's key: the fuzzer has none.
func FuzzPrivate(f *testing.F) {
	key, err := newSessionKey()
	require.NoError(f, err)
	c := &channel{joint: &Joint{Party: Server, SessionID: "s", Attempt: 1}, key: key}
	all := honest(f)
	f.Add(true, all[typeOf(&edresharing.DGRound3Message1{})])
	f.Add(false, all[typeOf(&edresharing.DGRound3Message1{})])
	f.Fuzz(func(t *testing.T, sealed bool, payload []byte) {
		_, err := c.open(&Sealable{Curve: Ed25519, Private: sealed, Payload: payload})
		if sealed {
			require.Error(t, err)
		} else if err == nil {
			require.False(t, private(Ed25519, payload))
		}
	})
}
