package custody

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/webhook"
)

// Deleter tells a customer's custodian which shares nobody needs any more. What it tells is
// in the store until the custodian has done it, so that neither a restart nor a custodian
// that is away for days loses any.
type Deleter struct {
	client *webhook.Client
	list   session.Deletions
	log    *slog.Logger
}

// NewDeleter returns what tells a custodian by a client of its own: a receiver that does not
// know the message must not open the circuit of those that users wait for.
func NewDeleter(client *webhook.Client, list session.Deletions, log *slog.Logger) *Deleter {
	return &Deleter{client: client, list: list, log: log}
}

const (
	// lookEvery is how often the list is looked at. After a failure it is looked at less and
	// less often, down to once in longestPause.
	lookEvery    = 2 * time.Second
	longestPause = 5 * time.Minute
	// firstAgain and longestAgain bound when one message is sent again.
	firstAgain   = 10 * time.Second
	longestAgain = 6 * time.Hour
	// atOnce is how many are taken from the list at once.
	atOnce = 32
)

// Run tells the custodian, again and again until ctx is done.
func (d *Deleter) Run(ctx context.Context) {
	pause := &backoff.ExponentialBackOff{
		InitialInterval: 2 * lookEvery, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: longestPause,
	}
	pause.Reset()
	for {
		wait := lookEvery
		if d.round(ctx) {
			pause.Reset()
		} else {
			wait = pause.NextBackOff()
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// round tells of all that is due, up to the first failure.
func (d *Deleter) round(ctx context.Context) (fine bool) {
	for {
		due, err := d.list.DueDeletions(ctx, time.Now(), atOnce)
		for _, one := range due {
			if err == nil {
				err = d.one(ctx, one)
			}
		}
		if err != nil && ctx.Err() == nil {
			d.log.Warn("the custodian still has shares that nobody needs; it will be told again", "error", err)
		}
		if err != nil || len(due) < atOnce {
			return err == nil
		}
	}
}

// one tells of one share. A custodian that does not have it (any more) has done its part.
func (d *Deleter) one(ctx context.Context, del session.Deletion) error {
	b, err := json.Marshal(setBody{del.Owner, del.ShareSetID})
	if err != nil {
		return err
	}
	answer, err := d.client.Send(ctx, webhook.Message{Path: "/backup/delete", Body: secret.New(b)})
	answer.Wipe()
	failed := new(webhook.Error)
	if errors.As(err, &failed) && (failed.Status == http.StatusNotFound || failed.Status == http.StatusGone) {
		err = nil
	}
	switch {
	case err == nil:
		err = d.list.EndDeletion(ctx, del.ShareSetID, session.Entry{
			Time: time.Now().UTC(), Action: "custodian.delete", WalletID: del.WalletID, ShareSetID: del.ShareSetID, Outcome: "ok",
		})
		if err == nil {
			d.log.Info("the custodian has deleted a share that nobody needs", "wallet_id", del.WalletID, "share_set_id", del.ShareSetID)
		}
		return err
	case ctx.Err() != nil: // nobody knows whether it came
		return err
	}
	err = fmt.Errorf("share set %s, told %d times: %w", del.ShareSetID, del.Tries+1, err)
	return errors.Join(err, d.list.PostponeDeletion(ctx, del.ShareSetID, time.Now().Add(again(del.Tries, failed.RetryAfter))))
}

// again is when a message is sent again that was in vain so many times before.
func again(before int, asked time.Duration) time.Duration {
	return max(min(firstAgain<<min(before, 16), longestAgain), asked)
}
