//go:build long

package main

import "testing"

func TestLongFullDisk(t *testing.T) {
	t.Parallel()
	fullDisk(t, 8<<10)
}
