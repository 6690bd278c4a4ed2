//go:build long

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// older is the commit before hosted and device-held runs became the same code. Clients built from it are in use.
const older = "0cf8d40"

// The SDK of an earlier commit, built from the repository's history, works with the current service.
func TestLongOlderSDK(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	git := func(args ...string) error {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", repoRoot}, args...)...)
		out, err := cmd.CombinedOutput()
		t.Logf("git %v: %s", args, out)
		return err
	}
	if err := git("cat-file", "-e", older+"^{commit}"); err != nil {
		t.Skip("a shallow clone: it lacks commit " + older)
	}
	require.NoError(t, git("worktree", "add", "--detach", tree, older))
	t.Cleanup(func() {
		cmd := exec.Command("git", "-C", repoRoot, "worktree", "remove", "--force", tree) //nolint:noctx // the test's has ended
		require.NoError(t, cmd.Run())
	})
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "older"), "./cmd/mpcd")
	build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	runScripts(t, "testdata/script_old")
}
