package main

import (
	"bufio"
	"context"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/leaks"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// running is a service or custodian in a separate process.
type running struct {
	cmd  *exec.Cmd
	log  *os.File      // its standard error
	done chan struct{} // closed when the process has ended
	err  error         // of the process; set before done is closed

	grpc, http, admin string
	addr              string // of a custodian
}

// noPorts are flags that let any number of services run concurrently, without a pool of pre-params.
var noPorts = []string{"--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0",
	"--preparams-depth=0"}

// startService starts a program's serve in dir and waits until it is serving.
func startService(dir, program string, env []string, args ...string) (*running, error) {
	return startProgram(dir, program, env, slices.Concat([]string{"serve"}, noPorts, args)...)
}

// startProgram starts a command of a program in dir and waits until it logs that it is serving.
func startProgram(dir, program string, env []string, args ...string) (*running, error) {
	log, err := os.CreateTemp(dir, "serve-*.log")
	if err != nil {
		return nil, err
	}
	r := &running{cmd: exec.CommandContext(context.Background(), program, args...), log: log, done: make(chan struct{})}
	r.cmd.Dir, r.cmd.Env = dir, env
	r.cmd.Stderr = struct{ io.Writer }{log} // through a pipe, so that a limit on file sizes does not apply to the log
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the process
		r.err = r.cmd.Wait()
		close(r.done)
	}()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if line := r.logged("serving"); line != nil {
			r.grpc, r.http, r.admin, r.addr = fmt.Sprint(line["grpc"]), fmt.Sprint(line["http"]), fmt.Sprint(line["admin"]),
				fmt.Sprint(line["addr"])
			return r, nil
		}
		select {
		case <-r.done:
			return nil, fmt.Errorf("mpcd: %w\n%s", r.err, r.text())
		case <-time.After(20 * time.Millisecond):
		}
	}
	r.kill()
	return nil, fmt.Errorf("mpcd does not serve\n%s", r.text())
}

func (r *running) text() string {
	b, err := os.ReadFile(r.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// logged returns the log entry with a message, or nil.
func (r *running) logged(msg string) map[string]any {
	lines := bufio.NewScanner(strings.NewReader(r.text()))
	for lines.Scan() {
		var line map[string]any
		if json.Unmarshal(lines.Bytes(), &line) == nil && line["msg"] == msg {
			return line
		}
	}
	return nil
}

// stop sends SIGTERM, as a supervisor would, and requires a clean exit.
func (r *running) stop() error {
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-r.done:
	case <-time.After(40 * time.Second):
		r.kill()
		return fmt.Errorf("mpcd goes on after SIGTERM\n%s", r.text())
	}
	if r.err != nil {
		return fmt.Errorf("mpcd, after SIGTERM: %w\n%s", r.err, r.text())
	}
	if r.logged("stopped") == nil {
		return fmt.Errorf("mpcd does not log \"stopped\"\n%s", r.text())
	}
	return nil
}

func (r *running) kill() {
	_ = r.cmd.Process.Kill() // it may have ended
	<-r.done
	_ = r.log.Close()
}

// registry has the services of scripts by process id.
type registry struct {
	mu    sync.Mutex // guards byPID
	byPID map[string]*running
}

func (r *registry) put(x *running) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byPID[strconv.Itoa(x.cmd.Process.Pid)] = x
}

func (r *registry) get(pid string) *running {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byPID[pid]
}

var runningByPID = registry{byPID: map[string]*running{}}

// cmdServe starts a service: serve [flags]. It sets $MPCD_ADDR for the wallet commands, $HTTP and $ADMIN to the other
// addresses, and $LOG to the log. The service has --dev, except with "serve known", which authenticates its callers.
// "serve released" has no race detector.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("! serve: use ! exec mpcd serve")
	}
	program := "mpcd-tested"
	switch {
	case len(args) > 0 && args[0] == "released":
		program, args[0] = "mpcd", "--dev"
	case len(args) > 0 && args[0] == "known":
		args = args[1:]
	default:
		args = append([]string{"--dev"}, args...)
	}
	env := []string{"HOME=" + ts.Getenv("WORK")}
	for _, name := range []string{"PATH", "MPCD_CORS_ORIGINS"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	r, err := startService(ts.Getenv("WORK"), program, env, args...)
	ts.Check(err)
	ts.Defer(r.kill)
	ts.Setenv("MPCD_ADDR", r.grpc)
	ts.Setenv("HTTP", r.http)
	ts.Setenv("ADMIN", r.admin)
	ts.Setenv("LOG", r.log.Name())
	ts.Setenv("PID", strconv.Itoa(r.cmd.Process.Pid))
	runningByPID.put(r)
}

// cmdCustodian starts a custodian: custodian [flags]. It sets $CUSTODIAN to its address, and $CUSTODIAN_LOG to its log.
func cmdCustodian(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("! custodian: use ! exec mpcd custodian")
	}
	r, err := startProgram(ts.Getenv("WORK"), "mpcd-tested", []string{"HOME=" + ts.Getenv("WORK")},
		append([]string{"custodian"}, args...)...)
	ts.Check(err)
	ts.Defer(r.kill)
	ts.Setenv("CUSTODIAN", r.addr)
	ts.Setenv("CUSTODIAN_LOG", r.log.Name())
	ts.Setenv("CUSTODIAN_PID", strconv.Itoa(r.cmd.Process.Pid))
	runningByPID.put(r)
}

// cmdHalt stops the script's service, or its custodian (halt custodian), and expects exit code 0. It is not called
// "stop": that is a built-in of testscript, which ends the script.
func cmdHalt(ts *testscript.TestScript, _ bool, args []string) {
	pid := "PID"
	if len(args) > 0 {
		pid = "CUSTODIAN_PID"
	}
	ts.Check(runningByPID.get(ts.Getenv(pid)).stop())
}

// cmdSeed adds pre-params from the repository's test data to the pool of the service that is started next: seed SETS.
func cmdSeed(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Check(seed(context.Background(), ts.Getenv("WORK"), n))
}

// seed is cmdSeed for the service that is started next in dir.
func seed(ctx context.Context, dir string, n int) error {
	if err := seal.Create(filepath.Join(dir, "mpcd.keyset")); err != nil {
		return err
	}
	keys, err := seal.Load(filepath.Join(dir, "mpcd.keyset"))
	if err != nil {
		return err
	}
	svc, err := app.Open(ctx, app.Options{
		DB: "sqlite://" + filepath.Join(dir, "mpcd.db"), Keyset: keys, Auth: app.DevCaller,
		Pool: preparams.Config{MaxAge: time.Hour},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	source := tsstest.NewSource()
	for i := range n {
		set, err := source.PreParams(ctx)
		if err == nil {
			err = svc.Pool.Add(ctx, []tss.Party{tss.Server, tss.Client}[i%2], set)
		}
		if err != nil {
			return errors.Join(err, svc.Close())
		}
	}
	return svc.Close()
}

// cmdMode checks a file's mode: mode 0600 FILE.
func cmdMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, not %s", args[1], got, args[0])
	}
}

// cmdJSON checks that the last command's output is one JSON object, and assigns a value from it to a variable:
// json VAR key 0 key. ! json requires that there is no such value.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	var v any
	ts.Check(d.Decode(&v))
	if _, err := d.Token(); err != io.EOF {
		ts.Fatalf("there is more than one JSON object on standard output")
	}
	for _, key := range args[1:] {
		switch x := v.(type) {
		case map[string]any:
			v = x[key]
		case []any:
			i, err := strconv.Atoi(key)
			ts.Check(err)
			if i >= len(x) {
				v = nil
				break
			}
			v = x[i]
		default:
			v = nil
		}
	}
	if (v == nil) != neg {
		ts.Fatalf("%v is %v", args[1:], v)
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// cmdVerify checks a signature with OpenSSL: verify CURVE KEY PAYLOAD SIGNATURE, in hex.
func cmdVerify(ts *testscript.TestScript, neg bool, args []string) {
	if err := opensslVerify(ts.Getenv("WORK"), args[0], args[1], args[2], args[3]); (err != nil) != neg {
		ts.Fatalf("verify: %v", err)
	}
}

// opensslVerify checks a signature with OpenSSL. Only the encodings of the key and the signature are made here.
func opensslVerify(dir, curve, keyHex, payloadHex, signatureHex string) error {
	key, payload, signature := unhex(keyHex), unhex(payloadHex), unhex(signatureHex)
	args := []string{"pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-sigfile", "signature",
		"-in", "payload"}
	var prefix []byte // of the SubjectPublicKeyInfo: RFC 5480 with secp256k1, RFC 8410
	switch curve {
	case "SECP256K1":
		prefix = unhex("3056301006072a8648ce3d020106052b8104000a034200")
		if len(key) != 65 || len(signature) != 64 {
			return fmt.Errorf("a key of %d bytes and a signature of %d", len(key), len(signature))
		}
		der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(signature[:32]),
			new(big.Int).SetBytes(signature[32:])})
		if err != nil {
			return err
		}
		signature = der
	case "ED25519":
		prefix = unhex("302a300506032b6570032100")
		args = append(args, "-rawin")
	}
	dir, err := os.MkdirTemp(dir, "verify-")
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{"key.der": slices.Concat(prefix, key), "payload": payload,
		"signature": signature} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	openssl := exec.CommandContext(context.Background(), "openssl", args...)
	openssl.Dir = dir
	if out, err := openssl.CombinedOutput(); err != nil {
		return fmt.Errorf("openssl: %w: %s", err, out)
	}
	return nil
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil // does not verify
	}
	return b
}

// cmdHolds searches files for the secrets of a share, in any encoding: ! holds SHARE FILE... requires that there are
// none.
func cmdHolds(ts *testscript.TestScript, neg bool, args []string) {
	share := []byte(ts.ReadFile(args[0]))
	for _, name := range args[1:] {
		if how := leaks.Find([]byte(ts.ReadFile(name)), share); (len(how) > 0) == neg {
			ts.Fatalf("%s in %s: %q", args[0], name, how)
		}
	}
}

// cmdSame compares two values: same A B.
func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	if (args[0] == args[1]) == neg {
		ts.Fatalf("%q and %q", args[0], args[1])
	}
}
