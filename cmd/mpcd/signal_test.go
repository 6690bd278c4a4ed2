package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// TestSecondSignal checks that a second signal ends at once a service that waits for a run.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	svc, err := startService(dir, "mpcd", os.Environ(), "--dev")
	require.NoError(t, err)
	defer svc.kill()
	// A SECP256K1 wallet without prewarmed pre-params: generating them takes seconds.
	create := exec.CommandContext(t.Context(), "mpcd", "wallet", "create", "--addr", svc.grpc, "--share",
		filepath.Join(dir, "x.share"))
	stderr, err := create.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, create.Start())
	_, err = stderr.Read(make([]byte, 1)) // the run has begun
	require.NoError(t, err)

	require.NoError(t, svc.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-svc.done:
		t.Fatalf("the first signal does not wait for the run: %v\n%s", svc.err, svc.text())
	case <-time.After(200 * time.Millisecond):
	}
	require.NoError(t, svc.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-svc.done:
	case <-time.After(5 * time.Second):
		t.Fatal("the second signal does not end the service")
	}
	require.NoError(t, create.Process.Signal(syscall.SIGINT)) // otherwise it retries for minutes
	require.Error(t, create.Wait(), "its service is gone")
	require.NoFileExists(t, filepath.Join(dir, "x.share"))
}

// TestInterrupt checks that an interrupted command leaves nothing behind.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "mpcd", "demo", "--json")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	var out, errs writer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		made, err := filepath.Glob(filepath.Join(dir, "mpcd-demo-*", "demo.db"))
		return err == nil && len(made) == 1
	}, 2*time.Minute, 10*time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	start := time.Now()
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	require.Less(t, time.Since(start), 10*time.Second)
	require.Equal(t, exitFailed, cmd.ProcessState.ExitCode())
	require.Empty(t, string(out))
	require.Contains(t, string(errs), "interrupted")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// writer is a concurrency-safe buffer.
type writer []byte

// Write implements io.Writer.
func (w *writer) Write(b []byte) (int, error) {
	*w = append(*w, b...)
	return len(b), nil
}

// TestLogIsJSON checks that every line of the log is JSON, even when callers reset their connections in the middle of
// an answer.
func TestLogIsJSON(t *testing.T) {
	t.Parallel()
	svc, err := startService(t.TempDir(), "mpcd", os.Environ(), "--dev")
	require.NoError(t, err)
	t.Cleanup(svc.kill)
	const said = "Failed to flush response to client"
	for deadline := time.Now().Add(time.Minute); !strings.Contains(svc.text(), said); {
		require.True(t, time.Now().Before(deadline), "it does not log %q", said)
		conn, err := net.Dial("tcp", svc.http) //nolint:noctx // it is closed at once
		require.NoError(t, err)
		body := `{"requestId":"` + uuid.NewString() + `","curves":["CURVE_ED25519"]}`
		_, err = fmt.Fprintf(conn, "POST /v1/wallets HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s",
			len(body), body)
		require.NoError(t, err)
		_, err = conn.Read(make([]byte, 1)) // wait for the beginning of the answer
		require.NoError(t, err)
		tcp, ok := conn.(*net.TCPConn)
		require.True(t, ok)
		require.NoError(t, tcp.SetLinger(0))
		require.NoError(t, tcp.Close())
		time.Sleep(100 * time.Millisecond) // otherwise the queue is full, and each answer is a short error
	}
	require.NoError(t, svc.stop())
	for line := range strings.Lines(svc.text()) {
		require.True(t, json.Valid([]byte(line)), line)
	}
}
