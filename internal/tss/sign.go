package tss

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"

	"github.com/bnb-chain/tss-lib/v2/common"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// MaxMessageBytes is the maximum length of an Ed25519 message. tss-lib keeps the message as one big integer.
const MaxMessageBytes = 64 << 10

// SignInput is one side's part in a signing.
type SignInput struct {
	Party   Party
	Record  *KeyRecord
	Share   *KeyShare // not changed by the run
	Payload []byte    // Secp256k1: a 32-byte digest; Ed25519: the message
	// BeforeRelease is called before the message of a ReleasePoint is sent. Its error ends the run and is returned
	// unchanged. With ErrStopped nothing more is sent, and the run ends when the Conn returns ErrStopped, too. nil: no
	// check.
	BeforeRelease func(context.Context, ReleasePoint) error `json:"-"`
}

// ReleasePoint is a message of a signing that is sent only after BeforeRelease agrees.
type ReleasePoint uint8

// The release points.
const (
	// Arm is round 2 of ECDSA: w and gamma, through MtA under the other side's Paillier key. After it, our messages can
	// reveal something about our share to a dishonest other side (docs/adr/0007-hostile-callers.md).
	Arm ReleasePoint = iota + 1
	// Disarm is the last message, from which the other side gets the signature. In ECDSA it is sent only after our check
	// U = T, which a dishonest side fails.
	Disarm
)

// releasePoints returns the release points of a signing on c, by round.
func (c Curve) releasePoints() map[int]ReleasePoint {
	last := signings[c].last()
	if c == Secp256k1 {
		return map[int]ReleasePoint{2: Arm, last: Disarm}
	}
	return map[int]ReleasePoint{last: Disarm}
}

// Signature is a finished signature, verified under the wallet's key.
type Signature struct {
	Bytes      [64]byte // r || s with low s (SEC1 sizes), or RFC 8032
	RecoveryID uint8    // 0 to 3, Secp256k1 only
}

// CheckPayload returns an ErrPayload for a payload that must not or cannot be signed: an ECDSA digest that does not
// have 32 bytes, is zero (which tss-lib would sign) or not below q, or an Ed25519 message of more than MaxMessageBytes.
func CheckPayload(c Curve, payload []byte) error {
	if c == Ed25519 {
		if len(payload) > MaxMessageBytes {
			return fmt.Errorf("%w: the message has %d bytes, the maximum is %d", ErrPayload, len(payload), MaxMessageBytes)
		}
		return nil
	}
	if len(payload) != 32 {
		return fmt.Errorf("%w: an ECDSA digest has 32 bytes, this one %d", ErrPayload, len(payload))
	}
	if !c.isScalar(new(big.Int).SetBytes(payload)) {
		return fmt.Errorf("%w: the digest is zero, or not below the order of the curve", ErrPayload)
	}
	return nil
}

// Sign runs one side of a signing and returns a verified signature. Before any protocol work it fails with ErrPayload,
// or with ErrRecordMalformed, ErrShareMismatch or ErrShareMalformed for the share and its record; later with a
// *ProtocolError if the other side is at fault, with in.BeforeRelease's error, or with ctx's cause as soon as ctx ends.
func Sign(ctx context.Context, conn Conn, in SignInput, obs Observer) (*Signature, error) {
	if in.Record == nil || in.Share == nil || !in.Party.Valid() || in.Share.Curve != in.Record.Curve {
		return nil, fmt.Errorf("%w: no share or record, or of different curves", ErrShareMismatch)
	}
	c := in.Record.Curve
	if err := CheckPayload(c, in.Payload); err != nil {
		return nil, err
	}
	if err := in.Record.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecordMalformed, err)
	}
	if err := in.Record.checkShare(in.Share, in.Party); err != nil {
		return nil, err
	}
	keys := committee{in.Record.Parties[Client].PartyKey, in.Record.Parties[Server].PartyKey}
	ids := keys.ids("party")
	params := lib.NewParameters(c.ec(), sorted(ids), ids[in.Party], 2, 1)
	t := newLocalParty(onlyRole, keys[in.Party])
	t.senders[onlyRole] = ids
	s := &side{
		curve: c, me: in.Party, proto: signings[c], conn: conn, obs: obs, parties: []*localParty{t},
		beforeRelease: in.BeforeRelease, releasePoints: c.releasePoints(),
	}
	s.ingress = &ingress{curve: c, me: in.Party, proto: s.proto, record: in.Record}

	end := make(chan *common.SignatureData, 1)
	var d *common.SignatureData
	t.ended = pollInto(end, &d)
	// tss-lib gets the payload's length below: without it, leading zeros are dropped and another message is signed
	// (tss-lib.md, row 11).
	m := new(big.Int).SetBytes(in.Payload)
	if c == Secp256k1 {
		data := ecSaveData(in.Record, in.Share, in.Party)
		s.secrets = func() {
			wipe(data.Xi, data.PaillierSK.LambdaN, data.PaillierSK.PhiN, data.PaillierSK.P, data.PaillierSK.Q)
		}
		t.party = ecsigning.NewLocalParty(m, params, data, t.out, end, len(in.Payload))
	} else {
		data := edSaveData(in.Record, in.Share, in.Party)
		s.secrets = func() { wipe(data.Xi) }
		t.party = edsigning.NewLocalParty(m, params, data, t.out, end, len(in.Payload))
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	return s.verifySignature(d, in.Record, in.Payload)
}

// verifySignature returns the signature in d after verifying it under the record's key.
func (s *side) verifySignature(d *common.SignatureData, rec *KeyRecord, payload []byte) (*Signature, error) {
	sig := new(Signature)
	if len(d.GetSignature()) != len(sig.Bytes) {
		return nil, s.blame(errors.New("the signature does not have 64 bytes"))
	}
	copy(sig.Bytes[:], d.GetSignature())
	if id := d.GetSignatureRecovery(); len(id) == 1 {
		sig.RecoveryID = id[0]
	}
	if err := Verify(rec.Curve, rec.PublicKey, payload, sig); err != nil {
		return nil, s.blame(err)
	}
	return sig, nil
}

// Verify checks a signature, and the recovery id of an ECDSA one, with libraries that share no code with tss-lib's
// signing. publicKey and payload are as in KeyRecord and SignInput.
func Verify(c Curve, publicKey, payload []byte, sig *Signature) error {
	errVerify := errors.New("the signature does not verify")
	if c == Ed25519 {
		if len(publicKey) != ed25519.PublicKeySize || !ed25519.Verify(publicKey, payload, sig.Bytes[:]) {
			return errVerify
		}
		return nil
	}
	pub, err := secp256k1.ParsePubKey(publicKey)
	if err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	if !verifyECDSA(pub, payload, sig.Bytes[:]) {
		return errVerify
	}
	if sig.RecoveryID > 3 { // the header byte below would overflow
		return errVerify
	}
	// 27 + id + 4 (compressed) is the header byte of a recoverable signature.
	compact := append([]byte{27 + 4 + sig.RecoveryID}, sig.Bytes[:]...)
	if got, _, err := ecdsa.RecoverCompact(compact, payload); err != nil || !got.IsEqual(pub) {
		return errors.New("the recovery id does not yield the public key")
	}
	return nil
}
