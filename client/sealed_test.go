package client_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
)

// A share that comes in the clear, or encrypted to somebody else, is not used.
func TestShareThatIsNotSealed(t *testing.T) {
	f, conn := newFake(t)
	f.lieMade = func(m *made) { m.seal = func(share []byte, _ string) []byte { return share } }
	_, err := newClient(t, f, conn).CreateWallet(t.Context(), nil)
	require.ErrorIs(t, err, client.ErrBadAnswer)
	require.ErrorContains(t, err, "its share is not encrypted to this call's key")
}

// A list ends with the last page, and one without an end with an error.
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
