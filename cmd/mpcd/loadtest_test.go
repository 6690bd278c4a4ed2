package main

import (
	"crypto/ed25519"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// The service accepts the requests that seed writes, once ghz has inserted new UUIDs.
func TestLoadtestSeed(t *testing.T) {
	dir := t.TempDir()
	svc, err := startService(dir, "mpcd-tested", os.Environ(), "--dev")
	require.NoError(t, err)
	t.Cleanup(svc.kill)
	seed := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "mpcd-tested",
			append([]string{"loadtest", "seed", "--addr", svc.grpc, "--curves", "ED25519", "--json"}, args...)...)
		cmd.Dir = dir
		return cmd.Output()
	}
	out, err := seed("--wallets", "1", "--calls", "17", "--out", "data.json")
	require.NoError(t, err)
	require.JSONEq(t, `{"wallets": 2, "provision": "data.json", "provisionCalls": 32, "sign": "data-sign.json",
		"getWallet": "data-get-wallet.json"}`, string(out))

	conn, err := grpc.NewClient("passthrough:///"+svc.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	api := mpcdv1.NewWalletServiceClient(conn)

	var wallet mpcdv1.GetWalletRequest
	request(t, filepath.Join(dir, "data-get-wallet.json"), 2, &wallet)
	w, err := api.GetWallet(t.Context(), &wallet)
	require.NoError(t, err)

	var sign mpcdv1.SignRequest
	request(t, filepath.Join(dir, "data-sign.json"), 2, &sign)
	sig, err := api.Sign(t.Context(), &sign)
	require.NoError(t, err)
	require.True(t, ed25519.Verify(w.GetWallet().GetPublicKeys()[0].GetPublicKey(), sign.GetPayload(), sig.GetSignature()))

	var provision mpcdv1.ProvisionWalletRequest
	request(t, filepath.Join(dir, "data.json"), 2, &provision)
	stream, err := api.ProvisionWallet(t.Context(), &provision)
	require.NoError(t, err)
	for {
		m, err := stream.Recv()
		require.NoError(t, err)
		if m.GetOutcome() != nil {
			require.NotEmpty(t, m.GetOutcome().GetClientShare())
			break
		}
	}
	// Each wallet allows the printed number of calls; the next one fails.
	for range 15 {
		_, err = provisioned(t, api, &provision)
		require.NoError(t, err)
	}
	_, err = provisioned(t, api, &provision)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "unconfirmed share sets")

	_, err = seed("--wallets", "1", "--out", "data.json")
	require.Error(t, err, "a file that may contain shares must not be overwritten")
	_, err = seed("--wallets", "0", "--out", "none.json")
	require.Error(t, err)
	require.NoFileExists(t, filepath.Join(dir, "none.json"))
}

// provisioned makes one call, with a new request id, and waits for its end.
func provisioned(t *testing.T, api mpcdv1.WalletServiceClient,
	req *mpcdv1.ProvisionWalletRequest) (*mpcdv1.ProvisionWalletResult, error) {
	t.Helper()
	req.RequestId = uuid.NewString()
	stream, err := api.ProvisionWallet(t.Context(), req)
	require.NoError(t, err)
	for {
		m, err := stream.Recv()
		if err != nil || m.GetOutcome() != nil {
			return m.GetOutcome(), err
		}
	}
}

// The wallets that scripts/load asks for are enough for the calls of deploy/ghz.
func TestSeedCounts(t *testing.T) {
	for _, c := range []struct{ wallets, calls, want int }{{1, 0, 1}, {4, 24, 4}, {4, 64, 4}, {4, 65, 5}, {1, 16, 1},
		{1, 17, 2}, {2, 1000, 63}} {
		s := seedCmd{Wallets: c.wallets, Calls: c.calls}
		require.Equal(t, c.want, s.count(), c)
		require.Equal(t, c.want > c.wallets, s.why() != "", "why more wallets are created than --wallets")
	}
	script, err := os.ReadFile("../../scripts/load")
	require.NoError(t, err)
	require.Contains(t, string(script), `--calls "$provisions"`)
}

// request reads the first of n requests of a data file, as ghz would.
func request(t *testing.T, path string, n int, into proto.Message) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var all []map[string]any
	require.NoError(t, json.Unmarshal(b, &all))
	require.Len(t, all, n)
	if id, ok := all[0]["request_id"]; ok {
		require.Equal(t, "{{newUUID}}", id)
		all[0]["request_id"] = uuid.NewString()
	}
	b, err = json.Marshal(all[0])
	require.NoError(t, err)
	require.NoError(t, protojson.Unmarshal(b, into), "an unknown field would fail")
}

func TestSeedSaysWhyThereAreMoreWallets(t *testing.T) {
	t.Parallel()
	require.Equal(t, " (more than --wallets 1: a wallet is good for 16 calls, and --calls 20 needs 2 wallets)",
		(&seedCmd{Wallets: 1, Calls: 20}).why())
}
