//go:build long

// Package node_test runs programs in Node against a service in a process of its own: what users of the API write who have
// neither Go nor this repository's SDK. http.mjs has fetch alone, grpc.mjs stubs that protoc-gen-es makes of proto/, life.ts a
// client that openapi-typescript makes of gen/openapi. The packages of npm are pinned by package-lock.json.
package node_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// TestLongNode installs the packages once, beside a copy of the programs.
func TestLongNode(t *testing.T) {
	require.NoFileExists(t, "node_modules", "the programs run in a copy")
	dir := filepath.Join(t.TempDir(), "node")
	require.NoError(t, os.CopyFS(dir, os.DirFS(".")))
	began := time.Now()
	run(t, dir, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	t.Logf("npm ci: %v", time.Since(began).Round(time.Second))
	grpc, http := serve(t)

	t.Run("two public validators accept the OpenAPI files", func(t *testing.T) {
		for _, name := range []string{"mpcd.openapi.json", "mpcd.swagger.json"} {
			file, err := filepath.Abs(filepath.Join(root, "gen", "openapi", name))
			require.NoError(t, err)
			run(t, dir, "npx", "--no-install", "redocly", "lint", "--format=stylish", file)
			require.JSONEq(t, `{"valid": true}`, run(t, dir, "npx", "--no-install", "validate-api", file))
		}
	})
	t.Run("a client generated from OpenAPI lives a life", func(t *testing.T) {
		file, err := filepath.Abs(filepath.Join(root, "gen", "openapi", "mpcd.openapi.json"))
		require.NoError(t, err)
		run(t, dir, "npx", "--no-install", "openapi-typescript", file, "--output", "api.d.ts")
		run(t, dir, "npx", "--no-install", "tsc", "--project", ".")
		got := live(t, dir, "out/life.js", http)
		require.Equal(t, []bool{true, true}, got.Verified)
		require.Equal(t, `[[400,"SHARE_SET_REVOKED"],[400,"SHARE_SET_REVOKED"],[400,"SHARE_MALFORMED"],[400,"SHARE_MALFORMED"]]`,
			string(got.Refusals), "a stream that fails before its first line answers as a unary call does")
	})
	t.Run("a life over HTTP", func(t *testing.T) {
		requireShort(t, "http.mjs")
		require.Equal(t, []bool{true, true, true, true}, live(t, dir, "http.mjs", http).Verified)
	})
	t.Run("a life over gRPC", func(t *testing.T) {
		requireShort(t, "grpc.mjs")
		stubs(t, dir)
		require.Equal(t, []bool{true, true, true, true}, live(t, dir, "grpc.mjs", grpc).Verified)
	})
}

// life is what a program prints: a wallet of three sets, of which the first was revoked and the others work.
type life struct {
	WalletID string
	Verified []bool
	States   []string
	Refusals json.RawMessage
}

func live(t *testing.T, dir, program, addr string) life {
	t.Helper()
	began := time.Now()
	var l life
	require.NoError(t, json.Unmarshal([]byte(run(t, dir, "node", program, "http://"+addr)), &l))
	t.Logf("%s: %v", program, time.Since(began).Round(time.Second))
	require.NotEmpty(t, l.WalletID)
	require.Equal(t, []string{"SHARE_SET_STATE_REVOKED", "SHARE_SET_STATE_ACTIVE", "SHARE_SET_STATE_ACTIVE"}, l.States)
	return l
}

// stubs makes stubs of proto/ as a user of buf does, with the plugin that npm installed.
func stubs(t *testing.T, dir string) {
	t.Helper()
	template, err := json.Marshal(map[string]any{"version": "v2", "plugins": []any{map[string]any{
		"local": filepath.Join(dir, "node_modules", ".bin", "protoc-gen-es"),
		"out":   filepath.Join(dir, "gen"),
		"opt":   []string{"target=js", "import_extension=js"},
	}}})
	require.NoError(t, err)
	run(t, root, "go", "tool", "-modfile=tools/go.mod", "buf", "generate", "proto", "--template", string(template))
	made, err := filepath.Glob(filepath.Join(dir, "gen", "*", "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "gen", "mpcd", "v1")}, made, "the API alone")
}

func requireShort(t *testing.T, program string) {
	t.Helper()
	text, err := os.ReadFile(program)
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(text, []byte("\n")), 60, program)
}

// run runs a program to its end and returns what it printed on standard output.
func run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true", "npm_config_update_notifier=false")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), "%s %s\n%s%s", program, strings.Join(args, " "), &out, &errs)
	return out.String()
}

// serve builds mpcd and starts it. It ends with the test.
func serve(t *testing.T) (grpc, http string) {
	t.Helper()
	dir := t.TempDir()
	run(t, root, "go", "build", "-buildvcs=false", "-o", dir, "./cmd/mpcd")
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "mpcd"), "serve", "--dev",
		"--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--preparams-depth=0")
	cmd.Dir, cmd.Stderr = dir, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { // the test's context has ended
		require.ErrorIs(t, cmd.Wait(), context.Canceled, "it stopped well, and not before")
		require.NoError(t, log.Close())
	})
	require.Eventually(t, func() bool {
		grpc, http = serving(log.Name())
		return http != ""
	}, time.Minute, 50*time.Millisecond, "mpcd does not serve")
	return grpc, http
}

// serving returns the addresses that the log names, or nothing before it does.
func serving(log string) (grpc, http string) {
	f, err := os.Open(log)
	if err != nil {
		return "", ""
	}
	defer f.Close() //nolint:errcheck // only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct{ Msg, GRPC, HTTP string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			return line.GRPC, line.HTTP
		}
	}
	return "", ""
}
