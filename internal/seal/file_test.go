package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/mpcd/mpcd/internal/secret"
)

// local is a Wrapper with its own key. Package kms tests the real ones.
type local struct {
	sealer *Sealer
	err    error
}

func newLocal(t testing.TB) *local {
	k, err := Ephemeral()
	require.NoError(t, err)
	s, err := New(t.Context(), k, newMemory())
	require.NoError(t, err)
	return &local{sealer: s}
}

func (l *local) Wrap(_ context.Context, plaintext, label []byte) ([]byte, error) {
	if l.err != nil {
		return nil, l.err
	}
	return l.sealer.aead.Encrypt(plaintext, label)
}

func (l *local) Unwrap(_ context.Context, ciphertext, label []byte) ([]byte, error) {
	if l.err != nil {
		return nil, l.err
	}
	p, err := l.sealer.aead.Decrypt(ciphertext, label)
	if err != nil {
		return nil, errors.New("the KMS does not open it")
	}
	return p, nil
}

func newFile(t testing.TB, kms Wrapper) File {
	f := File{Path: filepath.Join(t.TempDir(), "keyset.json"), KMS: kms}
	require.NoError(t, f.Create(t.Context()))
	return f
}

func rotate(t testing.TB, f File) *Keyset {
	k, err := f.Change(t.Context(), (*Keyset).Rotated)
	require.NoError(t, err)
	return k
}

// Every change keeps what is sealed readable, with and without a KMS.
func TestKeysetLifecycle(t *testing.T) {
	t.Parallel()
	for name, kms := range map[string]Wrapper{"clear": nil, "wrapped": newLocal(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, meta := newFile(t, kms), newMemory()
			k, err := f.Load(t.Context())
			require.NoError(t, err)
			first := k.Keys()
			require.Len(t, first, 1)
			require.Equal(t, Key{first[0].ID, true, true}, first[0])
			c := sealed(t, sealer(t, k, meta))
			id, ok := sealedUnder(c)
			require.True(t, ok)
			require.Equal(t, first[0].ID, id)

			rotated := rotate(t, f)
			k, err = f.Load(t.Context())
			require.NoError(t, err)
			require.Equal(t, rotated.Keys(), k.Keys())
			require.Len(t, k.Keys(), 2)
			require.Equal(t, Key{first[0].ID, false, true}, k.Keys()[0])
			require.True(t, k.Keys()[1].Primary)
			requireOpens(t, sealer(t, k, meta), c)
			next, _ := sealedUnder(sealed(t, sealer(t, k, meta)))
			require.Equal(t, k.Keys()[1].ID, next)

			off, err := f.Change(t.Context(), func(k *Keyset) (*Keyset, error) { return k.Disabled(id) })
			require.NoError(t, err)
			require.Equal(t, Key{id, false, false}, off.Keys()[0])
			_, err = New(t.Context(), off, meta) // its MAC keyset was not resealed
			require.ErrorIs(t, err, ErrOtherKeyset)
			require.ErrorContains(t, err, fmt.Sprintf("key %v is disabled in this one: enable it", id))
			requireShut(t, sealer(t, off, newMemory()), c, label)

			on, err := f.Change(t.Context(), func(k *Keyset) (*Keyset, error) { return k.Enabled(id) })
			require.NoError(t, err)
			requireOpens(t, sealer(t, on, meta), c)

			for _, change := range []func(*Keyset) (*Keyset, error){
				func(k *Keyset) (*Keyset, error) { return k.Disabled(id) },
				func(k *Keyset) (*Keyset, error) { return k.Destroyed(id) },
			} {
				_, err = f.Change(t.Context(), change)
				require.NoError(t, err)
			}
			k, err = f.Load(t.Context())
			require.NoError(t, err)
			require.Len(t, k.Keys(), 1)
			_, err = New(t.Context(), k, meta)
			require.ErrorContains(t, err, fmt.Sprintf("one that has key %v: name that keyset", id))
			info, err := os.Stat(f.Path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode())
			there, err := os.ReadDir(filepath.Dir(f.Path))
			require.NoError(t, err)
			require.Len(t, there, 1, "a file was left behind")
		})
	}
}

func TestChangesThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFile(t, nil)
	old := rotate(t, f).Keys()[0].ID
	k := rotate(t, f)
	before, err := os.ReadFile(f.Path)
	require.NoError(t, err)
	primary := k.primary()
	for name, c := range map[string]struct {
		change func(*Keyset) (*Keyset, error)
		want   string
	}{
		"disable the primary": {func(k *Keyset) (*Keyset, error) { return k.Disabled(primary) }, "is the primary key, which seals: rotate first"},
		"destroy the primary": {func(k *Keyset) (*Keyset, error) { return k.Destroyed(primary) }, "is the primary key"},
		"destroy an enabled":  {func(k *Keyset) (*Keyset, error) { return k.Destroyed(old) }, "disable it first"},
		"enable an enabled":   {func(k *Keyset) (*Keyset, error) { return k.Enabled(old) }, "is enabled already"},
		"disable another's":   {func(k *Keyset) (*Keyset, error) { return k.Disabled(old + 1) }, "has no key"},
	} {
		_, err := f.Change(t.Context(), c.change)
		require.ErrorContains(t, err, c.want, name)
	}
	after, err := os.ReadFile(f.Path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// A wrapped file contains no key in the clear, opens only with its KMS, and is not confused with an unwrapped one.
func TestWrappedFile(t *testing.T) {
	t.Parallel()
	kms := newLocal(t)
	f := newFile(t, kms)
	k, err := f.Load(t.Context())
	require.NoError(t, err)
	var plain bytes.Buffer
	require.NoError(t, insecurecleartextkeyset.Write(k.handle, keyset.NewJSONWriter(&plain)))
	b, err := os.ReadFile(f.Path)
	require.NoError(t, err)
	require.NotContains(t, string(b), string(material(t, plain.Bytes())[:20]))

	_, err = Load(f.Path)
	require.ErrorContains(t, err, "a KMS wraps it: name the key with --keyset-kms")
	_, err = File{newFile(t, nil).Path, kms}.Load(t.Context())
	require.ErrorContains(t, err, "holds its keys in the clear")
	_, err = File{f.Path, newLocal(t)}.Load(t.Context())
	require.ErrorContains(t, err, "the KMS does not open it")
	_, err = File{f.Path, &local{err: errors.New("the KMS is down")}}.Load(t.Context())
	require.ErrorContains(t, err, "the KMS is down")
	require.ErrorContains(t, err, f.Path)
	down := File{filepath.Join(t.TempDir(), "new"), &local{err: errors.New("the KMS is down")}}
	require.ErrorContains(t, down.Create(t.Context()), "the KMS is down")
	require.NoFileExists(t, down.Path)
	for n := 1; n < len(b); n += 5 {
		require.NoError(t, os.WriteFile(f.Path, b[:n], 0o600))
		_, err = f.Load(t.Context())
		require.ErrorContains(t, err, "it is cut off", "%d of %d", n, len(b))
	}
	// Another program's keyset under the same KMS key.
	var other bytes.Buffer
	require.NoError(t, k.handle.WriteWithAssociatedData(keyset.NewJSONWriter(&other), kms.sealer.aead, []byte("backup 1")))
	require.NoError(t, os.WriteFile(f.Path, other.Bytes(), 0o600))
	_, err = f.Load(t.Context())
	require.ErrorContains(t, err, "the KMS does not open it")
}

// A change that fails half way leaves the file as it was, and one that was killed does not block the next.
func TestChangeIsAtomic(t *testing.T) {
	t.Parallel()
	kms := newLocal(t)
	f := newFile(t, kms)
	before, err := os.ReadFile(f.Path)
	require.NoError(t, err)
	_, err = f.Change(t.Context(), func(k *Keyset) (*Keyset, error) {
		kms.err = errors.New("the KMS is down")
		return k.Rotated()
	})
	require.ErrorContains(t, err, "the KMS is down")
	kms.err = nil
	after, err := os.ReadFile(f.Path)
	require.NoError(t, err)
	require.Equal(t, before, after)

	require.NoError(t, os.WriteFile(f.Path+".new", before[:10], 0o600))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(f.Path, link))
	k := rotate(t, File{link, kms})
	target, err := os.Readlink(link)
	require.NoError(t, err)
	require.Equal(t, f.Path, target, "the link was replaced")
	got, err := f.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, k.Keys(), got.Keys())
	require.NoFileExists(t, f.Path+".new")
}

// Concurrent rotations each either add their key or report that they did not, and concurrent readers always see a
// whole keyset.
func TestConcurrentRotation(t *testing.T) {
	t.Parallel()
	f := newFile(t, nil)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards added
	added := map[KeyID]bool{}
	for range 8 {
		wg.Go(func() {
			for range 10 {
				k, err := f.Change(t.Context(), (*Keyset).Rotated)
				if err != nil {
					if !strings.Contains(err.Error(), "another `mpcd keyset` is changing it") {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				added[k.primary()] = true
				mu.Unlock()
			}
		})
		wg.Go(func() {
			for range 20 {
				if _, err := f.Load(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	k, err := f.Load(t.Context())
	require.NoError(t, err)
	require.Len(t, k.Keys(), len(added)+1)
	for id := range added {
		_, ok := k.key(id)
		require.True(t, ok)
	}
}

// The lock is on the directory and blocks other holders in any process: flock locks belong to open files, not to
// processes.
func TestChangeIsLocked(t *testing.T) {
	t.Parallel()
	f := newFile(t, nil)
	unlock, err := lockDir(filepath.Dir(f.Path))
	require.NoError(t, err)
	_, err = f.Change(t.Context(), (*Keyset).Rotated)
	require.ErrorContains(t, err, "another `mpcd keyset` is changing it")
	unlock()
	rotate(t, f)
}

// asNobody is set for a child that runs as another user than the owner of its files.
const asNobody = "MPCD_TEST_KEYSET_DIR"

// Kubernetes mounts secrets that belong to root and are readable by the pod's group. If the reader owns the file, or
// is root, group access is rejected.
func TestModeForAnotherOwner(t *testing.T) {
	t.Parallel()
	if dir, ok := os.LookupEnv(asNobody); ok {
		for mode, fine := range map[string]bool{"0440": true, "0400": false, "0460": false, "0444": false, "0450": false, "0640": true} {
			_, err := Load(filepath.Join(dir, mode))
			require.Equal(t, fine, err == nil, "%s: %v", mode, err)
		}
		_, err := File{Path: filepath.Join(dir, "0440")}.Change(t.Context(), (*Keyset).Rotated)
		require.ErrorIs(t, err, os.ErrPermission)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of another user's")
	}
	dir, err := os.MkdirTemp("", "mpcd") //nolint:usetesting // user nobody cannot read t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, mode := range []os.FileMode{0o440, 0o400, 0o460, 0o444, 0o450, 0o640} {
		path := filepath.Join(dir, fmt.Sprintf("%04o", mode))
		require.NoError(t, Create(path))
		require.NoError(t, os.Chown(path, 0, 65534))
		require.NoError(t, os.Chmod(path, mode))
		_, err := Load(path) // the owner
		require.Equal(t, mode == 0o400, err == nil, "%o", mode)
	}
	binary, err := os.Executable()
	require.NoError(t, err)
	b, err := os.ReadFile(binary)
	require.NoError(t, err)
	copied := filepath.Join(dir, "test") // user nobody cannot read go test's own directory
	require.NoError(t, os.WriteFile(copied, b, 0o755))
	cmd := exec.CommandContext(t.Context(), copied, "-test.run=^TestModeForAnotherOwner$")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), asNobody+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// If root changes a keyset, the file keeps its owner.
func TestChangeKeepsTheOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of another user's")
	}
	f := newFile(t, nil)
	require.NoError(t, os.Chown(f.Path, 65534, 65533))
	require.NoError(t, os.Chmod(f.Path, 0o400))
	rotate(t, f)
	info, err := os.Stat(f.Path)
	require.NoError(t, err)
	owner, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	require.Equal(t, []uint32{65534, 65533}, []uint32{owner.Uid, owner.Gid})
	require.Equal(t, os.FileMode(0o400), info.Mode())
}

func TestKeyIDs(t *testing.T) {
	t.Parallel()
	var id KeyID
	require.NoError(t, id.UnmarshalText([]byte("00abcdef")))
	require.Equal(t, "00abcdef", id.String())
	for _, bad := range []string{"", "1", "abcdefg0", "0x123456", "123456789", "-1234567"} {
		require.Error(t, id.UnmarshalText([]byte(bad)), bad)
	}
}

// FuzzKeyset fuzzes the parser of keyset files: an accepted keyset seals and opens, and survives writing and reading.
func FuzzKeyset(f *testing.F) {
	kms := newLocal(f)
	for _, w := range []Wrapper{nil, kms} {
		file := File{KMS: w}
		k, err := Ephemeral()
		require.NoError(f, err)
		for range 2 {
			b, err := file.encode(f.Context(), k)
			require.NoError(f, err)
			f.Add(b, w != nil)
			k, err = k.Rotated()
			require.NoError(f, err)
		}
	}
	mac, err := keyset.NewHandle(aead.AES128GCMKeyTemplate())
	require.NoError(f, err)
	var b bytes.Buffer
	require.NoError(f, insecurecleartextkeyset.Write(mac, keyset.NewJSONWriter(&b)))
	f.Add(b.Bytes(), false)
	f.Fuzz(func(t *testing.T, b []byte, wrapped bool) {
		file := File{}
		if wrapped {
			file.KMS = kms
		}
		k, err := file.parse(t.Context(), b)
		if err != nil {
			return
		}
		s, err := New(t.Context(), k, newMemory())
		require.NoError(t, err)
		c, err := s.Seal(secret.New([]byte(plain)), label)
		require.NoError(t, err)
		requireOpens(t, s, c)
		id, ok := sealedUnder(c)
		require.True(t, ok)
		require.Equal(t, k.primary(), id)
		again, err := file.encode(t.Context(), k)
		require.NoError(t, err)
		same, err := file.parse(t.Context(), again)
		require.NoError(t, err)
		require.Equal(t, k.Keys(), same.Keys())
	})
}
