package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/tss"
)

// droppedPool is the service's log message when it drops its pool at the start.
const droppedPool = "the pool of pre-params was dropped and fills anew: its sets may have been used already; see " +
	"docs/RESTORING.md"

// aside is a copy of files, by path.
type aside map[string][]byte

func setAside(t *testing.T, paths ...string) aside {
	t.Helper()
	a := aside{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		a[path] = b
	}
	return a
}

// back restores the files in place.
func (a aside) back(t *testing.T) {
	t.Helper()
	for path, b := range a {
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
}

// keysOf returns both parties' Paillier keys of the only wallet in a database.
func keysOf(t *testing.T, db string) (keys [2]string) {
	t.Helper()
	st, err := store.Open(t.Context(), "sqlite://"+db)
	require.NoError(t, err)
	defer func() { require.NoError(t, st.Close()) }()
	wallets, err := st.List(t.Context(), "", session.Position{}, 10)
	require.NoError(t, err)
	require.Len(t, wallets, 1)
	set, err := st.Set(t.Context(), wallets[0].ID, wallets[0].Sets[0].ID)
	require.NoError(t, err)
	record, err := tss.ParseRecord(set.Record)
	require.NoError(t, err)
	for p, public := range record.Keys[0].Parties {
		keys[p] = public.PaillierN.String()
	}
	return keys
}

// A hosted client knows the primes of its own set of pre-params. After a restore that the service can detect, nothing
// from the pool is used again. After one that it cannot detect, since the lock file was restored too, a set that was
// used for a client is still never used for a server.
func TestRestoredPoolNeverCrosses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := filepath.Join(dir, "mpcd.db")
	require.NoError(t, seed(t.Context(), dir, 4))
	serve := func(do func(*running)) *running {
		svc, err := startService(dir, "mpcd", os.Environ(), "--dev")
		require.NoError(t, err)
		t.Cleanup(svc.kill)
		do(svc)
		require.NoError(t, svc.stop())
		return svc
	}
	create := func(share string, more ...string) func(*running) {
		return func(svc *running) {
			args := append([]string{"wallet", "create", "--curves=SECP256K1", "--share", filepath.Join(dir, share), "--addr",
				svc.grpc}, more...)
			out, err := exec.CommandContext(t.Context(), "mpcd", args...).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
	ready := func() string {
		return mpcdFine(t, nil, "preparams", "status", "--db", "sqlite://"+db, "--keyset", filepath.Join(dir, "mpcd.keyset"))
	}
	const full = "4 sets are ready, 2 for the client's party and 2 for the server's, the oldest was made"
	serve(func(*running) {})
	require.Contains(t, ready(), full)
	before := setAside(t, db, db+".lock")

	require.Nil(t, serve(create("alice.share")).logged(droppedPool))
	require.Contains(t, ready(), "2 sets are ready, 1 for the client's party and 1 for the server's")
	alices := keysOf(t, db)
	require.NotEqual(t, alices[tss.Client], alices[tss.Server])
	after := setAside(t, db+".lock")

	before.back(t)
	svc := serve(create("bob.share", "--device-held"))
	require.Nil(t, svc.logged(droppedPool), "this restore cannot be detected")
	bobs := keysOf(t, db)
	require.NotEqual(t, alices[tss.Client], bobs[tss.Server], "alice knows the primes of bob's server")

	before.back(t)
	after.back(t)
	require.Contains(t, ready(), full)
	svc = serve(func(*running) {})
	line := svc.logged(droppedPool)
	require.Contains(t, line["why"], "older than its lock file")
	require.InDelta(t, 4, line["sets"], 0)
	require.Contains(t, ready(), "0 sets are ready")
	require.Contains(t, mpcdFine(t, nil, "audit", "list", "--db", "sqlite://"+db), "preparams.drop")
	require.Nil(t, serve(func(*running) {}).logged(droppedPool))
}
