package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
)

// TestDemoJSON holds the demo against what docs and checks rely on, with nothing of mpcd
// but the reading of a share: OpenSSL verifies, and the age command decrypts.
func TestDemoJSON(t *testing.T) {
	t.Parallel()
	requireTools(t, "openssl", "age", "age-plugin-batchpass")
	cmd := exec.CommandContext(t.Context(), "mpcd", "demo", "--json")
	tmp := t.TempDir()
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), stderr.String())
	require.Empty(t, stderr.String())

	var got demoResult
	d := json.NewDecoder(&stdout)
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&got))
	_, err := d.Token()
	require.ErrorIs(t, err, io.EOF, "one object and nothing else")

	require.Len(t, got.WalletID, 36)
	require.Len(t, got.ShareSets, 3)
	require.Equal(t, []demoShareSet{
		{got.ShareSets[0].ID, client.PurposeSigning, "first"},
		{got.ShareSets[1].ID, client.PurposeBackup, ""},
		{got.ShareSets[2].ID, client.PurposeSigning, "second"},
	}, got.ShareSets)
	for _, name := range []string{"create", "backup", "provision", "sign"} {
		require.Positive(t, got.Seconds[name], name)
	}
	t.Run("progress", func(t *testing.T) { checkProgress(t, got.Progress) })
	t.Run("signatures", func(t *testing.T) { checkSignatures(t, &got) })
	t.Run("backup", func(t *testing.T) { checkCipherText(t, &got) })

	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left, "the demo takes its database with it")
}

// checkProgress wants product.md's words in product.md's order.
func checkProgress(t *testing.T, all []demoProgress) {
	steps := map[string][]string{
		"create":    {"Queued", "Generating share", "Storing share", "Done"},
		"backup":    {"Queued", "Reading share", "Parsing share", "Generating share", "Encrypting share", "Storing share", "Done"},
		"provision": {"Queued", "Reading share", "Decrypting share", "Reading share", "Parsing share", "Generating share", "Storing share", "Done"},
	}
	var operations []string
	seen := map[string][]demoProgress{}
	for _, p := range all {
		if len(operations) == 0 || operations[len(operations)-1] != p.Operation {
			operations = append(operations, p.Operation)
		}
		seen[p.Operation] = append(seen[p.Operation], p)
	}
	require.Equal(t, []string{"create", "backup", "provision"}, operations)
	for op, ps := range seen {
		var statuses, rounds []string
		for i, p := range ps {
			require.Equal(t, i == len(ps)-1, p.Done, "%s: done is said by the last, and by it alone", op)
			require.LessOrEqual(t, p.Percent, uint32(100))
			if i > 0 {
				require.GreaterOrEqual(t, p.Percent, ps[i-1].Percent, "%s: percent never falls", op)
			}
			if p.Round > 0 {
				rounds = append(rounds, p.Curve)
				require.LessOrEqual(t, p.Round, p.Rounds)
			}
			if p.Status != "Queued" && (len(statuses) == 0 || statuses[len(statuses)-1] != p.Status) {
				statuses = append(statuses, p.Status)
			}
		}
		require.Equal(t, steps[op][1:], statuses, op)
		require.Equal(t, uint32(100), ps[len(ps)-1].Percent, op)
		require.Contains(t, rounds, "SECP256K1", op)
		require.Contains(t, rounds, "ED25519", op)
	}
}

// checkSignatures wants a signature of each signing set on each curve, that OpenSSL accepts
// under the wallet's key.
func checkSignatures(t *testing.T, got *demoResult) {
	require.Len(t, got.Keys, 2)
	keys := map[client.Curve]string{got.Keys[0].Curve: got.Keys[0].PublicKey, got.Keys[1].Curve: got.Keys[1].PublicKey}
	require.Len(t, keys[client.CurveSecp256k1], 2*65)
	require.Len(t, keys[client.CurveEd25519], 2*32)
	type by struct {
		set   string
		curve client.Curve
	}
	made := map[by]bool{}
	dir := t.TempDir()
	for _, s := range got.Signatures {
		require.True(t, s.Verified)
		require.Len(t, s.Signature, 2*64)
		require.NoError(t, opensslVerify(dir, string(s.Curve), keys[s.Curve], s.Payload, s.Signature))
		wrong := "00" + s.Payload[2:]
		require.Error(t, opensslVerify(dir, string(s.Curve), keys[s.Curve], wrong, s.Signature), "another payload")
		made[by{s.ShareSetID, s.Curve}] = true
	}
	for _, set := range []string{got.ShareSets[0].ID, got.ShareSets[2].ID} {
		require.True(t, made[by{set, client.CurveSecp256k1}] && made[by{set, client.CurveEd25519}], "set %s signs on both curves", set)
	}
}

// checkCipherText opens the backup with the age command and the password.
func checkCipherText(t *testing.T, got *demoResult) {
	cmd := exec.CommandContext(t.Context(), "age", "-d", "-j", "batchpass")
	cmd.Env = append(os.Environ(), "AGE_PASSPHRASE="+got.Password)
	cmd.Stdin = bytes.NewReader([]byte(got.CipherText))
	plain, err := cmd.Output()
	require.NoError(t, err)
	share, err := client.ParseShare(plain)
	require.NoError(t, err)
	require.Equal(t, got.WalletID, share.WalletID())
	require.Equal(t, got.ShareSets[1].ID, share.ShareSetID())
	require.Equal(t, client.PurposeBackup, share.Purpose())
	require.Equal(t, []client.Curve{client.CurveSecp256k1, client.CurveEd25519}, share.Curves())
}
