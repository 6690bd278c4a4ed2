// Package webhook sends a customer's own service signed messages, and reads its answers:
// Standard Webhooks over HTTPS, one POST of JSON for each message.
//
// The URL is a customer's, and so is what answers there. That the service speaks to it
// must open no way into the network that the service stands in: addresses that are not
// public are refused after their name was resolved, redirects are not followed, no proxy
// is asked, and an answer's size and time are bounded. What has failed again and again
// is left alone for a while. docs/CUSTODIAN.md is the contract that receivers read.
//
// It trusts TLS for who answers, and nothing in an answer: that is its caller's to check.
// Its errors quote neither the message, the answer, nor the URL.
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
	maxAnswer = 1 << 20  // bytes
	maxHeader = 16 << 10 // bytes of an answer's header
	maxTries  = 5
	// tripAfter is how many tries in a row have failed when the circuit opens: those of two
	// messages.
	tripAfter = 2 * maxTries

	headerSecret = "X-Webhook-Secret" //nolint:gosec // G101: a header's name
)

// ErrAnswerTooLarge is an answer of more than 1 MiB.
var ErrAnswerTooLarge = fmt.Errorf("its answer has more than %d bytes", maxAnswer)

// Signer signs messages, and verifies them, as Standard Webhooks has it.
type Signer = standardwebhooks.Webhook

// Config says where messages go, and how they are known to be the service's.
type Config struct {
	Name         string         // in logs and metrics: "custodian"
	URL          string         // https; a message's path is appended
	Signers      []*Signer      // see ParseSecret; each of them signs every message, so that a secret can be changed
	HeaderSecret secret.Bytes   // of X-Webhook-Secret; empty: none is sent
	CA           *x509.CertPool // nil: the system's
	Networks     []netip.Prefix // addresses that are allowed though they are not public
	Timing       Timing
}

// Timing says how patient a client is. Zero values mean the defaults.
type Timing struct {
	Try   time.Duration // for one try, answer included; 10 s
	Pause time.Duration // before the second try; twice as long before each one after it; 250 ms
	Open  time.Duration // how long an open circuit stays open; 10 s
	Send  time.Duration // for a message with all its tries and pauses; five times Try, and 10 s
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

// ParseSecret returns what signs, or verifies, with a signing secret of Standard Webhooks:
// whsec_ and the base64 of 24 to 64 bytes.
func ParseSecret(text secret.Bytes) (*Signer, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(text.Reveal())), "whsec_"))
	if err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("it is not whsec_ and the base64 of 24 to 64 bytes")
	}
	return standardwebhooks.NewWebhookRaw(key)
}

// CheckURL returns what is wrong with a URL for messages. It quotes nothing of it.
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

// New returns a client. Its configuration's URL was checked.
func New(cfg Config, log *slog.Logger) *Client {
	cfg.Timing = cfg.Timing.withDefaults()
	cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	dialer := &net.Dialer{Timeout: cfg.Timing.Try, Control: guard(cfg.Networks).Safe} // asked for each address that a name resolved to
	c := &Client{cfg: cfg, http: &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // it would connect for us, unguarded
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: cfg.CA},
			TLSHandshakeTimeout:    cfg.Timing.Try,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // or a small answer may be a large one
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

// Close ends connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Circuit returns the state of the circuit: closed, half-open or open. While it is open,
// messages fail at once.
func (c *Client) Circuit() string { return c.circuit.State().String() }

// Message is one message. Every try of it has the same id, unless it asks for something:
// a receiver answers such an id once, so that nobody who recorded the message gets the
// answer by sending it again.
type Message struct {
	Path string // below the configured URL: "/backup"
	Body secret.Bytes
	Asks bool
}

// Send sends a message until it is taken, which any 2xx says, and returns the answer's
// body, at most 1 MiB, which the caller wipes. Where nobody is there, or what is there says
// that it may do better later (408, 425, 429, 5xx), it is tried again, not before the time
// that a Retry-After names. Where that is later than ctx or Timing.Send allow, and where
// the message is refused, Send fails at once. The error of a message that was not taken is
// an *Error.
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
			&Error{RetryAfter: open, text: fmt.Sprintf("it is left alone for up to %v, since it failed too often", open)})
	case err != nil:
		return secret.Bytes{}, fmt.Errorf("webhook %s, try %d: %w", c.cfg.Name, tries, err)
	}
	return answer, nil
}

// left is how long a message may take.
func (c *Client) left(ctx context.Context) time.Duration {
	left := c.cfg.Timing.Send
	if end, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(end))
	}
	return max(left, 1) // 0 would be no limit
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
		// A receiver that gives up when it sees us go may still answer 200, and net/http hands
		// that over: it is not the word of someone who has done what was asked.
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
