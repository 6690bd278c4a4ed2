package main

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/mpcd/mpcd/client"
)

type signCmd struct {
	serviceFlags
	Share   string       `help:"File with a signing share." required:"" placeholder:"FILE"`
	Curve   client.Curve `help:"SECP256K1 or ED25519." required:"" enum:"SECP256K1,ED25519" placeholder:"CURVE"`
	Payload string       `help:"In hex: a 32-byte digest for SECP256K1, the message for ED25519." required:"" placeholder:"HEX"`
}

// Run signs.
func (cmd *signCmd) Run(ctx context.Context) error {
	payload, err := hex.DecodeString(cmd.Payload)
	if err != nil {
		return usageError{errors.New("--payload is not hex")}
	}
	s, err := readShare(cmd.Share)
	if err != nil {
		return err
	}
	return cmd.callQuietly(func(c *client.Client) (any, string, error) {
		sig, err := c.Sign(ctx, s, cmd.Curve, payload)
		if err != nil {
			return nil, "", err
		}
		return struct {
			ShareSetID string       `json:"shareSetId"`
			Curve      client.Curve `json:"curve"`
			PublicKey  string       `json:"publicKey"`
			Payload    string       `json:"payload"`
			Signature  string       `json:"signature"`
			RecoveryID uint32       `json:"recoveryId"`
		}{sig.ShareSetID, cmd.Curve, hex.EncodeToString(sig.PublicKey), cmd.Payload, hex.EncodeToString(sig.Bytes),
			sig.RecoveryID}, hex.EncodeToString(sig.Bytes) + "\n", nil
	})
}
