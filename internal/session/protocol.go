package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/mpcd/mpcd/internal/tss"
)

// serverSide returns the server's side of what a run computes on curves; the caller adds what it is
// about.
func (s *runner) serverSide(w *work, curves []Curve) *tss.Operation {
	return &tss.Operation{
		Party: tss.Server, Kind: w.rec.Operation.String(), SessionID: w.rec.ID, Attempt: w.rec.Attempt,
		WalletID: w.rec.WalletID, Curves: curves, Observer: tss.Observer{Busy: w.busy},
		Progress: func(c Curve, k, n int) { w.run.report(newSpan(c, curves).progress(k, n)) },
	}
}

// compute reads the server's share of the set that is used, where one is, and runs the operation with
// the client's side on a device, or here: then the client's encoded new share is in the second output,
// which is nil otherwise. The caller wipes what it gets.
func (s *runner) compute(ctx context.Context, w *work, p *plan, op *tss.Operation) (server, hosted *tss.Output, err error) {
	var client *tss.Share
	if src := p.source; src != nil {
		if op.Share, err = s.serverShare(ctx, p.owner, src, w); err != nil {
			return nil, nil, err
		}
		defer op.Share.Wipe()
		op.Record, client = src.set.Record, src.client
	}
	if c := op.Curves[0]; c != Secp256k1 || op.PreParams == nil { // else it says so itself when it claims them
		w.run.report(newSpan(c, op.Curves).progress(0, 0))
	}
	if w.run.device != nil {
		server, err = s.withDevice(ctx, op, w.run.device)
		return server, nil, err
	}
	both, err := tss.Hosted(ctx, op, client, s.preParams(w, s.ports.PreParams.Claim, tss.Client))
	if err != nil {
		return nil, nil, ours(err, "share of the set that is used")
	}
	return both[tss.Server], both[tss.Client], nil
}

// lookAtMost bounds how long a run that was stopped may look at what it took from the device.
const lookAtMost = 30 * time.Second

// withDevice runs the server's side of a device-held run. When ctx ends, nothing more is taken
// from the device or sent to it, but what was taken is looked at to the end: a cancellation
// does not undo the blame for it.
func (s *runner) withDevice(ctx context.Context, op *tss.Operation, d *device) (*tss.Output, error) {
	d.listen()
	whole, kill := context.WithCancelCause(context.WithoutCancel(ctx))
	defer kill(nil)
	defer context.AfterFunc(s.ctx, func() { kill(errClosing) })()
	defer context.AfterFunc(ctx, func() { // ends with whole, at the latest
		d.stop(context.Cause(ctx))
		select {
		case <-time.After(lookAtMost):
			kill(context.Cause(ctx))
		case <-whole.Done():
		}
	})()
	return s.ports.ServerSide(whole, op, d)
}

// claimSet is PreParams.Claim or ClaimReady.
type claimSet func(ctx context.Context, p Party) (*tss.PreParams, error)

// preParams claims a party's set whose moduli were never used, in any wallet. A set is used
// once by design; this is for a pool that came back, as when a database was restored.
func (s *runner) preParams(w *work, claim claimSet, p Party) func(context.Context) (*tss.PreParams, error) {
	walletID := w.rec.WalletID
	return func(ctx context.Context) (*tss.PreParams, error) {
		for {
			pp, err := claim(ctx, p)
			if err != nil {
				return nil, fmt.Errorf("pre-params: %w", err)
			}
			n, nTilde := pp.Moduli()
			err = s.ports.Wallets.ReserveModuli(ctx, walletID, MadeHere, sha256.Sum256(n.Bytes()), sha256.Sum256(nTilde.Bytes()))
			if err == nil {
				return pp, nil
			}
			pp.Wipe()
			if !errors.Is(err, ErrModulusUsed) {
				return nil, fmt.Errorf("pre-params: %w", err)
			}
			const twice = "pre-params came a second time: was the database restored from a backup? The pool was dropped"
			s.ports.Log.Error(twice, "wallet_id", walletID, "party", p)
		}
	}
}

// fresh wants the device's moduli to be new to the wallet, since attacks that plant a key
// need it more than once, and none that the service made.
func (s *runner) fresh(ctx context.Context, walletID string, n, nTilde *big.Int) error {
	err := s.ports.Wallets.ReserveModuli(ctx, walletID, MadeByDevice, sha256.Sum256(n.Bytes()), sha256.Sum256(nTilde.Bytes()))
	if errors.Is(err, ErrModulusUsed) {
		return &tss.ProtocolError{Curve: Secp256k1, Round: 1, Culprit: tss.Client, Err: err}
	}
	return err
}

// pass decides whether a message of a device-held signing leaves. The last one, with which the
// device has a signature: the set must still be one that may sign, and who signs what must be
// durable.
func (s *runner) pass(ctx context.Context, w *work, g tss.ReleasePoint, c Curve, digest []byte) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", tss.ErrStopped, context.Cause(ctx))
	}
	var err error
	if g == tss.Arm {
		err = s.ports.Budgets.Arm(context.WithoutCancel(ctx), w.rec, s.budget())
		if busy := new(BusyError); errors.As(err, &busy) {
			_, others := s.noteSet(w.run, w.rec.WalletID, w.rec.Used)
			busy.RetryAfter = placeIn(others)
		}
		w.run.device.arms(err == nil)
	} else {
		e := s.entry(w.rec, "session.release")
		e.ShareSetID = w.rec.Used
		if err = s.ports.Budgets.Disarm(context.WithoutCancel(ctx), w.rec, e.signed(c, digest)); err == nil {
			w.run.device.arms(false)
		}
	}
	if err != nil {
		return fmt.Errorf("while it signed: %w", err)
	}
	return nil
}

// usesPreParams reports whether making a set takes pre-params.
func usesPreParams(curves []Curve) bool { return slices.Contains(curves, Secp256k1) }
