package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
)

// What a failed try means: whether it is retried, what the circuit counts, and what its error says.
func TestFailureClasses(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		err                           error
		retryable, down, tellsNothing bool
	}{
		"nobody there":              {&Error{}, true, true, false},
		"not to be trusted":         {&Error{Permanent: true}, false, true, true},
		"500":                       {&Error{Status: 500}, true, true, false},
		"429":                       {&Error{Status: 429}, true, false, false},
		"refused":                   {&Error{Status: 403, Permanent: true}, false, false, false},
		"an answer too large":       {&Error{Status: 200, Permanent: true}, false, false, false},
		"nobody waits":              {endedError{context.Canceled}, false, false, true},
		"something else altogether": {io.EOF, false, false, false},
	} {
		require.Equal(t, x.retryable, retryable(x.err), name)
		require.Equal(t, x.down, down(x.err), name)
		require.Equal(t, x.tellsNothing, tellsNothing(x.err), name)
	}
	require.Empty(t, (&Error{}).Unwrap())
	require.ErrorIs(t, &Error{cause: ErrAnswerTooLarge}, ErrAnswerTooLarge)
	wait := new(backoff.RetryAfterError)
	require.ErrorAs(t, &Error{RetryAfter: time.Minute}, &wait)
	require.Equal(t, time.Minute, wait.Duration)
}

// What a refusal tells the operator.
func TestRefusalErrors(t *testing.T) {
	t.Parallel()
	for status, says := range map[int]string{
		301: "redirects are not followed", 307: "redirects are not followed",
		401: "another signing secret", 403: "another signing secret",
		404: "is the URL the one", 405: "is the URL the one",
	} {
		e := refused(status, http.Header{}, time.Now())
		require.ErrorContains(t, e, says)
		require.True(t, e.Permanent)
	}
	require.EqualError(t, refused(400, http.Header{}, time.Now()), "it answers 400")
	require.EqualError(t, refused(503, http.Header{}, time.Now()), "it answers 503")
}

func TestTimingDefaults(t *testing.T) {
	t.Parallel()
	require.Equal(t, Timing{Try: 10 * time.Second, Pause: 250 * time.Millisecond, Open: 10 * time.Second, Send: time.Minute}, Timing{}.withDefaults())
	own := Timing{Try: 1, Pause: 2, Open: 3, Send: 4}
	require.Equal(t, own, own.withDefaults())
	require.Equal(t, maxTries*time.Second+10*time.Second, Timing{Try: time.Second}.withDefaults().Send)
}

// transport is a test's round tripper.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func through(t *testing.T, cfg Config, way transport) *Client {
	t.Helper()
	if cfg.URL == "" {
		cfg.URL = "https://custodian.example.org"
	}
	c := New(cfg, slog.New(slog.DiscardHandler))
	c.http.Transport = way
	return c
}

func answered(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader([]byte(body)))}
}

// A response that arrives after the deadline is not used.
func TestAnswersThatComeTooLate(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 403, 500} {
		c := through(t, Config{Timing: Timing{Try: time.Millisecond}}, func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return answered(status, ""), nil
		})
		_, err := c.try(t.Context(), "id", Message{Body: secret.New([]byte("{}"))})
		e := new(Error)
		require.ErrorAs(t, err, &e, "%d", status)
		require.False(t, e.Permanent)
		require.EqualError(t, e, "it did not answer within 1ms")

		// If the caller stopped waiting, its cause is the error, and does not count against the receiver.
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		c = through(t, Config{}, func(*http.Request) (*http.Response, error) {
			cancel(gone)
			return answered(status, ""), nil
		})
		_, err = c.try(ctx, "id", Message{Body: secret.New([]byte("{}"))})
		require.ErrorIs(t, err, gone)
		require.True(t, tellsNothing(err))
	}
}

// A malformed URL is not the receiver's fault, and nothing is sent.
func TestMalformedURL(t *testing.T) {
	t.Parallel()
	c := through(t, Config{URL: "https://exa mple"}, func(*http.Request) (*http.Response, error) { return answered(200, ""), nil })
	_, err := c.Send(t.Context(), Message{Body: secret.New([]byte("{}"))})
	require.ErrorContains(t, err, "its URL is not one")
}

// While one message probes whether a receiver is back, others fail with the time to retry at.
func TestHalfOpenCircuitSendsOneMessage(t *testing.T) {
	t.Parallel()
	came, through1 := make(chan struct{}), make(chan struct{})
	fails := true
	c := through(t, Config{Timing: Timing{Open: time.Millisecond, Pause: time.Millisecond}}, func(*http.Request) (*http.Response, error) {
		if fails {
			return answered(502, ""), nil
		}
		close(came)
		<-through1
		return answered(200, ""), nil
	})
	send := func() error {
		_, err := c.Send(t.Context(), Message{Body: secret.New([]byte("{}"))})
		return err
	}
	for range 2 {
		require.Error(t, send())
	}
	require.Eventually(t, func() bool { return c.circuit.State() == gobreaker.StateHalfOpen }, time.Minute, time.Millisecond)
	fails = false
	first := make(chan error, 1)
	go func() { first <- send() }() // ends when it is let through
	<-came
	e := new(Error)
	require.ErrorAs(t, send(), &e)
	require.False(t, e.Permanent)
	require.Equal(t, time.Millisecond, e.RetryAfter)
	close(through1)
	require.NoError(t, <-first)
}

// TLS failures are permanent on whichever side; others are not.
func TestIsTLS(t *testing.T) {
	t.Parallel()
	require.True(t, isTLS(&tls.CertificateVerificationError{Err: io.EOF}))
	require.True(t, isTLS(tls.RecordHeaderError{Msg: "no TLS"}))
	require.True(t, isTLS(http.ErrSchemeMismatch))
	require.True(t, isTLS(errors.New("tls: no")))
	require.False(t, isTLS(io.EOF))
}
