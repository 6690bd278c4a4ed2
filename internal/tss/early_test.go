package tss

import (
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// tss-lib.md, row 15: in every protocol and for both sides, a message that depends on one that we have not sent yet is
// rejected, whatever its content; the content of the others is checked.
func TestRow15EveryEarlyMessage(t *testing.T) {
	t.Parallel()
	forEachProtocol(t, func(t *testing.T, c Curve, p *protocol) {
		for name, st := range p.steps {
			b := payload(t, wellFormed(t, name))
			var a anypb.Any
			require.NoError(t, proto.Unmarshal(b, &a))
			for _, me := range []Party{Client, Server} {
				g := &ingress{curve: c, me: me, proto: p, record: &KeyRecord{Curve: c}}
				for i := range g.record.Parties {
					g.record.Parties[i].PaillierN = big.NewInt(15)
				}
				const early = "a message that comes too early"
				err := g.check(&a, st, b)
				if st.round > 1 {
					require.EqualError(t, err, early, name)
				} else if err != nil {
					require.NotEqual(t, early, err.Error(), name)
				}
			}
		}
	})
}
