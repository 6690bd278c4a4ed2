package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The user of a command has no request id and sees no RetryInfo, so sdkTexts must replace all texts of the service that
// mention them.
func TestServiceSentencesAreACommands(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(repoRoot + "/internal/server/errors.go")
	require.NoError(t, err)
	found := 0
	// Each reason and its sentence on one line.
	joined := regexp.MustCompile(`" \+\n\s*"|\n\t\t`).ReplaceAllString(string(source), "")
	for _, line := range strings.Split(joined, "\n") {
		// A command makes a new request id each time, and ErrInternal's text is for the operator.
		if strings.Contains(line, "ErrRequestIDReused") || strings.Contains(line, "ErrInternal") {
			continue
		}
		for _, literal := range regexp.MustCompile(`"[^"]*"`).FindAllString(line, -1) {
			sentence, err := strconv.Unquote(literal)
			require.NoError(t, err)
			if strings.Contains(sentence, "request id") || strings.Contains(sentence, "RetryInfo") {
				found++
				said := sdkTexts.Replace(sentence)
				require.NotRegexp(t, "request id|RetryInfo", said)
				require.Regexp(t, "(?i)run the command again|after the time that is named here", said)
			}
		}
	}
	require.Greater(t, found, 7)
}
