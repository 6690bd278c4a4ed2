package session

import "github.com/google/uuid"

// newID returns the id of a new wallet, share set or session: a UUIDv7, so that rows are appended to the store's
// indexes.
func newID() string { return uuid.Must(uuid.NewV7()).String() }
