//go:build long

package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// startNginx starts nginx in front of a service, with default proxy settings, and returns a client that goes through
// it.
func startNginx(t *testing.T, backend string) *http.Client {
	t.Helper()
	nginx := "/usr/sbin/nginx"
	if found, err := exec.LookPath("nginx"); err == nil {
		nginx = found
	}
	require.FileExists(t, nginx, "scripts/install-deps long installs it")
	dir, err := os.MkdirTemp("", "nginx") //nolint:usetesting // a socket's path has to be short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	var temp strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "  %s_temp_path %s/%s;\n", kind, dir, kind)
	}
	conf := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
%[2]s  access_log off;
  server {
    listen unix:%[1]s/sock;
    location / { proxy_pass %[3]s; }
  }
}
`, dir, temp.String(), backend)
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
	cmd := exec.CommandContext(t.Context(), nginx, "-c", file)
	var log bytes.Buffer
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "sock"))
	}}, Timeout: 2 * time.Minute}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		_ = cmd.Process.Kill() // it has nothing to save
		_ = cmd.Wait()         // it was killed
		t.Log(log.String())
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("unix", filepath.Join(dir, "sock")) //nolint:noctx // a socket of this machine
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, time.Minute, 10*time.Millisecond)
	return client
}

// Progress passes nginx with its default settings while the run continues, and so does the whole stream; errors are
// passed on unchanged.
func TestLongProgressThroughNginx(t *testing.T) {
	gate := servertest.NewGate()
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
	}})
	behind := *f.Service
	behind.HTTP = startNginx(t, f.URL)
	behind.URL = "http://mpcd.example.org"

	req := provisionReq(f.backup)
	m := method(t, req)
	verb, path, body := request(t, m, req)
	resp := send(t, &behind, verb, path, asAlice, body)
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	require.Equal(t, http.StatusOK, resp.StatusCode)
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		if strings.Contains(line, "STATUS_READING_SHARE") {
			break // while the custodian has not answered yet
		}
	}
	<-gate.Came
	gate.Open()
	var last string
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		last = line
	}
	require.Contains(t, last, `"outcome"`)

	a := exchange(t, &behind, req, verb, strings.Replace(path, f.backup.wallet, "x", 1), body)
	require.Equal(t, http.StatusBadRequest, a.code)
}
