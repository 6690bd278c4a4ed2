// Package policy asks an external authoriser, a wallet provider's own service, before a share set is backed up,
// provisioned from, signed with, or revoked. mpcd checks its own scopes and ownership first, so the authoriser can
// only narrow what is allowed.
//
// It fails closed: if the authoriser cannot be reached, fails, or answers anything but a clear yes, the call is
// refused. The question contains no secrets. Package webhook authenticates the authoriser.
package policy

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mpcd/mpcd/internal/names"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/webhook"
)

// timeout bounds a question including retries: the caller waits for it and sees no progress meanwhile.
const timeout = 15 * time.Second

// maxReason bounds how much of the authoriser's reason is passed on to the caller, in bytes.
const maxReason = 256

// Webhook is an authoriser behind a URL. It is safe for concurrent use.
type Webhook struct{ client *webhook.Client }

var _ session.Policy = (*Webhook)(nil)

// NewWebhook returns the authoriser that client sends to.
func NewWebhook(client *webhook.Client) *Webhook { return &Webhook{client} }

// question is the request body. Fields that do not apply are omitted.
type question struct {
	Caller     string `json:"caller"`
	Operation  string `json:"operation"` // BACKUP, PROVISION, SIGN or REVOKE
	WalletID   string `json:"walletId"`
	Owner      string `json:"owner"`
	ShareSetID string `json:"shareSetId"`
	RequestID  string `json:"requestId,omitempty"`
	Curve      string `json:"curve,omitempty"`
	Digest     string `json:"payloadDigest,omitempty"` // hex, 32 bytes
}

// answer is the response body. A missing allow is a no.
type answer struct {
	Allow  *bool  `json:"allow"`
	Reason string `json:"reason"` // for the caller and the audit log
}

// Allow implements session.Policy.
func (w *Webhook) Allow(ctx context.Context, q session.Question) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m := question{
		Caller: q.Caller, Operation: q.Operation, WalletID: q.WalletID, Owner: q.Owner, ShareSetID: q.ShareSetID, RequestID: q.RequestID,
		Digest: hex.EncodeToString(q.Digest),
	}
	if q.Curve != 0 {
		m.Curve = q.Curve.String()
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	body, err := w.client.Send(ctx, webhook.Message{Body: secret.New(b), Asks: true})
	if err != nil {
		return failed(err)
	}
	return decide(body.Reveal())
}

// failed reports whether the same question may be answered later.
func failed(err error) error {
	f := &session.WebhookError{Err: err}
	if e := new(webhook.Error); errors.As(err, &e) {
		f.Permanent, f.RetryAfter = e.Permanent, e.RetryAfter
	}
	return f
}

// decide parses an answer: one JSON object with allow and an optional reason.
func decide(body []byte) error {
	var a answer
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&a); err != nil || d.More() {
		return fmt.Errorf("%w: the policy's answer is not a JSON object of its form", session.ErrWebhookFailed)
	}
	switch {
	case a.Allow == nil:
		return fmt.Errorf("%w: the policy's answer says neither yes nor no", session.ErrWebhookFailed)
	case !*a.Allow:
		return &session.DeniedError{Why: printable(a.Reason)}
	}
	return nil
}

// printable returns the start of an untrusted text, without characters that would disturb a log or a terminal.
func printable(s string) string {
	s = names.Line(s)
	for len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}
