package webhook

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Error is a message that was not taken, and whether the same message may be taken later.
type Error struct {
	Permanent  bool          // somebody must act first: it was refused, or what answers cannot be trusted
	RetryAfter time.Duration // before which trying again is pointless; 0 where nobody said so
	Status     int           // of the last answer; 0: there was none
	text       string
	cause      error // may be nil
}

// Error implements error.
func (e *Error) Error() string { return e.text }

// Unwrap returns the cause, and besides it tells package backoff how long to wait.
func (e *Error) Unwrap() []error {
	var all []error
	if e.cause != nil {
		all = append(all, e.cause)
	}
	if e.RetryAfter > 0 {
		all = append(all, &backoff.RetryAfterError{Duration: e.RetryAfter})
	}
	return all
}

// endedError is a try that ended because its caller did not wait for it.
type endedError struct{ error }

// Unwrap returns the cause.
func (e endedError) Unwrap() error { return e.error }

func retryable(err error) bool {
	e := new(Error)
	return errors.As(err, &e) && !e.Permanent
}

// down tells the circuit that nobody is there, or that what is there fails. Who refuses a
// message, or asks for patience (408, 425, 429), is there.
func down(err error) bool {
	e := new(Error)
	return errors.As(err, &e) && (e.Status == 0 || e.Status >= http.StatusInternalServerError)
}

// tellsNothing tells the circuit to leave a try out: its caller did not wait, or it never
// got as far as a receiver, as with an unknown certificate. To try those again costs nobody
// anything, and an open circuit would hide the cause.
func tellsNothing(err error) bool {
	e := new(Error)
	return errors.As(err, new(endedError)) || errors.As(err, &e) && e.Permanent && e.Status == 0
}

// refused is an answer that is not 2xx.
func refused(status int, h http.Header, now time.Time) *Error {
	e := &Error{Status: status, text: fmt.Sprintf("it answers %d", status)}
	switch {
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests,
		status >= http.StatusInternalServerError:
		if e.RetryAfter = retryAfter(h, now); e.RetryAfter > 0 {
			e.text += fmt.Sprintf(", and wants to be asked again in %v", e.RetryAfter.Round(time.Second))
		}
		return e
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.text += ": most likely it has another signing secret, or another X-Webhook-Secret, than this service; " +
			"or its clock is off by minutes, or something in front of it lets nobody through"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		e.text += ": is the URL the one below which it takes messages?"
	case status < http.StatusBadRequest:
		e.text += ": redirects are not followed"
	}
	e.Permanent = true
	return e
}

// longestRetryAfter is what a Retry-After counts for at most.
const longestRetryAfter = 24 * time.Hour

// retryAfter reads the header of that name (RFC 9110, section 10.2.3): whole seconds, or a
// date. What is neither, or is not in the future, is 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if text == "" {
		return 0
	}
	if strings.Trim(text, "0123456789") == "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n > int64(longestRetryAfter/time.Second) { // the error is that it is out of range
			return longestRetryAfter
		}
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), longestRetryAfter)
}

// unreached is what stopped a try before there was an answer. Networks recover by
// themselves; a certificate, or a version of TLS, does not.
func unreached(err error) *Error {
	if u := new(url.Error); errors.As(err, &u) {
		err = u.Err // without the URL
	}
	if isTLS(err) {
		const needs = "TLS fails (it needs TLS 1.3, and a certificate of its name from a CA that is known here): "
		return &Error{Permanent: true, text: needs + err.Error()}
	}
	return &Error{text: err.Error()}
}

// isTLS tells what one side's TLS has against the other's from what happens to a connection.
func isTLS(err error) bool {
	var op *net.OpError
	switch {
	case errors.As(err, new(*tls.CertificateVerificationError)), errors.As(err, new(tls.RecordHeaderError)),
		errors.Is(err, http.ErrSchemeMismatch):
		return true
	case errors.As(err, &op) && op.Op == "remote error": // an alert
		return !strings.HasSuffix(op.Err.Error(), "internal error") // its own trouble
	}
	return strings.HasPrefix(err.Error(), "tls: ")
}
