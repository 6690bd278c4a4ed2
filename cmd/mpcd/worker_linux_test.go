package main

import (
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// once is a scan that does something at the first protocol message, and then nothing.
func once(do func()) func() {
	var o sync.Once
	return func() { o.Do(do) }
}

// A worker that breaks costs its session and nothing else: it ends as the device's fault, and the
// next run has another worker. A service that is killed leaves none.
func TestWorkers(t *testing.T) {
	t.Parallel()
	svc, err := startService(t.TempDir(), "mpcd", os.Environ(), "--dev")
	require.NoError(t, err)
	t.Cleanup(svc.kill)
	pid := svc.cmd.Process.Pid
	killing := newDevice(t, svc, &drawer{}, once(func() {
		for _, w := range servertest.Children(t, pid) { // the one in the run, and the one that waits
			require.NoError(t, syscall.Kill(w, syscall.SIGABRT))
		}
	}))
	_, err = killing.CreateWallet(t.Context(), nil)
	require.Equal(t, "PROTOCOL_ABORTED", client.Reason(err), "%v", err)
	failed := svc.logged("session failed")
	require.Contains(t, failed["error"], "caused by CLIENT: the worker died: ")

	phone := newDevice(t, svc, &drawer{}, func() {})
	share, err := phone.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	_, err = phone.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)

	var left []int
	orphaned := newDevice(t, svc, &drawer{}, once(func() {
		left = servertest.Children(t, pid)
		svc.kill()
	}))
	_, err = orphaned.CreateWallet(t.Context(), nil)
	require.Error(t, err)
	require.NotEmpty(t, left)
	servertest.Gone(t, left)
}
