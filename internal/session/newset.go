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

// target says what set is to be made.
type target struct {
	Start
	purpose Purpose
	method  BackupMethod
}

// makeSet makes a new share set: by key generation where the plan has no source, by resharing it
// otherwise. It stores nothing but what a custodian takes into its own keeping.
func (s *runner) makeSet(ctx context.Context, w *work, p *plan, t target) (m *made, public []PublicKey, err error) {
	claim := s.ports.PreParams.Claim
	if t.Device != nil {
		claim = s.ports.PreParams.ClaimReady
		if usesPreParams(p.curves) { // before a custodian is asked, and a worker is used
			if _, err := s.ports.PreParams.Ready(ctx, tss.Server); err != nil {
				return nil, nil, fmt.Errorf("pre-params: %w", err)
			}
		}
	}
	if t.Device == nil || p.source != nil { // a device's new wallet is counted when its hello is there
		if err := s.mayWaste(p); err != nil {
			return nil, nil, err
		}
		defer func() { s.wasted(p, err) }()
	}
	op := s.serverSide(w, p.curves)
	op.Purpose, op.ShareSetID, op.PreParams = t.purpose, newID(), s.preParams(w, claim, tss.Server)
	if t.Device != nil { // a hosted client's moduli are reserved when its pre-params are claimed
		op.CheckModuli = func(n, nTilde *big.Int) error { return s.fresh(ctx, w.rec.WalletID, n, nTilde) }
	}
	out, hosted, err := s.compute(ctx, w, p, op)
	if err != nil {
		return nil, nil, err
	}
	defer out.Share.Wipe()
	w.run.report(Progress{Status: StatusStoringShare, Percent: percentStoring})
	if m, err = s.store(ctx, w, p, t, out); err == nil {
		err = s.handOut(w, t, m, hosted)
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

// handOut brings what the client gets into the form in which it waits for it.
func (s *runner) handOut(w *work, t target, m *made, hosted *tss.Output) (err error) {
	if hosted == nil {
		// The device has its share. What it may still lack is our last part: the word that we saw
		// what it saw.
		m.outcome.Last = w.run.device.last()
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

// store brings a new set into the form in which it is committed, and its server's share to
// its keeper.
func (s *runner) store(ctx context.Context, w *work, p *plan, t target, out *tss.Output) (*made, error) {
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
	if set.ServerShare, err = s.keeper(t.purpose).Deposit(ctx, p.owner, &set.ShareSet, out.Share); err != nil {
		return nil, fmt.Errorf("deposit the server share: %w", err)
	}
	w.rec.ShareSetID, w.rec.ExpireTime = set.ID, set.ExpireTime
	return &made{Made: Made{Set: set, Used: set.ParentID}, outcome: &Outcome{WalletID: w.rec.WalletID, Set: set.ShareSet}}, nil
}

// sealResult encrypts what waits for the caller: to the caller's own recipient, which
// nothing on our side can open, or under the service's keyset.
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
