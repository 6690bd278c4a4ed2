//go:build long

package server_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every message of an ECDSA signing withheld, ended in every way.
func TestLongArmed(t *testing.T) {
	t.Parallel()
	for _, way := range slices.Sorted(maps.Keys(withheldEnds)) {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s, h := armedStage(t)
			soft := uint32(0)
			for said := 1; said <= lastPart; said++ {
				w := s.withholds(t, h, said)
				withheldEnds[way](t, w)
				w.over(t)
				if said >= firstArmed && said <= lastArmed {
					soft++
				}
				s.charged(t, h, soft)
			}
			require.Equal(t, uint32(lastArmed-firstArmed+1), soft)
		})
	}
}
