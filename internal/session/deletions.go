package session

import (
	"context"
	"time"
)

// Deletion is a share set whose server share an external custodian may keep although it can no longer be used: it was
// revoked, never committed, or not confirmed in time.
type Deletion struct {
	ShareSetID string
	WalletID   string
	Owner      string    // the wallet's owner, as given to Deposit
	Due        time.Time // when to tell the custodian, at the earliest
	Tries      int       // failed attempts to tell it
}

// Deletions is the store's list of what custodians still have to delete. Besides what is planned here, Revoke and
// Sweep add each BACKUP set whose server share is not in the store, in the transaction that removes the set. A change
// is durable once its method returned nil.
type Deletions interface {
	// PlanDeletion adds a set that is not committed yet, before its share is sent to the custodian, so that no share is
	// forgotten, however the run ends. The set's Commit removes it in its own transaction. Planning a set again only
	// changes its time.
	PlanDeletion(ctx context.Context, d Deletion) error
	// DueDeletions returns up to limit deletions that are due, by time. From then on these sets cannot be committed:
	// Commit returns ErrInterrupted. If there are none, the list is empty.
	DueDeletions(ctx context.Context, now time.Time, limit int) ([]Deletion, error)
	// PostponeDeletion sets the next time after a failed attempt, and counts the attempt.
	PostponeDeletion(ctx context.Context, shareSetID string, until time.Time) error
	// EndDeletion removes a set from the list and writes e. For a set that is not on the list it does nothing.
	EndDeletion(ctx context.Context, shareSetID string, e Entry) error
}
