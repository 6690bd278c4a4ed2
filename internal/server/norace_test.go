//go:build !race

package server_test

import "github.com/mpcd/mpcd/client"

const lifeMethod = client.MethodPassword
