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

// serverOperation returns the server's side of a run on curves; the caller adds what is particular to its operation.
func (s *runner) serverOperation(w *work, curves []Curve) *tss.Operation {
	return &tss.Operation{
		Party: tss.Server, Kind: w.rec.Operation.String(), SessionID: w.rec.ID, Attempt: w.rec.Attempt,
		WalletID: w.rec.WalletID, Curves: curves, Observer: tss.Observer{Busy: w.busy},
		Progress: func(c Curve, k, n int) { w.run.report(newSpan(c, curves).progress(k, n)) },
	}
}

// compute reads the server share of the set in use, if there is one, and runs the operation, with the client's side on
// a device or in this process. In the latter case hosted is the client's output, otherwise nil. The caller wipes both.
func (s *runner) compute(ctx context.Context, w *work, p *plan, op *tss.Operation) (
	server, hosted *tss.Output, err error,
) {
	var client *tss.Share
	if src := p.source; src != nil {
		if op.Share, err = s.readServerShare(ctx, p.owner, src, w); err != nil {
			return nil, nil, err
		}
		defer op.Share.Wipe()
		op.Record, client = src.set.Record, src.client
	}
	if c := op.Curves[0]; c != Secp256k1 || op.PreParams == nil { // otherwise the operation reports it when it claims them
		w.run.report(newSpan(c, op.Curves).progress(0, 0))
	}
	if w.run.device != nil {
		server, err = s.runWithDevice(ctx, op, w.run.device)
		return server, nil, err
	}
	both, err := tss.Hosted(ctx, op, client, s.preParams(w, s.ports.PreParams.Claim, tss.Client))
	if err != nil {
		return nil, nil, serverFault(err)
	}
	return both[tss.Server], both[tss.Client], nil
}

// maxDrain bounds how long a stopped run may go on processing the parts that it had accepted.
const maxDrain = 30 * time.Second

// runWithDevice runs the server's side of a device-held run. When ctx ends, nothing more is received or sent, but the
// accepted parts are still processed: a cancellation does not undo the blame for them.
func (s *runner) runWithDevice(ctx context.Context, op *tss.Operation, d *device) (*tss.Output, error) {
	d.listen()
	whole, kill := context.WithCancelCause(context.WithoutCancel(ctx))
	defer kill(nil)
	defer context.AfterFunc(s.ctx, func() { kill(errClosing) })()
	defer context.AfterFunc(ctx, func() { // ends with whole at the latest
		d.stop(context.Cause(ctx))
		select {
		case <-time.After(maxDrain):
			kill(context.Cause(ctx))
		case <-whole.Done():
		}
	})()
	return s.ports.ServerSide(whole, op, d)
}

// claimSet is PreParams.Claim or PreParams.ClaimReady.
type claimSet func(ctx context.Context, p Party) (*tss.PreParams, error)

// preParams returns a function that claims a party's set whose moduli were never used in any wallet. The pool hands
// each set out once; this guards against a pool that was restored with an older database.
func (s *runner) preParams(w *work, claim claimSet, p Party) func(context.Context) (*tss.PreParams, error) {
	walletID := w.rec.WalletID
	return func(ctx context.Context) (*tss.PreParams, error) {
		for {
			pp, err := claim(ctx, p)
			if err != nil {
				return nil, fmt.Errorf("pre-params: %w", err)
			}
			n, nTilde := pp.Moduli()
			sums := [][32]byte{sha256.Sum256(n.Bytes()), sha256.Sum256(nTilde.Bytes())}
			err = s.ports.Wallets.ReserveModuli(ctx, walletID, MadeHere, sums...)
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

// reserveDeviceModuli rejects moduli of a device that were used in its wallet before, since attacks that plant a key
// need it more than once, or that the service made.
func (s *runner) reserveDeviceModuli(ctx context.Context, walletID string, n, nTilde *big.Int) error {
	sums := [][32]byte{sha256.Sum256(n.Bytes()), sha256.Sum256(nTilde.Bytes())}
	err := s.ports.Wallets.ReserveModuli(ctx, walletID, MadeByDevice, sums...)
	if errors.Is(err, ErrModulusUsed) {
		return &tss.ProtocolError{Curve: Secp256k1, Round: 1, Culprit: tss.Client, Err: err}
	}
	return err
}

// beforeRelease decides whether a message of a device-held signing may be sent. With the last one the device obtains a
// signature: the set must still be usable, and the audit entry must be durable.
func (s *runner) beforeRelease(ctx context.Context, w *work, g tss.ReleasePoint, c Curve, digest []byte) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", tss.ErrStopped, context.Cause(ctx))
	}
	var err error
	if g == tss.Arm {
		err = s.ports.Budgets.Arm(context.WithoutCancel(ctx), w.rec, s.budget())
		if busy := new(BusyError); errors.As(err, &busy) {
			_, others := s.setInUse(w.run, w.rec.WalletID, w.rec.Used)
			busy.RetryAfter = estimateFree(others)
		}
		w.run.device.setArmed(err == nil)
	} else {
		e := s.auditEntry(w.rec, "session.release")
		e.ShareSetID = w.rec.Used
		if err = s.ports.Budgets.Disarm(context.WithoutCancel(ctx), w.rec, e.withSignature(c, digest)); err == nil {
			w.run.device.setArmed(false)
		}
	}
	if err != nil {
		return fmt.Errorf("before a message of a signing: %w", err)
	}
	return nil
}

// usesPreParams reports whether making a set takes pre-params.
func usesPreParams(curves []Curve) bool { return slices.Contains(curves, Secp256k1) }
