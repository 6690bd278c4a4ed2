package session

import (
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
)

// A device makes its share itself, so seal_to is not allowed; the operator can require it for all other new shares.
func TestCheckStart(t *testing.T) {
	t.Parallel()
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	for _, x := range []struct{ device, sealed, required, refused bool }{
		{false, false, false, false},
		{false, true, false, false},
		{true, false, false, false},
		{true, true, false, true},
		{false, false, true, true},
		{false, true, true, false},
		{true, false, true, false},
	} {
		s := (&stub{}).runner(t, Config{RequireSealTo: x.required})
		st := new(Start)
		if x.device {
			st.Device = new(Device)
		}
		if x.sealed {
			st.SealTo = key.Recipient()
		}
		require.Equal(t, x.refused, s.checkStart(st) != nil, "%+v", x)
	}
}
