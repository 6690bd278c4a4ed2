//go:build long

package e2e_test

import (
	"testing"

	"github.com/mpcd/mpcd/client"
)

// TestRunsAreAlike on both curves.
func TestLongRunsAreAlike(t *testing.T) {
	t.Parallel()
	runsAreAlike(t, client.CurveSecp256k1, client.CurveEd25519)
}
