//go:build !race

package server_test

import "github.com/mpcd/mpcd/client"

const lifeMethod = client.MethodPassword

// race says whether the race detector looks on: protocol runs are slow then.
const race = false
