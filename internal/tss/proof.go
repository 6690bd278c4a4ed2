package tss

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"

	"filippo.io/edwards25519"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

const (
	helloLabel = "mpcd hello 1"
	proofLen   = 64
)

// HelloContext is what a device's hello is bound to. The hello's proof is a signature over the context and the hello
// itself, under the client's share of the set that is used, on that set's first curve: a caller with stolen credentials
// but without the share cannot make one, and a proof is valid for one session, attempt and instance only.
type HelloContext struct {
	Operation  string // see Operation.Kind
	SessionID  string
	Attempt    uint32
	WalletID   string
	ShareSetID string            // of the set that is used
	RecordHash [sha256.Size]byte // SHA-256 of that set's encoded record
	Payload    []byte            // to sign; nil for other operations
	Instance   string            // see Operation.Instance
}

// digest returns what a proof signs.
func (hc *HelloContext) digest(x *Hello) []byte {
	h := sha256.New()
	addFields(h, []byte(helloLabel), []byte(hc.Operation),
		[]byte(hc.SessionID), binary.BigEndian.AppendUint32(nil, hc.Attempt),
		[]byte(hc.WalletID), []byte(hc.ShareSetID), hc.RecordHash[:],
		signedDigest(hc.Operation, hc.Payload),
		[]byte(Client.String()), []byte(hc.Instance), x.Nonce, x.SessionKey, x.PartyKeys)
	return h.Sum(nil)
}

// Prove sets x.Proof: it signs the hello with the client's share of the set that is used, which it does not change. It
// fails with ErrShareMismatch if the share has no key.
func (x *Hello) Prove(hc *HelloContext, share *Share) error {
	if len(share.Keys) == 0 {
		return fmt.Errorf("%w: it has no key", ErrShareMismatch)
	}
	k, digest := &share.Keys[0], hc.digest(x)
	if k.Curve == Secp256k1 {
		x.Proof = proveECDSA(k.xi, digest)
	} else {
		x.Proof = proveEdDSA(k.xi, digest)
	}
	return nil
}

// helloContext returns the context of the client's own hello.
func (j *Operation) helloContext() *HelloContext {
	return &HelloContext{
		Operation: j.Kind, SessionID: j.SessionID, Attempt: j.Attempt,
		WalletID: j.Share.WalletID, ShareSetID: j.Share.ShareSetID, RecordHash: j.Share.RecordHash,
		Payload: j.Payload, Instance: j.Instance,
	}
}

// VerifyProof checks that the hello's sender has the client's share of rec's set. It fails with ErrShareMismatch. Its
// cost is one verification, whatever the hello contains. rec must come from ParseRecord.
func (x *Hello) VerifyProof(hc *HelloContext, rec *Record) error {
	k := &rec.Keys[0]
	public, digest := k.Curve.encodePoint(k.Parties[Client].BigX), hc.digest(x)
	var ok bool
	if k.Curve == Secp256k1 {
		ok = verifyECDSA(must(secp256k1.ParsePubKey(public)), digest, x.Proof)
	} else {
		ok = verifyEdDSA(public, digest, x.Proof)
	}
	if !ok {
		return fmt.Errorf("%w: the hello's proof does not verify under the client share of set %s",
			ErrShareMismatch, rec.ShareSetID)
	}
	return nil
}

// proveECDSA returns r || s, with the nonce of RFC 6979 and low s.
func proveECDSA(x *big.Int, digest []byte) []byte {
	var b [scalarLen]byte
	x.FillBytes(b[:])
	key := secp256k1.PrivKeyFromBytes(b[:])
	clear(b[:])
	defer key.Zero()
	sig := ecdsa.Sign(key, digest)
	r, s := sig.R(), sig.S()
	rb, sb := r.Bytes(), s.Bytes()
	return slices.Concat(rb[:], sb[:])
}

// verifyECDSA accepts only signatures of the form that proveECDSA makes: r and s below q, s low.
func verifyECDSA(pub *secp256k1.PublicKey, digest, sig []byte) bool {
	if len(digest) != sha256.Size || len(sig) != proofLen { // the verifier below would truncate a longer digest
		return false
	}
	var r, s secp256k1.ModNScalar
	if r.SetByteSlice(sig[:32]) || s.SetByteSlice(sig[32:]) || s.IsOverHalfOrder() {
		return false
	}
	return ecdsa.NewSignature(&r, &s).Verify(digest, pub)
}

// proveEdDSA makes an Ed25519 signature (RFC 8032) with the scalar itself: crypto/ed25519 derives the scalar and the
// nonce's prefix from a seed, and a share has none. The nonce is the SHA-512 of fresh randomness, the scalar and the
// message: it stays secret if the random source fails, and a fault attack gets no second signature with the same nonce.
func proveEdDSA(x *big.Int, message []byte) []byte {
	secret := edwardsScalar(x)
	public := new(edwards25519.Point).ScalarBaseMult(secret)

	var seed [32 + scalarLen]byte
	_, _ = rand.Read(seed[:32]) // never fails
	x.FillBytes(seed[32:])
	nonce := hashToScalar(seed[:], message)
	clear(seed[:])

	commitment := new(edwards25519.Point).ScalarBaseMult(nonce).Bytes()
	challenge := hashToScalar(commitment, public.Bytes(), message)
	s := edwards25519.NewScalar().MultiplyAdd(challenge, secret, nonce)
	nonce.Set(edwards25519.NewScalar())
	secret.Set(edwards25519.NewScalar())
	return append(commitment, s.Bytes()...)
}

// hashToScalar returns the SHA-512 of the concatenated fields, modulo the group's order.
func hashToScalar(fields ...[]byte) *edwards25519.Scalar {
	h := sha512.New()
	for _, f := range fields {
		h.Write(f)
	}
	sum := h.Sum(nil)
	defer clear(sum)
	return must(edwards25519.NewScalar().SetUniformBytes(sum))
}

// verifyEdDSA verifies with crypto/ed25519, which accepts only canonical scalars and does not multiply by the cofactor.
// The commitment must be the canonical encoding of a point in the prime-order group, too.
func verifyEdDSA(public, message, sig []byte) bool {
	if len(public) != ed25519.PublicKeySize || len(sig) != ed25519.SignatureSize {
		return false
	}
	if _, err := decodeEdwards(Ed25519.ec(), sig[:32]); err != nil {
		return false
	}
	return ed25519.Verify(public, message, sig)
}
