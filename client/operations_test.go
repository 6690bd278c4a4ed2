package client_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mpcd/mpcd/client"
	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
)

// tss-lib's logger starts a goroutine when it is loaded.
func TestMain(m *testing.M) { goleak.VerifyTestMain(settled{m}, goleak.IgnoreCurrent()) }

// settled waits until cancelled device-held runs have ended: tss-lib cannot be interrupted.
type settled struct{ *testing.M }

func (s settled) Run() int {
	code := s.M.Run()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("/tss-lib/")) {
			break
		}
	}
	return code
}

const password = "correct horse battery staple"

// newClient returns a client whose store records its calls in the fake, in order with the RPCs.
func newClient(t testing.TB, f *fake, conn grpc.ClientConnInterface, opts ...client.Option) *client.Client {
	t.Helper()
	store := client.WithStore(func(context.Context, *client.Share) error {
		f.note("store")
		return nil
	})
	c, err := client.New(conn, append([]client.Option{store, client.WithCurves(client.CurveEd25519)}, opts...)...)
	require.NoError(t, err)
	require.NoError(t, c.SetPassword(password))
	c.SetWorkFactor(10)
	return c
}

// backedUp returns a wallet's first share and a confirmed PASSWORD backup.
func backedUp(t testing.TB, c *client.Client) (*client.Share, *client.Backup) {
	t.Helper()
	share, err := c.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	backup, err := c.BackupWallet(t.Context(), share, client.MethodPassword, nil)
	require.NoError(t, err)
	require.NoError(t, c.ConfirmBackup(t.Context(), backup, backup.CipherText))
	return share, backup
}

// Create, back up, provision a second device, and sign with both.
func TestLife(t *testing.T) {
	f, conn := newFake(t)
	first := newClient(t, f, conn, client.WithDisplayName("first"), client.WithOwner("alice"))
	one, backup := backedUp(t, first)

	second := newClient(t, f, conn, client.WithDisplayName("second"))
	two, err := second.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, nil)
	require.NoError(t, err)
	require.Equal(t, one.WalletID(), two.WalletID())
	require.NotEqual(t, one.ShareSetID(), two.ShareSetID())
	require.Equal(t, client.PurposeSigning, two.Purpose())
	require.Equal(t, []client.Curve{client.CurveEd25519}, two.Curves())
	require.Equal(t, []string{
		"CreateWallet", "store", "ConfirmShareSet", "BackupWallet", "ConfirmShareSet", "ProvisionWallet", "store", "ConfirmShareSet",
	}, f.seen(), "a share is stored before it is confirmed")

	w, err := first.GetWallet(t.Context(), one.WalletID())
	require.NoError(t, err)
	require.Equal(t, "alice", w.Owner)
	require.Len(t, w.ShareSets, 3)
	require.Equal(t, client.ShareSet{
		ID: backup.ShareSetID, Purpose: client.PurposeBackup, Method: client.MethodPassword, State: client.StateActive,
		ParentID: one.ShareSetID(), DisplayName: "first",
	}, *w.ShareSet(backup.ShareSetID))
	require.Equal(t, "second", w.ShareSet(two.ShareSetID()).DisplayName)
	require.Nil(t, w.ShareSet("another"))

	loaded, err := client.ParseShare(one.Bytes())
	require.NoError(t, err)
	for _, share := range []*client.Share{loaded, two} {
		sig, err := second.Sign(t.Context(), share, client.CurveEd25519, []byte("message"))
		require.NoError(t, err)
		require.Len(t, sig.Bytes, 64)
		require.Equal(t, share.ShareSetID(), sig.ShareSetID)
		require.Equal(t, w.PublicKeys[0].Bytes, sig.PublicKey)
	}
}

// Each run has a request id and a key of its own.
func TestTickets(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	_, backup := backedUp(t, c)
	_, err := c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, nil)
	require.NoError(t, err)
	require.Len(t, f.tickets, 3)
	ids, keys := map[string]bool{}, map[string]bool{}
	for _, ticket := range f.tickets {
		require.NoError(t, uuid.Validate(ticket.requestID))
		_, err := age.ParseX25519Recipient(ticket.sealTo)
		require.NoError(t, err)
		ids[ticket.requestID], keys[ticket.sealTo] = true, true
	}
	require.Len(t, ids, 3)
	require.Len(t, keys, 3)
}

// gather returns a ProgressFunc and what it was told.
func gather() (client.ProgressFunc, *[]client.Progress) {
	var all []client.Progress
	return func(p client.Progress) { all = append(all, p) }, &all
}

// steps returns the statuses, each run of equal ones once.
func steps(all []client.Progress) []string {
	var out []string
	for _, p := range all {
		out = append(out, p.Status)
	}
	return slices.Compact(out)
}

func requireProgress(t *testing.T, all []client.Progress, operation string) {
	t.Helper()
	for i, p := range all {
		require.Equal(t, operation, p.Operation)
		require.Equal(t, i == len(all)-1, p.Done, "only the last step is done")
		if i > 0 {
			require.GreaterOrEqual(t, p.Percent, all[i-1].Percent)
			require.GreaterOrEqual(t, p.Elapsed, all[i-1].Elapsed)
			require.GreaterOrEqual(t, p.Sequence, all[i-1].Sequence)
		}
	}
	require.Equal(t, client.StatusDone, all[len(all)-1].Status)
	require.EqualValues(t, 100, all[len(all)-1].Percent)
}

// Statuses come in the order of docs/SDK.md.
func TestProgress(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	onProgress, create := gather()
	share, err := c.CreateWallet(t.Context(), onProgress)
	require.NoError(t, err)
	requireProgress(t, *create, "create")
	require.Equal(t, []string{"Queued", "Reading share", "Parsing share", "Generating share", "Storing share", "Done"}, steps(*create))

	onProgress, backing := gather()
	backup, err := c.BackupWallet(t.Context(), share, client.MethodPassword, onProgress)
	require.NoError(t, err)
	require.Equal(t, "Storing share", (*backing)[len(*backing)-1].Status)
	require.ErrorIs(t, c.ConfirmBackup(t.Context(), backup, ""), client.ErrBackupNotStored)
	require.Equal(t, "Storing share", (*backing)[len(*backing)-1].Status)
	require.NoError(t, c.ConfirmBackup(t.Context(), backup, backup.CipherText))
	requireProgress(t, *backing, "backup")
	require.Equal(t, []string{
		"Queued", "Reading share", "Parsing share", "Generating share", "Encrypting share", "Storing share", "Done",
	}, steps(*backing))

	onProgress, provision := gather()
	_, err = c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, onProgress)
	require.NoError(t, err)
	requireProgress(t, *provision, "provision")
	require.Equal(t, []string{
		"Reading share", "Decrypting share", "Queued", "Reading share", "Parsing share", "Generating share", "Storing share", "Done",
	}, steps(*provision))
	i := slices.IndexFunc(*provision, func(p client.Progress) bool { return p.Status == "Generating share" })
	p := (*provision)[i]
	p.Elapsed = 0
	require.Equal(t, client.Progress{
		Status: "Generating share", Percent: 14, Operation: "provision", Curve: "ED25519", Round: 1, Rounds: 5,
		SessionID: "session", Sequence: 4, Attempt: 1,
	}, p)
}

// With unusual streams too, the percentage never falls, only the last step is done, and a missing outcome is an error.
func TestOddStreams(t *testing.T) {
	aborted := refusal(codes.Aborted, "PROTOCOL_ABORTED", "the protocol was aborted")
	for name, tc := range map[string]struct {
		lie  func([]sent) []sent
		want error
	}{
		"percent falls": {lie: func(evs []sent) []sent {
			evs[4].progress.Percent = 3
			return evs
		}},
		"percent beyond 100": {lie: func(evs []sent) []sent {
			evs[2].progress.Percent = 4_000_000_000
			return evs
		}},
		"done before the end": {lie: func(evs []sent) []sent {
			evs[1].progress.Done = true
			return evs
		}},
		"no progress at all": {lie: func(evs []sent) []sent { return evs[7:] }},
		"an unknown status": {lie: func(evs []sent) []sent {
			evs[2].progress.Status = 99
			return evs
		}},
		"a message after the outcome": {lie: func(evs []sent) []sent { return append(evs, evs[1]) }},
		"an error after the outcome":  {lie: func(evs []sent) []sent { return append(evs, sent{err: aborted}) }},
		"no outcome":                  {lie: func(evs []sent) []sent { return evs[:7] }, want: client.ErrNoOutcome},
		"nothing":                     {lie: func([]sent) []sent { return nil }, want: client.ErrNoOutcome},
		"an error on the way": {lie: func(evs []sent) []sent {
			evs[4] = sent{err: aborted}
			return evs
		}, want: &client.Error{}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // no outcome: it tries for minutes
				f, conn := newFake(t)
				f.lieEvents = tc.lie
				onProgress, all := gather()
				share, err := newClient(t, f, conn).CreateWallet(t.Context(), onProgress)
				if tc.want == nil {
					require.NoError(t, err)
					requireProgress(t, *all, "create")
					return
				}
				require.Nil(t, share)
				require.NotContains(t, f.seen(), "store")
				require.NotContains(t, f.seen(), "ConfirmShareSet")
				require.False(t, slices.ContainsFunc(*all, func(p client.Progress) bool { return p.Done }))
				var e *client.Error
				if !errors.As(tc.want, &e) {
					require.ErrorIs(t, err, tc.want)
					return
				}
				require.ErrorAs(t, err, &e)
				require.Equal(t, codes.Aborted, e.Code)
				require.Equal(t, codes.Aborted, status.Code(err))
				require.Equal(t, "PROTOCOL_ABORTED", client.Reason(err))
				require.Equal(t, map[string]string{"round": "3"}, e.Metadata)
				require.Zero(t, e.RetryAfter)
				require.EqualError(t, err, "the protocol was aborted (PROTOCOL_ABORTED)")
			})
		})
	}
}

// If the outcome does not match the request, nothing is stored or confirmed.
func TestLyingOutcomes(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, backup := backedUp(t, c)
	for name, lie := range map[string]func(*made){
		"another wallet's share": func(m *made) { m.share.WalletID = uuid.NewString() },
		"another wallet": func(m *made) {
			m.walletID = uuid.NewString()
			m.share.WalletID = m.walletID
		},
		"another set's share": func(m *made) { m.share.ShareSetID = uuid.NewString() },
		"the source's share set": func(m *made) {
			if m.set.GetParentShareSetId() == "" {
				m.seal = sealedToAnother // a new wallet's first set has no source
				return
			}
			m.set.ShareSetId, m.share.ShareSetID = m.set.GetParentShareSetId(), m.set.GetParentShareSetId()
		},
		"a share of another purpose": func(m *made) { m.share.Purpose = 3 - m.share.Purpose },
		"a set and share of another purpose": func(m *made) {
			m.share.Purpose = 3 - m.share.Purpose
			m.set.Purpose = 3 - m.set.GetPurpose()
		},
		"a set of another purpose than its share": func(m *made) { m.set.Purpose = 3 - m.set.GetPurpose() },
		"the service's own share":                 func(m *made) { m.share.Party = tss.Server },
		"another backup method":                   func(m *made) { m.set.BackupMethod = mpcdv1.BackupMethod_BACKUP_METHOD_CUSTOM },
		"made from another set":                   func(m *made) { m.set.ParentShareSetId = uuid.NewString() },
		"no share":                                func(m *made) { m.seal = func([]byte, string) []byte { return nil } },
		"the share in the clear":                  func(m *made) { m.seal = func(share []byte, _ string) []byte { return share } },
		"sealed to another key":                   func(m *made) { m.seal = sealedToAnother },
		"no share in the sealed":                  func(m *made) { m.seal = func(_ []byte, to string) []byte { return sealed([]byte("no share"), to) } },
		"far too much in the sealed":              func(m *made) { m.seal = func(_ []byte, to string) []byte { return sealed(make([]byte, 1<<20), to) } },
		"a share that was cut short": func(m *made) {
			m.seal = func(share []byte, to string) []byte { return sealed(share[:len(share)-1], to) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			f.calls, f.lieMade = nil, lie
			_, err := c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, nil)
			require.ErrorIs(t, err, client.ErrBadAnswer)
			_, err = c.BackupWallet(t.Context(), share, client.MethodPassword, nil)
			require.ErrorIs(t, err, client.ErrBadAnswer)
			if name != "another wallet" { // a new wallet has any id
				_, err = c.CreateWallet(t.Context(), nil)
				require.ErrorIs(t, err, client.ErrBadAnswer)
			}
			for _, call := range f.seen() {
				require.Contains(t, []string{"CreateWallet", "BackupWallet", "ProvisionWallet"}, call)
			}
		})
	}
}

func sealedToAnother(share []byte, _ string) []byte {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil
	}
	return sealed(share, key.Recipient().String())
}

// A wallet that lacks a requested curve is rejected.
func TestLyingCurves(t *testing.T) {
	f, conn := newFake(t) // makes ED25519 keys only
	c := newClient(t, f, conn, client.WithCurves())
	_, err := c.CreateWallet(t.Context(), nil)
	require.ErrorIs(t, err, client.ErrBadAnswer)
	require.Equal(t, []string{"CreateWallet"}, f.seen())
}

func TestLyingWallets(t *testing.T) {
	for name, lie := range map[string]func(*mpcdv1.Wallet){
		"another wallet": func(w *mpcdv1.Wallet) { w.WalletId = uuid.NewString() },
		"another key":    func(w *mpcdv1.Wallet) { w.PublicKeys[0].PublicKey = make([]byte, 32) },
		"not confirmed": func(w *mpcdv1.Wallet) {
			for _, s := range w.GetShareSets() {
				s.State = mpcdv1.ShareSetState_SHARE_SET_STATE_PENDING
			}
		},
		"no share set": func(w *mpcdv1.Wallet) { w.ShareSets = nil },
	} {
		t.Run(name, func(t *testing.T) {
			f, conn := newFake(t)
			c := newClient(t, f, conn)
			share, backup := backedUp(t, c)
			f.lieWallet = lie
			got, err := c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, nil)
			require.ErrorIs(t, err, client.ErrBadAnswer)
			require.ErrorIs(t, err, client.ErrNotConfirmed)
			require.NotNil(t, got, "the share is stored, so it must be returned")
			_, err = c.Revoke(t.Context(), share.WalletID(), share.ShareSetID())
			require.ErrorIs(t, err, client.ErrBadAnswer)
		})
	}
}

// Without a store for the new share, no run is started.
func TestNoStore(t *testing.T) {
	f, conn := newFake(t)
	_, backup := backedUp(t, newClient(t, f, conn))
	before := len(f.seen())
	c := newClient(t, f, conn, client.WithStore(nil))
	_, err := c.CreateWallet(t.Context(), nil)
	require.ErrorIs(t, err, client.ErrNoStore)
	_, err = c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, nil)
	require.ErrorIs(t, err, client.ErrNoStore)
	_, err = c.RecoverWallet(t.Context(), backup.CipherText, client.MethodPassword, nil, nil)
	require.ErrorIs(t, err, client.ErrNoStore)
	require.Len(t, f.seen(), before)
}

// A share that could not be stored is never confirmed.
func TestStoreFails(t *testing.T) {
	f, conn := newFake(t)
	full := errors.New("the disk is full")
	c := newClient(t, f, conn, client.WithStore(func(context.Context, *client.Share) error { return full }))
	onProgress, all := gather()
	share, err := c.CreateWallet(t.Context(), onProgress)
	require.ErrorIs(t, err, client.ErrNotStored)
	require.ErrorIs(t, err, full)
	require.Nil(t, share)
	require.Equal(t, []string{"CreateWallet"}, f.seen())
	require.Equal(t, client.StatusStoring, (*all)[len(*all)-1].Status)
}

// A store that wipes what it was given does not spoil the confirmation.
func TestStoreWipes(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn, client.WithStore(func(_ context.Context, s *client.Share) error {
		s.Wipe()
		return nil
	}))
	_, err := c.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
}

// If the confirmation fails, the stored share is returned, and can be confirmed later.
func TestConfirmFails(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	f.fail["ConfirmShareSet"] = status.Error(codes.Unavailable, "connection lost")
	onProgress, all := gather()
	share, err := c.CreateWallet(t.Context(), onProgress)
	require.ErrorIs(t, err, client.ErrNotConfirmed)
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Empty(t, client.Reason(err))
	require.NotNil(t, share)
	require.False(t, (*all)[len(*all)-1].Done)

	delete(f.fail, "ConfirmShareSet")
	loaded, err := client.ParseShare(share.Bytes())
	require.NoError(t, err)
	for range 2 {
		w, err := c.Confirm(t.Context(), loaded)
		require.NoError(t, err)
		require.Equal(t, client.StateActive, w.ShareSet(share.ShareSetID()).State)
	}
	_, err = c.Confirm(t.Context(), nil)
	require.ErrorIs(t, err, client.ErrWrongShare)
}

func TestContext(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	_, backup := backedUp(t, c)
	before := len(f.seen())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.CreateWallet(ctx, nil)
	require.ErrorIs(t, err, context.Canceled)
	_, err = c.ProvisionWallet(ctx, backup.CipherText, client.MethodPassword, nil)
	require.ErrorIs(t, err, context.Canceled)
	ctx, cancel = context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	_, err = c.GetWallet(ctx, backup.WalletID)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, f.seen(), before)
}

// An app may cancel in its progress callback, for example when the user presses a button.
func TestCancelInProgress(t *testing.T) {
	f, conn := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	blocked := make(chan struct{})
	f.lieEvents = func(evs []sent) []sent { return evs[:4] }
	_, err := newClient(t, f, conn).CreateWallet(ctx, func(p client.Progress) {
		if p.Status == client.StatusGenerating {
			cancel()
			close(blocked)
		}
	})
	<-blocked
	require.Error(t, err)
	require.NotContains(t, f.seen(), "ConfirmShareSet")
}

func TestRecover(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	first, backup := backedUp(t, c)
	second, err := c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, nil)
	require.NoError(t, err)

	// Both phones are lost. The new set descends from the first one's, by way of the backup.
	f.calls = nil
	third, err := c.RecoverWallet(t.Context(), backup.CipherText, client.MethodPassword,
		[]string{first.ShareSetID(), second.ShareSetID()}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"GetWallet", "ProvisionWallet", "store", "ConfirmShareSet", "RevokeShareSet", "RevokeShareSet"}, f.seen())
	require.Equal(t, first.ShareSetID(), f.revoked[0].GetShareSetId())
	require.True(t, f.revoked[0].GetKeepDescendants(), "otherwise the new set would be revoked too")
	require.Equal(t, second.ShareSetID(), f.revoked[1].GetShareSetId())
	require.False(t, f.revoked[1].GetKeepDescendants(), "sets that a thief made from it must be revoked too")
	_, err = c.Sign(t.Context(), third, client.CurveEd25519, nil)
	require.NoError(t, err)
}

// A set that cannot be revoked is reported before anything starts.
func TestRecoverWrongSet(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	first, backup := backedUp(t, c)
	f.calls = nil
	for _, id := range []string{backup.ShareSetID, uuid.NewString()} {
		share, err := c.RecoverWallet(t.Context(), backup.CipherText, client.MethodPassword, []string{first.ShareSetID(), id}, nil)
		require.ErrorContains(t, err, "not a SIGNING set")
		require.Nil(t, share)
	}
	require.Equal(t, []string{"GetWallet", "GetWallet"}, f.seen())
}

// If a set could not be revoked, the new share is still returned.
func TestRecoverRevokeFails(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	first, backup := backedUp(t, c)
	f.fail["RevokeShareSet"] = refusal(codes.PermissionDenied, "PERMISSION_DENIED", "you may not revoke this")
	share, err := c.RecoverWallet(t.Context(), backup.CipherText, client.MethodPassword, []string{first.ShareSetID()}, nil)
	require.ErrorIs(t, err, client.ErrNotRevoked)
	require.ErrorContains(t, err, first.ShareSetID())
	require.Equal(t, "PERMISSION_DENIED", client.Reason(err))
	_, err = c.Sign(t.Context(), share, client.CurveEd25519, nil)
	require.NoError(t, err)
}

func TestRevoke(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, _ := backedUp(t, c)
	w, err := c.Revoke(t.Context(), share.WalletID(), share.ShareSetID(), client.KeepDescendants(), client.AllowLast())
	require.NoError(t, err)
	require.Equal(t, client.StateRevoked, w.ShareSet(share.ShareSetID()).State)
	require.True(t, f.revoked[0].GetKeepDescendants())
	require.True(t, f.revoked[0].GetAllowLast())
	_, err = c.Revoke(t.Context(), share.WalletID(), uuid.NewString())
	require.Equal(t, "SHARE_SET_NOT_FOUND", client.Reason(err))
}

// A lock is shown and can be released. An answer that still has the lock after that is rejected.
func TestRelease(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, _ := backedUp(t, c)
	at := time.Now().UTC()
	f.mu.Lock()
	locked := f.sets[share.ShareSetID()].pb
	locked.LockTime, locked.Aborts = timestamppb.New(at), 5
	locked.SoftAborts, locked.LimitedUntil = 2, timestamppb.New(at.Add(time.Hour))
	f.mu.Unlock()
	w, err := c.GetWallet(t.Context(), share.WalletID())
	require.NoError(t, err)
	set := w.ShareSet(share.ShareSetID())
	require.True(t, set.Locked())
	require.Equal(t, at, set.LockTime)
	require.Equal(t, uint32(5), set.Aborts)
	require.Equal(t, uint32(2), set.SoftAborts)
	require.Equal(t, at.Add(time.Hour), set.LimitedUntil)
	require.Zero(t, w.ShareSets[1].LimitedUntil)
	require.False(t, w.ShareSets[1].Locked())

	f.lieWallet = func(w *mpcdv1.Wallet) { w.LockTime, w.Aborts, w.SoftAborts = timestamppb.New(at), 7, 32 }
	w, err = c.GetWallet(t.Context(), share.WalletID())
	require.NoError(t, err)
	require.Equal(t, at, w.LockTime)
	require.Equal(t, [2]uint32{7, 32}, [2]uint32{w.Aborts, w.SoftAborts})
	f.lieWallet = func(w *mpcdv1.Wallet) { w.ShareSets[0].LockTime = timestamppb.New(at) }
	_, err = c.Release(t.Context(), share.WalletID(), share.ShareSetID())
	require.ErrorIs(t, err, client.ErrBadAnswer)
	f.lieWallet = nil
	w, err = c.Release(t.Context(), share.WalletID(), share.ShareSetID())
	require.NoError(t, err)
	require.False(t, w.ShareSet(share.ShareSetID()).Locked())
	require.Zero(t, w.ShareSet(share.ShareSetID()).Aborts)
	_, err = c.Release(t.Context(), share.WalletID(), uuid.NewString())
	require.Equal(t, "SHARE_SET_NOT_FOUND", client.Reason(err))
}

func TestListWallets(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn, client.WithOwner("alice"))
	want := map[string]bool{}
	for range 3 {
		share, err := c.CreateWallet(t.Context(), nil)
		require.NoError(t, err)
		want[share.WalletID()] = true
	}
	_, err := newClient(t, f, conn, client.WithOwner("bob")).CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	got := map[string]bool{}
	for w, err := range c.ListWallets(t.Context()) {
		require.NoError(t, err)
		got[w.ID] = true
	}
	require.Equal(t, want, got)

	f.fail["ListWallets"] = refusal(codes.PermissionDenied, "PERMISSION_DENIED", "no")
	n := 0
	for w, err := range c.ListWallets(t.Context()) {
		require.Nil(t, w)
		require.Equal(t, "PERMISSION_DENIED", client.Reason(err))
		n++
	}
	require.Equal(t, 1, n)
}

// Shares of the wrong kind are rejected before any call.
func TestWrongShares(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, backup := backedUp(t, c)
	opened, err := c.DecryptBackup(t.Context(), backup.CipherText, client.MethodPassword)
	require.NoError(t, err)
	before := len(f.seen())
	for _, s := range []*client.Share{nil, {}, opened} {
		_, err = c.Sign(t.Context(), s, client.CurveEd25519, nil)
		require.ErrorIs(t, err, client.ErrWrongShare)
		_, err = c.BackupWallet(t.Context(), s, client.MethodPassword, nil)
		require.ErrorIs(t, err, client.ErrWrongShare)
	}
	_, err = c.Sign(t.Context(), share, client.CurveSecp256k1, make([]byte, 32))
	require.ErrorIs(t, err, client.ErrWrongShare)
	_, err = c.Sign(t.Context(), share, "P256", nil)
	require.ErrorContains(t, err, "not a curve")
	_, err = c.Sign(t.Context(), share, client.CurveEd25519, make([]byte, tss.MaxMessageBytes+1))
	require.ErrorIs(t, err, client.ErrPayload)
	require.Len(t, f.seen(), before)
}

func TestLyingSignatures(t *testing.T) {
	for name, lie := range map[string]func(*mpcdv1.SignResponse){
		"a changed one":     func(r *mpcdv1.SignResponse) { r.Signature[40] ^= 1 },
		"a short one":       func(r *mpcdv1.SignResponse) { r.Signature = r.GetSignature()[:63] },
		"none":              func(r *mpcdv1.SignResponse) { r.Signature = nil },
		"a recovery id":     func(r *mpcdv1.SignResponse) { r.RecoveryId = 4 },
		"another share set": func(r *mpcdv1.SignResponse) { r.ShareSetId = uuid.NewString() },
	} {
		t.Run(name, func(t *testing.T) {
			f, conn := newFake(t)
			c := newClient(t, f, conn)
			share, err := c.CreateWallet(t.Context(), nil)
			require.NoError(t, err)
			f.lieSign = lie
			_, err = c.Sign(t.Context(), share, client.CurveEd25519, []byte("message"))
			require.ErrorIs(t, err, client.ErrBadAnswer)
		})
	}
}

// With pinned keys, other keys are rejected, and none is fetched.
func TestPinKeys(t *testing.T) {
	f, conn := newFake(t)
	share, err := newClient(t, f, conn).CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	right := f.wallets[share.WalletID()].GetPublicKeys()[0].GetPublicKey()
	f.calls = nil

	c := newClient(t, f, conn)
	require.NoError(t, c.PinKeys(share.WalletID(), client.PublicKey{Curve: client.CurveEd25519, Bytes: right}))
	_, err = c.Sign(t.Context(), share, client.CurveEd25519, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"Sign"}, f.seen())

	c = newClient(t, f, conn)
	require.NoError(t, c.PinKeys(share.WalletID(), client.PublicKey{Curve: client.CurveEd25519, Bytes: make([]byte, 32)}))
	_, err = c.Sign(t.Context(), share, client.CurveEd25519, nil)
	require.ErrorIs(t, err, client.ErrBadAnswer)
	_, err = c.GetWallet(t.Context(), share.WalletID())
	require.ErrorIs(t, err, client.ErrBadAnswer)
	require.Error(t, c.PinKeys(share.WalletID(), client.PublicKey{Curve: client.CurveEd25519, Bytes: right}))

	c = newClient(t, f, conn) // fetches the key once
	f.calls = nil
	for range 2 {
		_, err = c.Sign(t.Context(), share, client.CurveEd25519, nil)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"Sign", "GetWallet", "Sign"}, f.seen())
	f.lieWallet = func(w *mpcdv1.Wallet) { w.PublicKeys = nil }
	_, err = newClient(t, f, conn).Sign(t.Context(), share, client.CurveEd25519, nil)
	require.ErrorIs(t, err, client.ErrBadAnswer)
}

// One client serves many goroutines, with passwords changing under them.
func TestConcurrent(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	_, backup := backedUp(t, c)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { // ends with its calls
			share, err := c.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, nil)
			if err == nil {
				_, err = c.Sign(t.Context(), share, client.CurveEd25519, nil)
			}
			if err == nil {
				err = c.SetPassword(password)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestNew(t *testing.T) {
	_, err := client.New(nil)
	require.Error(t, err)
	_, conn := newFake(t)
	for _, opt := range []client.Option{
		client.WithCurves("P256"), client.WithCurves(client.CurveEd25519, client.CurveEd25519),
		client.WithCloudKey(client.MethodPassword, cloud{}), client.WithCloudKey(client.MethodICloud, nil), client.WithCloudKey("FLOPPY", cloud{}),
	} {
		_, err := client.New(conn, opt)
		require.Error(t, err)
	}
	c, err := client.New(conn)
	require.NoError(t, err)
	require.ErrorIs(t, c.SetPassword(""), client.ErrNoPassword)
}
