package session

import (
	"context"
	"time"
)

// Deletion is a share set of which somebody else's custodian may keep the server's share
// although nobody can use it: the set was revoked, or never committed, or not confirmed in
// time.
type Deletion struct {
	ShareSetID string
	WalletID   string
	Owner      string    // of the wallet, as the half was deposited
	Due        time.Time // when the custodian is told, at the earliest
	Tries      int       // how often it was told already, in vain
}

// Deletions is the store's list of what custodians are still to delete. Besides what is
// planned here, Revoke and Sweep put each BACKUP set on it whose half is not in their own
// store, in the transaction in which it goes. What a method changed is durable when it
// returns nil.
type Deletions interface {
	// PlanDeletion puts a set that is not committed on the list, before its half leaves: so
	// none is forgotten, however its run ends. The set's Commit takes it off again, in its
	// own transaction. Planning it again changes its time alone.
	PlanDeletion(ctx context.Context, d Deletion) error
	// DueDeletions returns up to limit deletions that are due, in the order of their times.
	// From then on the sets cannot be committed any more: their Commit returns
	// ErrInterrupted. None is an empty list, no error.
	DueDeletions(ctx context.Context, now time.Time, limit int) ([]Deletion, error)
	// PostponeDeletion sets a deletion's time after a try in vain, and counts the try.
	PostponeDeletion(ctx context.Context, shareSetID string, until time.Time) error
	// EndDeletion takes a set off the list, and writes e. Where it is not on the list (any
	// more), nothing is changed or written.
	EndDeletion(ctx context.Context, shareSetID string, e Entry) error
}
