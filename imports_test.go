// Package imports_test keeps the structure of docs/DESIGN.md: which package may import which.
package imports_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/mpcd/mpcd/"

// mayImport lists, for each package, the other packages that its programs may import.
// Everybody may import internal/secret. Packages that stand here only as "*" wire others.
var mayImport = map[string][]string{
	"cmd/mpcbench":         {"*"},
	"cmd/mpcd":             {"*"},
	"client":               {"gen/mpcd/v1", "internal/link", "internal/names", "internal/tss", "internal/wire"},
	"internal/bucket":      {},
	"internal/auth":        {"internal/names", "internal/session"},
	"gen/mpcd/v1":          {},
	"gen/mpcd/worker/v1":   {"gen/mpcd/v1"},
	"internal/custodian":   {}, // the other side of the webhooks: it shares nothing with this one
	"internal/custody":     {"internal/session", "internal/tss", "internal/webhook"},
	"internal/policy":      {"internal/names", "internal/session", "internal/webhook"},
	"internal/webhook":     {},
	"internal/kms":         {},
	"internal/leaks":       {},
	"internal/link":        {"internal/tss"},
	"internal/names":       {},
	"internal/preparams":   {"internal/session", "internal/tss"},
	"internal/safeprime":   {},
	"internal/seal":        {"internal/session"},
	"internal/secret":      {},
	"internal/server":      {"internal/bucket", "internal/names", "internal/session", "internal/wire", "gen/mpcd/v1"},
	"internal/wire":        {"internal/link", "internal/tss", "gen/mpcd/v1"},
	"internal/worker":      {"internal/session", "internal/tss", "internal/wire", "gen/mpcd/worker/v1"},
	"internal/app":         {"*"},
	"internal/session":     {"internal/bucket", "internal/link", "internal/tss"},
	"internal/store":       {"internal/session"},
	"internal/tss":         {"internal/safeprime"},
	"internal/tss/tsstest": {"internal/tss"},
	// Harnesses for tests; no program imports them (see testOnly).
	"internal/auth/authtest":     {},
	"internal/store/storetest":   {"internal/session", "internal/store", "internal/tss"},
	"internal/server/servertest": {"*"},
	"internal/kms/kmstest":       {},
}

// testOnly lists packages that only tests may import: they hold public keys, or fakes.
var testOnly = []string{"internal/auth/authtest", "internal/kms/kmstest", "internal/tss/tsstest", "internal/store/storetest", "internal/server/servertest"}

// belongs lists modules that are one package's alone.
var belongs = map[string][]string{
	"github.com/bnb-chain/tss-lib": {"internal/tss", "cmd/mpcbench"},
	"github.com/tink-crypto/":      {"internal/seal", "internal/kms"},
	// The KMSs' SDKs are large: what links them is the one program that needs them.
	"cloud.google.com/":                  {"internal/kms", "internal/kms/kmstest"},
	"github.com/aws/":                    {"internal/kms", "internal/kms/kmstest"},
	"github.com/hashicorp/":              {"internal/kms"},
	"google.golang.org/api":              {"internal/kms"},
	"github.com/mpcd/mpcd/internal/kms":  {"cmd/mpcd"},
	"database/sql":                       {"internal/store", "internal/custodian"},
	"modernc.org/sqlite":                 {"internal/store", "internal/custodian"},
	"github.com/pressly/goose":           {"internal/store"},
	"github.com/lestrrat-go/jwx/":        {"internal/auth"},
	"google.golang.org/grpc":             {"internal/auth", "internal/kms", "internal/kms/kmstest", "internal/server", "internal/server/servertest", "client", "cmd/mpcd", "cmd/mpcbench", "gen/mpcd/v1"},
	"github.com/grpc-ecosystem/":         {"internal/server", "gen/mpcd/v1"},
	"github.com/rs/cors":                 {"internal/server"},
	"github.com/alecthomas/kong":         {"cmd/mpcd"},
	"gonum.org/v1/plot":                  {"cmd/mpcbench"},
	"github.com/prometheus/":             {"internal/preparams", "internal/app", "internal/webhook"},
	"code.dny.dev/ssrf":                  {"internal/webhook"},
	"github.com/standard-webhooks/":      {"internal/webhook", "internal/custodian"},
	"github.com/stretchr/testify":        testOnly,
	"github.com/mpcd/mpcd/gen/mpcd/v1":   {"internal/server", "internal/server/servertest", "internal/wire", "client", "cmd/mpcbench", "gen/mpcd/worker/v1"},
	"github.com/mpcd/mpcd/internal/seal": {"cmd/mpcd", "cmd/mpcbench", "internal/app", "internal/server/servertest"},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Imports,Standard"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, p)
	}
}

func TestPackagesImportOnlyWhatTheyMay(t *testing.T) {
	packages := list(t, "./...")
	require.Greater(t, len(packages), 8, "the list is not empty")
	for _, p := range packages {
		pkg := strings.TrimPrefix(p.ImportPath, module)
		if len(p.Imports) == 0 {
			continue // tests alone, such as this one
		}
		allowed, known := mayImport[pkg]
		require.True(t, known, "%s is a new package: say here and in docs/DESIGN.md what it may import", pkg)
		for _, imp := range p.Imports {
			for prefix, owners := range belongs {
				if strings.HasPrefix(imp, prefix) {
					require.Contains(t, owners, pkg, "%s imports %s", pkg, imp)
				}
			}
			other, ours := strings.CutPrefix(imp, module)
			if !ours || other == "internal/secret" {
				continue
			}
			if !slices.Contains(testOnly, pkg) {
				require.NotContains(t, testOnly, other, "%s imports a package that is for tests", pkg)
			}
			if !slices.Equal(allowed, []string{"*"}) {
				require.Contains(t, allowed, other, "%s imports %s", pkg, other)
			}
		}
	}
}

// The prime search runs on phones and holds secrets: the standard library and nothing else.
func TestSafeprimeAndSecretAreStandardLibraryOnly(t *testing.T) {
	for _, p := range list(t, "-deps", "./internal/safeprime", "./internal/secret") {
		require.True(t, p.Standard || strings.HasPrefix(p.ImportPath, module+"internal/s"), p.ImportPath)
	}
}

// What a program links is what it can leak: no test keys in the binary.
func TestNoProgramLinksTestPackages(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/...") {
		require.NotContains(t, testOnly, strings.TrimPrefix(p.ImportPath, module))
		require.NotEqual(t, "testing", p.ImportPath)
	}
}
