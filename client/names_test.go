package client_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
)

// A name that the service would reject is rejected by New.
func TestNamesAreRefusedEarly(t *testing.T) {
	f, conn := newFake(t)
	for _, name := range []string{"Zoé\u00a0\U0001F469\u200d\U0001F4BB\u200f", strings.Repeat("電", 128), ""} {
		newClient(t, f, conn, client.WithDisplayName(name), client.WithOwner(name))
	}
	newClient(t, f, conn, client.WithOwner(strings.Repeat("電", 256)))
	for _, name := range []string{"a\nb", "a\u202eb", "\xff", strings.Repeat("a", 257)} {
		_, err := client.New(conn, client.WithOwner(name))
		require.ErrorContains(t, err, "client: the owner must ")
		_, err = client.New(conn, client.WithDisplayName(name))
		require.ErrorContains(t, err, "client: the display name must ")
	}
	_, err := client.New(conn, client.WithDisplayName(strings.Repeat("電", 129)))
	require.ErrorContains(t, err, "at most 128 characters")
}
