package webhook_test

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/webhook"
)

// A receiver's Retry-After is honoured.
func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable} {
		for form, value := range map[string]func() string{
			"seconds": func() string { return "2" },
			"date":    func() string { return time.Now().Add(3 * time.Second).UTC().Format(http.TimeFormat) }, // in whole seconds
		} {
			t.Run(strconv.Itoa(code)+" "+form, func(t *testing.T) {
				t.Parallel()
				came := make(chan time.Time, 8)
				r := receive(t, func(w http.ResponseWriter, _ *http.Request) {
					if came <- time.Now(); len(came) == 1 {
						w.Header().Set("Retry-After", value())
						w.WriteHeader(code)
					}
				})
				_, err := send(t.Context(), r.client(t, nil), false)
				require.NoError(t, err)
				require.Len(t, came, 2)
				first, second := <-came, <-came
				require.GreaterOrEqual(t, second.Sub(first), 1900*time.Millisecond)
			})
		}
	}
}

// If Retry-After is later than the caller can wait, the message fails at once, and the error says when to retry.
func TestRetryAfterBeyondTheTimeThatIsLeft(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		value string
		left  time.Duration // of the caller; 0: any
		want  time.Duration
	}{
		"an hour":                          {"3600", 0, time.Hour},
		"more than an int":                 {"99999999999999999999", 0, 24 * time.Hour},
		"more than the caller has":         {"30", 20 * time.Second, 30 * time.Second},
		"more than a message has in all":   {"61", 0, 61 * time.Second}, // five tries of 5 s, and 10 s
		"as much as the caller has, about": {"20", 20 * time.Second, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := receive(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", x.value)
				w.WriteHeader(http.StatusTooManyRequests)
			})
			ctx := t.Context()
			if x.left > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, x.left)
				defer cancel()
			}
			began := time.Now()
			_, err := send(ctx, r.client(t, nil), false)
			require.Less(t, time.Since(began), 10*time.Second)
			failed := new(webhook.Error)
			require.ErrorAs(t, err, &failed)
			require.Equal(t, x.want, failed.RetryAfter)
			require.False(t, failed.Permanent)
			require.ErrorContains(t, err, "try 1: it answers 429, and wants to be asked again in")
			require.Len(t, r.came(), 1)
		})
	}
}

// An open circuit's error says when the next message can be sent.
func TestOpenCircuitSaysWhen(t *testing.T) {
	t.Parallel()
	r := receive(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	c := r.client(t, nil)
	for range 2 {
		_, err := send(t.Context(), c, false)
		require.ErrorContains(t, err, "try 5: it answers 502")
	}
	_, err := send(t.Context(), c, false)
	failed := new(webhook.Error)
	require.ErrorAs(t, err, &failed)
	require.Equal(t, time.Hour, failed.RetryAfter)
	require.False(t, failed.Permanent)
	require.Len(t, r.came(), 10)
}
