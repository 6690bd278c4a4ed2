package custody

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"filippo.io/age"
	"github.com/cenkalti/backoff/v5"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/webhook"
)

// WebhookConfig says how to reach an external custodian. All fields but Client and Before are optional.
type WebhookConfig struct {
	Client *webhook.Client
	// Recipient is whom shares are encrypted to before they are sent; the custodian decrypts them before it returns
	// them. nil: they are sent as they are, inside TLS.
	Recipient *age.X25519Recipient
	// Has the sets made before the custodian was configured, whose shares are in mpcd's own database.
	Before    *Managed
	Deletions session.Deletions // lists shares that the custodian should delete; nil: none are listed
	ReadBack  time.Duration     // how long a stored share may take to appear; default 5 s
}

// Webhook is an external custodian, which keeps the server shares of BACKUP sets. It is safe for concurrent use.
type Webhook struct{ cfg WebhookConfig }

var _ session.Custodian = (*Webhook)(nil)

// NewWebhook returns an external custodian.
func NewWebhook(cfg WebhookConfig) *Webhook {
	if cfg.ReadBack == 0 {
		cfg.ReadBack = 5 * time.Second
	}
	return &Webhook{cfg}
}

// The request bodies of docs/CUSTODIAN.md. Shares are base64.
type (
	depositBody struct {
		ClientID string `json:"clientId"`
		Method   string `json:"backupMethod"`
		Share    []byte `json:"share"`
		PairID   string `json:"backupSharePairId"`
	}
	setBody struct { // of a fetch or a deletion
		ClientID string `json:"clientId"`
		PairID   string `json:"backupSharePairId"`
	}
	fetchAnswer struct {
		Shares []json.RawMessage `json:"backupShares"`
	}
)

// Deposit implements session.Custodian. A stored share is fetched again and compared, since a backup that cannot be
// read is useless. It returns nothing to keep in the set's row.
func (w *Webhook) Deposit(
	ctx context.Context, owner string, set *session.ShareSet, share *tss.Share,
) ([]session.Sealed, error) {
	if share.Party != tss.Server || share.SetID != setID(set) {
		return nil, fmt.Errorf("deposit for share set %s: the share is another set's or party's", set.ID)
	}
	encoded, err := share.Encode()
	if err != nil {
		return nil, err
	}
	defer encoded.Wipe()
	outgoing, err := w.seal(encoded)
	if err != nil {
		return nil, err
	}
	defer outgoing.Wipe()
	if err := w.plan(ctx, owner, set, endOf(ctx).Add(afterRun)); err != nil {
		return nil, err
	}
	var wait time.Duration
	body := depositBody{owner, set.Method.String(), outgoing.Reveal(), set.ID}
	if _, err = w.send(ctx, "/backup", body, false); err != nil {
		err, wait = fmt.Errorf("store the server share of set %s: %w", set.ID, err), afterLostAnswer
	} else if err = w.readBack(ctx, owner, set, encoded); err != nil {
		err = fmt.Errorf("read back the server share of set %s: %w", set.ID, err)
	}
	if err != nil { // no commit will follow; if this fails, the entry stays with a later time
		_ = w.plan(context.WithoutCancel(ctx), owner, set, time.Now().Add(wait))
		return nil, err
	}
	return nil, nil
}

const (
	// afterRun is how long after a run's end its set counts as uncommitted.
	afterRun = time.Minute
	// afterLostAnswer is how long a custodian may still be storing a share after a request that got no response.
	afterLostAnswer = 10 * time.Second
	// longestRun is the assumed length of a run without a deadline.
	longestRun = time.Hour
)

// endOf returns the latest time at which work under ctx ends.
func endOf(ctx context.Context) time.Time {
	if end, ok := ctx.Deadline(); ok {
		return end
	}
	return time.Now().Add(longestRun)
}

// plan records that a set which is not committed yet may leave a share with the custodian.
func (w *Webhook) plan(ctx context.Context, owner string, set *session.ShareSet, due time.Time) error {
	if w.cfg.Deletions == nil {
		return nil
	}
	return w.cfg.Deletions.PlanDeletion(ctx, session.Deletion{ShareSetID: set.ID, WalletID: set.WalletID, Owner: owner, Due: due})
}

// readBack checks that the custodian returns the share it was given, which may take a moment to appear.
func (w *Webhook) readBack(ctx context.Context, owner string, set *session.ShareSet, given secret.Bytes) error {
	pause := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: time.Second,
	}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		there, err := w.fetch(ctx, owner, setID(set))
		if err == nil && !there.Equal(given) {
			err = &session.WebhookError{
				Permanent: true, Err: errors.New("the custodian returns a different share than it was given"),
			}
		}
		there.Wipe()
		if e := new(webhook.Error); errors.As(err, &e) && e.Status == http.StatusNotFound {
			err = errNotFound
		}
		if err != nil && !errors.Is(err, errNotThere) && !errors.Is(err, errNotFound) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(w.cfg.ReadBack))
	return err
}

// Fetch implements session.Custodian.
func (w *Webhook) Fetch(ctx context.Context, owner string, set *session.StoredSet) (*tss.Share, error) {
	if len(set.ServerShare) > 0 || set.State == session.SetRevoked {
		return w.cfg.Before.Fetch(ctx, owner, set)
	}
	rec, err := tss.ParseRecord(set.Record)
	if err != nil {
		return nil, corrupted(set, err)
	}
	encoded, err := w.fetch(ctx, owner, setID(&set.ShareSet))
	if err != nil {
		return nil, fmt.Errorf("fetch the server share of set %s: %w", set.ID, err)
	}
	defer encoded.Wipe()
	share, err := tss.ParseShare(encoded.Reveal())
	if err == nil {
		if err = rec.Check(share, tss.Server, set.Record); err == nil && len(share.Keys) != len(rec.Keys) {
			err = errors.New("it lacks a curve")
		}
	}
	if err != nil {
		share.Wipe()
		// Not wrapped: the sentinels of package tss would blame the caller's share.
		return nil, &session.WebhookError{
			Permanent: true,
			Err:       fmt.Errorf("the custodian's share of set %s does not fit its record: %v", set.ID, err), //nolint:errorlint // see above
		}
	}
	return share, nil
}

// fetch fetches the encoded share of one set. The response may contain all of the owner's shares: other entries are
// skipped.
func (w *Webhook) fetch(ctx context.Context, owner string, id tss.SetID) (secret.Bytes, error) {
	answer, err := w.send(ctx, "/backup/fetch", setBody{owner, id.ShareSetID}, true)
	if errors.Is(err, webhook.ErrAnswerTooLarge) {
		err = fmt.Errorf("%w: let it answer the one share that backupSharePairId names", err)
	}
	if err != nil {
		return secret.Bytes{}, err
	}
	defer answer.Wipe()
	return pick(answer.Reveal(), id)
}

func (w *Webhook) seal(plain secret.Bytes) (secret.Bytes, error) {
	if w.cfg.Recipient == nil {
		return secret.New(bytes.Clone(plain.Reveal())), nil
	}
	var out bytes.Buffer
	to, err := age.Encrypt(&out, w.cfg.Recipient)
	if err == nil {
		_, err = io.Copy(to, bytes.NewReader(plain.Reveal()))
	}
	if err == nil {
		err = to.Close()
	}
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("encrypt to the custodian's recipient: %w", err)
	}
	return secret.New(out.Bytes()), nil
}

// send sends a body. A failure is the custodian's, unless the run ended meanwhile.
func (w *Webhook) send(ctx context.Context, path string, body any, asks bool) (secret.Bytes, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return secret.Bytes{}, err
	}
	m := webhook.Message{Path: path, Body: secret.New(b), Asks: asks}
	defer m.Body.Wipe()
	answer, err := w.cfg.Client.Send(ctx, m)
	if err != nil && ctx.Err() == nil {
		f := &session.WebhookError{Err: err}
		if e := new(webhook.Error); errors.As(err, &e) {
			f.Permanent, f.RetryAfter = e.Permanent, e.RetryAfter
		}
		err = f
	}
	return answer, err
}
