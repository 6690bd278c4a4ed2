package client_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/mpcd/mpcd/client"
)

// An error's text has the count and limit, and the time to wait.
func TestErrorSaysHowManyAndWhen(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*client.Error{
		"Full. (TOO_MANY_PENDING, 16 of 16, try again in 13m42s)": {
			Reason: "TOO_MANY_PENDING", Message: "Full.", Metadata: map[string]string{"count": "16", "limit": "16"},
			RetryAfter: 13*time.Minute + 41*time.Second + 600*time.Millisecond,
		},
		"Full. (OVERLOADED, try again in 2s)":    {Reason: "OVERLOADED", Message: "Full.", RetryAfter: 2 * time.Second},
		"No. (INTERRUPTED)":                      {Reason: "INTERRUPTED", Message: "No.", RetryAfter: 200 * time.Millisecond},
		"No. (PROTOCOL_ABORTED)":                 {Reason: "PROTOCOL_ABORTED", Message: "No.", Metadata: map[string]string{"round": "3"}},
		"connection reset by peer (Unavailable)": {Code: codes.Unavailable, Message: "connection reset by peer"},
	} {
		require.EqualError(t, e, want)
	}
}
