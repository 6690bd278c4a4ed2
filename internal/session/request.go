package session

import (
	"encoding/binary"

	"filippo.io/age"

	"github.com/mpcd/mpcd/internal/secret"
)

// Start is the common part of the requests that make a share set.
type Start struct {
	RequestID   string               // UUID, unique for each caller
	SealTo      *age.X25519Recipient // nil: the share in the outcome is in plaintext
	DisplayName string               // of the device; shown with the set
	Device      *Device              // runs the client's side; nil: hosted
}

// CreateRequest asks for a wallet and its first SIGNING set.
type CreateRequest struct {
	Start
	Owner  string  // empty: the caller
	Curves []Curve // distinct; empty: all
}

// BackupRequest asks for a BACKUP set reshared from a SIGNING set.
type BackupRequest struct {
	Start
	WalletID     string
	SigningShare secret.Bytes
	Method       BackupMethod
}

// ProvisionRequest asks for a SIGNING set reshared from a BACKUP set.
type ProvisionRequest struct {
	Start
	WalletID    string
	BackupShare secret.Bytes
}

// SignRequest asks for a signature.
type SignRequest struct {
	RequestID    string
	WalletID     string
	SigningShare secret.Bytes // hosted only
	Device       *Device      // runs the client's side and names the set; nil: hosted
	Curve        Curve
	Payload      []byte // Secp256k1: a 32-byte digest; Ed25519: the message
}

func (r *SignRequest) fields() [][]byte {
	if r.Device != nil {
		return [][]byte{[]byte("device"), []byte(r.WalletID), []byte(r.Device.ShareSetID), {byte(r.Curve)}, r.Payload}
	}
	return [][]byte{[]byte(r.WalletID), r.SigningShare.Reveal(), {byte(r.Curve)}, r.Payload}
}

// fingerprint returns a keyed MAC over all fields of a request. It distinguishes a repeated call from another call
// with the same request id, without storing the share.
func (s *runner) fingerprint(op Operation, fields ...[]byte) ([]byte, error) {
	all := []byte{byte(op)}
	for _, f := range fields {
		all = binary.BigEndian.AppendUint64(all, uint64(len(f)))
		all = append(all, f...)
	}
	defer clear(all)
	return s.ports.Sealer.MAC(all)
}

func (st *Start) fields() [][]byte {
	to := ""
	if st.SealTo != nil {
		to = st.SealTo.String()
	}
	if st.Device != nil { // without the instance: another one may repeat the request
		return [][]byte{[]byte("device"), []byte(st.Device.ShareSetID), []byte(st.DisplayName)}
	}
	return [][]byte{[]byte(to), []byte(st.DisplayName)}
}

func curveBytes(curves []Curve) []byte {
	out := make([]byte, 0, len(curves))
	for _, c := range curves {
		out = append(out, byte(c))
	}
	return out
}
