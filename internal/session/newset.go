package session

import (
	"bytes"
	"context"
	"fmt"
	"math/big"

	"filippo.io/age"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// target describes a share set that is to be made.
type target struct {
	Start
	purpose Purpose
	method  BackupMethod
}

// makeSet makes a new share set: by key generation if the plan has no source, otherwise by resharing it. It stores
// nothing except what goes to a custodian.
func (s *runner) makeSet(ctx context.Context, w *work, p *plan, t target) (m *made, public []PublicKey, err error) {
	claim := s.ports.PreParams.Claim
	if t.Device != nil {
		claim = s.ports.PreParams.ClaimReady
		if usesPreParams(p.curves) { // fail before asking a custodian or using a worker
			if _, err := s.ports.PreParams.Ready(ctx, tss.Server); err != nil {
				return nil, nil, fmt.Errorf("pre-params: %w", err)
			}
		}
	}
	if t.Device == nil || p.source != nil { // a device's new wallet was counted after its hello
		if err := s.checkWaste(p); err != nil {
			return nil, nil, err
		}
		defer func() { s.countWaste(p, err) }()
	}
	op := s.serverOperation(w, p.curves)
	op.Purpose, op.ShareSetID, op.PreParams = t.purpose, newID(), s.preParams(w, claim, tss.Server)
	if t.Device != nil { // for hosted clients s.preParams reserves them
		op.CheckModuli = func(n, nTilde *big.Int) error { return s.reserveDeviceModuli(ctx, w.rec.WalletID, n, nTilde) }
	}
	out, hosted, err := s.compute(ctx, w, p, op)
	if err != nil {
		return nil, nil, err
	}
	defer out.Share.Wipe()
	w.run.report(Progress{Status: StatusStoringShare, Percent: percentStoring})
	if m, err = s.depositShare(ctx, w, p, t, out); err == nil {
		err = s.prepareResult(w, t, m, hosted)
	}
	if err != nil {
		hosted.Wipe()
		return nil, nil, err
	}
	for _, k := range out.Keys {
		public = append(public, PublicKey{Curve: k.Curve, Key: k.PublicKey})
	}
	return m, public, nil
}

// prepareResult sets the client's part of the outcome, and the result that is stored until it is confirmed. hosted is
// the client's output of a hosted run; nil: the client is a device.
func (s *runner) prepareResult(w *work, t target, m *made, hosted *tss.Output) (err error) {
	if hosted == nil {
		// The device has its share, but may not have received the service's last part: the MAC over the transcript.
		m.outcome.Last = w.run.device.lastSent()
		w.rec.Result = &Result{SealedTo: true, Data: encodeLast(m.outcome.Last)}
		return nil
	}
	hosted.Share.Wipe()
	m.outcome.ClientShare = hosted.Encoded
	if w.rec.Result, err = s.sealResult(w.rec, hosted.Encoded, t.SealTo); err == nil && t.SealTo != nil {
		m.outcome.ClientShare = secret.New(w.rec.Result.Data)
		hosted.Encoded.Wipe()
	}
	return err
}

// depositShare passes the server share to its custodian, and returns the new set as it is to be committed.
func (s *runner) depositShare(ctx context.Context, w *work, p *plan, t target, out *tss.Output) (*made, error) {
	now := s.clock.wallNow()
	set := &StoredSet{
		ShareSet: ShareSet{
			ID: out.Share.ShareSetID, WalletID: w.rec.WalletID, Purpose: t.purpose, Method: t.method, State: SetPending,
			DisplayName: t.DisplayName, CreateTime: now, ExpireTime: s.clock.now().Add(s.cfg.ResultTTL),
		},
		Record: out.Record, ClientShare: out.ShareHash, SessionID: w.rec.ID,
	}
	if p.source != nil {
		set.ParentID = p.source.set.ID
	}
	var err error
	if set.ServerShare, err = s.custodianFor(t.purpose).Deposit(ctx, p.owner, &set.ShareSet, out.Share); err != nil {
		return nil, fmt.Errorf("deposit the server share: %w", err)
	}
	w.rec.ShareSetID, w.rec.ExpireTime = set.ID, set.ExpireTime
	return &made{
		Made:    Made{Set: set, Used: set.ParentID},
		outcome: &Outcome{WalletID: w.rec.WalletID, Set: set.ShareSet},
	}, nil
}

// sealResult encrypts a result that waits for its caller: to the caller's age recipient, which the service cannot
// decrypt, or, if to is nil, under the service's keyset.
func (s *runner) sealResult(rec *Session, plain secret.Bytes, to *age.X25519Recipient) (*Result, error) {
	if to == nil {
		data, err := s.ports.Sealer.Seal(plain, ResultLabel(rec.WalletID, rec.ID))
		return &Result{Data: data}, err
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err != nil {
		return nil, fmt.Errorf("encrypt to the caller's recipient: %w", err)
	}
	if _, err := w.Write(plain.Reveal()); err != nil {
		return nil, fmt.Errorf("encrypt to the caller's recipient: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encrypt to the caller's recipient: %w", err)
	}
	return &Result{SealedTo: true, Data: out.Bytes()}, nil
}
