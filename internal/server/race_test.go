//go:build race

package server_test

import (
	"time"

	"github.com/mpcd/mpcd/client"
)

// lifeMethod is the method of the whole life's backup. Under the race detector one try of
// a password takes ten seconds, and there are three; client's and cmd/mpcd's tests make
// PASSWORD backups too.
const lifeMethod = client.MethodICloud

// race says whether the race detector looks on: protocol runs are slow then.
const race = true

// briefly is how long a device may be silent where a test waits for it to be: longer than an
// honest one ever is.
const briefly = 15 * time.Second
