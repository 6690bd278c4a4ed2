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

// BackupMethod is how a backup is encrypted.
type BackupMethod string

// The backup methods. MethodPassword encrypts with a password; all others encrypt with a random key, which the app
// stores where the method says (WithCloudKey).
const (
	MethodPassword BackupMethod = "PASSWORD"
	MethodICloud   BackupMethod = "ICLOUD"
	MethodGDrive   BackupMethod = "GDRIVE"
	MethodPasskey  BackupMethod = "PASSKEY"
	MethodFirebase BackupMethod = "FIREBASE"
	MethodCustom   BackupMethod = "CUSTOM"
)

// Purpose is what a share set is used for.
type Purpose string

// The purposes of a share set.
const (
	PurposeSigning Purpose = "SIGNING"
	PurposeBackup  Purpose = "BACKUP"
)

// State is the state of a share set. It changes only in the order of the constants.
type State string

// The states of a share set.
const (
	StatePending State = "PENDING" // not confirmed yet: cannot be used, and is erased if not confirmed in time
	StateActive  State = "ACTIVE"
	StateRevoked State = "REVOKED" // its server share is erased
)

// The API's enum names are the constants above with a prefix. A value that this SDK does not know is converted to its
// name or number.

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
	return 0, fmt.Errorf("client: %q is not a curve; use SECP256K1 or ED25519", string(c))
}

// canonicalCurves checks curves and returns them in the order in which shares have them. Empty means all.
func canonicalCurves(curves []Curve) ([]Curve, error) {
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

// check rejects values other than the constants.
func (m BackupMethod) check() error {
	if m == "" || m.proto() == mpcdv1.BackupMethod_BACKUP_METHOD_UNSPECIFIED {
		return fmt.Errorf("client: %q is not a backup method; use PASSWORD, ICLOUD, GDRIVE, PASSKEY, FIREBASE or CUSTOM",
			string(m))
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
