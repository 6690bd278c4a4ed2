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

// WebhookConfig says how a customer's custodian is reached. All but Client and Before may
// be left out.
type WebhookConfig struct {
	Client *webhook.Client
	// Recipient is whom shares leave encrypted to, and the customer decrypts what it answers;
	// nil: they leave as they are, inside TLS.
	Recipient *age.X25519Recipient
	Before    *Managed          // has the sets that were made before, whose shares stand in mpcd's own database
	Deletions session.Deletions // lists what the custodian may keep and nobody needs; nil: nobody does
	ReadBack  time.Duration     // how long a share that was stored may take to be there; 5 s
}

// Webhook is a customer who keeps the server's shares of BACKUP sets. It is safe for
// concurrent use.
type Webhook struct{ cfg WebhookConfig }

var _ session.Custodian = (*Webhook)(nil)

// NewWebhook returns a custodian behind a client's webhooks.
func NewWebhook(cfg WebhookConfig) *Webhook {
	if cfg.ReadBack == 0 {
		cfg.ReadBack = 5 * time.Second
	}
	return &Webhook{cfg}
}

// The bodies, as docs/CUSTODIAN.md has them. Shares are base64.
type (
	depositBody struct {
		ClientID string `json:"clientId"`
		Method   string `json:"backupMethod"`
		Share    []byte `json:"share"`
		PairID   string `json:"backupSharePairId"`
	}
	setBody struct { // asks for a share, or says that it is to be deleted
		ClientID string `json:"clientId"`
		PairID   string `json:"backupSharePairId"`
	}
	fetchAnswer struct {
		Shares []json.RawMessage `json:"backupShares"`
	}
)

// Deposit implements session.Custodian. What was stored is fetched again and compared: a
// backup that cannot be read back is none. Nothing of it stands in the set's row.
func (w *Webhook) Deposit(ctx context.Context, owner string, set *session.ShareSet, half *tss.Share) ([]session.Sealed, error) {
	if half.Party != tss.Server || half.SetID != setID(set) {
		return nil, fmt.Errorf("deposit for share set %s: the share is another set's or party's", set.ID)
	}
	encoded, err := half.Encode()
	if err != nil {
		return nil, err
	}
	defer encoded.Wipe()
	share, err := w.seal(encoded)
	if err != nil {
		return nil, err
	}
	defer share.Wipe()
	if err := w.plan(ctx, owner, set, endOf(ctx).Add(afterRun)); err != nil {
		return nil, err
	}
	var wait time.Duration
	if _, err = w.send(ctx, "/backup", depositBody{owner, set.Method.String(), share.Reveal(), set.ID}, false); err != nil {
		err, wait = fmt.Errorf("store the server share of set %s: %w", set.ID, err), afterLostAnswer
	} else if err = w.readBack(ctx, owner, set, encoded); err != nil {
		err = fmt.Errorf("read back the server share of set %s: %w", set.ID, err)
	}
	if err != nil { // there is no commit any more; where this fails, it stands there with a later time
		_ = w.plan(context.WithoutCancel(ctx), owner, set, time.Now().Add(wait))
		return nil, err
	}
	return nil, nil
}

const (
	// afterRun is how long after a run's end its set counts as not committed.
	afterRun = time.Minute
	// afterLostAnswer is how long a custodian that did not say that it has a share may still
	// be busy with storing it.
	afterLostAnswer = 10 * time.Second
	// longestRun is what a run without an end counts for.
	longestRun = time.Hour
)

// endOf returns when what works under ctx has ended at the latest.
func endOf(ctx context.Context) time.Time {
	if end, ok := ctx.Deadline(); ok {
		return end
	}
	return time.Now().Add(longestRun)
}

// plan notes that a set which is not committed may leave a share with the custodian.
func (w *Webhook) plan(ctx context.Context, owner string, set *session.ShareSet, due time.Time) error {
	if w.cfg.Deletions == nil {
		return nil
	}
	return w.cfg.Deletions.PlanDeletion(ctx, session.Deletion{ShareSetID: set.ID, WalletID: set.WalletID, Owner: owner, Due: due})
}

// readBack wants the custodian to answer what it was given. One that stores in several
// places may need a moment.
func (w *Webhook) readBack(ctx context.Context, owner string, set *session.ShareSet, given secret.Bytes) error {
	pause := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: time.Second,
	}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		there, err := w.fetch(ctx, owner, setID(set))
		if err == nil && !there.Equal(given) {
			err = &session.WebhookError{Permanent: true, Err: errors.New("the custodian answers another share than it was given")}
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
	half, err := tss.ParseShare(encoded.Reveal())
	if err == nil {
		if err = rec.Check(half, tss.Server, set.Record); err == nil && len(half.Keys) != len(rec.Keys) {
			err = errors.New("it lacks a curve")
		}
	}
	if err != nil {
		half.Wipe()
		// Not with %w: the share at fault is not the caller's.
		return nil, &session.WebhookError{
			Permanent: true,
			Err:       fmt.Errorf("the custodian's share of set %s does not fit its record: %v", set.ID, err), //nolint:errorlint // see above
		}
	}
	return half, nil
}

// fetch asks for the share of one set, and returns it, encoded. The answer may hold all of
// the owner's: others, and what is none, are passed over.
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

// send sends a body. That it was not taken is the custodian's failure, except where the run
// ended meanwhile.
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
