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
	return s.start(ctx, job{op: OpSign, caller: c, requestID: req.RequestID, walletID: req.WalletID, fingerprint: fp, device: req.Device, prepare: func(ctx context.Context) (*plan, error) {
		wallet, src, err := s.source(ctx, c, actSign, req.WalletID, Signing, clientSide{share: req.SigningShare, device: req.Device})
		if err != nil {
			return nil, err
		}
		q := &Question{
			Caller: c.Name, Operation: OpSign.String(), WalletID: wallet.ID, Owner: wallet.Owner, ShareSetID: src.set.ID, RequestID: req.RequestID,
			Curve: req.Curve, Digest: payloadDigest(req.Curve, req.Payload),
		}
		if _, ok := src.record.Key(req.Curve); !ok {
			err = &FieldError{"curve", "must be one of the wallet's curves"}
		} else if req.Device == nil { // a device's is asked when its hello has proved the share
			err = s.allowed(ctx, *q)
		}
		if err != nil {
			src.client.Wipe()
			return nil, err
		}
		return &plan{walletID: wallet.ID, uses: src.set.ID, source: src, payload: req.Payload, question: q, arms: req.Curve == Secp256k1, wipe: src.client.Wipe, steps: func(ctx context.Context, w *work) (*made, error) {
			return s.sign(ctx, w, wallet.Owner, src, req.Curve, req.Payload)
		}}, nil
	}})
}

func (s *Service) sign(ctx context.Context, w *work, owner string, src *source, c Curve, payload []byte) (*made, error) {
	op := s.operation(w, []Curve{c})
	digest := payloadDigest(c, payload)
	if w.run.device != nil {
		// Once ctx has ended nothing leaves any more, although the run goes on to look at what came.
		op.Gate = func(_ context.Context, g tss.Gate) error { return s.pass(ctx, w, g, c, digest) }
	}
	var err error
	if op.Share, err = s.serverShare(ctx, owner, src, w); err != nil {
		return nil, err
	}
	defer op.Share.Wipe()
	op.Record, op.Payload = src.set.Record, payload
	out, _, err := s.compute(ctx, w, op, src.client)
	if err != nil {
		return nil, err
	}
	return s.signed(w, src, c, digest, out.Signature)
}

// signed brings a signature into the form in which it is committed and handed out.
func (s *Service) signed(w *work, src *source, c Curve, digest []byte, sig *tss.Signature) (*made, error) {
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
