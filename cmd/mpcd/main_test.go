package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test's own binary the mpcd of every test: started as a process of
// its own, with the race detector where the tests have it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mpcd": main})
}

// TestScripts runs the command line as its users do: see testdata/script.
func TestScripts(t *testing.T) {
	requireTools(t, "openssl", "age", "age-plugin-batchpass")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":  cmdServe,
			"stop":   cmdStop,
			"seed":   cmdSeed,
			"mode":   cmdMode,
			"json":   cmdJSON,
			"verify": cmdVerify,
			"holds":  cmdHolds,
			"httpd":  cmdListen,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			return os.WriteFile(env.WorkDir+"/password", []byte("correct horse\nnot this line\n"), 0o600)
		},
	})
}
