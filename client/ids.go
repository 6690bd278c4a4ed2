package client

import (
	"fmt"

	"github.com/google/uuid"
)

// ParseID returns the canonical form of the id of a wallet or share set: a UUID of 36 characters in lower case. Upper
// case is accepted; other spellings of a UUID (braces, "urn:uuid:", no dashes, spaces) fail with ErrNotAnID. Every
// method that takes an id calls ParseID first.
func ParseID(s string) (string, error) { return parseID("it", s) }

// parseID is ParseID for an id that the error calls name. The error does not quote s, which may be a share or a
// password passed by mistake.
func parseID(name, s string) (string, error) {
	u, err := uuid.Parse(s)
	id := u.String()
	if err != nil || len(s) != len(id) {
		return "", fmt.Errorf("client: %w: %s must be a UUID such as 0198c0de-8a1b-7c3d-9e4f-5a6b7c8d9e0f, and has %d "+
			"characters", ErrNotAnID, name, len(s))
	}
	return id, nil
}

// parseIDs is parseID for the ids of a wallet and of one of its share sets.
func parseIDs(walletID, shareSetID string) (wallet, set string, err error) {
	if wallet, err = parseID("the wallet's id", walletID); err != nil {
		return "", "", err
	}
	set, err = parseID("the share set's id", shareSetID)
	return wallet, set, err
}
