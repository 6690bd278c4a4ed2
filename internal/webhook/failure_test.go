package webhook

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Any Retry-After yields a time between now and 24 hours from now.
func TestRetryAfterHeader(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for text, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		"1":                              time.Second,
		" 30 ":                           30 * time.Second,
		"0060":                           time.Minute,
		"86400":                          24 * time.Hour,
		"86401":                          24 * time.Hour,
		"9223372036854775807":            24 * time.Hour,
		"9223372036854775808":            24 * time.Hour,
		"99999999999999999999999999":     24 * time.Hour,
		"-1":                             0,
		"+1":                             0,
		"1.5":                            0,
		"1e3":                            0,
		"0x10":                           0,
		"NaN":                            0,
		"Infinity":                       0,
		"soon":                           0,
		"１":                              0,
		"1, 2":                           0,
		date(90 * time.Second):           90 * time.Second,
		date(-time.Hour):                 0,
		date(0):                          0,
		date(48 * time.Hour):             24 * time.Hour,
		"Fri, 20-Nov-26 12:00:10 GMT":    0,
		"Friday, 20-Nov-26 12:00:10 GMT": 10 * time.Second, // RFC 850, which RFC 9110 still requires to be parsed
		"Fri Nov 20 12:00:10 2026":       10 * time.Second,
		"Thu, 01 Jan 1970 00:00:00 GMT":  0,
		"Fri, 31 Dec 9999 23:59:59 GMT":  24 * time.Hour,
	} {
		got := refused(http.StatusServiceUnavailable, http.Header{"Retry-After": {text}}, now)
		require.Equal(t, want, got.RetryAfter, text)
		require.False(t, got.Permanent)
	}
	require.Zero(t, refused(http.StatusServiceUnavailable, http.Header{}, now).RetryAfter)
	no := refused(http.StatusBadRequest, http.Header{"Retry-After": {"1"}}, now)
	require.True(t, no.Permanent)
	require.Zero(t, no.RetryAfter, "a permanent refusal has no Retry-After")
}
