package client_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// A share that is not encrypted to the call's key is rejected.
func TestShareThatIsNotSealed(t *testing.T) {
	f, conn := newFake(t)
	f.lieMade = func(m *made) { m.seal = func(share []byte, _ string) []byte { return share } }
	_, err := newClient(t, f, conn).CreateWallet(t.Context(), nil)
	require.ErrorIs(t, err, client.ErrBadAnswer)
	require.ErrorContains(t, err, "its share is not encrypted to this call's key")
}

// A list ends with the last page; an endless one ends with an error.
func TestListOfWalletsEnds(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	_, err := c.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	list := func() (n int, err error) {
		for _, err = range c.ListWallets(t.Context()) {
			if n++; err != nil || n > 5 {
				break
			}
		}
		return n, err
	}
	n, err := list()
	require.NoError(t, err)
	require.Equal(t, 1, n)
	f.lieToken = "again"
	n, err = list()
	require.ErrorContains(t, err, "its list has no end")
	require.LessOrEqual(t, n, 5)
}

// An error ends a list, even if the caller ignores it. An answer about another wallet is rejected in every call.
func TestAnswersAboutWallets(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, err := c.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	_, err = c.CreateWallet(t.Context(), nil) // so that a list has more than one page
	require.NoError(t, err)
	fresh := newClient(t, f, conn)
	f.lieWallet = func(w *mpcdv1.Wallet) { w.PublicKeys = nil }
	_, err = fresh.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
	require.ErrorContains(t, err, "it has no ED25519 key for wallet")
	f.lieWallet = func(w *mpcdv1.Wallet) { w.WalletId = "x" }
	_, err = fresh.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
	require.ErrorContains(t, err, "it is about another wallet")
	_, err = c.Release(t.Context(), share.WalletID(), share.ShareSetID())
	require.ErrorContains(t, err, "it is about another wallet")
	n := 0
	for _, err := range c.ListWallets(t.Context()) {
		n++
		require.ErrorContains(t, err, "is not a UUID in lower case")
	}
	require.Equal(t, 1, n)
	f.lieWallet = func(w *mpcdv1.Wallet) { w.ShareSets = nil }
	_, err = c.Release(t.Context(), share.WalletID(), share.ShareSetID())
	require.ErrorContains(t, err, "is locked after it was released")
	_, err = c.Revoke(t.Context(), share.WalletID(), share.ShareSetID(), client.AllowLast())
	require.ErrorContains(t, err, "is not REVOKED after it was revoked")
}
