package client

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
)

// Signature is a signature that verifies under the wallet's key.
type Signature struct {
	Bytes      []byte // 64 bytes: r || s with low s (SECP256K1), or as in RFC 8032 (ED25519)
	RecoveryID uint32 // 0 to 3, SECP256K1 only
	ShareSetID string // the set that signed
	PublicKey  []byte // the key that it verifies under, encoded as in PublicKey.Bytes
}

// Sign signs with one of the wallet's keys. The payload is a 32-byte digest for SECP256K1 and the message itself for
// ED25519; otherwise Sign fails with ErrPayload before any call. The signature is verified under the wallet's public
// key: the one set with PinKeys, or else the first that the service sent to this client. If there is none yet, it is
// fetched.
func (c *Client) Sign(ctx context.Context, share *Share, curve Curve, payload []byte) (*Signature, error) {
	if err := share.checkPurpose(PurposeSigning); err != nil {
		return nil, err
	}
	tc, err := curve.tss()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(share.curves, curve) {
		return nil, fmt.Errorf("client: %w: it has no %s key", ErrWrongShare, curve)
	}
	if err := tss.CheckPayload(tc, payload); err != nil {
		return nil, fmt.Errorf("client: %w: %w", ErrPayload, err)
	}
	if c.deviceHeld {
		resp, err := c.signOnDevice(ctx, share, curve, payload)
		return c.signature(ctx, resp, err, share, curve, payload)
	}
	// The public key is fetched after signing, so that the service reports a wallet or set that cannot sign. Retries have
	// the same request id, which attaches them to the first try's session.
	req := &mpcdv1.SignRequest{
		WalletId: share.walletID, RequestId: uuid.NewString(), SigningShare: share.encoded.Reveal(),
		Curve: curve.proto(), Payload: payload,
	}
	resp, err := call(ctx, c, req, c.service.Sign)
	return c.signature(ctx, resp, err, share, curve, payload)
}

// signature verifies the signature in resp under the wallet's key. If err is not nil, it returns err.
func (c *Client) signature(
	ctx context.Context, resp *mpcdv1.SignResponse, err error, share *Share, curve Curve, payload []byte,
) (*Signature, error) {
	if err != nil {
		return nil, err
	}
	tc, err := curve.tss()
	if err != nil {
		return nil, err
	}
	key, err := c.key(ctx, share.walletID, curve)
	if err != nil {
		return nil, err
	}
	return checkSignature(resp, share, tc, key, payload)
}

func checkSignature(
	resp *mpcdv1.SignResponse, share *Share, curve tss.Curve, key, payload []byte,
) (*Signature, error) {
	var sig tss.Signature
	if len(resp.GetSignature()) != len(sig.Bytes) || resp.GetRecoveryId() > 3 {
		return nil, badAnswer("the signature is malformed")
	}
	copy(sig.Bytes[:], resp.GetSignature())
	sig.RecoveryID = uint8(resp.GetRecoveryId()) //nolint:gosec // G115: at most 3
	if err := tss.Verify(curve, key, payload, &sig); err != nil {
		return nil, badAnswer("%w", err)
	}
	if resp.GetShareSetId() != share.shareSetID {
		return nil, badAnswer("the signature is another share set's")
	}
	return &Signature{
		Bytes: sig.Bytes[:], RecoveryID: resp.GetRecoveryId(),
		ShareSetID: share.shareSetID, PublicKey: slices.Clone(key),
	}, nil
}
