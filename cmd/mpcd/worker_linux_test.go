package main

import (
	"context"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// at returns a function that calls do at its nth call.
func at(n int32, do func()) func() {
	var seen atomic.Int32
	return func() {
		if seen.Add(1) == n {
			do()
		}
	}
}

// A worker that dies affects only its session, which ends with the device blamed, and the next run uses another worker.
// A killed service leaves no workers behind.
func TestWorkers(t *testing.T) {
	t.Parallel()
	svc, err := startService(t.TempDir(), "mpcd", os.Environ(), "--dev")
	require.NoError(t, err)
	t.Cleanup(svc.kill)
	pid := svc.cmd.Process.Pid
	// By the second message, the worker has received something from the device.
	killing := newDevice(t, svc, &memoryCloud{}, at(2, func() {
		for _, w := range servertest.Children(t, pid) { // the one in the run, and the idle one
			require.NoError(t, syscall.Kill(w, syscall.SIGABRT))
		}
	}))
	_, err = killing.CreateWallet(t.Context(), nil)
	require.Equal(t, "PROTOCOL_ABORTED", client.Reason(err), "%v", err)
	var failed map[string]any
	require.Eventually(t, func() bool { // the log is written through a pipe
		failed = svc.logged("session failed")
		return failed != nil
	}, 2*time.Minute, 5*time.Millisecond)
	require.Contains(t, failed["error"], "caused by CLIENT: the worker died: ")

	phone := newDevice(t, svc, &memoryCloud{}, func() {})
	share, err := phone.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	_, err = phone.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)

	var left []int
	ctx, giveUp := context.WithCancel(t.Context()) // otherwise it retries for minutes
	orphaned := newDevice(t, svc, &memoryCloud{}, at(1, func() {
		left = servertest.Children(t, pid)
		svc.kill()
		giveUp()
	}))
	_, err = orphaned.CreateWallet(ctx, nil)
	require.Error(t, err)
	require.NotEmpty(t, left)
	servertest.Gone(t, left)
}
