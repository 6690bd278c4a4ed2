package session

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A device that attaches again makes the same request, whatever its instance, attempt and acknowledgement; a request
// with another set or name differs.
func TestDeviceRequestsAreRecognised(t *testing.T) {
	t.Parallel()
	of := func(name string, d Device) [][]byte { return (&Start{DisplayName: name, Device: &d}).fields() }
	want := of("phone", Device{ShareSetID: "set", Instance: "one"})
	require.Equal(t, want, of("phone", Device{ShareSetID: "set", Instance: "two", Attempt: 3, Ack: 7}))
	require.NotEqual(t, want, of("phone", Device{ShareSetID: "other", Instance: "one"}))
	require.NotEqual(t, want, of("Phone", Device{ShareSetID: "set", Instance: "one"}))
	require.NotEqual(t, want, (&Start{DisplayName: "phone"}).fields())
}
