//go:build long

package server_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
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

// Other protocols, and ECDSA before round 2, have nothing that a dishonest device learns from
// withholding: no message of theirs is armed.
func TestLongNothingElseIsArmed(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true), "CREATE", "BACKUP", "PROVISION", tss.OperationSign)
	for op, sent := range s.honest {
		for said := 1; said < len(sent); said += 2 {
			reached := make(chan struct{})
			r := s.rogue(t, op, func(r *rogue, n int, m *outgoing) {
				if n < said {
					r.say(m)
				} else if n == said {
					close(reached)
				}
			})
			ended := later(func() answer { return r.run(t) })
			<-reached
			done[*pb.CancelSessionResponse](t, overGRPC(t, s.Service, alice, &pb.CancelSessionRequest{SessionId: r.id}))
			refused(t, <-ended, codes.Canceled, "SESSION_CANCELLED")
		}
	}
	s.requireIdle(t)
	w := wallet(t, s.Service, s.second.wallet)
	require.Zero(t, w.GetSoftAborts())
	require.Zero(t, w.GetAborts())
}
