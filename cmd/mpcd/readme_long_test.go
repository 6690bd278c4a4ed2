//go:build long

package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pathBefore is PATH without the tests' programs.
var pathBefore = os.Getenv("PATH")

// excluded is the one command of the README that is not run here, because it runs this test.
const excluded = "make test\n"

// walkthrough is a page of the documentation whose commands were run: each ```sh block in order, in one shell, in a
// copy of the repository that is like a fresh clone.
type walkthrough struct {
	dir      string   // the copy
	printed  []string // the output of each block
	shown    []string // the ```text blocks
	excluded int      // how many blocks were not run
}

// runPage runs the page at path. ports are the default ports that it uses, by name.
func runPage(t *testing.T, path string, ports ...string) *walkthrough {
	t.Helper()
	requireTools(t, "make", "curl", "grpcurl")
	text, err := os.ReadFile(filepath.Join(repoRoot, path))
	require.NoError(t, err)
	p := &walkthrough{dir: clone(t)}
	var script strings.Builder
	script.WriteString("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n")
	blocks := 0
	for _, b := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if b[1] == excluded {
			p.excluded++
			continue
		}
		fmt.Fprintf(&script, "printf '\\n== block %d\\n'\n%s", blocks, b[1])
		blocks++
	}
	for _, b := range regexp.MustCompile("(?ms)^```text\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		p.shown = append(p.shown, b[1])
	}
	commands, env := freePorts(t, script.String(), ports)
	out := runScript(t, p.dir, commands, env)
	p.printed = regexp.MustCompile(`(?m)^== block \d+\n`).Split(out, -1)[1:]
	require.Len(t, p.printed, blocks, out)
	return p
}

func TestLongREADME(t *testing.T) {
	t.Parallel()
	p := runPage(t, "README.md", "GRPC", "HTTP", "ADMIN")
	require.Equal(t, 1, p.excluded, "`make test` is in the README, once")
	require.Len(t, p.printed, 6)
	demo, start, wallet, grpc, http, sdk := p.printed[0], p.printed[1], p.printed[2], p.printed[3],
		p.printed[4], p.printed[5]
	require.Regexp(t, `(?m)^provision +100% .* Done$`, demo)
	require.Regexp(t, `(?s)signatures, made by both devices.*SECP256K1.*ED25519.*SECP256K1.*ED25519`, demo)
	require.Contains(t, start, "ok\n")
	require.Regexp(t, `BACKUP +kept in backup\.share`, wallet)

	require.Regexp(t, `(?s)"status": "STATUS_READING_SHARE".*"status": "STATUS_GENERATING_SHARE".*"round": 5.*`+
		`"status": "STATUS_DONE",\s*"done": true.*"outcome"`, grpc)
	require.Regexp(t, `(?s)"outcome".*"purpose": "PURPOSE_SIGNING",\s*"state": "SHARE_SET_STATE_PENDING".*`+
		`"clientShare": "`, grpc)
	lines := strings.Split(strings.TrimSpace(http), "\n")
	require.Contains(t, lines[len(lines)-2], `"status":"STATUS_DONE","done":true,"percent":100`)
	require.Regexp(t, `^{"result":{"outcome":{"shareSet":.*"clientShare":"`, lines[len(lines)-1])
	require.Regexp(t, `(?m)^[0-9a-f]{128}$`, sdk)
	require.Regexp(t, `SIGNING +ACTIVE +tablet`, sdk)

	// The README shows the output of the commands, except for times, keys and ids.
	require.Len(t, p.shown, 3)
	for i, shown := range p.shown {
		printed := form([]string{demo, grpc, http}[i])
		for line := range strings.Lines(form(shown)) {
			if !strings.Contains(line, "[...]") {
				require.Contains(t, printed, line, "the README shows a line that the command did not print")
			}
		}
	}
}

// With TLS, a token, a certificate and a custodian.
func TestLongOperating(t *testing.T) {
	t.Parallel()
	p := runPage(t, "docs/OPERATING.md", "GRPC", "HTTP", "ADMIN", "CUSTODIAN")
	require.Zero(t, p.excluded)
	require.Len(t, p.printed, 3)
	start, user, backend := p.printed[0], p.printed[1], p.printed[2]
	require.Contains(t, start, `{"ready":true,"detail":{"custodian":"circuit closed"}}`)
	require.Regexp(t, `"status":"STATUS_DONE","done":true(?s:.*)"outcome"`, user)
	log, err := os.ReadFile(filepath.Join(p.dir, "secure", "custodian.log"))
	require.NoError(t, err)
	for _, call := range []string{`"path":"POST /backup","code":204`, `"path":"POST /backup/fetch","code":200`,
		`"path":"PUT /users/{id}/encrypted-user-backup-shares","code":204`} {
		require.Contains(t, string(log), call)
	}
	require.Regexp(t, `"state":"SHARE_SET_STATE_ACTIVE"`, backend)
	require.Regexp(t, `(?m)^  "signature": "[A-Za-z0-9+/]{86}=="`, backend)
	require.Regexp(t, `"reason":"UNAUTHENTICATED"(?s:.*)$`, backend)
}

// form removes from an output what differs from run to run.
func form(s string) string {
	s = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32,}|\b[A-Z2-7]{26}\b|\d{4}-\d\d-\d\dT[0-9:.]+Z`).
		ReplaceAllString(s, "#")
	s = regexp.MustCompile(`"sequence": ?\d+`).ReplaceAllString(s, "#")
	return regexp.MustCompile(` *[0-9.]+(%|s\b|,|$|\n)`).ReplaceAllString(s, "#$1")
}

// clone copies the files that a clone would have, and links .bin/, which takes minutes to build.
func clone(t *testing.T) string {
	dir := t.TempDir()
	root, err := filepath.Abs(repoRoot)
	require.NoError(t, err)
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, path[len(root):])
		switch {
		case d.IsDir() && slices.Contains([]string{".git", ".bin"}, d.Name()):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, b, info.Mode()); err != nil {
			return err
		}
		return os.Chtimes(to, time.Time{}, info.ModTime()) // make compares times
	}))
	require.NoError(t, os.Symlink(filepath.Join(root, ".bin"), filepath.Join(dir, ".bin")))
	return dir
}

// defaults are the addresses in the pages.
var defaults = map[string]string{"GRPC": "127.0.0.1:9090", "HTTP": "127.0.0.1:8080", "ADMIN": "127.0.0.1:9464",
	"CUSTODIAN": "127.0.0.1:8443"}

// freePorts replaces the default ports, which may be in use, with free ones.
func freePorts(t *testing.T, script string, names []string) (text string, env []string) {
	t.Helper()
	for _, name := range names {
		lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		free := lis.Addr().String()
		require.NoError(t, lis.Close())
		require.Contains(t, script, defaults[name])
		script = strings.ReplaceAll(script, defaults[name], free)
		env = append(env, "MPCD_"+name+"_ADDR="+free)
		if name == "GRPC" {
			env = append(env, "MPCD_ADDR="+free)
		}
	}
	for name, addr := range defaults {
		require.NotContains(t, script, addr, "%s is a port of the page", name)
	}
	return script, env
}

func runScript(t *testing.T, dir, text string, env []string) string {
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", text)
	cmd.Dir = dir
	// The environment has nothing of this test's but Go's caches.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MPCD_") || strings.HasPrefix(v, "PATH=") || strings.HasPrefix(v, "MAKE") ||
			strings.HasPrefix(v, "CGO_ENABLED=")
	})
	cmd.Env = append(cmd.Env, append(env, "PATH="+pathBefore)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var log []byte
	for _, name := range []string{"serve.log", "secure/serve.log"} {
		b, _ := os.ReadFile(filepath.Join(dir, name)) // a page has one of them
		log = append(log, b...)
	}
	require.NoErrorf(t, err, "%s\n%s\n%s", stdout.String(), stderr.String(), log)
	require.NotContains(t, string(log), `"level":"ERROR"`)
	return stdout.String()
}
