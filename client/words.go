package client

import (
	"fmt"
	"slices"
	"strings"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
)

// Curve names the curve of one of a wallet's keys.
type Curve string

// The curves of a wallet.
const (
	CurveSecp256k1 Curve = "SECP256K1" // ECDSA; payloads are 32-byte digests
	CurveEd25519   Curve = "ED25519"   // EdDSA as in RFC 8032; payloads are messages
)

// BackupMethod says how a backup is encrypted.
type BackupMethod string

// The backup methods. For all but MethodPassword a random key encrypts the backup, and the
// app keeps it where the method says (WithCloudKey).
const (
	MethodPassword BackupMethod = "PASSWORD"
	MethodICloud   BackupMethod = "ICLOUD"
	MethodGDrive   BackupMethod = "GDRIVE"
	MethodPasskey  BackupMethod = "PASSKEY"
	MethodFirebase BackupMethod = "FIREBASE"
	MethodCustom   BackupMethod = "CUSTOM"
)

// Purpose says what a share set is for.
type Purpose string

// The purposes of a share set.
const (
	PurposeSigning Purpose = "SIGNING"
	PurposeBackup  Purpose = "BACKUP"
)

// State says how far a share set has come. It only moves forward.
type State string

// The states of a share set.
const (
	StatePending State = "PENDING" // made, not confirmed yet: of no use, and erased when its time is up
	StateActive  State = "ACTIVE"
	StateRevoked State = "REVOKED"
)

// The API's enums are these words with a prefix; a value that this SDK does not know yet
// comes out as its name or number.

func (c Curve) proto() mpcdv1.Curve { return mpcdv1.Curve(mpcdv1.Curve_value["CURVE_"+string(c)]) }

func curveOf(c mpcdv1.Curve) Curve {
	if c == mpcdv1.Curve_CURVE_UNSPECIFIED {
		return ""
	}
	return Curve(strings.TrimPrefix(c.String(), "CURVE_"))
}

func (c Curve) tss() (tss.Curve, error) {
	for _, t := range tss.Curves() {
		if t.String() == string(c) {
			return t, nil
		}
	}
	return 0, fmt.Errorf("client: %q is no curve; use SECP256K1 or ED25519", string(c))
}

// inOrder checks curves and returns them in the order in which shares have them; none
// means all.
func inOrder(curves []Curve) ([]Curve, error) {
	var out []Curve
	for _, t := range tss.Curves() {
		if c := Curve(t.String()); len(curves) == 0 || slices.Contains(curves, c) {
			out = append(out, c)
		}
	}
	for _, c := range curves {
		if _, err := c.tss(); err != nil {
			return nil, err
		}
	}
	if len(curves) > len(out) {
		return nil, fmt.Errorf("client: a curve is named twice")
	}
	return out, nil
}

func (m BackupMethod) proto() mpcdv1.BackupMethod {
	return mpcdv1.BackupMethod(mpcdv1.BackupMethod_value["BACKUP_METHOD_"+string(m)])
}

// check refuses what is none of the methods above.
func (m BackupMethod) check() error {
	if m == "" || m.proto() == mpcdv1.BackupMethod_BACKUP_METHOD_UNSPECIFIED {
		return fmt.Errorf("client: %q is no backup method; use PASSWORD, ICLOUD, GDRIVE, PASSKEY, FIREBASE or CUSTOM", string(m))
	}
	return nil
}

func methodOf(m mpcdv1.BackupMethod) BackupMethod {
	if m == mpcdv1.BackupMethod_BACKUP_METHOD_UNSPECIFIED {
		return ""
	}
	return BackupMethod(strings.TrimPrefix(m.String(), "BACKUP_METHOD_"))
}

func purposeOf(p mpcdv1.Purpose) Purpose {
	return Purpose(strings.TrimPrefix(p.String(), "PURPOSE_"))
}

func stateOf(s mpcdv1.ShareSetState) State {
	return State(strings.TrimPrefix(s.String(), "SHARE_SET_STATE_"))
}
