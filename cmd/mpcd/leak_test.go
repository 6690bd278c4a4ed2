package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/leaks"
)

// snapshots are the contents of the files of a folder, at several times.
type snapshots map[string][][]byte

// add adds the current contents. A file that is deleted meanwhile is skipped.
func (p snapshots) add(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil
		}
		name, _ := filepath.Rel(dir, path) // cannot fail
		p[name] = append(p[name], b)
		return err
	}))
}

// find returns the names of the files that contained a share's secrets at any time.
func (p snapshots) find(share []byte) (names []string) {
	for name, all := range p {
		for _, b := range all {
			if len(leaks.Find(b, share)) > 0 {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// TestSharesAreInNoFile searches for every client share that passes through a service, and for the backup share, in
// every file of its folder (database, its log and index, keyset, lock, log at debug level, temporary files), at every
// event of every run, and after SIGTERM and SIGKILL.
func TestSharesAreInNoFile(t *testing.T) {
	t.Parallel()
	for name, sealed := range map[string]bool{"sealed to the caller": true, "in the clear over the API": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := age.GenerateX25519Identity()
			require.NoError(t, err)
			w := &watched{t: t, dir: t.TempDir(), seen: snapshots{}}
			if sealed {
				w.key = key
			}
			shares := w.life()

			for _, file := range []string{"mpcd.db", "mpcd.db-wal", "mpcd.db-shm", "mpcd.db.lock", "mpcd.keyset",
				filepath.Base(w.svc.log.Name())} {
				require.NotEmpty(t, w.seen[file], file)
			}
			require.True(t, bytes.Contains(w.seen["mpcd.db"][len(w.seen["mpcd.db"])-1], []byte(w.wallet)),
				"what is no secret is found there")
			for i, share := range shares {
				require.Empty(t, w.seen.find(share), "share %d", i)
			}

			// Positive control: the same search finds them in a device's file.
			devices, found := t.TempDir(), snapshots{}
			for i, share := range shares {
				name := string(rune('a'+i)) + ".share"
				require.NoError(t, os.WriteFile(filepath.Join(devices, name), share, 0o600))
			}
			found.add(t, devices)
			for i, share := range shares {
				require.Equal(t, []string{string(rune('a'+i)) + ".share"}, found.find(share))
			}
		})
	}
}

// watched is a service whose folder is searched at every event.
type watched struct {
	t      *testing.T
	dir    string
	key    *age.X25519Identity // nil: shares come back in the clear
	seen   snapshots
	svc    *running
	api    *api
	wallet string
}

func (w *watched) start() {
	tmp := filepath.Join(w.dir, "tmp")
	require.NoError(w.t, os.MkdirAll(tmp, 0o700))
	svc, err := startService(w.dir, "mpcd", append(os.Environ(), "TMPDIR="+tmp), "--dev", "--log-level=debug")
	require.NoError(w.t, err)
	w.t.Cleanup(svc.kill)
	w.svc, w.api = svc, dialService(w.t, svc)
	w.api.each = func(proto.Message) { w.snapshot() }
}

func (w *watched) snapshot() { w.seen.add(w.t, w.dir) }

func (w *watched) sealTo() string {
	if w.key == nil {
		return ""
	}
	return w.key.Recipient().String()
}

// opened decrypts an outcome as a device does.
func (w *watched) opened(h held, err error) held {
	w.t.Helper()
	require.NoError(w.t, err)
	w.snapshot()
	if w.key == nil {
		return h
	}
	require.True(w.t, bytes.HasPrefix(h.share, []byte("age-encryption.org/v1\n")))
	plain, err := age.Decrypt(bytes.NewReader(h.share), w.key)
	require.NoError(w.t, err)
	h.share, err = io.ReadAll(plain)
	require.NoError(w.t, err)
	return h
}

func (w *watched) confirm(h held) held {
	w.t.Helper()
	require.NoError(w.t, w.api.confirm(w.t.Context(), h))
	w.snapshot()
	return h
}

// life creates, backs up, provisions and signs, while the service is stopped and killed in between. It returns all
// client shares.
func (w *watched) life() (shares [][]byte) {
	t, ctx := w.t, w.t.Context()
	w.start()
	first := w.confirm(w.opened(w.api.create(ctx, uuid.NewString(), w.sealTo())))
	w.wallet = first.wallet
	backup := w.confirm(w.opened(w.api.backup(ctx, first, uuid.NewString(), w.sealTo())))
	second := w.confirm(w.opened(w.api.provision(ctx, backup, uuid.NewString(), w.sealTo())))
	for _, h := range []held{first, second} {
		require.NoError(t, w.api.sign(ctx, h, uuid.NewString()))
		w.snapshot()
	}
	_, err := w.api.RevokeShareSet(ctx, &mpcdv1.RevokeShareSetRequest{WalletId: second.wallet, ShareSetId: second.set})
	require.NoError(t, err)
	require.Error(t, w.api.sign(ctx, second, uuid.NewString()))
	require.NoError(t, w.svc.stop())
	w.snapshot()

	// Killed during a run, and while its result waits.
	w.start()
	id := uuid.NewString()
	w.api.each = func(proto.Message) { w.svc.kill() }
	_, err = w.api.provision(ctx, backup, id, w.sealTo())
	require.Error(t, err)
	w.snapshot()
	w.start()
	third := w.opened(w.api.provision(ctx, backup, id, w.sealTo()))
	w.svc.kill()
	w.snapshot()
	w.start()
	require.Equal(t, third.share, w.opened(w.api.provision(ctx, backup, id, w.sealTo())).share)
	w.confirm(third)
	require.NoError(t, w.api.sign(ctx, third, uuid.NewString()))
	require.NoError(t, w.svc.stop())
	w.snapshot()
	return [][]byte{first.share, backup.share, second.share, third.share}
}
