// Package proto_test checks that the API's compatibility check works: that a change which breaks released clients is refused,
// by the rules of buf.yaml, against the committed image of the API.
package proto_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBreakingChangesAreRefused alters one line of a copy of the API and runs buf breaking on it as `make test` does.
func TestBreakingChangesAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name, file, old, altered string
		// What buf must say; empty where it must say nothing.
		refusal string
	}{
		{name: "untouched"},
		{
			name: "field added", file: "session.proto",
			old: "uint32 attempt = 11;", altered: "uint32 attempt = 11;\n  uint32 added = 99;",
		},
		{
			name: "field retyped", file: "session.proto",
			old: "uint32 percent = 3;", altered: "string percent = 3;",
			refusal: `Field "3" with name "percent" on message "Progress" changed type from "uint32" to "string"`,
		},
		{
			name: "field renamed", file: "wallet_service.proto",
			old: "string seal_to = 4;", altered: "string sealed_to = 4;",
			refusal: `changed name from "seal_to" to "sealed_to"`,
		},
		{
			name: "field removed", file: "wallet.proto",
			old: "string display_name = 7;", altered: "",
			refusal: `field "7" with name "display_name" on message "ShareSet" was deleted`,
		},
		{
			name: "RPC made unary", file: "wallet_service.proto",
			old: "returns (stream ProvisionWalletResponse)", altered: "returns (ProvisionWalletResponse)",
			refusal: `RPC "ProvisionWallet" on service "WalletService" changed from server streaming to server unary`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			workspace := copyAPI(t)
			if tc.file != "" {
				alter(t, filepath.Join(workspace, "proto", "mpcd", "v1", tc.file), tc.old, tc.altered)
			}

			out, err := buf(t, "breaking", filepath.Join(workspace, "proto"), "--against", filepath.Join("proto", "image.binpb"))

			if tc.refusal == "" {
				require.NoError(t, err, out)
				require.Empty(t, out)
				return
			}
			require.Error(t, err)
			require.Contains(t, strings.ToLower(out), strings.ToLower(tc.refusal))
		})
	}
}

// copyAPI answers a temporary directory with buf.yaml and the proto files.
func copyAPI(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "proto"), os.DirFS(".")))
	config, err := os.ReadFile(filepath.Join("..", "buf.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "buf.yaml"), config, 0o600))
	return dir
}

// alter replaces the first occurrence of old in the file at path.
func alter(t *testing.T, path, old, altered string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), old)
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(text), old, altered, 1)), 0o600))
}

// buf runs the pinned buf in the repository's root and answers all that it printed.
func buf(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"tool", "-modfile=tools/go.mod", "buf"}, args...)...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile builds it, so that it is in the build cache
	out, err := cmd.CombinedOutput()
	return string(out), err
}
