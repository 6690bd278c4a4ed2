//go:build !race

package tss

// Race says that the race detector is on.
const Race = false
