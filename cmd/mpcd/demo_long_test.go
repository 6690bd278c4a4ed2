//go:build long

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

// TestLongDemoJSON checks the demo's JSON output, which documents and scripts rely on. OpenSSL verifies the signatures,
// and the age command decrypts the backup.
func TestLongDemoJSON(t *testing.T) {
	t.Parallel()
	got := runDemo(t)
	for _, name := range []string{"create", "backup", "provision", "sign"} {
		require.Positive(t, got.Seconds[name], name)
	}
	require.Len(t, got.Seconds, 4)
	require.Empty(t, got.Held)
}

// TestLongDemoDeviceHeldJSON is TestLongDemoJSON for --device-held, and checks what was found on each side after each
// step.
func TestLongDemoDeviceHeldJSON(t *testing.T) {
	t.Parallel()
	got := runDemo(t, "--device-held")
	first, backup, second := got.ShareSets[0].ID, got.ShareSets[1].ID, got.ShareSets[2].ID
	steps := []struct {
		after     string
		preParams [2]int
		shares    [2]string // of the devices
		server    []string  // the sets that the service has server shares of
	}{
		{"prewarm", [2]int{2, 1}, [2]string{}, []string{}},
		{"create", [2]int{1, 1}, [2]string{first, ""}, []string{first}},
		{"backup", [2]int{0, 1}, [2]string{first, ""}, []string{first, backup}},
		{"provision", [2]int{0, 0}, [2]string{first, second}, []string{first, backup, second}},
		{"sign", [2]int{0, 0}, [2]string{first, second}, []string{first, backup, second}},
	}
	require.Len(t, got.Held, len(steps))
	for i, want := range steps {
		h := got.Held[i]
		require.Equal(t, want.after, h.After)
		require.Positive(t, got.Seconds[want.after])
		for j, name := range []string{"first", "second"} {
			d := h.Devices[j]
			require.Equal(t, name, d.Device)
			require.Equal(t, want.preParams[j], d.PreParams, "%s %s", want.after, name)
			require.Equal(t, want.shares[j], d.ShareSetID, "%s %s", want.after, name)
		}
		server, shares := []string{}, 0
		for _, share := range h.Service {
			require.Positive(t, share.Bytes)
			server = append(server, share.ShareSetID)
			shares++ // one client share for each server share
		}
		require.Equal(t, want.server, server, want.after)
		require.Equal(t, shares, h.Never.Shares, want.after)
		require.Positive(t, h.Never.Bytes)
		require.Zero(t, h.Never.Found)
		require.False(t, h.Never.Hosted)
		require.Equal(t, i >= 2, h.Backup != nil)
		if h.Backup != nil {
			require.Equal(t, heldBackup{backup, client.PurposeBackup, len(got.CipherText)}, *h.Backup)
		}
		for _, id := range server {
			require.Contains(t, h.text(), id)
		}
	}
}

// runDemo runs the demo and makes the checks that both tests have in common.
func runDemo(t *testing.T, flags ...string) demoResult {
	t.Helper()
	requireTools(t, "openssl", "age", "age-plugin-batchpass")
	cmd := exec.CommandContext(t.Context(), "mpcd", append([]string{"demo", "--json"}, flags...)...)
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
	t.Run("progress", func(t *testing.T) { checkProgress(t, got.Progress) })
	t.Run("signatures", func(t *testing.T) { checkSignatures(t, &got) })
	t.Run("backup", func(t *testing.T) { checkCipherText(t, &got) })

	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left, "the demo deletes its database")
	return got
}

// checkProgress requires the statuses of docs/SDK.md, in that order.
func checkProgress(t *testing.T, all []demoProgress) {
	steps := map[string][]string{
		"create": {"Queued", "Generating share", "Storing share", "Done"},
		"backup": {"Queued", "Reading share", "Parsing share", "Generating share", "Encrypting share",
			"Storing share", "Done"},
		"provision": {"Queued", "Reading share", "Decrypting share", "Reading share", "Parsing share", "Generating share",
			"Storing share", "Done"},
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
			require.Equal(t, i == len(ps)-1, p.Done, "%s: only the last is done", op)
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

// checkSignatures requires a signature of each SIGNING set on each curve that OpenSSL accepts under the wallet's key.
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
		require.True(t, made[by{set, client.CurveSecp256k1}] && made[by{set, client.CurveEd25519}],
			"set %s signs on both curves", set)
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
