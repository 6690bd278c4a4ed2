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

// Deleter tells an external custodian which shares to delete. The list is in the store until the custodian has
// deleted them, so that nothing is lost in a restart or while a custodian is down for days.
type Deleter struct {
	client *webhook.Client
	list   session.Deletions
	log    *slog.Logger
}

// NewDeleter returns a Deleter. It needs a client of its own: a receiver that does not support the message must not
// open the circuit that users' calls depend on.
func NewDeleter(client *webhook.Client, list session.Deletions, log *slog.Logger) *Deleter {
	return &Deleter{client: client, list: list, log: log}
}

const (
	// lookEvery is how often the list is read. After failures the interval grows, up to longestPause.
	lookEvery    = 2 * time.Second
	longestPause = 5 * time.Minute
	// firstAgain and longestAgain bound the interval between attempts for one message.
	firstAgain   = 10 * time.Second
	longestAgain = 6 * time.Hour
	// atOnce is how many deletions are read from the list at once.
	atOnce = 32
)

// Run tells the custodian of deletions until ctx is done.
func (d *Deleter) Run(ctx context.Context) {
	pause := &backoff.ExponentialBackOff{
		InitialInterval: 2 * lookEvery, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: longestPause,
	}
	pause.Reset()
	for {
		wait := lookEvery
		if d.sendDue(ctx) {
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

// sendDue sends all due deletions, up to the first failure.
func (d *Deleter) sendDue(ctx context.Context) (fine bool) {
	for {
		due, err := d.list.DueDeletions(ctx, time.Now(), atOnce)
		for _, one := range due {
			if err == nil {
				err = d.send(ctx, one)
			}
		}
		if err != nil && ctx.Err() == nil {
			d.log.Warn("the custodian still has shares that it is to delete; it will be told again", "error", err)
		}
		if err != nil || len(due) < atOnce {
			return err == nil
		}
	}
}

// send sends one deletion. A custodian that does not have the share (any more) has done its part.
func (d *Deleter) send(ctx context.Context, del session.Deletion) error {
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
			d.log.Info("the custodian has deleted a share", "wallet_id", del.WalletID, "share_set_id", del.ShareSetID)
		}
		return err
	case ctx.Err() != nil: // whether the message arrived is unknown
		return err
	}
	err = fmt.Errorf("share set %s, told %d times: %w", del.ShareSetID, del.Tries+1, err)
	next := time.Now().Add(retryDelay(del.Tries, failed.RetryAfter))
	return errors.Join(err, d.list.PostponeDeletion(ctx, del.ShareSetID, next))
}

// retryDelay returns how long to wait before a message is sent again that failed this many times.
func retryDelay(before int, asked time.Duration) time.Duration {
	return max(min(firstAgain<<min(before, 16), longestAgain), asked)
}
