//go:build long

package main

import (
	"testing"

	"github.com/mpcd/mpcd/client"
)

// TestLongCrash is TestCrash with a wallet on both curves, whose runs use pre-params.
func TestLongCrash(t *testing.T) {
	t.Parallel()
	crashed(t, len(crashes)+1, "", client.CurveSecp256k1, client.CurveEd25519)
}
