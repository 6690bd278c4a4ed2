package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

// source is the set that is reshared: its row, its public record, and the client's
// share of it, which was checked against that record.
type source struct {
	set    *StoredSet
	record *tss.Record
	client *tss.Share
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
		var wallet *Wallet
		var src *source
		var err error
		if t.Device != nil {
			wallet, src, err = s.deviceSource(ctx, c, act, t.walletID, from, t.Device.ShareSetID)
		} else {
			wallet, src, err = s.source(ctx, c, act, t.walletID, from, share)
		}
		if err != nil {
			return nil, err
		}
		if err := s.mayPend(wallet, runKey{c.Name, t.RequestID}); err != nil {
			src.client.Wipe()
			return nil, err
		}
		q := &Question{
			Caller: c.Name, Operation: op.String(), WalletID: wallet.ID, Owner: wallet.Owner, ShareSetID: src.set.ID,
			RequestID: t.RequestID,
		}
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
		return &plan{
			walletID: t.walletID, uses: src.set.ID, source: src, question: q, wipe: src.client.Wipe,
			steps: func(ctx context.Context, w *work) (*made, error) {
				m, _, err := s.make(ctx, w, t, src)
				return m, err
			},
		}, nil
	}})
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

// source finds the set that a client share belongs to, and holds the share against
// the set's record: nothing is built from a share that failed this.
func (s *Service) source(ctx context.Context, c Caller, a action, walletID string, want Purpose, share secret.Bytes) (*Wallet, *source, error) {
	wallet, err := s.Wallets.Wallet(ctx, walletID)
	if err != nil {
		return nil, nil, err
	}
	if err := c.authorise(a, wallet); err != nil {
		return nil, nil, err
	}
	if err := wallet.hosted(); err != nil {
		return nil, nil, err
	}
	if want == Backup && len(wallet.Active(Backup)) == 0 {
		return nil, nil, fmt.Errorf("%w: wallet %s", ErrBackupNotFound, walletID)
	}
	client, err := tss.ParseShare(share.Reveal())
	if err != nil {
		return nil, nil, fromTSS(err)
	}
	src, err := s.match(ctx, wallet, want, client, sha256.Sum256(share.Reveal()))
	if err != nil {
		client.Wipe()
		return nil, nil, err
	}
	return wallet, src, nil
}

// match finds the set of a share. hash is that of the share as it came.
func (s *Service) match(ctx context.Context, wallet *Wallet, want Purpose, client *tss.Share, hash [32]byte) (*source, error) {
	if client.WalletID != wallet.ID || client.Purpose != want {
		return nil, fmt.Errorf("%w: the share is of purpose %v and wallet %s", ErrShareSetMismatch, client.Purpose, client.WalletID)
	}
	set, err := s.Wallets.Set(ctx, wallet.ID, client.ShareSetID)
	if err != nil {
		return nil, err
	}
	record, err := tss.ParseRecord(set.Record)
	if err != nil {
		return nil, fmt.Errorf("record of set %s: %w", set.ID, fromTSS(err))
	}
	if err := record.Check(client, tss.Client, set.Record); err != nil {
		if hash == set.ClientShare {
			// The share is the one that was handed out, so the fault is ours. Not with %w.
			return nil, fmt.Errorf("%w: record of set %s: %v", ErrDataCorrupted, set.ID, err) //nolint:errorlint // see above
		}
		return nil, fromTSS(err)
	}
	if len(client.Keys) != len(record.Keys) {
		return nil, fmt.Errorf("%w: the share lacks a curve of its set", ErrShareMalformed)
	}
	if err := wallet.has(set.ID, record); err != nil {
		return nil, err
	}
	// The state is told only to who proved to hold the share.
	if err := set.usable(); err != nil {
		return nil, err
	}
	return &source{set: set, record: record, client: client}, nil
}

// has holds a set's record against the wallet's keys.
func (w *Wallet) has(setID string, record *tss.Record) error {
	for _, k := range record.Keys {
		if !slices.ContainsFunc(w.Keys, func(own PublicKey) bool { return own.Curve == k.Curve && bytes.Equal(own.Key, k.PublicKey) }) {
			return fmt.Errorf("%w: record of set %s names another public key than its wallet", ErrDataCorrupted, setID)
		}
	}
	return nil
}

// half reads the server's share of a set, and holds it against the set's record before
// it is used: a row that has rotted must not be blamed on the client.
func (s *Service) half(ctx context.Context, owner string, src *source, w *work) (*tss.Share, error) {
	w.run.report(Progress{Status: StatusReadingShare, Percent: percentReading})
	keeper := s.Halves
	if src.set.Purpose == Backup {
		keeper = s.Custodian
	}
	half, err := keeper.Fetch(ctx, owner, src.set)
	switch reason := Reason(fromTSS(err)); {
	case err == nil:
	case reason == ErrShareMalformed.Reason, reason == ErrShareSetMismatch.Reason:
		// Not with %w: the share at fault is ours.
		return nil, fmt.Errorf("%w: server share of set %s: %v", ErrDataCorrupted, src.set.ID, err) //nolint:errorlint // see above
	default:
		return nil, fmt.Errorf("server share of set %s: %w", src.set.ID, err)
	}
	w.run.report(Progress{Status: StatusParsingShare, Percent: percentParsing})
	if err := src.record.Check(half, tss.Server, src.set.Record); err != nil {
		half.Wipe()
		// Not with %w: the share at fault is ours.
		return nil, fmt.Errorf("%w: server share of set %s: %v", ErrDataCorrupted, src.set.ID, err) //nolint:errorlint // see above
	}
	return half, nil
}

// make makes a new share set, with the client's side here or on a device.
func (s *Service) make(ctx context.Context, w *work, t target, src *source) (*made, []PublicKey, error) {
	if t.Device != nil {
		return s.joint(ctx, w, t, src)
	}
	return s.generate(ctx, w, t, src)
}

// generate makes a new share set: by key generation where src is nil, by resharing src
// otherwise. It stores nothing but what a custodian takes into its own keeping.
func (s *Service) generate(ctx context.Context, w *work, t target, src *source) (m *made, public []PublicKey, err error) {
	var half *tss.Share
	if src != nil {
		if half, err = s.half(ctx, t.owner, src, w); err != nil {
			return nil, nil, err
		}
		defer half.Wipe()
	}
	if err := s.mayWaste(&t, src); err != nil {
		return nil, nil, err
	}
	defer func() { s.wasted(&t, src, err) }()
	id := tss.SetID{WalletID: t.walletID, ShareSetID: uuid.NewString(), Purpose: t.purpose}
	record := tss.Record{SetID: id}
	shares := [2]*tss.Share{{SetID: id, Party: tss.Client}, {SetID: id, Party: tss.Server}}
	defer shares[tss.Client].Wipe()
	defer shares[tss.Server].Wipe()
	for _, c := range t.curves {
		keys, err := s.newKeys(ctx, w, newSpan(c, t.curves), src, half)
		if err != nil {
			return nil, nil, err
		}
		record.Keys = append(record.Keys, keys[tss.Client].Record)
		for p := range shares {
			shares[p].Keys = append(shares[p].Keys, keys[p].Share)
		}
	}
	w.run.report(Progress{Status: StatusStoringShare, Percent: percentStoring})
	m, err = s.keep(ctx, w, t, src, &record, shares)
	if err != nil {
		return nil, nil, err
	}
	for _, k := range record.Keys {
		public = append(public, PublicKey{Curve: k.Curve, Key: k.PublicKey})
	}
	return m, public, nil
}

// newKeys runs the protocol on one curve.
func (s *Service) newKeys(ctx context.Context, w *work, sp span, src *source, half *tss.Share) (*[2]tss.NewKey, error) {
	w.run.report(sp.progress(0, 0))
	var pre [2]*tss.PreParams
	if sp.curve == Secp256k1 {
		for _, p := range []Party{tss.Client, tss.Server} {
			pp, err := s.preParams(ctx, s.PreParams.Claim, w.rec.WalletID, p)
			if err != nil {
				pre[tss.Client].Wipe()
				return nil, err
			}
			pre[p] = pp
		}
	}
	obs := tss.Observer{Busy: w.busy, Round: func(k, n int) { w.run.report(sp.progress(k, n)) }}
	if src == nil {
		return tss.HostedKeygen(ctx, sp.curve, pre, obs)
	}
	old, ok := src.record.Key(sp.curve)
	if !ok {
		return nil, fmt.Errorf("%w: set %s has no %v key", ErrInternal, src.set.ID, sp.curve)
	}
	return tss.HostedReshare(ctx, old, src.shares(half, sp.curve), pre, obs)
}

// claimSet is PreParams.Claim or ClaimReady.
type claimSet func(ctx context.Context, p Party) (*tss.PreParams, error)

// preParams claims a party's set whose moduli were never used, in any wallet. A set is used
// once by design; this is for a pool that came back, as when a database was restored.
func (s *Service) preParams(ctx context.Context, claim claimSet, walletID string, p Party) (*tss.PreParams, error) {
	for {
		pp, err := claim(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("pre-params: %w", err)
		}
		n, nTilde := pp.Moduli()
		err = s.Wallets.ReserveModuli(ctx, walletID, MadeHere, sha256.Sum256(n.Bytes()), sha256.Sum256(nTilde.Bytes()))
		if err == nil {
			return pp, nil
		}
		pp.Wipe()
		if !errors.Is(err, ErrModulusUsed) {
			return nil, fmt.Errorf("pre-params: %w", err)
		}
		const twice = "pre-params came a second time: was the database restored from a backup? The pool was dropped"
		s.Log.Error(twice, "wallet_id", walletID, "party", p)
	}
}

// shares returns both parties' key shares on one curve, by Party.
func (src *source) shares(half *tss.Share, c Curve) [2]*tss.KeyShare {
	return [2]*tss.KeyShare{tss.Client: src.client.Key(c), tss.Server: half.Key(c)}
}

// keep brings a new set into the form in which it is committed and handed out.
func (s *Service) keep(ctx context.Context, w *work, t target, src *source, record *tss.Record, shares [2]*tss.Share) (*made, error) {
	encoded, err := record.Encode()
	if err != nil {
		return nil, fmt.Errorf("new record: %w", err)
	}
	for _, sh := range shares {
		sh.RecordHash = tss.Hash(encoded)
	}
	client, err := shares[tss.Client].Encode()
	if err != nil {
		return nil, fmt.Errorf("new client share: %w", err)
	}
	m, err := s.store(ctx, w, t, src, encoded, shares[tss.Server], sha256.Sum256(client.Reveal()))
	if err != nil {
		client.Wipe()
		return nil, err
	}
	m.outcome.ClientShare = client
	w.rec.Result, err = s.sealResult(w.rec, client, t.SealTo)
	if err == nil && t.SealTo != nil {
		m.outcome.ClientShare = secret.New(w.rec.Result.Data)
		client.Wipe()
	}
	return m, err
}

// store brings a new set into the form in which it is committed, and its server's share to
// its keeper.
func (s *Service) store(ctx context.Context, w *work, t target, src *source, record []byte, half *tss.Share, client [32]byte) (*made, error) {
	now := s.clock.wallNow()
	set := &StoredSet{
		ShareSet: ShareSet{
			ID: half.ShareSetID, WalletID: t.walletID, Purpose: t.purpose, Method: t.method, State: SetPending,
			DisplayName: t.DisplayName, CreateTime: now, ExpireTime: s.clock.now().Add(s.cfg.ResultTTL),
		},
		Record: record, ClientShare: client, SessionID: w.rec.ID,
	}
	if src != nil {
		set.ParentID = src.set.ID
	}
	keeper := s.Halves
	if t.purpose == Backup {
		keeper = s.Custodian
	}
	var err error
	if set.Half, err = keeper.Deposit(ctx, t.owner, &set.ShareSet, half); err != nil {
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
