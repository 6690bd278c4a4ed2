//go:build long && linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLongDeviceHeldECDSAShareIsNowhere is TestDeviceHeldShareIsNowhere on SECP256K1, whose shares also have the primes
// of a Paillier key. The device is a separate process.
func TestLongDeviceHeldECDSAShareIsNowhere(t *testing.T) {
	t.Parallel()
	s := newScanned(t)
	file := filepath.Join(t.TempDir(), "phone.share")
	phone := exec.CommandContext(t.Context(), "mpcd", "wallet", "create", "--device-held", "--curves=SECP256K1",
		"--share="+file)
	phone.Env = append(os.Environ(), "MPCD_ADDR="+s.svc.grpc)
	require.NoError(t, phone.Start())
	ended := make(chan error, 1)
	go func() { ended <- phone.Wait() }() // with the process
	for {
		select {
		case err := <-ended:
			require.NoError(t, err)
			s.scan()
			share, err := os.ReadFile(file)
			require.NoError(t, err)
			s.requireAbsent(share)
			return
		case <-time.After(250 * time.Millisecond):
			s.scan()
		}
	}
}
