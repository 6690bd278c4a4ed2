package custody

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// Whatever a custodian answers, what is picked is a share of the set that was asked for.
func FuzzAnswer(f *testing.F) {
	id := tss.SetID{WalletID: "5a1b2c3d-0000-4000-8000-000000000001", ShareSetID: "5a1b2c3d-0000-4000-8000-000000000002", Purpose: tss.Backup}
	keys, err := tss.HostedKeygen(f.Context(), tss.Ed25519, [2]*tss.PreParams{}, tss.Observer{})
	require.NoError(f, err)
	for _, party := range []tss.Party{tss.Client, tss.Server} {
		share := &tss.Share{SetID: id, Party: party, Keys: []tss.KeyShare{keys[party].Share}}
		b, err := share.Encode()
		require.NoError(f, err)
		answer, err := json.Marshal(map[string]any{"backupShares": [][]byte{b.Reveal()}})
		require.NoError(f, err)
		_, err = pick(answer, id)
		require.Equal(f, party == tss.Server, err == nil)
		f.Add(answer)
	}
	for _, seed := range []string{``, `{}`, `{"backupShares":["AAAA"]}`, `{"backupShares":[null,1,{}]}`, `{"backupShares":null}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		b, err := pick(answer, id)
		if err != nil {
			require.ErrorIs(t, err, errNotThere)
			require.Zero(t, b.Len())
			return
		}
		share, err := tss.ParseShare(b.Reveal())
		require.NoError(t, err)
		require.Equal(t, id, share.SetID)
		require.Equal(t, tss.Server, share.Party)
	})
}
