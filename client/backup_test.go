package client_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
)

// cloud is a user's cloud storage.
type cloud map[string]string

func (c cloud) PutKey(_ context.Context, id, key string) error {
	c[id] = key
	return nil
}

func (c cloud) GetKey(_ context.Context, id string) (string, error) {
	key, ok := c[id]
	if !ok {
		return "", errSignedOut
	}
	return key, nil
}

type brokenCloud struct{}

func (brokenCloud) PutKey(context.Context, string, string) error   { return errSignedOut }
func (brokenCloud) GetKey(context.Context, string) (string, error) { return "", errSignedOut }

var errSignedOut = errors.New("the user is signed out")

// ageCommand runs the age command, which `make tools` builds.
func ageCommand(t *testing.T, stdin []byte, env []string, args ...string) []byte {
	t.Helper()
	bin, err := filepath.Abs("../.bin")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(bin, "age"), "run `make tools`")
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "age"), args...)
	cmd.Env = append(os.Environ(), append(env, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return out
}

// A password backup with the default work factor opens with the age command and the password, and a file that the age
// command encrypted opens with the SDK.
func TestPasswordBackupIsAge(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	c.SetWorkFactor(client.DefaultWorkFactor)
	_, backup := backedUp(t, c)
	require.True(t, strings.HasPrefix(backup.CipherText, armor.Header))
	require.Contains(t, header(t, backup.CipherText), " 18\n", "the work factor")

	env := []string{"AGE_PASSPHRASE=" + password}
	plain := ageCommand(t, []byte(backup.CipherText), env, "-d", "-j", "batchpass")
	share, err := client.ParseShare(plain)
	require.NoError(t, err)
	require.Equal(t, client.PurposeBackup, share.Purpose())
	require.Equal(t, backup.ShareSetID, share.ShareSetID())
	require.Equal(t, backup.WalletID, share.WalletID())

	again := ageCommand(t, plain, append(env, "AGE_PASSPHRASE_WORK_FACTOR=12"), "-e", "-a", "-j", "batchpass")
	_, err = c.ProvisionWallet(t.Context(), string(again), client.MethodPassword, nil)
	require.NoError(t, err)
	// As an API may return it.
	_, err = c.DecryptBackup(t.Context(), "\n "+strings.ReplaceAll(string(again), "\n", "\r\n")+" \r\n", client.MethodPassword)
	require.NoError(t, err)
}

// With a cloud method each backup has its own key, which its header names, and the age command opens it with that key.
func TestCloudBackup(t *testing.T) {
	keys := cloud{}
	f, conn := newFake(t)
	c := newClient(t, f, conn, client.WithCloudKey(client.MethodICloud, keys))
	share, err := c.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	var backups []*client.Backup
	for range 2 {
		backup, err := c.BackupWallet(t.Context(), share, client.MethodICloud, nil)
		require.NoError(t, err)
		require.NoError(t, c.ConfirmBackup(t.Context(), backup, backup.CipherText))
		backups = append(backups, backup)
	}
	require.Len(t, keys, 2)
	for _, backup := range backups {
		require.Contains(t, header(t, backup.CipherText), "-> mpcd-share-set "+backup.ShareSetID+"\n")
		opened, err := c.DecryptBackup(t.Context(), backup.CipherText, client.MethodICloud)
		require.NoError(t, err)
		identity := filepath.Join(t.TempDir(), "key")
		require.NoError(t, os.WriteFile(identity, []byte(keys[backup.ShareSetID]+"\n"), 0o600))
		plain := ageCommand(t, []byte(backup.CipherText), nil, "-d", "-i", identity)
		require.True(t, bytes.Equal(plain, opened.Bytes()))
		_, err = c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodICloud, nil)
		require.NoError(t, err)
	}

	// The other backup's key, an invalid key, and none.
	a, b := backups[0].ShareSetID, backups[1].ShareSetID
	for key, want := range map[string]error{keys[b]: client.ErrWrongKey, "AGE-SECRET-KEY-1QQ": client.ErrNoKey, "": client.ErrNoKey} {
		keys[a] = key
		_, err = c.DecryptBackup(t.Context(), backups[0].CipherText, client.MethodICloud)
		require.ErrorIs(t, err, want)
		require.NotContains(t, err.Error(), "SECRET")
	}
	delete(keys, a)
	_, err = c.ProvisionWallet(t.Context(), backups[0].CipherText, client.MethodICloud, nil)
	require.ErrorIs(t, err, client.ErrNoKey)
	require.ErrorIs(t, err, errSignedOut)
	// A backup whose key is lost is not confirmed.
	backup, err := c.BackupWallet(t.Context(), share, client.MethodICloud, nil)
	require.NoError(t, err)
	delete(keys, backup.ShareSetID)
	err = c.ConfirmBackup(t.Context(), backup, backup.CipherText)
	require.ErrorIs(t, err, client.ErrBackupNotStored)
	require.ErrorIs(t, err, client.ErrNoKey)
}

// A missing password or key storage is reported before the run starts.
func TestMissingEncryptionKey(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, err := c.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	f.calls = nil
	for method, want := range map[client.BackupMethod]error{
		client.MethodGDrive: client.ErrNoKeyStorage, client.MethodPasskey: client.ErrNoKeyStorage,
		client.MethodFirebase: client.ErrNoKeyStorage, client.MethodCustom: client.ErrNoKeyStorage, client.MethodPassword: client.ErrNoPassword,
	} {
		bare, err := client.New(conn)
		require.NoError(t, err)
		_, err = bare.BackupWallet(t.Context(), share, method, nil)
		require.ErrorIs(t, err, want)
		_, err = bare.DecryptBackup(t.Context(), "", method)
		require.ErrorIs(t, err, want)
	}
	for _, method := range []client.BackupMethod{"", "UNSPECIFIED", "floppy"} {
		_, err = c.BackupWallet(t.Context(), share, method, nil)
		require.ErrorContains(t, err, "not a backup method")
	}
	require.Empty(t, f.seen())

	broken := newClient(t, f, conn, client.WithCloudKey(client.MethodGDrive, brokenCloud{}))
	_, err = broken.BackupWallet(t.Context(), share, client.MethodGDrive, nil)
	require.ErrorIs(t, err, client.ErrNoKey)
	require.ErrorIs(t, err, errSignedOut)
}

// A backup is confirmed only if the stored text contains its share.
func TestConfirmBackup(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, other := backedUp(t, c)
	backup, err := c.BackupWallet(t.Context(), share, client.MethodPassword, nil)
	require.NoError(t, err)
	before := len(f.seen())
	for name, stored := range map[string]string{
		"nothing":         "",
		"another backup":  other.CipherText,
		"a part of it":    backup.CipherText[:len(backup.CipherText)/2],
		"something else":  "{}",
		"a changed one":   flip(backup.CipherText, len(backup.CipherText)-80),
		"a cut-off armor": strings.TrimSuffix(backup.CipherText, armor.Footer+"\n"),
	} {
		require.ErrorIs(t, c.ConfirmBackup(t.Context(), backup, stored), client.ErrBackupNotStored, name)
	}
	require.ErrorIs(t, c.ConfirmBackup(t.Context(), nil, backup.CipherText), client.ErrBackupNotStored)
	require.ErrorIs(t, c.ConfirmBackup(t.Context(), &client.Backup{}, backup.CipherText), client.ErrBackupNotStored)
	require.Len(t, f.seen(), before)
	require.NoError(t, c.ConfirmBackup(t.Context(), backup, backup.CipherText))
	require.NoError(t, c.ConfirmBackup(t.Context(), backup, backup.CipherText))
}

// flip changes a character of the base64.
func flip(s string, at int) string {
	b := []byte(s)
	if b[at] == '\n' {
		at++
	}
	if b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return string(b)
}

func TestBadCipherTexts(t *testing.T) {
	f, conn := newFake(t)
	keys := cloud{}
	c := newClient(t, f, conn, client.WithCloudKey(client.MethodICloud, keys))
	share, backup := backedUp(t, c)
	inCloud, err := c.BackupWallet(t.Context(), share, client.MethodICloud, nil)
	require.NoError(t, err)
	opened, err := c.DecryptBackup(t.Context(), backup.CipherText, client.MethodPassword)
	require.NoError(t, err)
	good := backup.CipherText
	f.calls = nil
	for name, x := range map[string]struct{ text, says string }{
		"empty":               {"", "it is empty"},
		"text":                {"a user's notes", "it is not an age file"},
		"json":                {`{"cipherText": "` + good + `"}`, "parse the JSON"},
		"armored garbage":     {armored(t, []byte("no age file")), "the content of its armor is not an age file"},
		"an empty armor":      {armored(t, nil), "nothing between its BEGIN and END lines"},
		"in the clear":        {string(opened.Bytes()), "a share that is not encrypted"},
		"the clear in armor":  {armored(t, opened.Bytes()), "a share that is not encrypted"},
		"cut in the header":   {good[:100], "cut short"},
		"cut in the payload":  {armored(t, unarmored(t, good)[:len(unarmored(t, good))-20]), "cut short or changed"},
		"cut at the payload":  {armored(t, unarmored(t, good)[:len(header(t, good))]), "cut short after its header"},
		"a changed payload":   {flip(good, len(good)-80), "changed"},
		"another header's":    {armored(t, bytes.Replace(unarmored(t, good), []byte("v1\n"), []byte("v2\n"), 1)), "another version"},
		"oversized":           {good + strings.Repeat(" ", client.MaxCipherText), "more than 65536 bytes"},
		"oversized, in armor": {encrypted(t, make([]byte, client.MaxCipherText), 10), "more than 65536 bytes"},
		"a large plaintext":   {encrypted(t, make([]byte, 20<<10), 10), "larger than any share"},
		"another plaintext":   {encrypted(t, []byte("a user's notes"), 10), "its content is not a share"},
		"an empty plaintext":  {encrypted(t, nil, 10), "its content is not a share"},
		"a signing share":     {encrypted(t, share.Bytes(), 10), "its content is a SIGNING share"},
		"too much work":       {costly(t, good), "more work than 2^20"},
		"another method's":    {inCloud.CipherText, "its key is in the user's cloud storage"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.ProvisionWallet(t.Context(), x.text, client.MethodPassword, nil)
			require.ErrorIs(t, err, client.ErrNotABackup)
			require.ErrorContains(t, err, x.says)
			require.Less(t, len(err.Error()), 250, "it may be shown to a user: %s", err)
			require.NotContains(t, err.Error(), "notes")
			if name == "another method's" {
				return
			}
			_, err = c.DecryptBackup(t.Context(), x.text, client.MethodICloud)
			require.ErrorIs(t, err, client.ErrNotABackup)
		})
	}
	require.Empty(t, f.seen(), "a call was made")
}

func TestWrongPassword(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	_, backup := backedUp(t, c)
	f.calls = nil
	require.NoError(t, c.SetPassword("tr0ub4dor&3"))
	_, err := c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, nil)
	require.ErrorIs(t, err, client.ErrWrongPassword)
	require.NotErrorIs(t, err, client.ErrNotABackup)
	require.NotContains(t, err.Error(), "tr0ub4dor")
	require.Empty(t, f.seen())
	require.NoError(t, c.SetPassword(password))
	_, err = c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, nil)
	require.NoError(t, err)
}

// A key's name that is not a share set id is not passed to the app's storage.
func TestHostileKeyName(t *testing.T) {
	_, conn := newFake(t)
	storage := nosyCloud{t}
	c, err := client.New(conn, client.WithCloudKey(client.MethodCustom, storage))
	require.NoError(t, err)
	for _, name := range []string{"../../etc/passwd", "x", "urn:uuid:", strings.Repeat("a", 1000)} {
		key, err := age.GenerateX25519Identity()
		require.NoError(t, err)
		text := encryptedTo(t, []byte("x"), named{key.Recipient(), name})
		_, err = c.DecryptBackup(t.Context(), text, client.MethodCustom)
		require.ErrorIs(t, err, client.ErrNotABackup)
	}
}

type nosyCloud struct{ t *testing.T }

func (c nosyCloud) PutKey(context.Context, string, string) error { return nil }

func (c nosyCloud) GetKey(_ context.Context, id string) (string, error) {
	c.t.Errorf("asked for %q", id)
	return "", errSignedOut
}

// named is a recipient like the SDK's, with any name.
type named struct {
	*age.X25519Recipient
	name string
}

func (n named) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	stanzas, err := n.X25519Recipient.Wrap(fileKey)
	return append(stanzas, &age.Stanza{Type: "mpcd-share-set", Args: []string{n.name}}), err
}

func armored(t testing.TB, b []byte) string {
	t.Helper()
	var out strings.Builder
	w := armor.NewWriter(&out)
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.String()
}

func unarmored(t testing.TB, text string) []byte {
	t.Helper()
	b, err := io.ReadAll(armor.NewReader(strings.NewReader(text)))
	require.NoError(t, err)
	return b
}

func header(t testing.TB, text string) string {
	t.Helper()
	h, err := age.ExtractHeader(bytes.NewReader(unarmored(t, text)))
	require.NoError(t, err)
	return string(h)
}

func encrypted(t testing.TB, plain []byte, workFactor int) string {
	t.Helper()
	r, err := age.NewScryptRecipient(password)
	require.NoError(t, err)
	r.SetWorkFactor(workFactor)
	return encryptedTo(t, plain, r)
}

func encryptedTo(t testing.TB, plain []byte, to age.Recipient) string {
	t.Helper()
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	require.NoError(t, err)
	_, err = w.Write(plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return armored(t, out.Bytes())
}

// costly returns a backup whose header has the lowest work factor that is too high. It is not really encrypted with it,
// which would take too much time and memory.
func costly(t testing.TB, good string) string {
	t.Helper()
	require.Equal(t, 20, client.MaxWorkFactor)
	b := bytes.Replace(unarmored(t, good), []byte(" 10\n"), []byte(" 21\n"), 1)
	require.NotEqual(t, unarmored(t, good), b)
	return armored(t, b)
}

// Decrypting arbitrary input fails and does not panic.
func FuzzDecryptBackup(f *testing.F) {
	fake, conn := newFake(f)
	keys := cloud{}
	c := newClient(f, fake, conn, client.WithCloudKey(client.MethodICloud, keys))
	c.SetWorkFactor(1)
	share, backup := backedUp(f, c)
	inCloud, err := c.BackupWallet(f.Context(), share, client.MethodICloud, nil)
	require.NoError(f, err)
	for _, text := range []string{backup.CipherText, inCloud.CipherText, "", armor.Header} {
		f.Add([]byte(text), true)
		file, err := io.ReadAll(armor.NewReader(strings.NewReader(text)))
		if err == nil {
			f.Add(file, false)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, asIs bool) {
		text := string(b)
		if !asIs {
			text = armor.Header + "\n" + lines(base64.StdEncoding.EncodeToString(b)) + armor.Footer + "\n"
		}
		got, err := c.DecryptBackup(t.Context(), text, client.MethodICloud)
		if err == nil {
			require.Equal(t, client.PurposeBackup, got.Purpose())
			require.NoError(t, uuid.Validate(got.ShareSetID()))
			return
		}
		require.Nil(t, got)
	})
}

func lines(s string) string {
	var out strings.Builder
	for len(s) > 64 {
		out.WriteString(s[:64] + "\n")
		s = s[64:]
	}
	return out.String() + s + "\n"
}
