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

// MaxMessageBytes bounds an Ed25519 message; tss-lib holds it as one big integer.
const MaxMessageBytes = 64 << 10

// SignInput is one side's part in a signing.
type SignInput struct {
	Party   Party
	Record  *KeyRecord
	Share   *KeyShare // not changed by the run
	Payload []byte    // Secp256k1: a 32-byte digest; Ed25519: the message
	// BeforeRelease is asked before certain messages leave. Its error ends the run, as it is, but for
	// ErrStopped: then nothing leaves any more, and the Conn says the same. nil: nobody is asked.
	BeforeRelease func(context.Context, ReleasePoint) error `json:"-"`
}

// ReleasePoint is a message of a signing that leaves only if somebody agrees.
type ReleasePoint uint8

// The messages that are asked about.
const (
	// Arm is round 2 of ECDSA: w and gamma, through MtA under the other side's Paillier key.
	// From here on what we answer depends on what a dishonest side has changed (docs/adr/0007).
	Arm ReleasePoint = iota + 1
	// Disarm is the last message, with which the other side has the signature. In ECDSA it
	// leaves only after our own check, U = T, that nothing was changed.
	Disarm
)

// gates are the rounds whose messages are asked about.
func (c Curve) gates() map[int]ReleasePoint {
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

// CheckPayload refuses what must not or cannot be signed, with ErrPayload: a digest
// that is not 32 bytes, not below q, or zero, which tss-lib would sign; a message that
// is too long.
func CheckPayload(c Curve, payload []byte) error {
	if c == Ed25519 {
		if len(payload) > MaxMessageBytes {
			return fmt.Errorf("%w: the message has %d bytes, at most %d are signed", ErrPayload, len(payload), MaxMessageBytes)
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

// Sign runs one side of a signing. It returns a verified signature, ErrPayload,
// ErrShareMismatch or ErrShareMalformed before any work, a *ProtocolError that names
// the other side, or ctx's cause at once when ctx ends.
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
	s := &side{curve: c, me: in.Party, proto: signings[c], conn: conn, obs: obs, parties: []*localParty{t}, gate: in.BeforeRelease, gates: c.gates()}
	s.ingress = &ingress{curve: c, me: in.Party, proto: s.proto, record: in.Record}

	end := make(chan *common.SignatureData, 1)
	var d *common.SignatureData
	t.ended = take(end, &d)
	// The length is that of the payload: without it tss-lib drops leading zeros, and the
	// signature is one of another message (tss-lib.md, row 11).
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
	return s.verified(d, in.Record, in.Payload)
}

// verified returns what tss-lib made, if it is a signature under the record's key.
func (s *side) verified(d *common.SignatureData, rec *KeyRecord, payload []byte) (*Signature, error) {
	sig := new(Signature)
	if len(d.GetSignature()) != len(sig.Bytes) {
		return nil, s.blame(errors.New("the signature has not 64 bytes"))
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

// Verify checks a signature with libraries that share no code with tss-lib's signing.
// publicKey and payload are as in KeyRecord and SignInput.
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
	if sig.RecoveryID > 3 { // the header byte below would wrap around
		return errVerify
	}
	// 27 + id + 4 (compressed) is the header byte of a recoverable signature.
	compact := append([]byte{27 + 4 + sig.RecoveryID}, sig.Bytes[:]...)
	if got, _, err := ecdsa.RecoverCompact(compact, payload); err != nil || !got.IsEqual(pub) {
		return errors.New("the recovery id does not lead to the public key")
	}
	return nil
}
