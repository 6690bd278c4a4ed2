//go:build race

package tss

// Race says that the race detector is on. It makes tss-lib's Ed25519 arithmetic, which is
// plain Go, seven times slower, so that the exhaustive tests take samples under it.
const Race = true
