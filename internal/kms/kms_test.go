package kms

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/mpcd/mpcd/internal/kms/kmstest"
	"github.com/mpcd/mpcd/internal/seal"
)

var _ seal.Wrapper = (*Key)(nil)

func setenv(t *testing.T, env []string) {
	t.Helper()
	for _, name := range []string{"VAULT_TOKEN", "VAULT_TOKEN_FILE", "VAULT_CACERT", "VAULT_ADDR", "VAULT_SKIP_VERIFY", "AWS_PROFILE", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"} {
		t.Setenv(name, "") // and restores it at the end
		require.NoError(t, os.Unsetenv(name))
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
}

// key returns the key at uri, with a short timeout.
func key(t *testing.T, uri string) *Key {
	t.Helper()
	k, err := New(uri)
	require.NoError(t, err)
	return k
}

func gcpKey(t *testing.T, g *kmstest.GCP) *Key {
	t.Helper()
	setenv(t, []string{"GOOGLE_APPLICATION_CREDENTIALS=" + g.Credentials})
	k := key(t, g.URI)
	k.gcp = []option.ClientOption{
		option.WithEndpoint(g.Addr),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(g.Roots, ""))),
	}
	return k
}

// requireWorks creates, reads and rotates a keyset.
func requireWorks(t *testing.T, k *Key) {
	t.Helper()
	f := seal.File{Path: filepath.Join(t.TempDir(), "keyset"), KMS: k}
	require.NoError(t, f.Create(t.Context()))
	first, err := f.Load(t.Context())
	require.NoError(t, err)
	rotated, err := f.Change(t.Context(), (*seal.Keyset).Rotated)
	require.NoError(t, err)
	again, err := f.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, rotated.Keys(), again.Keys())
	require.Equal(t, first.Keys()[0].ID, again.Keys()[0].ID)
}

const plain = "a keyset that nobody may see"

// requireShut requires that what was wrapped can be unwrapped, but nothing that was altered.
func requireShut(t *testing.T, k *Key) {
	t.Helper()
	c, err := k.Wrap(t.Context(), []byte(plain), []byte("label"))
	require.NoError(t, err)
	require.NotContains(t, string(c), plain)
	p, err := k.Unwrap(t.Context(), c, []byte("label"))
	require.NoError(t, err)
	require.Equal(t, plain, string(p))
	_, err = k.Unwrap(t.Context(), c, []byte("another label"))
	requireSays(t, k, err, "does not open the keyset")
	c[len(c)-3] ^= 1
	_, err = k.Unwrap(t.Context(), c, []byte("label"))
	requireSays(t, k, err, "does not open the keyset")
}

// requireSays requires an error that names the KMS, says what to do, and contains no secret.
func requireSays(t *testing.T, k *Key, err error, want string, secrets ...string) {
	t.Helper()
	require.ErrorContains(t, err, want)
	require.ErrorContains(t, err, k.uri)
	require.NotContains(t, err.Error(), "\n")
	for _, s := range append(secrets, plain) {
		require.NotContains(t, err.Error(), s)
	}
}

func requireFails(t *testing.T, k *Key, want string, secrets ...string) {
	t.Helper()
	_, err := k.Wrap(t.Context(), []byte(plain), []byte("label"))
	requireSays(t, k, err, want, secrets...)
	_, err = k.Unwrap(t.Context(), []byte("vault:v1:AAAA"), []byte("label"))
	requireSays(t, k, err, want, secrets...)
}

// hang returns when the client has disconnected, which a server notices only once it has read the body.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func TestVault(t *testing.T) {
	v := kmstest.NewVault(t)
	setenv(t, v.Env())
	k := key(t, v.URI)
	requireWorks(t, k)
	requireShut(t, k)

	t.Setenv("VAULT_ADDR", "https://127.0.0.1:1") // the URI names the host
	t.Setenv("VAULT_AGENT_ADDR", "https://127.0.0.1:1")
	requireWorks(t, k)

	for name, c := range map[string]struct {
		fault http.HandlerFunc
		want  string
	}{
		"refuses": {func(w http.ResponseWriter, _ *http.Request) { kmstest.VaultError(w, 403, "permission denied") },
			"refuses: check that this process has valid credentials"},
		"sealed":  {func(w http.ResponseWriter, _ *http.Request) { kmstest.VaultError(w, 503, "Vault is sealed") }, "cannot be used now"},
		"broken":  {func(w http.ResponseWriter, _ *http.Request) { kmstest.VaultError(w, 500, "internal error") }, "cannot be used now"},
		"garbage": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>hello</html>")) }, "cannot be used now"},
		"empty":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"data":{}}`)) }, "key " + v.URI},
		"slow":    {hang, "gave no answer in 300ms"},
	} {
		t.Run(name, func(t *testing.T) {
			v.Fault(c.fault)
			defer v.Fault(nil)
			k := key(t, v.URI)
			if name == "slow" {
				k.timeout = 300 * time.Millisecond
			}
			requireFails(t, k, c.want, v.Token)
		})
	}
	other := key(t, strings.TrimSuffix(v.URI, "mpcd")+"other")
	_, err := other.Unwrap(t.Context(), []byte("vault:v1:AAAA"), nil)
	requireSays(t, other, err, "does not open the keyset")
	v.Close()
	requireFails(t, k, "cannot be used now", v.Token)
}

func TestVaultTokens(t *testing.T) {
	v := kmstest.NewVault(t)
	file := filepath.Join(t.TempDir(), "token")
	ca := v.Env()[1]
	setenv(t, []string{ca})
	k := key(t, v.URI)
	requireFails(t, k, "there is no token: set VAULT_TOKEN, or VAULT_TOKEN_FILE")
	t.Setenv("VAULT_TOKEN_FILE", file)
	requireFails(t, k, "VAULT_TOKEN_FILE: open")
	for _, bad := range []string{"", "\n", "two words", "two\nlines"} {
		require.NoError(t, os.WriteFile(file, []byte(bad), 0o600))
		requireFails(t, k, "holds no token")
	}
	require.NoError(t, os.WriteFile(file, []byte("hvs.wrong"), 0o600))
	requireFails(t, k, "refuses", "hvs.wrong")
	require.NoError(t, os.WriteFile(file, []byte(v.Token+"\n"), 0o600))
	requireWorks(t, k)
	calls := v.Calls()
	for _, env := range [][]string{{}, {"VAULT_SKIP_VERIFY=true"}} { // TLS is verified whatever the environment says
		setenv(t, append(env, "VAULT_TOKEN="+v.Token))
		requireFails(t, k, "cannot be used now", v.Token)
	}
	require.Equal(t, calls, v.Calls(), "the token went to a server that was not verified")
}

func TestAWS(t *testing.T) {
	a := kmstest.NewAWS(t)
	setenv(t, a.Env())
	k := key(t, a.URI)
	requireWorks(t, k)
	requireShut(t, k)
	awsError := func(kind string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { kmstest.AWSError(w, 400, kind, "of the test") }
	}
	for name, c := range map[string]struct {
		fault http.HandlerFunc
		want  string
	}{
		"refuses":  {awsError("AccessDeniedException"), "refuses: check that this process has valid credentials"},
		"expired":  {awsError("ExpiredTokenException"), "refuses"},
		"disabled": {awsError("DisabledException"), "has no such key, or it is disabled"},
		"broken":   {func(w http.ResponseWriter, _ *http.Request) { kmstest.AWSError(w, 500, "KMSInternalException", "") }, "cannot be used now"},
		"garbage":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>hello</html>")) }, "cannot be used now"},
		"empty":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }, "answered without a value"},
		"slow":     {hang, "gave no answer in 300ms"},
	} {
		t.Run(name, func(t *testing.T) {
			a.Fault(c.fault)
			defer a.Fault(nil)
			k := key(t, a.URI)
			if name == "slow" {
				k.timeout = 300 * time.Millisecond
			}
			requireFails(t, k, c.want)
		})
	}
	other := key(t, strings.Replace(a.URI, "key/1234", "key/4321", 1))
	requireFails(t, other, "has no such key")
	t.Run("wrong credentials", func(t *testing.T) {
		t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
		requireFails(t, k, "refuses", "wrong-secret")
	})
	t.Run("no credentials", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		requireFails(t, k, "refuses")
	})
	a.Close()
	requireFails(t, k, "cannot be used now")
}

func TestGCP(t *testing.T) {
	g := kmstest.NewGCP(t)
	k := gcpKey(t, g)
	requireWorks(t, k)
	requireShut(t, k)
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"refuses": {status.Error(codes.PermissionDenied, "Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied"),
			"refuses: check that this process has valid credentials"},
		"disabled": {status.Error(codes.FailedPrecondition, "the version is not enabled"), "has no such key, or it is disabled"},
		"broken":   {status.Error(codes.Internal, "internal"), "cannot be used now"},
		// The SDK does, until the deadline.
		"slow": {status.Error(codes.Unavailable, "try again"), "gave no answer in 500ms"},
	} {
		t.Run(name, func(t *testing.T) {
			g.Fail(c.err)
			defer g.Fail(nil)
			k := *k
			if name == "slow" {
				k.timeout = 500 * time.Millisecond
			}
			requireFails(t, &k, c.want)
		})
	}
	t.Run("another key", func(t *testing.T) {
		other := key(t, g.URI+"2")
		other.gcp = k.gcp
		requireFails(t, other, "has no such key")
	})
	t.Run("no credentials", func(t *testing.T) {
		setenv(t, []string{"GOOGLE_APPLICATION_CREDENTIALS=/no/such/file"})
		requireFails(t, k, "cannot be asked for")
	})
	t.Run("garbage", func(t *testing.T) {
		lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = lis.Close() }()
		go func() { // ends with the listener
			for {
				c, err := lis.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("hello\r\n"))
				_ = c.Close()
			}
		}()
		k := *k
		k.timeout = 500 * time.Millisecond
		k.gcp = []option.ClientOption{option.WithEndpoint(lis.Addr().String()), k.gcp[1]}
		requireFails(t, &k, "the KMS of key")
	})
	g.Stop()
	down := *k
	down.timeout = 500 * time.Millisecond
	requireFails(t, &down, "gave no answer in 500ms")
}

// A cancelled call returns even while the KMS hangs.
func TestCancelled(t *testing.T) {
	a := kmstest.NewAWS(t)
	setenv(t, a.Env())
	ctx, cancel := context.WithCancel(t.Context())
	a.Fault(func(w http.ResponseWriter, r *http.Request) { cancel(); hang(w, r) })
	_, err := key(t, a.URI).Wrap(ctx, []byte(plain), nil)
	require.Error(t, err)
}

func TestURIs(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"hcvault://vault.internal:8200/transit/keys/mpcd", "hcvault://[::1]:8200/a/b/keys/k", "aws-kms://arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab",
		"aws-kms://arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/mpcd", "gcp-kms://projects/p/locations/global/keyRings/r/cryptoKeys/k",
	} {
		require.NoError(t, Check(good), good)
	}
	for bad, want := range map[string]string{
		"":                               "names no KMS that is known",
		"vault://h/transit/keys/k":       "names no KMS that is known",
		"https://h/transit/keys/hunter2": "names no KMS that is known",
		"hcvault://h/transit/k":          "use hcvault://HOST",
		"hcvault://u:hunter2@h/t/keys/k": "use hcvault://HOST",
		"hcvault://h/t/keys/k?x=hunter2": "use hcvault://HOST",
		"hcvault://h/../keys/k#hunter2":  "use hcvault://HOST",
		"aws-kms://alias/mpcd":           "use aws-kms://arn",
		"gcp-kms://projects/p":           "use gcp-kms://projects",
		"gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1": "use gcp-kms://projects",
	} {
		err := Check(bad)
		require.ErrorContains(t, err, want, bad)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
