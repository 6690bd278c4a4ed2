package seal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/mac"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

func TestMain(m *testing.M) {
	syscall.Umask(0) // files must get their modes from the code, not the umask
	os.Exit(m.Run())
}

// memory is a MetaStore in memory; package store's tests cover the real one.
type memory struct {
	m   map[string][]byte
	err error
}

func (s *memory) Meta(_ context.Context, key string) ([]byte, error) {
	return s.m[key], s.err
}

func (s *memory) SetMetaOnce(_ context.Context, key string, value []byte) ([]byte, error) {
	if _, ok := s.m[key]; !ok {
		s.m[key] = value
	}
	return s.m[key], s.err
}

func newMemory() *memory { return &memory{m: map[string][]byte{}} }

func ephemeral(t *testing.T) *Keyset {
	t.Helper()
	k, err := Ephemeral()
	require.NoError(t, err)
	return k
}

func sealer(t *testing.T, k *Keyset, meta MetaStore) *Sealer {
	t.Helper()
	s, err := New(t.Context(), k, meta)
	require.NoError(t, err)
	return s
}

var label = session.Label{Kind: "server share", WalletID: "wallet", ShareSetID: "set", Curve: tss.Ed25519, Party: tss.Server}

const plain = "the plaintext"

func sealed(t *testing.T, s *Sealer) []byte {
	t.Helper()
	c, err := s.Seal(secret.New([]byte(plain)), label)
	require.NoError(t, err)
	return c
}

func requireOpens(t *testing.T, s *Sealer, c []byte) {
	t.Helper()
	p, err := s.Open(c, label)
	require.NoError(t, err)
	require.Equal(t, plain, string(p.Reveal()))
}

func requireShut(t *testing.T, s *Sealer, c []byte, l session.Label) {
	t.Helper()
	p, err := s.Open(c, l)
	require.ErrorIs(t, err, session.ErrDataCorrupted)
	require.Zero(t, p.Len())
	require.NotContains(t, err.Error(), "plaintext")
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	s := sealer(t, ephemeral(t), newMemory())
	for _, n := range []int{0, 1, 16, 5000} {
		in := make([]byte, n)
		c, err := s.Seal(secret.New(in), label)
		require.NoError(t, err)
		out, err := s.Open(c, label)
		require.NoError(t, err)
		require.Equal(t, n, out.Len())
		require.True(t, secret.New(in).Equal(out))
	}
	first, second := sealed(t, s), sealed(t, s)
	require.NotEqual(t, first, second, "two seals of one value look alike")
	require.NotContains(t, string(first), plain)
}

func TestAlteredLabel(t *testing.T) {
	t.Parallel()
	s := sealer(t, ephemeral(t), newMemory())
	c := sealed(t, s)
	for name, alter := range map[string]func(l *session.Label){
		"kind":           func(l *session.Label) { l.Kind = "result" },
		"wallet":         func(l *session.Label) { l.WalletID = "wallet2" },
		"no wallet":      func(l *session.Label) { l.WalletID = "" },
		"set":            func(l *session.Label) { l.ShareSetID = "set2" },
		"no set":         func(l *session.Label) { l.ShareSetID = "" },
		"curve":          func(l *session.Label) { l.Curve = tss.Secp256k1 },
		"no curve":       func(l *session.Label) { l.Curve = 0 },
		"party":          func(l *session.Label) { l.Party = tss.Client },
		"shifted border": func(l *session.Label) { l.WalletID, l.ShareSetID = "walle", "tset" },
		"joined":         func(l *session.Label) { l.WalletID, l.ShareSetID = "walletset", "" },
		"exchanged":      func(l *session.Label) { l.WalletID, l.ShareSetID = "set", "wallet" },
		"all":            func(l *session.Label) { *l = session.Label{} },
	} {
		l := label
		alter(&l)
		t.Run(name, func(t *testing.T) { requireShut(t, s, c, l) })
	}
	requireOpens(t, s, c)
}

// FuzzLabels searches for two labels with the same encoding.
func FuzzLabels(f *testing.F) {
	f.Add("a", "b", "c", byte(1), byte(1), "ab", "", "c", byte(1), byte(1))
	gap := strings.Repeat("\x00", 8) // as long as an encoded length
	f.Add("k", "a"+gap+"b", "c", byte(1), byte(1), "k", "a", "b"+gap+"c", byte(1), byte(1))
	f.Fuzz(func(t *testing.T, k1, w1, s1 string, c1, p1 byte, k2, w2, s2 string, c2, p2 byte) {
		a := session.Label{Kind: k1, WalletID: w1, ShareSetID: s1, Curve: tss.Curve(c1), Party: tss.Party(p1)}
		b := session.Label{Kind: k2, WalletID: w2, ShareSetID: s2, Curve: tss.Curve(c2), Party: tss.Party(p2)}
		require.Equal(t, a == b, string(associated(a)) == string(associated(b)))
	})
}

func TestAlteredCiphertext(t *testing.T) {
	t.Parallel()
	s := sealer(t, ephemeral(t), newMemory())
	c := sealed(t, s)
	for i := range c {
		for _, bit := range []byte{1, 0x80, 0xff} {
			c[i] ^= bit
			requireShut(t, s, c, label)
			c[i] ^= bit
		}
	}
	for n := range c {
		requireShut(t, s, c[:n], label)
	}
	requireShut(t, s, append(c[:len(c):len(c)], 0), label)
	requireShut(t, s, nil, label)
	requireOpens(t, s, c)
}

func TestOtherKeyset(t *testing.T) {
	t.Parallel()
	meta := newMemory()
	c := sealed(t, sealer(t, ephemeral(t), meta))
	requireShut(t, sealer(t, ephemeral(t), newMemory()), c, label)
	_, err := New(t.Context(), ephemeral(t), meta)
	require.ErrorIs(t, err, ErrOtherKeyset)
}

// A sealed MAC keyset that was altered, or is in the wrong place, is not taken for that of a new database.
func TestDamagedMACKeyset(t *testing.T) {
	t.Parallel()
	k, meta := ephemeral(t), newMemory()
	s := sealer(t, k, meta)
	good := meta.m[macMeta]
	for _, bad := range [][]byte{{}, []byte("x"), good[:len(good)-1], good[1:], sealed(t, s)} {
		meta.m[macMeta] = bad
		_, err := New(t.Context(), k, meta)
		require.ErrorIs(t, err, ErrOtherKeyset)
	}
}

func TestMAC(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keyset.json")
	require.NoError(t, Create(path))
	meta := newMemory()
	var first []byte
	for range 3 { // restarts
		k, err := Load(path)
		require.NoError(t, err)
		sum, err := sealer(t, k, meta).MAC([]byte("request"))
		require.NoError(t, err)
		if first == nil {
			first = sum
		}
		require.Equal(t, first, sum)
	}
	k, err := Load(path)
	require.NoError(t, err)
	other, err := sealer(t, k, meta).MAC([]byte("another request"))
	require.NoError(t, err)
	require.NotEqual(t, first, other)
	other, err = sealer(t, k, newMemory()).MAC([]byte("request"))
	require.NoError(t, err)
	require.NotEqual(t, first, other, "the MAC's key is the encryption keyset's alone")
	require.GreaterOrEqual(t, len(first), 32)
}

// late is a MetaStore as seen by the slower of two processes: the value is missing when it reads, and another one is
// there when it writes.
type late struct{ *memory }

func (late) Meta(context.Context, string) ([]byte, error) { return nil, nil }

// Processes that start concurrently on a new database agree on one MAC keyset.
func TestMACRace(t *testing.T) {
	t.Parallel()
	k, meta := ephemeral(t), newMemory()
	first, err := sealer(t, k, meta).MAC([]byte("x"))
	require.NoError(t, err)
	second, err := sealer(t, k, late{meta}).MAC([]byte("x"))
	require.NoError(t, err)
	require.Equal(t, first, second)
	_, err = New(t.Context(), ephemeral(t), late{meta})
	require.ErrorIs(t, err, ErrOtherKeyset)
}

func TestMetaStoreFails(t *testing.T) {
	t.Parallel()
	why := errors.New("no disk")
	_, err := New(t.Context(), ephemeral(t), &memory{m: map[string][]byte{}, err: why})
	require.ErrorIs(t, err, why)
	require.NotErrorIs(t, err, ErrOtherKeyset)
}

// A rotated keyset seals with its new key, and opens what the old one sealed, including the MAC keyset.
func TestRotation(t *testing.T) {
	t.Parallel()
	old, meta := ephemeral(t), newMemory()
	before := sealer(t, old, meta)
	c := sealed(t, before)
	sum, err := before.MAC([]byte("x"))
	require.NoError(t, err)

	m := keyset.NewManagerFromHandle(old.handle)
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	require.NoError(t, err)
	require.NoError(t, m.SetPrimary(id))
	h, err := m.Handle()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "keyset.json")
	write(t, path, h)
	rotated, err := Load(path)
	require.NoError(t, err)

	after := sealer(t, rotated, meta)
	requireOpens(t, after, c)
	again, err := after.MAC([]byte("x"))
	require.NoError(t, err)
	require.Equal(t, sum, again)
	requireShut(t, before, sealed(t, after), label)
}

func write(t *testing.T, path string, h *keyset.Handle) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	require.NoError(t, err)
	require.NoError(t, insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(f)))
	require.NoError(t, f.Close())
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "keyset.json")
	require.NoError(t, Create(path))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	before, err := os.ReadFile(path)
	require.NoError(t, err)

	require.ErrorContains(t, Create(path), "there is a file already")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)

	other := filepath.Join(dir, "other.json")
	require.NoError(t, Create(other))
	b, err := os.ReadFile(other)
	require.NoError(t, err)
	require.NotEqual(t, before, b)

	require.ErrorContains(t, Create(filepath.Join(dir, "no", "keyset.json")), "directory does not exist")
	require.Error(t, Create(dir))
	there, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, there, 2)
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(dir, "good.json")
	require.NoError(t, Create(good))
	_, err := Load(good)
	require.NoError(t, err)
	b, err := os.ReadFile(good)
	require.NoError(t, err)
	key := material(t, b)

	file := func(name string, mode os.FileMode, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, mode))
		return path
	}
	template := func(name string, k *tinkpb.KeyTemplate) string {
		h, err := keyset.NewHandle(k)
		require.NoError(t, err)
		path := filepath.Join(dir, name)
		write(t, path, h)
		return path
	}
	cases := map[string]string{
		filepath.Join(dir, "none"):          "no such file: make one with `mpcd keyset create`",
		dir:                                 "not a regular file",
		"/dev/zero":                         "not a regular file",
		file("empty", 0o600, nil):           "cut off, or not a Tink keyset",
		file("text", 0o600, key):            "cut off, or not a Tink keyset",
		file("object", 0o600, b[:1]):        "cut off, or not a Tink keyset",
		file("braces", 0o600, []byte("{}")): "cut off, or not a Tink keyset",
		file("broken", 0o600, []byte(strings.Replace(string(b), `"value":"`, `"value":"!`, 1))):                    "cut off, or not a Tink keyset",
		file("odd", 0o600, []byte(strings.Replace(string(b), `"value":"`+string(key), `"valu":"`+string(key), 1))): "cut off, or not a Tink keyset",
		file("large", 0o600, make([]byte, 2<<20)):                                                                  "too large",
		template("mac", mac.HMACSHA256Tag256KeyTemplate()):                                                         "not an AES-256-GCM key",
		template("aes128", aead.AES128GCMKeyTemplate()):                                                            "not an AES-256-GCM key",
		template("raw", aead.AES256GCMNoPrefixKeyTemplate()):                                                       "not an AES-256-GCM key",
		template("chacha", aead.XChaCha20Poly1305KeyTemplate()):                                                    "not an AES-256-GCM key",
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o644, 0o660, 0o610, 0o601, 0o666} {
		cases[file(fmt.Sprintf("mode %o", mode), mode, b)] = fmt.Sprintf("(mode %04o): chmod 600", mode)
	}
	for n := 1; n < len(b); n += 7 {
		cases[file(fmt.Sprint("cut at ", n), 0o600, b[:n])] = "cut off, or not a Tink keyset"
	}
	for path, want := range cases {
		_, err := Load(path)
		require.ErrorContains(t, err, want, path)
		require.ErrorContains(t, err, path)
		require.NotContains(t, err.Error(), string(key[:8]))
	}
	for _, mode := range []os.FileMode{0o400, 0o600, 0o700} {
		_, err := Load(file(fmt.Sprintf("good %o", mode), mode, b))
		require.NoError(t, err)
	}
	link := filepath.Join(dir, "link") // as Kubernetes mounts a secret
	require.NoError(t, os.Symlink(good, link))
	_, err = Load(link)
	require.NoError(t, err)
}

// material returns the key material in a keyset's JSON.
func material(t *testing.T, keyset []byte) []byte {
	t.Helper()
	var k struct {
		Key []struct{ KeyData struct{ Value string } }
	}
	require.NoError(t, json.Unmarshal(keyset, &k))
	require.Greater(t, len(k.Key[0].KeyData.Value), 40)
	return []byte(k.Key[0].KeyData.Value)
}

// A keyset or a sealer never prints a key.
func TestPrintsNoKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keyset.json")
	require.NoError(t, Create(path))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	k, err := Load(path)
	require.NoError(t, err)
	s := sealer(t, k, newMemory())
	raw := insecurecleartextkeyset.KeysetMaterial(k.handle).GetKey()[0].GetKeyData().GetValue()
	for _, v := range []any{k, *k, s} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
			out := fmt.Sprintf(verb, v)
			require.NotContains(t, out, string(material(t, b)[8:24]))
			require.NotContains(t, out, fmt.Sprintf("%x", raw[len(raw)-16:]))
		}
	}
}
