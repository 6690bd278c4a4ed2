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
	Bytes      []byte // 64 bytes: r || s with the low s, or RFC 8032
	RecoveryID uint32 // 0 to 3, SECP256K1 only
	ShareSetID string // the set that signed
	PublicKey  []byte // the key that it verifies under, as in PublicKey.Bytes
}

// Sign signs with one of the wallet's keys. The payload is a 32-byte digest for SECP256K1
// and the message itself for ED25519; it fails with ErrPayload before any call when it is
// neither. The signature is verified under the wallet's public key: the one of PinKeys or
// the first that the service has shown to this client, which is fetched when there is none.
func (c *Client) Sign(ctx context.Context, share *Share, curve Curve, payload []byte) (*Signature, error) {
	if err := share.of(PurposeSigning); err != nil {
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
	// Before the key, so that a wallet or set that cannot sign is the service's to explain.
	// The same request id each time: it attaches to the first one's signing.
	req := &mpcdv1.SignRequest{
		WalletId: share.walletID, RequestId: uuid.NewString(), SigningShare: share.encoded.Reveal(),
		Curve: curve.proto(), Payload: payload,
	}
	resp, err := again(ctx, newPace(c.rest, shortly), func() (*mpcdv1.SignResponse, error) { return c.service.Sign(ctx, req) })
	return c.signature(ctx, resp, err, share, curve, payload)
}

// signature holds an answer against the wallet's key.
func (c *Client) signature(ctx context.Context, resp *mpcdv1.SignResponse, err error, share *Share, curve Curve, payload []byte) (*Signature, error) {
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

func checkSignature(resp *mpcdv1.SignResponse, share *Share, curve tss.Curve, key, payload []byte) (*Signature, error) {
	var sig tss.Signature
	if len(resp.GetSignature()) != len(sig.Bytes) || resp.GetRecoveryId() > 3 {
		return nil, badAnswer("the signature has not the form of one")
	}
	copy(sig.Bytes[:], resp.GetSignature())
	sig.RecoveryID = uint8(resp.GetRecoveryId()) //nolint:gosec // G115: at most 3
	if err := tss.Verify(curve, key, payload, &sig); err != nil {
		return nil, badAnswer("%w", err)
	}
	if resp.GetShareSetId() != share.shareSetID {
		return nil, badAnswer("another share set signed")
	}
	return &Signature{
		Bytes: sig.Bytes[:], RecoveryID: resp.GetRecoveryId(), ShareSetID: share.shareSetID, PublicKey: slices.Clone(key),
	}, nil
}
