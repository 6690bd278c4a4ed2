package custody

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/webhook"
)

// Webhook is a customer who keeps the server's halves himself. It is safe for concurrent
// use. Sets that were made before, and stand in mpcd's own database, are still found there.
type Webhook struct {
	client    *webhook.Client
	recipient *age.X25519Recipient // nil: halves leave as they are, inside TLS
	before    *Managed
}

var _ session.Custodian = (*Webhook)(nil)

// NewWebhook returns a custodian behind a client's webhooks. With a recipient, halves leave
// encrypted to it; the customer decrypts what he answers.
func NewWebhook(client *webhook.Client, recipient *age.X25519Recipient, before *Managed) *Webhook {
	return &Webhook{client: client, recipient: recipient, before: before}
}

// The bodies, as product.md has them. Shares are base64.
type (
	depositBody struct {
		ClientID string `json:"clientId"`
		Method   string `json:"backupMethod"`
		Share    []byte `json:"share"`
		PairID   string `json:"backupSharePairId"`
	}
	fetchBody struct {
		ClientID string `json:"clientId"`
	}
	fetchAnswer struct {
		Shares []json.RawMessage `json:"backupShares"`
	}
)

// Deposit implements session.Custodian. What was stored is fetched again and compared: a
// backup that cannot be read back is none. Nothing of it stands in the set's row.
func (w *Webhook) Deposit(ctx context.Context, owner string, set *session.ShareSet, half *tss.Share) ([]session.Sealed, error) {
	if half.Party != tss.Server || half.SetID != setID(set) {
		return nil, fmt.Errorf("deposit for share set %s: the half is another set's or party's", set.ID)
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
	if _, err := w.send(ctx, "/backup", depositBody{owner, set.Method.String(), share.Reveal(), set.ID}, false); err != nil {
		return nil, fmt.Errorf("store the half of share set %s: %w", set.ID, err)
	}
	there, err := w.fetch(ctx, owner, setID(set))
	if err != nil {
		return nil, fmt.Errorf("read back the half of share set %s: %w", set.ID, err)
	}
	defer there.Wipe()
	if !there.Equal(encoded) {
		return nil, fmt.Errorf("%w: the custodian answers another half of share set %s than it was given", session.ErrWebhookFailed, set.ID)
	}
	return nil, nil
}

// Fetch implements session.Custodian.
func (w *Webhook) Fetch(ctx context.Context, owner string, set *session.StoredSet) (*tss.Share, error) {
	if len(set.Half) > 0 || set.State == session.SetRevoked {
		return w.before.Fetch(ctx, owner, set)
	}
	rec, err := tss.ParseRecord(set.Record)
	if err != nil {
		return nil, corrupted(set, err)
	}
	encoded, err := w.fetch(ctx, owner, setID(&set.ShareSet))
	if err != nil {
		return nil, fmt.Errorf("fetch the half of share set %s: %w", set.ID, err)
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
		return nil, fmt.Errorf("%w: the custodian's half of share set %s does not fit its record: %v", session.ErrWebhookFailed, set.ID, err) //nolint:errorlint // see above
	}
	return half, nil
}

// fetch asks for an owner's halves, and returns that of one set, encoded. Others, and what
// is none, are passed over.
func (w *Webhook) fetch(ctx context.Context, owner string, id tss.SetID) (secret.Bytes, error) {
	answer, err := w.send(ctx, "/backup/fetch", fetchBody{owner}, true)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer answer.Wipe()
	encoded, ok := pick(answer.Reveal(), id)
	if !ok {
		return secret.Bytes{}, fmt.Errorf("%w: the custodian's answer has no half of the set", session.ErrWebhookFailed)
	}
	return encoded, nil
}

// pick returns the half of a set from a custodian's answer. Of several it is the first: to
// hold it against the set's record is the caller's part.
func pick(answer []byte, id tss.SetID) (secret.Bytes, bool) {
	var all fetchAnswer
	if json.Unmarshal(answer, &all) != nil {
		return secret.Bytes{}, false
	}
	defer func() {
		for _, text := range all.Shares {
			clear(text)
		}
	}()
	for _, text := range all.Shares {
		var b []byte // base64 in JSON
		if json.Unmarshal(text, &b) != nil {
			continue
		}
		share, err := tss.ParseShare(b)
		share.Wipe()
		if err == nil && share.SetID == id && share.Party == tss.Server {
			return secret.New(b), true
		}
		clear(b)
	}
	return secret.Bytes{}, false
}

func (w *Webhook) seal(plain secret.Bytes) (secret.Bytes, error) {
	if w.recipient == nil {
		return secret.New(bytes.Clone(plain.Reveal())), nil
	}
	var out bytes.Buffer
	to, err := age.Encrypt(&out, w.recipient)
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
	answer, err := w.client.Send(ctx, m)
	if err != nil && ctx.Err() == nil {
		return secret.Bytes{}, fmt.Errorf("%w: %w", session.ErrWebhookFailed, err)
	}
	return answer, err
}
