package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// The demo's search finds a share in the service's files, and then fails.
func TestDemoSearchFindsAShare(t *testing.T) {
	t.Parallel()
	keys, err := tsstest.Keygen(t.Context(), tss.Ed25519, [2]*tss.PreParams{}, tss.Observer{})
	require.NoError(t, err)
	id := tss.SetID{WalletID: uuid.NewString(), ShareSetID: uuid.NewString(), Purpose: tss.Signing}
	encoded, err := (&tss.Share{SetID: id, Party: tss.Client, Keys: []tss.KeyShare{keys[tss.Client].Share}}).Encode()
	require.NoError(t, err)
	share := encoded.Reveal()
	db := filepath.Join(t.TempDir(), "demo.db")
	search := func(text []byte) (demoHeld, error) {
		require.NoError(t, os.WriteFile(db+"-wal", text, 0o600))
		h := demoHeld{Service: []heldServerShare{{ShareSetID: id.ShareSetID}}}
		return h, h.search(db, [][]byte{share})
	}
	require.NoError(t, os.WriteFile(db, []byte("header"), 0o600))
	h, err := search([]byte(id.ShareSetID))
	require.NoError(t, err)
	require.Equal(t, heldNever{Shares: 1, Bytes: len("header") + 36}, h.Never)
	h, err = search(append([]byte(id.ShareSetID), share...))
	require.EqualError(t, err, "a device's share is in the service")
	require.Equal(t, 1, h.Never.Found)
	_, err = search(nil)
	require.EqualError(t, err, "the service's files could not be searched")
}
