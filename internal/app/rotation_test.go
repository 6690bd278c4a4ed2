package app_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/tss"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

// rig is a database and its keyset, on which services start and stop.
type rig struct {
	path string
	file seal.File
	svc  *app.App

	custodian session.Custodian // of the service; may be nil

	admin  string       // its address
	served func() error // ends it
}

func newRig(t *testing.T) *rig {
	dir := t.TempDir()
	r := &rig{path: filepath.Join(dir, "mpcd.db"), file: seal.File{Path: filepath.Join(dir, "keyset")}}
	require.NoError(t, r.file.Create(t.Context()))
	return r
}

func (r *rig) url() string { return "sqlite://" + r.path }

func (r *rig) keys(t *testing.T) *seal.Keyset {
	k, err := r.file.Load(t.Context())
	require.NoError(t, err)
	return k
}

func (r *rig) start(t *testing.T) {
	svc, err := app.Open(t.Context(), app.Options{
		DB: r.url(), Keyset: r.keys(t), Auth: app.DevCaller, Sessions: session.Config{ResultTTL: time.Hour},
		Pool: preparams.Config{MaxAge: time.Hour},
	}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	r.svc = svc
	var lis server.Listeners
	for _, l := range []*net.Listener{&lis.GRPC, &lis.Admin} {
		*l, err = new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	r.admin = lis.Admin.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() { end <- svc.Server.Serve(ctx, lis, time.Second) }() // ends with served
	r.served = func() error { cancel(); return <-end }
}

func (r *rig) stop(t *testing.T) { require.NoError(t, errors.Join(r.served(), r.svc.Close())) }

// change changes the keyset while no service uses it.
func (r *rig) change(t *testing.T, change func(*seal.Keyset) (*seal.Keyset, error)) {
	_, err := r.file.Change(t.Context(), change)
	require.NoError(t, err)
}

// census counts what each key sealed, as a command would while the service runs.
func (r *rig) census(t *testing.T) seal.Count {
	st, err := store.Open(t.Context(), r.url())
	require.NoError(t, err)
	defer func() { require.NoError(t, st.Close()) }()
	c, err := seal.CensusOf(t.Context(), r.keys(t), st)
	require.NoError(t, err)
	return c
}

// holds reports whether the database's files contain anything that a key sealed.
func (r *rig) holds(t *testing.T, id seal.KeyID) bool {
	prefix := binary.BigEndian.AppendUint32([]byte{1}, uint32(id))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		b, err := os.ReadFile(r.path + suffix)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		if bytes.Contains(b, prefix) {
			return true
		}
	}
	return false
}

var alice = session.Caller{Name: "alice"}

// device is a user's wallet: a confirmed SIGNING set and a BACKUP set, whose result still waits.
type device struct {
	wallet, set   string
	share, backup []byte
	pending       session.BackupRequest // the request that made the backup
}

func outcome(t *testing.T, r *session.Run, err error) *session.Outcome {
	require.NoError(t, err)
	var out *session.Outcome
	require.NoError(t, r.Follow(t.Context(), 0, 0, func(e session.Event) error {
		if e.Outcome != nil {
			out = e.Outcome
		}
		return nil
	}))
	return out
}

func (r *rig) device(t *testing.T) device {
	start := func() session.Start { return session.Start{RequestID: uuid.NewString()} }
	run, err := r.svc.Sessions.Create(t.Context(), alice,
		session.CreateRequest{Start: start(), Curves: []session.Curve{session.Ed25519}})
	out := outcome(t, run, err)
	d := device{wallet: out.WalletID, set: out.Set.ID, share: bytes.Clone(out.ClientShare.Reveal())}
	r.confirm(t, d.wallet, d.set, d.share)
	d.pending = session.BackupRequest{Start: start(), WalletID: d.wallet, SigningShare: secret.New(bytes.Clone(d.share)),
		Method: session.Custom}
	run, err = r.svc.Sessions.Backup(t.Context(), alice, d.pending)
	d.backup = bytes.Clone(outcome(t, run, err).ClientShare.Reveal())
	return d
}

func (r *rig) confirm(t *testing.T, wallet, set string, share []byte) {
	sum := sha256.Sum256(share)
	_, err := r.svc.Sessions.Confirm(t.Context(), alice, wallet, set, sum[:])
	require.NoError(t, err)
}

func (r *rig) sign(t *testing.T, d device) {
	run, err := r.svc.Sessions.Sign(t.Context(), alice, session.SignRequest{
		RequestID: uuid.NewString(), WalletID: d.wallet, SigningShare: secret.New(bytes.Clone(d.share)),
		Curve: session.Ed25519, Payload: []byte("hello"),
	})
	require.NotNil(t, outcome(t, run, err).Signature)
}

// again repeats the request for the waiting backup: that needs the MAC keyset for its fingerprint, and the row of its
// result.
func (r *rig) again(t *testing.T, d device) {
	req := d.pending
	req.SigningShare = secret.New(bytes.Clone(d.share))
	run, err := r.svc.Sessions.Backup(t.Context(), alice, req)
	out := outcome(t, run, err)
	require.Equal(t, d.backup, out.ClientShare.Reveal())
	r.confirm(t, d.wallet, out.Set.ID, d.backup)
}

func (r *rig) provision(t *testing.T, d device) {
	run, err := r.svc.Sessions.Provision(t.Context(), alice, session.ProvisionRequest{
		Start: session.Start{RequestID: uuid.NewString()}, WalletID: d.wallet, BackupShare: secret.New(bytes.Clone(d.backup)),
	})
	out := outcome(t, run, err)
	r.confirm(t, d.wallet, out.Set.ID, out.ClientShare.Reveal())
}

// fill adds sealed rows that look like pre-params, so that there are many batches.
func (r *rig) fill(t *testing.T, n int) (ids []string) {
	sealer, err := seal.New(t.Context(), r.keys(t), r.svc.Store)
	require.NoError(t, err)
	for range n {
		b := make([]byte, 900)
		_, _ = rand.Read(b) // never fails
		id := uuid.NewString()
		c, err := sealer.Seal(secret.New(b), session.PreParamsLabel(id, tss.Server))
		require.NoError(t, err)
		require.NoError(t, r.svc.Store.AddPreParams(t.Context(), id, tss.Server, c, time.Now()))
		ids = append(ids, id)
	}
	return ids
}

func (r *rig) metric(t *testing.T) int {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.admin+"/metrics", nil)
	require.NoError(t, err)
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	require.NoError(t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(t, errors.Join(err, res.Body.Close()))
	_, after, ok := bytes.Cut(b, []byte("\nmpcd_reseal_rows_left "))
	require.True(t, ok, string(b))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	n, err := strconv.Atoi(string(line))
	require.NoError(t, err)
	return n
}

// dies is a store that calls stop after some batches and does not write the current one.
type dies struct {
	*store.Store
	batches int
	stop    context.CancelFunc
}

func (d *dies) Reseal(ctx context.Context, kind string, rows []session.SealedRow, to [][]byte) (int, error) {
	if d.batches--; d.batches < 0 {
		d.stop()
	}
	return d.Store.Reseal(ctx, kind, rows, to)
}

// A database with rows of every kind is rotated to a new key, stopped half way, with runs meanwhile, and the old key
// is destroyed afterwards. Everything still decrypts, and nothing that the old key sealed is left in the files.
func TestRotation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(t)
	devices := []device{r.device(t), r.device(t), r.device(t)}
	r.sign(t, devices[0])
	ids := r.fill(t, 350)
	require.Zero(t, r.metric(t))
	r.stop(t)
	old := r.keys(t).Keys()[0].ID
	before := r.census(t)
	for _, kind := range session.SealedKinds() {
		require.NotZero(t, before[old][kind], kind)
	}
	require.True(t, r.holds(t, old), "the control")

	r.change(t, (*seal.Keyset).Rotated)
	primary := r.keys(t).Keys()[1].ID
	total := before.Total()
	require.Equal(t, total, r.census(t).Of(old))
	require.ErrorContains(t, r.census(t).Unneeded(old), `350 of kind "pre-params"`)

	for left := total; left > 350-250; { // resealing continues where it was stopped
		st, err := store.Open(t.Context(), r.url())
		require.NoError(t, err)
		sealer, err := seal.New(t.Context(), r.keys(t), st)
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		re := seal.NewResealer(sealer, &dies{st, 2, stop}, slog.New(slog.DiscardHandler))
		re.Run(ctx)
		require.NoError(t, st.Close())
		now := r.census(t)
		require.Equal(t, total, now.Total())
		require.Less(t, now.Of(old), left)
		require.Equal(t, int64(now.Of(old)), re.Left())
		left = now.Of(old)
	}
	require.NotZero(t, r.census(t).Of(primary))

	r.start(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, d := range devices {
		wg.Go(func() {
			for {
				r.sign(t, d)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	wg.Go(func() { r.again(t, devices[0]); r.provision(t, devices[0]) })
	require.Eventually(t, func() bool { return r.census(t).Of(old) == 0 }, time.Minute, 20*time.Millisecond)
	close(stop)
	wg.Wait()
	require.Zero(t, r.metric(t))
	require.False(t, r.holds(t, old), "while the service runs")
	r.stop(t)
	require.False(t, r.holds(t, old))
	require.NoError(t, r.census(t).Unneeded(old))

	r.change(t, func(k *seal.Keyset) (*seal.Keyset, error) { return k.Disabled(old) })
	r.change(t, func(k *seal.Keyset) (*seal.Keyset, error) { return k.Destroyed(old) })
	r.start(t)
	defer r.stop(t)
	for i, d := range devices {
		r.sign(t, d)
		if i > 0 {
			r.again(t, d)
		}
		r.provision(t, d)
	}
	r.opens(t, ids)
	lines, err := r.svc.Store.Audit(t.Context(), "")
	require.NoError(t, err)
	var begun, ended int
	for _, l := range lines {
		begun += map[string]int{"keyset.reseal.begin": 1}[l.Action]
		ended += map[string]int{"keyset.reseal.end": 1}[l.Action]
	}
	require.Greater(t, begun, ended, "some were interrupted")
	require.Positive(t, ended)
	_, _, err = r.svc.Store.VerifyAudit(t.Context())
	require.NoError(t, err)
}

// opens decrypts the rows that fill added, and checks that there are no others.
func (r *rig) opens(t *testing.T, ids []string) {
	sealer, err := seal.New(t.Context(), r.keys(t), r.svc.Store)
	require.NoError(t, err)
	for range ids {
		id, c, err := r.svc.Store.ClaimPreParams(t.Context(), tss.Server, time.Time{})
		require.NoError(t, err)
		require.Contains(t, ids, id)
		p, err := sealer.Open(c, session.PreParamsLabel(id, tss.Server))
		require.NoError(t, err)
		require.Equal(t, 900, p.Len())
	}
}

// A row that does not decrypt is skipped, and prevents its key from being disabled; the others are resealed.
func TestRotationWithADamagedRow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(t)
	r.fill(t, 3)
	rows, err := r.svc.Store.SealedRows(t.Context(), session.KindPreParams, 0, 1)
	require.NoError(t, err)
	bad := bytes.Clone(rows[0].Ciphertext)
	bad[100] ^= 1
	n, err := r.svc.Store.Reseal(t.Context(), session.KindPreParams, rows, [][]byte{bad})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	r.stop(t)
	old := r.keys(t).Keys()[0].ID
	r.change(t, (*seal.Keyset).Rotated)
	r.start(t)
	defer r.stop(t)
	require.Eventually(t, func() bool { return r.census(t).Of(old) == 1 }, time.Minute, 20*time.Millisecond)
	require.ErrorContains(t, r.census(t).Unneeded(old), `1 rows are still sealed under key`)
	got, err := r.svc.Store.SealedRows(t.Context(), session.KindPreParams, 0, 1)
	require.NoError(t, err)
	require.Equal(t, bad, got[0].Ciphertext)
}

// A census fails for a database of another keyset, or one without any.
func TestCensusOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	st, err := store.Open(t.Context(), r.url())
	require.NoError(t, err)
	defer func() { require.NoError(t, st.Close()) }()
	_, err = seal.CensusOf(t.Context(), r.keys(t), st)
	require.ErrorContains(t, err, "no service has used the database yet")
	value, err := st.Meta(t.Context(), "mac keyset")
	require.NoError(t, err)
	require.Nil(t, value, "the census created a keyset")
	other, err := seal.Ephemeral()
	require.NoError(t, err)
	_, err = seal.New(t.Context(), other, st)
	require.NoError(t, err)
	_, err = seal.CensusOf(t.Context(), r.keys(t), st)
	require.ErrorIs(t, err, seal.ErrOtherKeyset)
	require.ErrorContains(t, err, "one that has key "+other.Keys()[0].ID.String())
}
