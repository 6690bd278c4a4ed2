package session

import "github.com/mpcd/mpcd/internal/tss"

// The kinds of sealed values (Label.Kind).
const (
	KindServerShare = "server share"
	KindResult      = "result"
	KindPreParams   = "pre-params"
	KindMAC         = "mac key" // the keyset of Sealer.MAC
)

// SealedKinds returns every kind of value that is sealed at rest. Key rotation relies on it: values of a kind that is
// missing here would be lost with the old key.
func SealedKinds() []string { return []string{KindServerShare, KindResult, KindPreParams, KindMAC} }

// ServerShareLabel binds the server share on one curve to its set.
func ServerShareLabel(walletID, shareSetID string, c Curve) Label {
	return Label{Kind: KindServerShare, WalletID: walletID, ShareSetID: shareSetID, Curve: c, Party: tss.Server}
}

// ResultLabel binds a stored result to its session.
func ResultLabel(walletID, sessionID string) Label {
	return Label{Kind: KindResult, WalletID: walletID, ShareSetID: sessionID}
}

// PreParamsLabel binds a set of pre-params to its row and party.
func PreParamsLabel(id string, p Party) Label {
	return Label{Kind: KindPreParams, ShareSetID: id, Party: p}
}

// MACLabel is for the keyset of Sealer.MAC. A store has one.
func MACLabel() Label { return Label{Kind: KindMAC} }

// SealedRow is a sealed value with its position.
type SealedRow struct {
	Row        int64 // its position among those of its kind; above 0
	Label      Label
	Ciphertext []byte
}
