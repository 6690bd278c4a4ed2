//go:build !race

package server_test

import (
	"time"

	"github.com/mpcd/mpcd/client"
)

const lifeMethod = client.MethodPassword

// race says whether the race detector looks on: protocol runs are slow then.
const race = false

// briefly is how long a device may be silent where a test waits for it to be: longer than an
// honest one ever is.
const briefly = 2 * time.Second
