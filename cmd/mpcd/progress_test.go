package main

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
)

// A line of progress fits into the terminal, and shows as much of the step as possible.
func TestLineOfEveryWidth(t *testing.T) {
	t.Parallel()
	round := client.Progress{Percent: 40, Status: "Generating share", Curve: "ED25519", Round: 2, Rounds: 3}
	queued := client.Progress{Status: client.StatusQueued, QueuePosition: 7}
	for _, c := range []struct {
		progress client.Progress
		width    int
		want     string
	}{
		{round, 0, "create     40%    0.0s  Generating share, ED25519, round 2 of 3"},
		{round, 120, "create     40%    0.0s  Generating share, ED25519, round 2 of 3"},
		{round, 67, "create     40%    0.0s  Generating share, ED25519, round 2 of 3"},
		{round, 66, "create     40%  Generating share 2/3"},
		{round, 40, "create     40%  Generating share 2/3"},
		{round, 20, "create     40%  Gen"},
		{round, 1, ""},
		{queued, 120, "create      0%    0.0s  Queued, 7 ahead"},
		{queued, 40, "create      0%  Queued"},
		{client.Progress{Percent: 100, Status: "Done"}, 40, "create    100%  Done"},
	} {
		synctest.Test(t, func(t *testing.T) { // no time passes
			s := newState("create")
			s.show(c.progress)
			require.Equal(t, c.want, s.line(c.width), "%d columns", c.width)
		})
	}
}
