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

// HelloContext is what a device's hello is about, as each side knows it. The hello's proof is
// a signature over it and over the hello itself, under the client's share of the set that is
// used, on that set's first curve: whoever has a token and no share proves nothing, and what
// one session, attempt or instance has proven proves nothing for another.
type HelloContext struct {
	Operation  string // as Operation.Kind
	SessionID  string
	Attempt    uint32
	WalletID   string
	ShareSetID string            // of the set that is used
	RecordHash [sha256.Size]byte // of the same set's encoded record
	Payload    []byte            // what is signed; nil otherwise
	Instance   string            // as Operation.Instance
}

// digest is what a proof signs.
func (about *HelloContext) digest(x *Hello) []byte {
	h := sha256.New()
	put(h, []byte(helloLabel), []byte(about.Operation),
		[]byte(about.SessionID), binary.BigEndian.AppendUint32(nil, about.Attempt),
		[]byte(about.WalletID), []byte(about.ShareSetID), about.RecordHash[:],
		signedDigest(about.Operation, about.Payload),
		[]byte(Client.String()), []byte(about.Instance), x.Nonce, x.SessionKey, x.PartyKeys)
	return h.Sum(nil)
}

// Prove signs the hello with the client's share of the set that is used. It fails with
// ErrShareMismatch where the share has no key. The share is not changed.
func (x *Hello) Prove(about *HelloContext, share *Share) error {
	if len(share.Keys) == 0 {
		return fmt.Errorf("%w: it has no key", ErrShareMismatch)
	}
	k, digest := &share.Keys[0], about.digest(x)
	if k.Curve == Secp256k1 {
		x.Proof = proveECDSA(k.xi, digest)
	} else {
		x.Proof = proveEdDSA(k.xi, digest)
	}
	return nil
}

// helloContext is what the client's own hello is about.
func (j *Operation) helloContext() *HelloContext {
	return &HelloContext{
		Operation: j.Kind, SessionID: j.SessionID, Attempt: j.Attempt,
		WalletID: j.Share.WalletID, ShareSetID: j.Share.ShareSetID, RecordHash: j.Share.RecordHash, Payload: j.Payload, Instance: j.Instance,
	}
}

// VerifyProof checks that the hello's sender has the client's share of the set that rec is of.
// It fails with ErrShareMismatch, and costs one verification whatever the hello holds. rec is
// one that ParseRecord has checked.
func (x *Hello) VerifyProof(about *HelloContext, rec *Record) error {
	k := &rec.Keys[0]
	public, digest := k.Curve.encodePoint(k.Parties[Client].BigX), about.digest(x)
	var ok bool
	if k.Curve == Secp256k1 {
		ok = verifyECDSA(must(secp256k1.ParsePubKey(public)), digest, x.Proof)
	} else {
		ok = verifyEdDSA(public, digest, x.Proof)
	}
	if !ok {
		return fmt.Errorf("%w: the hello's proof is not by the client's share of set %s", ErrShareMismatch, rec.ShareSetID)
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

// verifyECDSA takes the one form of a signature that proveECDSA makes: r and s below q, s low.
func verifyECDSA(pub *secp256k1.PublicKey, digest, sig []byte) bool {
	if len(digest) != sha256.Size || len(sig) != proofLen { // the verifier below would cut a longer digest
		return false
	}
	var r, s secp256k1.ModNScalar
	if r.SetByteSlice(sig[:32]) || s.SetByteSlice(sig[32:]) || s.IsOverHalfOrder() {
		return false
	}
	return ecdsa.NewSignature(&r, &s).Verify(digest, pub)
}

// proveEdDSA signs as Ed25519 does (RFC 8032), but from the scalar itself: a share has no seed
// from which crypto/ed25519 could derive it and the nonce's prefix. The nonce is the SHA-512 of
// fresh randomness, the scalar and the message: unlike a random one it is no worse than the
// hash where randomness fails, and unlike a derived one it does not repeat under a fault.
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

// hashToScalar is SHA-512 of the fields, one after the other, modulo the group's order.
func hashToScalar(fields ...[]byte) *edwards25519.Scalar {
	h := sha512.New()
	for _, f := range fields {
		h.Write(f)
	}
	sum := h.Sum(nil)
	defer clear(sum)
	return must(edwards25519.NewScalar().SetUniformBytes(sum))
}

// verifyEdDSA is crypto/ed25519's, which takes canonical scalars alone and no cofactor, with
// the commitment in the prime-order group and in its one encoding too.
func verifyEdDSA(public, message, sig []byte) bool {
	if len(public) != ed25519.PublicKeySize || len(sig) != ed25519.SignatureSize {
		return false
	}
	if _, err := decodeEdwards(Ed25519.ec(), sig[:32]); err != nil {
		return false
	}
	return ed25519.Verify(public, message, sig)
}
