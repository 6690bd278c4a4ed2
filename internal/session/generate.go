package session

import (
	"bytes"
	"context"
	"fmt"
	"math/big"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// Create starts, or attaches to, the making of a wallet with its first SIGNING set.
func (s *Service) Create(ctx context.Context, c Caller, req CreateRequest) (*Run, error) {
	if req.Owner == "" {
		req.Owner = c.Name
	}
	if !c.may(actCreate, req.Owner) {
		return nil, fmt.Errorf("%w: caller %q may not create a wallet of %q", ErrPermissionDenied, c.Name, req.Owner)
	}
	if err := s.checkStart(&req.Start); err != nil {
		return nil, err
	}
	if len(req.Curves) == 0 {
		req.Curves = tss.Curves()
	}
	slices.Sort(req.Curves)
	fp, err := s.fingerprint(OpCreate, append(req.fields(), []byte(req.Owner), curveBytes(req.Curves))...)
	if err != nil {
		return nil, err
	}
	return s.start(ctx, job{op: OpCreate, caller: c, requestID: req.RequestID, fingerprint: fp, device: req.Device, prepare: func(context.Context) (*plan, error) {
		t := target{Start: req.Start, walletID: uuid.NewString(), owner: req.Owner, purpose: Signing, curves: req.Curves}
		return &plan{walletID: t.walletID, curves: t.curves, steps: func(ctx context.Context, w *work) (*made, error) {
			t.walletID = w.rec.WalletID // an earlier attempt's, where there was one
			m, keys, err := s.make(ctx, w, t, nil)
			if err != nil {
				return nil, err
			}
			m.Wallet = &Wallet{ID: t.walletID, Owner: t.owner, Keys: keys, CreateTime: m.Set.CreateTime}
			if t.Device == nil {
				m.Wallet.HostedSince = m.Set.CreateTime
			}
			return m, nil
		}}, nil
	}})
}

// Backup starts, or attaches to, the resharing of a SIGNING set into a BACKUP set.
func (s *Service) Backup(ctx context.Context, c Caller, req BackupRequest) (*Run, error) {
	t := target{Start: req.Start, walletID: req.WalletID, purpose: Backup, method: req.Method}
	return s.reshare(ctx, OpBackup, c, t, req.SigningShare, [][]byte{{byte(req.Method)}})
}

// Provision starts, or attaches to, the resharing of a BACKUP set into one more
// SIGNING set. The backup and every older set stay as they are.
func (s *Service) Provision(ctx context.Context, c Caller, req ProvisionRequest) (*Run, error) {
	t := target{Start: req.Start, walletID: req.WalletID, purpose: Signing}
	return s.reshare(ctx, OpProvision, c, t, req.BackupShare, nil)
}

func (s *Service) checkStart(st *Start) error {
	if st.Device != nil && st.SealTo != nil {
		return &FieldError{"seal_to", "must be empty: the device's new share comes from nobody"}
	}
	if st.Device == nil && st.SealTo == nil && s.cfg.RequireSealTo {
		return &FieldError{"seal_to", "must be an age X25519 recipient (age1...), so that nothing but the caller can read the new share"}
	}
	return nil
}

// target says what set is to be made, and for whom.
type target struct {
	Start
	walletID string
	owner    string
	purpose  Purpose
	method   BackupMethod
	curves   []Curve
}

func (s *Service) reshare(ctx context.Context, op Operation, c Caller, t target, share secret.Bytes, more [][]byte) (*Run, error) {
	if err := s.checkStart(&t.Start); err != nil {
		return nil, err
	}
	fields := append(t.fields(), []byte(t.walletID), share.Reveal())
	fp, err := s.fingerprint(op, append(fields, more...)...)
	if err != nil {
		return nil, err
	}
	return s.start(ctx, job{op: op, caller: c, requestID: t.RequestID, walletID: t.walletID, fingerprint: fp, device: t.Device, prepare: func(ctx context.Context) (*plan, error) {
		from := Signing
		act := actBackup
		if op == OpProvision {
			from, act = Backup, actProvision
		}
		wallet, src, err := s.source(ctx, c, act, t.walletID, from, clientSide{share: share, device: t.Device})
		if err != nil {
			return nil, err
		}
		if err := s.mayPend(wallet, runKey{c.Name, t.RequestID}); err != nil {
			src.client.Wipe()
			return nil, err
		}
		q := &Question{Caller: c.Name, Operation: op.String(), WalletID: wallet.ID, Owner: wallet.Owner, ShareSetID: src.set.ID, RequestID: t.RequestID}
		if t.Device == nil {
			if err := s.allowed(ctx, *q); err != nil {
				src.client.Wipe()
				return nil, err
			}
		}
		t.owner = wallet.Owner
		for _, k := range src.record.Keys {
			t.curves = append(t.curves, k.Curve)
		}
		return &plan{walletID: t.walletID, uses: src.set.ID, source: src, question: q, wipe: src.client.Wipe, steps: func(ctx context.Context, w *work) (*made, error) {
			m, _, err := s.make(ctx, w, t, src)
			return m, err
		}}, nil
	}})
}

// make makes a new share set: by key generation where src is nil, by resharing src otherwise. It
// stores nothing but what a custodian takes into its own keeping.
func (s *Service) make(ctx context.Context, w *work, t target, src *source) (m *made, public []PublicKey, err error) {
	claim := s.PreParams.Claim
	if t.Device != nil {
		claim = s.PreParams.ClaimReady
		if usesPreParams(t.curves) { // before a custodian is asked, and a worker is used
			if _, err := s.PreParams.Ready(ctx, tss.Server); err != nil {
				return nil, nil, fmt.Errorf("pre-params: %w", err)
			}
		}
	}
	if t.Device == nil || src != nil { // a device's new wallet is counted when its hello is there
		if err := s.mayWaste(&t, src); err != nil {
			return nil, nil, err
		}
		defer func() { s.wasted(&t, src, err) }()
	}
	op := s.operation(w, t.curves)
	op.Purpose, op.ShareSetID, op.PreParams = t.purpose, uuid.NewString(), s.preParams(w, claim, tss.Server)
	if t.Device != nil { // a hosted client's moduli are reserved when its pre-params are claimed
		op.Fresh = func(n, nTilde *big.Int) error { return s.fresh(ctx, t.walletID, n, nTilde) }
	}
	var client *tss.Share
	if src != nil {
		if op.Share, err = s.serverShare(ctx, t.owner, src, w); err != nil {
			return nil, nil, err
		}
		defer op.Share.Wipe()
		op.Record, client = src.set.Record, src.client
	}
	out, hosted, err := s.compute(ctx, w, op, client)
	if err != nil {
		return nil, nil, err
	}
	defer out.Share.Wipe()
	w.run.report(Progress{Status: StatusStoringShare, Percent: percentStoring})
	if m, err = s.store(ctx, w, t, src, out); err == nil {
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
func (s *Service) handOut(w *work, t target, m *made, hosted *tss.Joined) (err error) {
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

// mayPend refuses one more set while a wallet has as many as it may that nobody has confirmed.
// Runs that are on their way count too: all of them may end before one is confirmed.
func (s *Service) mayPend(wallet *Wallet, mine runKey) error {
	now := s.clock.now()
	pending, first := wallet.pending(now)
	n := pending + s.making(wallet.ID, mine)
	if n < s.cfg.PendingSets {
		return nil
	}
	err := &PendingError{Count: n, Limit: s.cfg.PendingSets, RetryAfter: soon} // what the runs make is confirmed soon
	if pending > 0 {
		err.RetryAfter = max(first.Sub(now), time.Second)
	}
	return fmt.Errorf("wallet %s: %w", wallet.ID, err)
}

// store brings a new set into the form in which it is committed, and its server's share to
// its keeper.
func (s *Service) store(ctx context.Context, w *work, t target, src *source, out *tss.Joined) (*made, error) {
	now := s.clock.wallNow()
	set := &StoredSet{
		ShareSet: ShareSet{
			ID: out.Share.ShareSetID, WalletID: t.walletID, Purpose: t.purpose, Method: t.method, State: SetPending,
			DisplayName: t.DisplayName, CreateTime: now, ExpireTime: s.clock.now().Add(s.cfg.ResultTTL),
		},
		Record: out.Record, ClientShare: out.ShareHash, SessionID: w.rec.ID,
	}
	if src != nil {
		set.ParentID = src.set.ID
	}
	var err error
	if set.Half, err = s.keeper(t.purpose).Deposit(ctx, t.owner, &set.ShareSet, out.Share); err != nil {
		return nil, fmt.Errorf("deposit the server share: %w", err)
	}
	w.rec.ShareSetID, w.rec.ExpireTime = set.ID, set.ExpireTime
	return &made{Made: Made{Set: set, Used: set.ParentID}, outcome: &Outcome{WalletID: t.walletID, Set: set.ShareSet}}, nil
}

// sealResult encrypts what waits for the caller: to the caller's own recipient, which
// nothing on our side can open, or under the service's keyset.
func (s *Service) sealResult(rec *Session, plain secret.Bytes, to *age.X25519Recipient) (*Result, error) {
	if to == nil {
		data, err := s.Sealer.Seal(plain, ResultLabel(rec.WalletID, rec.ID))
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
