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
