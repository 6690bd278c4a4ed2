package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// idleConnections is how many connections TestIdleConnections opens.
const idleConnections = 10_000

// TestIdleConnections opens 10,000 idle connections from another process, half of them gRPC and half HTTP. The service
// works as before, uses a bounded amount of memory for them, and closes them when their process ends.
func TestIdleConnections(t *testing.T) {
	allowFiles(t, idleConnections+500)
	dir := t.TempDir()
	svc, err := startService(dir, "mpcd", os.Environ(), "--dev")
	require.NoError(t, err)
	t.Cleanup(svc.kill)
	pid := svc.cmd.Process.Pid
	create := func(name string) {
		cmd := exec.CommandContext(t.Context(), "mpcd", "wallet", "create", "--addr", svc.grpc, "--curves", "ED25519",
			"--share", filepath.Join(dir, name))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	create("before.share")
	before, files := residentKiB(t, pid), openFiles(t, pid)

	holder := exec.CommandContext(t.Context(), "hold-connections", svc.grpc, svc.http, strconv.Itoa(idleConnections/2))
	release, err := holder.StdinPipe()
	require.NoError(t, err)
	said, err := holder.StdoutPipe()
	require.NoError(t, err)
	holder.Stderr = os.Stderr
	require.NoError(t, holder.Start())
	line, err := bufio.NewReader(said).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "open\n", line)
	require.GreaterOrEqual(t, openFiles(t, pid), idleConnections)

	create("meanwhile.share")
	resp, err := http.Get("http://" + svc.admin + "/healthz") //nolint:noctx // the service is this test's own
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	after := residentKiB(t, pid)
	each := float64(after-before) / idleConnections
	t.Logf("resident: %d MiB, before %d MiB: %.1f KiB for each of %d idle connections", after>>10, before>>10, each,
		idleConnections)
	require.Less(t, each, mostKiBEach)

	require.NoError(t, release.Close())
	require.NoError(t, holder.Wait())
	require.Eventually(t, func() bool { return openFiles(t, pid) < files+10 }, time.Minute, 10*time.Millisecond)
	create("after.share")
	require.NoError(t, svc.stop())
}

// mostKiBEach is twice the measured value: 27 KiB, the mean of both kinds.
const mostKiBEach = 55.0

// allowFiles raises the limit of open files to n, and fails if that is not permitted.
func allowFiles(t *testing.T, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Max >= n {
		return // Go programs raise the soft limit themselves
	}
	limit.Cur, limit.Max = n, n
	require.NoErrorf(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit), "this test opens %d files a process: raise the hard "+
		"limit (ulimit -Hn)", n)
}

// residentKiB returns the resident memory of a process.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			require.NoError(t, err)
			return kib
		}
	}
	require.FailNow(t, "it has no VmRSS", "%s", b)
	return 0
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(all)
}

// holdConnections is the program hold-connections GRPC HTTP N: it opens N connections to each address, prints "open"
// once each has been answered, and ends with its standard input.
func holdConnections() {
	n, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	var opening errgroup.Group
	opening.SetLimit(64)
	for range n {
		opening.Go(func() error { return holdGRPC(os.Args[1]) })
		opening.Go(func() error { return holdHTTP(os.Args[2]) })
	}
	if err := opening.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "hold-connections:", err)
		os.Exit(1)
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is closed
}

func holdGRPC(addr string) error {
	conn, err := net.Dial("tcp", addr) //nolint:noctx // it ends with the process
	if err != nil {
		return err
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	for { // until the service's settings, and its acknowledgement of ours
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		if s, ok := frame.(*http2.SettingsFrame); ok && s.IsAck() {
			break
		}
	}
	if err := framer.WriteSettingsAck(); err != nil {
		return err
	}
	go func() { // ends with the process
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if ping, ok := frame.(*http2.PingFrame); ok && !ping.IsAck() {
				_ = framer.WritePing(true, ping.Data) // if it fails, so does the next read
			}
		}
	}()
	return nil
}

// kept refers to the HTTP connections: otherwise the garbage collector would close them.
var kept = make(chan net.Conn, idleConnections)

func holdHTTP(addr string) error {
	conn, err := net.Dial("tcp", addr) //nolint:noctx // it ends with the process
	if err != nil {
		return err
	}
	kept <- conn
	if _, err := io.WriteString(conn, "GET /v1/wallets?page_size=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.Close {
		return fmt.Errorf("status %d, close %t", resp.StatusCode, resp.Close)
	}
	return resp.Body.Close()
}
