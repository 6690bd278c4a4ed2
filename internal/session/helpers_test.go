package session_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

var alice = session.Caller{Name: "alice"}

// held is the client share of one set.
type held struct {
	wallet, set string
	share       []byte
}

func start() session.Start { return session.Start{RequestID: uuid.NewString()} }

// ended follows a run to its end.
func ended(t testing.TB, r *session.Run, err error) (progress []session.Progress, out *session.Outcome, _ error) {
	t.Helper()
	require.NoError(t, err)
	err = r.Follow(t.Context(), 0, 0, func(e session.Event) error {
		if e.Progress != nil {
			require.Nil(t, out)
			progress = append(progress, *e.Progress)
		} else {
			out = e.Outcome
		}
		return nil
	})
	return progress, out, err
}

// made returns the set that a successful run made.
func made(t testing.TB, r *session.Run, err error) held {
	t.Helper()
	_, out, err := ended(t, r, err)
	require.NoError(t, err)
	return held{out.WalletID, out.Set.ID, out.ClientShare.Reveal()}
}

func confirmed(t testing.TB, p *servertest.Parts, h held) held {
	t.Helper()
	w, err := p.Sessions.Confirm(t.Context(), alice, h.wallet, h.set, sum(h.share))
	require.NoError(t, err)
	require.True(t, w.Confirmed())
	return h
}

func provisionOf(h held) session.ProvisionRequest {
	return session.ProvisionRequest{Start: start(), WalletID: h.wallet, BackupShare: secret.New(h.share)}
}

func signWith(h held) session.SignRequest {
	return session.SignRequest{
		RequestID: uuid.NewString(), WalletID: h.wallet, SigningShare: secret.New(h.share), Curve: session.Ed25519, Payload: []byte("hello"),
	}
}

// An ED25519 wallet with a backup, made once; each test starts with a copy of its database.
var stock struct {
	sync.Mutex    // guards what follows
	first, backup held
	database      []byte
	keyset        *seal.Keyset
	backupReq     session.BackupRequest // the request that made backup
}

func open(t testing.TB, cfg servertest.Config) (p *servertest.Parts, first, backup held) {
	t.Helper()
	stocked(t)
	if cfg.Database == nil {
		cfg.Database = stock.database
	}
	cfg.Keyset = stock.keyset
	return servertest.Open(t, cfg), stock.first, stock.backup
}

func stocked(t testing.TB) {
	t.Helper()
	stock.Lock()
	defer stock.Unlock()
	if stock.database != nil {
		return
	}
	p := servertest.Open(t, servertest.Config{})
	r, err := p.Sessions.Create(t.Context(), alice, session.CreateRequest{Start: start(), Curves: []session.Curve{session.Ed25519}})
	stock.first = confirmed(t, p, made(t, r, err))
	stock.backupReq = session.BackupRequest{
		Start: start(), WalletID: stock.first.wallet, SigningShare: secret.New(stock.first.share), Method: session.Custom,
	}
	r, err = p.Sessions.Backup(t.Context(), alice, stock.backupReq)
	stock.backup = made(t, r, err)
	stock.keyset = p.Keyset
	stock.database = p.Dump(t)
}

// idle returns a request for a wallet that computes nothing while pre-params are blocked or fail.
func idle() session.CreateRequest {
	return session.CreateRequest{Start: start(), Curves: []session.Curve{session.Secp256k1}}
}

// withPreParams calls a function before pre-params are claimed.
func withPreParams(before func(context.Context) error) func(*session.Ports) {
	return func(p *session.Ports) { p.PreParams = &servertest.PreParams{Source: p.PreParams, Before: before} }
}

var errFault = errors.New("a fault that the test made")
