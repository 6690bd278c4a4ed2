package tss

import (
	"bytes"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
)

// refuses requires that a server's side rejects the honest message of a type when it is changed, with an error that
// contains why.
func (s *stage) refuses(t *testing.T, name protoreflect.FullName, why string, change func(m proto.Message)) {
	t.Helper()
	c, p := protocolOf(name)
	m := decoded(t, s.messages[name])
	change(m)
	to := s.server(c, p)
	err := to.accept(t.Context(), Message{Curve: c, Payload: payloadOf(m)})
	requireBlame(t, err, Client)
	require.ErrorContains(t, err, why, "%s", name)
	for _, n := range to.inboxes() {
		require.Zero(t, n)
	}
}

// Each value of each message must be present, without a leading zero, and no longer than an honest one; each list must
// have the length of an honest one (tss-lib.md, row 20). The honest message is accepted.
func TestRow20EveryValue(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, name := range allTypes() {
		c, p := protocolOf(name)
		require.NoError(t, s.server(c, p).accept(t.Context(), Message{Curve: c, Payload: s.messages[name]}), "%s", name)
		m := decoded(t, s.messages[name]).ProtoReflect()
		var limits []int
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			limits = append(limits, limitsOf(f)...)
			if !f.IsList() {
				continue
			}
			s.refuses(t, name, "parts, want", func(m proto.Message) {
				list := m.ProtoReflect().Mutable(f).List()
				list.Truncate(list.Len() - 1)
			})
			s.refuses(t, name, "parts, want", func(m proto.Message) {
				m.ProtoReflect().Mutable(f).List().Append(protoreflect.ValueOfBytes([]byte{7}))
			})
			s.refuses(t, name, "parts, want", func(m proto.Message) { m.ProtoReflect().Clear(f) })
		}
		require.Len(t, values(m), len(limits), "%s", name)
		for i, limit := range limits {
			if i > 1 && len(limits)-i > 1 && len(limits) > 50 && i%29 != 0 { // only some values of long lists
				continue
			}
			for why, value := range map[string][]byte{
				"has 0 bytes":        {},
				"has a leading zero": {0, 1},
				"bytes, want 1 to":   bytes.Repeat([]byte{1}, limit+1),
			} {
				s.refuses(t, name, why, func(m proto.Message) { values(m.ProtoReflect())[i].set(value) })
			}
		}
	}
}

// set returns a change of one value of a message of type M.
func set[M proto.Message](f func(m M)) func(proto.Message) {
	return func(m proto.Message) {
		if x, ok := m.(M); ok {
			f(x)
		}
	}
}

// Each scalar must be in (0, q), and each point in the group.
func TestRow19EveryScalarAndPoint(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	scalars := map[protoreflect.Name]string{
		"share": "share", "theta": "theta", "proof_t": "t", "v_proof_t": "t", "v_proof_u": "u", "s": "s",
	}
	seen, points := 0, 0
	for _, name := range allTypes() {
		c, _ := protocolOf(name)
		fields := decoded(t, s.messages[name]).ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if what, ok := scalars[f.Name()]; ok {
				seen++
				for _, x := range []*big.Int{c.order(), new(big.Int).Add(c.order(), big.NewInt(7))} {
					s.refuses(t, name, what+" is not in (0, q)", func(m proto.Message) {
						m.ProtoReflect().Set(f, protoreflect.ValueOfBytes(x.Bytes()))
					})
				}
			}
			if f.Name() == "proof_alpha_y" || f.Name() == "v_proof_alpha_y" {
				points++
				s.refuses(t, name, "alpha is not a point", func(m proto.Message) {
					m.ProtoReflect().Set(f, protoreflect.ValueOfBytes([]byte{7}))
				})
			}
			if limits := limitsOf(f); f.IsList() && limits[0] == 32 {
				for y := 2; y < len(limits); y += 2 {
					points++
					s.refuses(t, name, "decommitment is not a point", func(m proto.Message) {
						m.ProtoReflect().Mutable(f).List().Set(y, protoreflect.ValueOfBytes([]byte{7}))
					})
				}
			}
		}
	}
	require.Equal(t, 13, seen)
	require.Equal(t, 19, points)
}

// Every ciphertext must be a unit modulo N^2 for its own key's N, and U of Bob's proof with check a point: tss-lib
// panics on others in its own goroutines.
func TestRow19Ciphertexts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	theirs, ours := s.record[Secp256k1].Parties[Client].PaillierN, s.record[Secp256k1].Parties[Server].PaillierN
	beyond := func(n *big.Int) []byte { return new(big.Int).Add(new(big.Int).Mul(n, n), big.NewInt(1)).Bytes() }
	r1, r2 := typeOf(&ecsigning.SignRound1Message1{}), typeOf(&ecsigning.SignRound2Message{})
	for _, x := range [][]byte{theirs.Bytes(), beyond(theirs)} {
		s.refuses(t, r1, "c is not a unit mod N^2", set(func(m *ecsigning.SignRound1Message1) { m.C = x }))
	}
	for _, x := range [][]byte{ours.Bytes(), beyond(ours)} {
		s.refuses(t, r2, "c1 is not a unit mod N^2", set(func(m *ecsigning.SignRound2Message) { m.C1 = x }))
		s.refuses(t, r2, "c2 is not a unit mod N^2", set(func(m *ecsigning.SignRound2Message) { m.C2 = x }))
	}
	for i := len(bobLimits); i < len(bobWCLimits); i++ {
		change := set(func(m *ecsigning.SignRound2Message) { m.ProofBobWc[i] = []byte{7} })
		s.refuses(t, r2, "proof_bob_wc is not a point", change)
	}
	s.refuses(t, r2, "S1 that is zero mod q", set(func(m *ecsigning.SignRound2Message) {
		m.ProofBobWc[bobS1] = new(big.Int).Mul(Secp256k1.order(), big.NewInt(3)).Bytes()
	}))
	s.refuses(t, typeOf(&ecsigning.SignRound3Message{}), "theta cancels ours", set(func(m *ecsigning.SignRound3Message) {
		m.Theta = new(big.Int).Sub(Secp256k1.order(), big.NewInt(ourTheta)).Bytes()
	}))
}

// The lengths in DLN proofs, the W of modulus proofs and a new party's moduli are checked in each message that has
// them.
func TestRow18EveryKeyAndProof(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, name := range []protoreflect.FullName{
		typeOf(&eckeygen.KGRound1Message{}), typeOf(&ecresharing.DGRound2Message1{}),
	} {
		field := func(m proto.Message, name protoreflect.Name) protoreflect.List {
			return m.ProtoReflect().Mutable(m.ProtoReflect().Descriptor().Fields().ByName(name)).List()
		}
		for _, proof := range []protoreflect.Name{"dlnproof_1", "dlnproof_2"} {
			for _, at := range []int{0, 1 + dlnParts} {
				s.refuses(t, name, string(proof)+" has lists of the wrong length", func(m proto.Message) {
					field(m, proof).Set(at, protoreflect.ValueOfBytes([]byte{dlnParts - 1}))
				})
			}
		}
		for _, n := range []protoreflect.Name{"paillier_n", "n_tilde"} {
			s.refuses(t, name, "is not odd with 2048 bits", func(m proto.Message) {
				m.ProtoReflect().Set(m.ProtoReflect().Descriptor().Fields().ByName(n), protoreflect.ValueOfBytes([]byte{7}))
			})
		}
	}
	residue := []byte{4}
	keygen := set(func(m *eckeygen.KGRound2Message2) { m.ModProof[0] = residue })
	s.refuses(t, typeOf(&eckeygen.KGRound2Message2{}), "Jacobi symbol", keygen)
	reshare := set(func(m *ecresharing.DGRound2Message1) { m.ModProof[0] = residue })
	s.refuses(t, typeOf(&ecresharing.DGRound2Message1{}), "Jacobi symbol", reshare)
}

// The checks of content reject messages of other protocols, too, independently of the protocol's table.
func TestRow15ForeignContent(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, name := range allTypes() {
		for _, other := range allTypes() {
			c, p := protocolOf(other)
			if _, own := p.steps[name]; own {
				continue
			}
			g := s.server(c, p).ingress
			if g.record == nil {
				g.record = s.record[c]
			}
			r := &reader{curve: c, message: name.Name()}
			g.checkContent(r, decoded(t, s.messages[name]))
			require.ErrorContains(t, r.err, "not of this protocol", "%s in that of %s", name, other)
		}
	}
}

// In a resharing the old parties can overtake the new ones: a message depends only on those that are addressed to its
// sender.
func TestRow15OldPartiesOvertake(t *testing.T) {
	t.Parallel()
	p := resharings[Secp256k1]
	share := p.steps[typeOf(&ecresharing.DGRound3Message1{})]
	g := &ingress{proto: p}
	require.False(t, g.due(share), "the old party has not got round 2")
	g.sent = map[protoreflect.FullName]bool{typeOf(&ecresharing.DGRound2Message1{}): true}
	require.False(t, g.due(share), "this one is for the new party")
	g.sent = map[protoreflect.FullName]bool{typeOf(&ecresharing.DGRound2Message2{}): true}
	require.True(t, g.due(share))
}
