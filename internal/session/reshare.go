package session

import (
	"context"
	"fmt"
	"time"

	"github.com/mpcd/mpcd/internal/secret"
)

// Backup starts, or attaches to, the resharing of a SIGNING set into a BACKUP set.
func (s *Service) Backup(ctx context.Context, c Caller, req BackupRequest) (*Run, error) {
	o := &reshare{
		target: target{Start: req.Start, purpose: Backup, method: req.Method},
		op:     OpBackup, action: actBackup, from: Signing, caller: c, walletID: req.WalletID, share: req.SigningShare,
	}
	return s.reshare(ctx, o, []byte{byte(req.Method)})
}

// Provision starts, or attaches to, the resharing of a BACKUP set into a new SIGNING set. Existing sets are not
// changed.
func (s *Service) Provision(ctx context.Context, c Caller, req ProvisionRequest) (*Run, error) {
	o := &reshare{
		target: target{Start: req.Start, purpose: Signing},
		op:     OpProvision, action: actProvision, from: Backup, caller: c, walletID: req.WalletID, share: req.BackupShare,
	}
	return s.reshare(ctx, o)
}

// reshare makes a new set from an existing one.
type reshare struct {
	target
	op       Operation
	action   action
	from     Purpose // of the set that is reshared
	caller   Caller
	walletID string
	share    secret.Bytes // hosted only
}

func (s *runner) reshare(ctx context.Context, o *reshare, more ...[]byte) (*Run, error) {
	if err := s.checkStart(&o.Start); err != nil {
		return nil, err
	}
	fields := append(o.fields(), []byte(o.walletID), o.share.Reveal())
	fp, err := s.fingerprint(o.op, append(fields, more...)...)
	if err != nil {
		return nil, err
	}
	return s.attachOrStart(ctx, job{
		operation: o, op: o.op, caller: o.caller, requestID: o.RequestID, walletID: o.walletID, fingerprint: fp,
		device: o.Device,
	})
}

func (o *reshare) prepare(ctx context.Context, s *runner) (*plan, error) {
	from := clientSide{share: o.share, device: o.Device}
	wallet, src, err := s.findSource(ctx, o.caller, o.action, o.walletID, o.from, from)
	if err != nil {
		return nil, err
	}
	p := &plan{operation: o, walletID: wallet.ID, owner: wallet.Owner, uses: src.set.ID, source: src}
	for _, k := range src.record.Keys {
		p.curves = append(p.curves, k.Curve)
	}
	p.question = &Question{
		Caller: o.caller.Name, Operation: o.op.String(), WalletID: wallet.ID, Owner: wallet.Owner, ShareSetID: src.set.ID,
		RequestID: o.RequestID,
	}
	err = s.checkPending(wallet, runKey{o.caller.Name, o.RequestID})
	if err == nil && o.Device == nil { // for a device see authoriseDevice
		err = s.askPolicy(ctx, *p.question)
	}
	if err != nil {
		p.wipe()
		return nil, err
	}
	return p, nil
}

func (o *reshare) execute(ctx context.Context, s *runner, w *work, p *plan) (*made, error) {
	m, _, err := s.makeSet(ctx, w, p, o.target)
	return m, err
}

// checkPending returns a PendingError if a wallet has its maximum of unconfirmed sets. Live runs count too: all of
// them may end before one set is confirmed.
func (s *runner) checkPending(wallet *Wallet, mine runKey) error {
	now := s.clock.now()
	pending, first := wallet.pending(now)
	n := pending + s.countMaking(wallet.ID, mine)
	if n < s.cfg.PendingSets {
		return nil
	}
	err := &PendingError{Count: n, Limit: s.cfg.PendingSets, RetryAfter: minBusyRetry} // their sets are confirmed soon
	if pending > 0 {
		err.RetryAfter = max(first.Sub(now), time.Second)
	}
	return fmt.Errorf("wallet %s: %w", wallet.ID, err)
}
