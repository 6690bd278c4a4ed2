package session

import "github.com/mpcd/mpcd/internal/tss"

// The kinds of values that are sealed at rest; a Label's Kind is one of them.
const (
	KindServerShare = "server share"
	KindResult      = "result"
	KindPreParams   = "pre-params"
	KindMAC         = "mac key" // the keyset of Sealer.MAC
)

// SealedKinds returns every kind of value that is sealed at rest. Whoever rotates keys
// relies on it: a kind that is missing here would be lost with the old key.
func SealedKinds() []string { return []string{KindServerShare, KindResult, KindPreParams, KindMAC} }

// ServerShareLabel binds the server's share of one curve's key to its set.
func ServerShareLabel(walletID, shareSetID string, c Curve) Label {
	return Label{Kind: KindServerShare, WalletID: walletID, ShareSetID: shareSetID, Curve: c, Party: tss.Server}
}

// ResultLabel binds what waits in a session to that session.
func ResultLabel(walletID, sessionID string) Label {
	return Label{Kind: KindResult, WalletID: walletID, ShareSetID: sessionID}
}

// PreParamsLabel binds a set of pre-params to its row, and to the party that it is for.
func PreParamsLabel(id string, p Party) Label {
	return Label{Kind: KindPreParams, ShareSetID: id, Party: p}
}

// MACLabel binds the keyset of Sealer.MAC, of which a store has one.
func MACLabel() Label { return Label{Kind: KindMAC} }

// SealedRow is a sealed value in its place.
type SealedRow struct {
	Row        int64 // its place among those of its kind; above 0
	Label      Label
	Ciphertext []byte
}
