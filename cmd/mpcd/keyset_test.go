package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/kms/kmstest"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// mpcd runs a command, and returns its output.
func mpcd(t *testing.T, env []string, args ...string) (out, errs string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "mpcd", args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

func mpcdFine(t *testing.T, env []string, args ...string) string {
	t.Helper()
	out, errs, err := mpcd(t, env, args...)
	require.NoError(t, err, errs)
	return out
}

func mpcdFails(t *testing.T, env []string, args ...string) string {
	t.Helper()
	out, errs, err := mpcd(t, env, args...)
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, out)
	require.Equal(t, exitFailed, exit.ExitCode(), errs)
	return errs
}

// A service is killed repeatedly while it re-seals; each restart continues. After the old key is destroyed, nothing
// that it sealed is left.
func TestKilledWhileResealing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keyset, db := filepath.Join(dir, "keyset"), filepath.Join(dir, "mpcd.db")
	const n = 800
	require.NoError(t, seal.Create(keyset))
	old := fillSealed(t, keyset, db, n)
	flags := []string{"--keyset", keyset, "--db", "sqlite://" + db, "--json"}
	mpcdFine(t, nil, "keyset", "rotate", "--keyset", keyset)
	left := func() int {
		var status struct{ Left int }
		require.NoError(t, json.Unmarshal([]byte(mpcdFine(t, nil,
			append([]string{"keyset", "status"}, flags...)...)), &status))
		return status.Left
	}
	require.Equal(t, n+1, left())
	for before := n + 1; before > n/2; {
		r, err := startService(dir, "mpcd", os.Environ(), append([]string{"--dev"}, flags[:4]...)...)
		require.NoError(t, err)
		require.Eventually(t, func() bool { now := rowsLeftAt(t, r.admin); return now > 0 && now < before }, 2*time.Minute,
			10*time.Millisecond)
		r.kill()
		now := left()
		require.Positive(t, now, "it finished before it was killed")
		require.Less(t, now, before)
		before = now
	}
	r, err := startService(dir, "mpcd", os.Environ(), append([]string{"--dev"}, flags[:4]...)...)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return left() == 0 }, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, r.stop())
	for _, name := range []string{db, db + "-wal", db + "-shm"} {
		b, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		require.False(t, bytes.Contains(b, binary.BigEndian.AppendUint32([]byte{1}, uint32(old))), name)
	}
	mpcdFine(t, nil, append([]string{"keyset", "disable", "--key", old.String()}, flags...)...)
	mpcdFine(t, nil, append([]string{"keyset", "destroy", "--key", old.String()}, flags...)...)
	out := mpcdFine(t, nil, append([]string{"preparams", "status"}, flags...)...)
	require.Contains(t, out, strconv.Itoa(n))
}

// fillSealed creates a database with n sealed rows.
func fillSealed(t *testing.T, keyset, db string, n int) seal.KeyID {
	t.Helper()
	keys, err := seal.Load(keyset)
	require.NoError(t, err)
	svc, err := app.Open(t.Context(), app.Options{
		DB: "sqlite://" + db, Keyset: keys, Auth: app.DevCaller, Pool: preparams.Config{MaxAge: time.Hour},
	}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	sealer, err := seal.New(t.Context(), keys, svc.Store)
	require.NoError(t, err)
	for range n {
		id := uuid.NewString()
		c, err := sealer.Seal(secret.New(make([]byte, 700)), session.PreParamsLabel(id, tss.Server))
		require.NoError(t, err)
		require.NoError(t, svc.Store.AddPreParams(t.Context(), id, tss.Server, c, time.Now()))
	}
	require.NoError(t, svc.Close())
	return keys.Keys()[0].ID
}

func rowsLeftAt(t *testing.T, admin string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/metrics", nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	_, after, _ := strings.Cut(string(b), "\nmpcd_reseal_rows_left ")
	line, _, _ := strings.Cut(after, "\n")
	n, err := strconv.Atoi(line)
	require.NoError(t, err)
	return n
}

// Processes rotate concurrently: each adds its key, or fails.
func TestProcessesRotateAtOnce(t *testing.T) {
	t.Parallel()
	keyset := filepath.Join(t.TempDir(), "keyset")
	require.NoError(t, seal.Create(keyset))
	var wg sync.WaitGroup
	var mu sync.Mutex // guards added
	added := 0
	for range 12 {
		wg.Go(func() {
			_, errs, err := mpcd(t, nil, "keyset", "rotate", "--keyset", keyset)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				added++
			} else if !strings.Contains(errs, "another `mpcd keyset` is changing it") {
				t.Error(errs)
			}
		})
	}
	wg.Wait()
	keys, err := seal.Load(keyset)
	require.NoError(t, err)
	require.Positive(t, added)
	require.Len(t, keys.Keys(), added+1)
}

// With a keyset wrapped by Vault or AWS, every command works, and a service starts and keeps running when the KMS is
// down. While the KMS is down no service starts, with a clear error.
func TestWrappedKeyset(t *testing.T) {
	t.Parallel()
	vault, aws := kmstest.NewVault(t), kmstest.NewAWS(t)
	for name, k := range map[string]struct {
		uri   string
		env   []string
		fault func(http.HandlerFunc)
		close func()
	}{"vault": {vault.URI, vault.Env(), vault.Fault, vault.Close}, "aws": {aws.URI, aws.Env(), aws.Fault, aws.Close}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			keyset := filepath.Join(dir, "keyset")
			file := []string{"--keyset", keyset, "--keyset-kms", k.uri}
			with := func(args ...string) []string { return append(args, file...) }
			db := []string{"--db", "sqlite://" + filepath.Join(dir, "mpcd.db")}
			mpcdFine(t, k.env, with("keyset", "create")...)
			serve := func() *running {
				r, err := startService(dir, "mpcd", append(os.Environ(), k.env...), slices.Concat([]string{"--dev"}, file, db)...)
				require.NoError(t, err)
				return r
			}
			require.NoError(t, serve().stop())
			var listed struct{ Keys []struct{ ID string } }
			require.NoError(t, json.Unmarshal([]byte(mpcdFine(t, k.env, with("keyset", "list", "--json")...)), &listed))
			old := listed.Keys[0].ID
			mpcdFine(t, k.env, with("keyset", "rotate")...)
			r := serve()
			require.Eventually(t, func() bool {
				return strings.Contains(mpcdFine(t, k.env, append(with("keyset", "status"), db...)...), "\n0 rows to re-seal\n")
			}, 2*time.Minute, 10*time.Millisecond)
			key := append([]string{"--key", old}, db...)
			mpcdFine(t, k.env, append(with("keyset", "disable"), key...)...)
			mpcdFine(t, k.env, with("keyset", "enable", "--key", old)...)
			mpcdFine(t, k.env, append(with("keyset", "disable"), key...)...)
			mpcdFine(t, k.env, append(with("keyset", "destroy"), key...)...)
			mpcdFine(t, k.env, append(with("preparams", "status"), db...)...)

			closed := refusedPort(t)
			dev := append(append(with("serve", "--dev", "--grpc-addr", closed, "--http-addr=127.0.0.1:0",
				"--admin-addr=127.0.0.1:0"), db...), "--log-level=error")
			k.fault(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
			require.Contains(t, mpcdFails(t, k.env, with("keyset", "list")...), k.uri)
			k.fault(nil)
			k.close()
			wallet := mpcdFine(t, nil, "wallet", "create", "--addr", r.grpc, "--curves", "ED25519", "--share",
				filepath.Join(dir, "share"), "--json")
			require.Contains(t, wallet, "walletId", "a running service does not need its KMS")
			require.NoError(t, r.stop())
			errs := mpcdFails(t, k.env, dev...)
			require.Contains(t, errs, "the KMS of key "+k.uri+" cannot be used now: check that it is up")
			require.NotContains(t, errs, "serving")
			for _, e := range k.env {
				if strings.Contains(e, "TOKEN") || strings.Contains(e, "SECRET") {
					_, value, _ := strings.Cut(e, "=")
					require.NotContains(t, errs+r.text(), value)
				}
			}
		})
	}
}

// refusedPort returns an address where a service may listen.
func refusedPort(t *testing.T) string {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, lis.Close()) }()
	return lis.Addr().String()
}

// No mpcd process can be dumped to a file, or read by other processes of its user.
func TestNoCoreDumps(t *testing.T) {
	t.Parallel()
	r, err := startService(t.TempDir(), "mpcd", os.Environ(), "--dev")
	require.NoError(t, err)
	defer r.kill()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", r.cmd.Process.Pid))
	require.NoError(t, err)
	require.Regexp(t, `(?m)^Max core file size +0 +0 `, string(limits))
	own, err := os.ReadFile("/proc/self/limits")
	require.NoError(t, err)
	if strings.Contains(string(own), "Max core file size        0                    0 ") {
		t.Log("the limit was 0 before: this does not test anything")
	}
}
