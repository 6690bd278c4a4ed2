package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

// TestMain adds programs to PATH that the tests run: mpcd, built as it is released; mpcd-tested, which is the test
// binary and so has the race detector if the tests have it; and helpers. Key derivation and the protocol are several
// times slower under the race detector, so only some services use it.
func TestMain(m *testing.M) {
	testscript.Main(builder{m}, map[string]func(){
		"mpcd-tested": main, "hold-connections": holdConnections, "hold-lock": holdLock})
}

const repoRoot = "../.."

// startedWith are the MPCD_* variables that the tests were started with. They are removed from the environment, since
// mpcd rejects unknown ones.
var startedWith = map[string]string{}

// builder builds mpcd before the tests run.
type builder struct{ *testing.M }

// Run implements testscript.TestingM.
func (b builder) Run() int {
	for _, name := range environment() {
		startedWith[name] = os.Getenv(name)
		if err := os.Unsetenv(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "mpcd-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	build := exec.CommandContext(context.Background(), "go", "build", "-buildvcs=false", "-o", dir, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	bin, err := filepath.Abs("../../.bin")
	if err == nil {
		err = os.Setenv("PATH", strings.Join([]string{dir, bin, os.Getenv("PATH")}, string(os.PathListSeparator)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return b.M.Run()
}

// requireTools fails if a program is missing: what it checks is too important to skip.
func requireTools(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		require.NoErrorf(t, err, "run `make deps tools` first: it installs %s", name)
	}
}

// TestScripts runs the scripts in testdata/script. TestLongScripts runs those in testdata/script_long, which generate
// pre-params.
func TestScripts(t *testing.T) { runScripts(t, "testdata/script") }

func runScripts(t *testing.T, dir string) {
	t.Helper()
	requireTools(t, "openssl", "curl", "grpcurl", "age", "age-plugin-batchpass")
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":     cmdServe,
			"custodian": cmdCustodian,
			"halt":      cmdHalt,
			"seed":      cmdSeed,
			"mode":      cmdMode,
			"json":      cmdJSON,
			"verify":    cmdVerify,
			"holds":     cmdHolds,
			"same":      cmdSame,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			access, err := os.ReadFile(filepath.Join(repoRoot, "deploy/example/access.sh"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(env.WorkDir+"/access.sh", access, 0o600); err != nil {
				return err
			}
			return os.WriteFile(env.WorkDir+"/password", []byte("correct horse\nnot this line\n"), 0o600)
		},
	})
}
