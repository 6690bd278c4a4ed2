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

// Error is the failure of a message, and says whether the same message may succeed later.
type Error struct {
	Permanent  bool          // an operator must act first: the message was refused, or the receiver cannot be trusted
	RetryAfter time.Duration // before which retrying is pointless; 0 if the receiver did not say
	Status     int           // of the last response; 0: there was none
	text       string
	cause      error // may be nil
}

// Error implements error.
func (e *Error) Error() string { return e.text }

// Unwrap returns the cause, and for package backoff how long to wait.
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

// endedError is a try that ended because its caller stopped waiting.
type endedError struct{ error }

// Unwrap returns the cause.
func (e endedError) Unwrap() error { return e.error }

func retryable(err error) bool {
	e := new(Error)
	return errors.As(err, &e) && !e.Permanent
}

// down reports whether a try counts as a failure of the receiver to the circuit: there was no response, or a server
// error. A receiver that refuses a message, or asks to wait (408, 425, 429), is up.
func down(err error) bool {
	e := new(Error)
	return errors.As(err, &e) && (e.Status == 0 || e.Status >= http.StatusInternalServerError)
}

// tellsNothing reports whether the circuit ignores a try: its caller stopped waiting, or it never reached a receiver,
// as with an untrusted certificate. Retrying those costs the receiver nothing, and an open circuit would hide the
// cause.
func tellsNothing(err error) bool {
	e := new(Error)
	return errors.As(err, new(endedError)) || errors.As(err, &e) && e.Permanent && e.Status == 0
}

// refused returns the error for a response other than 2xx.
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

// longestRetryAfter bounds a Retry-After.
const longestRetryAfter = 24 * time.Hour

// retryAfter parses the Retry-After header (RFC 9110, section 10.2.3): whole seconds, or a date. It returns 0 if it
// is malformed or not in the future.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if text == "" {
		return 0
	}
	if strings.Trim(text, "0123456789") == "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n > int64(longestRetryAfter/time.Second) { // the only possible error is out of range
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

// unreached returns the error for a try that got no response. Network failures may pass; a wrong certificate or TLS
// version does not.
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

// isTLS reports whether an error is one side's rejection of the other's TLS, as opposed to a broken connection.
func isTLS(err error) bool {
	var op *net.OpError
	switch {
	case errors.As(err, new(*tls.CertificateVerificationError)), errors.As(err, new(tls.RecordHeaderError)),
		errors.Is(err, http.ErrSchemeMismatch):
		return true
	case errors.As(err, &op) && op.Op == "remote error": // an alert
		return !strings.HasSuffix(op.Err.Error(), "internal error") // a fault of the receiver's own, which may pass
	}
	return strings.HasPrefix(err.Error(), "tls: ")
}
