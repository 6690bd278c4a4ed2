package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// Sign starts, or attaches to, a signing with an ACTIVE SIGNING set.
func (s *Service) Sign(ctx context.Context, c Caller, req SignRequest) (*Run, error) {
	if err := checkPayload(req.Curve, req.Payload); err != nil {
		return nil, err
	}
	fp, err := s.fingerprint(OpSign, req.fields()...)
	if err != nil {
		return nil, err
	}
	return s.start(ctx, job{
		operation: &sign{req, c}, op: OpSign, caller: c, requestID: req.RequestID, walletID: req.WalletID, fingerprint: fp, device: req.Device,
	})
}

type sign struct {
	SignRequest
	caller Caller
}

func (o *sign) prepare(ctx context.Context, s *runner) (*plan, error) {
	wallet, src, err := s.source(ctx, o.caller, actSign, o.WalletID, Signing, clientSide{share: o.SigningShare, device: o.Device})
	if err != nil {
		return nil, err
	}
	p := &plan{
		operation: o, walletID: wallet.ID, owner: wallet.Owner, uses: src.set.ID, source: src, payload: o.Payload,
		curves: []Curve{o.Curve}, arms: o.Curve == Secp256k1,
	}
	p.question = &Question{
		Caller: o.caller.Name, Operation: OpSign.String(), WalletID: wallet.ID, Owner: wallet.Owner, ShareSetID: src.set.ID, RequestID: o.RequestID,
		Curve: o.Curve, Digest: payloadDigest(o.Curve, o.Payload),
	}
	if _, ok := src.record.Key(o.Curve); !ok {
		err = &FieldError{"curve", "must be one of the wallet's curves"}
	} else if o.Device == nil { // of a device-held run it is asked when the device has shown its share
		err = s.allowed(ctx, *p.question)
	}
	if err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

func (o *sign) execute(ctx context.Context, s *runner, w *work, p *plan) (*made, error) {
	side := s.serverSide(w, p.curves)
	side.Payload = o.Payload
	digest := payloadDigest(o.Curve, o.Payload)
	if o.Device != nil {
		// Once ctx has ended nothing leaves any more, although the run goes on to look at what came.
		side.BeforeRelease = func(_ context.Context, g tss.ReleasePoint) error { return s.pass(ctx, w, g, o.Curve, digest) }
	}
	out, _, err := s.compute(ctx, w, p, side)
	if err != nil {
		return nil, err
	}
	return s.signed(w, p.source, o.Curve, digest, out.Signature)
}

// signed brings a signature into the form in which it is committed and handed out.
func (s *runner) signed(w *work, src *source, c Curve, digest []byte, sig *tss.Signature) (*made, error) {
	result := secret.New(append(sig.Bytes[:], sig.RecoveryID))
	w.rec.ShareSetID = src.set.ID
	var err error
	if w.rec.Result, err = s.sealResult(w.rec, result, nil); err != nil {
		return nil, err
	}
	return &made{Made: Made{Used: src.set.ID}, audit: func(e Entry) Entry { return e.signed(c, digest) }, outcome: &Outcome{WalletID: w.rec.WalletID, Signature: sig, SignedBy: src.set.ID}}, nil
}

func checkPayload(c Curve, payload []byte) error {
	if tss.CheckPayload(c, payload) == nil {
		return nil
	}
	if c == Secp256k1 {
		return &FieldError{"payload", "must be a 32-byte digest, neither zero nor beyond the order of the curve"}
	}
	return &FieldError{"payload", fmt.Sprintf("must have at most %d bytes", tss.MaxMessageBytes)}
}

// payloadDigest is what the audit log keeps of a payload, and a policy is told of it.
func payloadDigest(c Curve, payload []byte) []byte {
	if c == Secp256k1 {
		return bytes.Clone(payload) // it is one already
	}
	digest := sha256.Sum256(payload)
	return digest[:]
}
