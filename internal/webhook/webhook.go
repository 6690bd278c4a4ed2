// Package webhook sends signed messages to a customer's own service and reads the responses: Standard Webhooks over
// HTTPS, one POST of JSON per message.
//
// The customer chooses the URL, so sending to it must not give access to the service's own network: non-public
// addresses are refused after name resolution, redirects are not followed, no proxy is used, and a response's size
// and time are bounded. After repeated failures a circuit breaker opens for a while. docs/CUSTODIAN.md is the
// contract for receivers.
//
// TLS authenticates the receiver; checking the content of responses is up to the caller. Errors quote neither the
// message, the response, nor the URL.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"code.dny.dev/ssrf"
	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/sony/gobreaker/v2"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/mpcd/mpcd/internal/secret"
)

const (
	maxAnswer = 1 << 20  // size in bytes
	maxHeader = 16 << 10 // size of a response's header in bytes
	maxTries  = 5
	// tripAfter is how many consecutive tries fail before the circuit opens: those of two messages.
	tripAfter = 2 * maxTries

	headerSecret = "X-Webhook-Secret" //nolint:gosec // G101: a header's name
)

// ErrAnswerTooLarge is returned for a response of more than 1 MiB.
var ErrAnswerTooLarge = fmt.Errorf("its answer has more than %d bytes", maxAnswer)

// Signer signs and verifies messages according to Standard Webhooks.
type Signer = standardwebhooks.Webhook

// Config says where messages go and how they are authenticated.
type Config struct {
	Name string // in logs and metrics: "custodian"
	URL  string // https; a message's path is appended
	// See ParseSecret; every message is signed with all of them, so that a secret can be replaced.
	Signers      []*Signer
	HeaderSecret secret.Bytes   // sent in X-Webhook-Secret; empty: none is sent
	CA           *x509.CertPool // nil: the system's
	Networks     []netip.Prefix // addresses that are allowed although they are not public
	Timing       Timing
}

// Timing has a client's timeouts. Zero values mean the defaults.
type Timing struct {
	Try   time.Duration // for one try, response included; 10 s
	Pause time.Duration // before the second try; doubles with each further one; 250 ms
	Open  time.Duration // how long an open circuit stays open; 10 s
	Send  time.Duration // for a message with all its tries and pauses; five times Try, plus 10 s
}

func (t Timing) withDefaults() Timing {
	if t.Try == 0 {
		t.Try = 10 * time.Second
	}
	if t.Pause == 0 {
		t.Pause = 250 * time.Millisecond
	}
	if t.Open == 0 {
		t.Open = 10 * time.Second
	}
	if t.Send == 0 {
		t.Send = maxTries*t.Try + 10*time.Second
	}
	return t
}

// ParseSecret returns the signer and verifier for a signing secret of Standard Webhooks: whsec_ and the base64 of 24
// to 64 bytes.
func ParseSecret(text secret.Bytes) (*Signer, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(text.Reveal())), "whsec_"))
	if err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("it is not whsec_ and the base64 of 24 to 64 bytes")
	}
	return standardwebhooks.NewWebhookRaw(key)
}

// CheckURL checks a URL for messages. Its errors do not quote it.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "":
		return errors.New("it is not a URL of the form https://HOST[:PORT][/PATH]")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return errors.New("it has a user, a query or a fragment: a URL is no place for secrets")
	}
	return nil
}

// Client sends messages to one URL. It is safe for concurrent use.
type Client struct {
	cfg     Config
	http    *http.Client
	circuit *gobreaker.CircuitBreaker[secret.Bytes]
	metrics *metrics
}

// New returns a client. The URL in its configuration must have passed CheckURL.
func New(cfg Config, log *slog.Logger) *Client {
	cfg.Timing = cfg.Timing.withDefaults()
	cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	// Called for each address that a name resolves to.
	dialer := &net.Dialer{Timeout: cfg.Timing.Try, Control: guard(cfg.Networks).Safe}
	c := &Client{cfg: cfg, http: &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // it would connect to addresses unchecked
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: cfg.CA},
			TLSHandshakeTimeout:    cfg.Timing.Try,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // a small response could expand to a large one
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    16,
			IdleConnTimeout:        time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	c.circuit = gobreaker.NewCircuitBreaker[secret.Bytes](gobreaker.Settings{
		Name:         cfg.Name,
		Timeout:      cfg.Timing.Open,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= tripAfter },
		IsSuccessful: func(err error) bool { return !down(err) },
		IsExcluded:   tellsNothing,
		OnStateChange: func(name string, from, to gobreaker.State) {
			log.Warn("a webhook's circuit changed", "webhook", name, "from", from.String(), "to", to.String())
		},
	})
	c.metrics = newMetrics(c)
	return c
}

func guard(allowed []netip.Prefix) *ssrf.Guardian {
	var v4, v6 []netip.Prefix
	for _, p := range allowed {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	return ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Circuit returns the state of the circuit: closed, half-open or open. While it is open,
// messages fail at once.
func (c *Client) Circuit() string { return c.circuit.State().String() }

// Message is one message. All tries to send it have the same id, unless it is a question: a receiver answers an id
// only once, so that replaying a recorded message does not return the answer.
type Message struct {
	Path string // below the configured URL: "/backup"
	Body secret.Bytes
	Asks bool // a question, which must not be answered twice under one id
}

// Send sends a message until it is accepted with any 2xx status, and returns the response's body of at most 1 MiB,
// which the caller wipes. It retries if there is no response or a temporary failure (408, 425, 429, 5xx), not before
// the time in a Retry-After. If that is later than ctx or Timing.Send allow, or if the message is refused, Send fails
// at once. The error is an *Error, unless the caller stopped waiting.
func (c *Client) Send(ctx context.Context, m Message) (secret.Bytes, error) {
	id := uuid.NewString()
	pause := &backoff.ExponentialBackOff{
		InitialInterval: c.cfg.Timing.Pause, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: c.cfg.Timing.Try,
	}
	tries := 0
	answer, err := backoff.Retry(ctx, func() (secret.Bytes, error) {
		if m.Asks {
			id = uuid.NewString()
		}
		tries++
		answer, err := c.circuit.Execute(func() (secret.Bytes, error) { return c.try(ctx, id, m) })
		if !retryable(err) {
			err = backoff.Permanent(err) // nil stays nil
		}
		return answer, err
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(maxTries), backoff.WithMaxElapsedTime(c.left(ctx)))
	switch {
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		open := c.cfg.Timing.Open
		return secret.Bytes{}, fmt.Errorf("webhook %s: %w", c.cfg.Name,
			&Error{RetryAfter: open, text: fmt.Sprintf("no messages are sent for up to %v, since it failed too often", open)})
	case err != nil:
		return secret.Bytes{}, fmt.Errorf("webhook %s, try %d: %w", c.cfg.Name, tries, err)
	}
	return answer, nil
}

// left returns how long a message may take.
func (c *Client) left(ctx context.Context) time.Duration {
	left := c.cfg.Timing.Send
	if end, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(end))
	}
	return max(left, 1) // 0 would mean no limit
}

// try sends a message once.
func (c *Client) try(ctx context.Context, id string, m Message) (answer secret.Bytes, err error) {
	defer func() { c.metrics.count(err) }()
	bounded, cancel := context.WithTimeout(ctx, c.cfg.Timing.Try)
	defer cancel()
	failed := func(err error) error {
		switch {
		case ctx.Err() != nil:
			return endedError{context.Cause(ctx)}
		case errors.Is(err, ssrf.ErrProhibitedIP):
			return &Error{Permanent: true, text: "its address is not public: allow its network where that is meant"}
		case bounded.Err() != nil:
			return &Error{text: fmt.Sprintf("it did not answer within %v", c.cfg.Timing.Try)}
		}
		return unreached(err)
	}
	req, err := c.request(bounded, id, m)
	if err != nil {
		return secret.Bytes{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return secret.Bytes{}, failed(err)
	}
	defer resp.Body.Close() //nolint:errcheck // nothing was written
	if resp.StatusCode/100 != 2 && bounded.Err() == nil {
		return secret.Bytes{}, refused(resp.StatusCode, resp.Header, time.Now())
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	answer = secret.New(b)
	if len(b) > maxAnswer {
		answer.Wipe()
		return secret.Bytes{}, &Error{Permanent: true, Status: resp.StatusCode, text: ErrAnswerTooLarge.Error(), cause: ErrAnswerTooLarge}
	}
	if err == nil {
		// A receiver that notices our disconnect may still respond 200, and net/http returns that: it does not mean
		// that the message was processed.
		err = bounded.Err()
	}
	if err != nil {
		answer.Wipe()
		return secret.Bytes{}, failed(err)
	}
	return answer, nil
}

func (c *Client) request(ctx context.Context, id string, m Message) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.URL+m.Path, bytes.NewReader(m.Body.Reveal()))
	if err != nil {
		return nil, errors.New("its URL is not one")
	}
	now := time.Now()
	var signatures []string
	for _, s := range c.cfg.Signers {
		signature, err := s.Sign(id, now, m.Body.Reveal())
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, signature)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "mpcd")
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	if b := c.cfg.HeaderSecret.Reveal(); len(b) > 0 {
		req.Header.Set(headerSecret, string(b))
	}
	return req, nil
}
