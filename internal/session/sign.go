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
	return s.attachOrStart(ctx, job{
		operation: &sign{req, c}, op: OpSign, caller: c, requestID: req.RequestID, walletID: req.WalletID, fingerprint: fp,
		device: req.Device,
	})
}

type sign struct {
	SignRequest
	caller Caller
}

func (o *sign) prepare(ctx context.Context, s *runner) (*plan, error) {
	from := clientSide{share: o.SigningShare, device: o.Device}
	wallet, src, err := s.findSource(ctx, o.caller, actSign, o.WalletID, Signing, from)
	if err != nil {
		return nil, err
	}
	p := &plan{
		operation: o, walletID: wallet.ID, owner: wallet.Owner, uses: src.set.ID, source: src, payload: o.Payload,
		curves: []Curve{o.Curve}, arms: o.Curve == Secp256k1,
	}
	p.question = &Question{
		Caller: o.caller.Name, Operation: OpSign.String(), WalletID: wallet.ID, Owner: wallet.Owner, ShareSetID: src.set.ID,
		RequestID: o.RequestID, Curve: o.Curve, Digest: payloadDigest(o.Curve, o.Payload),
	}
	if _, ok := src.record.Key(o.Curve); !ok {
		err = &FieldError{"curve", "must be one of the wallet's curves"}
	} else if o.Device == nil { // for a device see authoriseDevice
		err = s.askPolicy(ctx, *p.question)
	}
	if err != nil {
		p.wipe()
		return nil, err
	}
	return p, nil
}

func (o *sign) execute(ctx context.Context, s *runner, w *work, p *plan) (*made, error) {
	side := s.serverOperation(w, p.curves)
	side.Payload = o.Payload
	digest := payloadDigest(o.Curve, o.Payload)
	if o.Device != nil {
		// With this ctx: once it has ended nothing more is sent, although accepted parts are still processed.
		side.BeforeRelease = func(_ context.Context, g tss.ReleasePoint) error {
			return s.beforeRelease(ctx, w, g, o.Curve, digest)
		}
	}
	out, _, err := s.compute(ctx, w, p, side)
	if err != nil {
		return nil, err
	}
	return s.sealSignature(w, p.source, o.Curve, digest, out.Signature)
}

// sealSignature returns what a signing commits, and sets its result.
func (s *runner) sealSignature(w *work, src *source, c Curve, digest []byte, sig *tss.Signature) (*made, error) {
	result := secret.New(append(sig.Bytes[:], sig.RecoveryID))
	w.rec.ShareSetID = src.set.ID
	var err error
	if w.rec.Result, err = s.sealResult(w.rec, result, nil); err != nil {
		return nil, err
	}
	return &made{
		Made:    Made{Used: src.set.ID},
		audit:   func(e Entry) Entry { return e.withSignature(c, digest) },
		outcome: &Outcome{WalletID: w.rec.WalletID, Signature: sig, SignedBy: src.set.ID},
	}, nil
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

// payloadDigest returns what the audit log and a policy see of a payload.
func payloadDigest(c Curve, payload []byte) []byte {
	if c == Secp256k1 {
		return bytes.Clone(payload) // it is a digest
	}
	digest := sha256.Sum256(payload)
	return digest[:]
}
