//go:build long

package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Two hundred honest callers, next to one that sends a thousand requests of each kind.
func TestLongHonestCallersBesideAFlood(t *testing.T) {
	besideAFlood(t, flood{honest: 200, requests: 1000})
}

// A thousand calls with the owner's token and no share.
func TestLongThief(t *testing.T) {
	require.Less(t, thief(t, 1000), int64(16<<20))
}
