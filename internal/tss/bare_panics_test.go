package tss

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bnb-chain/tss-lib/v2/crypto"
	"github.com/bnb-chain/tss-lib/v2/crypto/commitments"
	"github.com/bnb-chain/tss-lib/v2/crypto/dlnproof"
	"github.com/bnb-chain/tss-lib/v2/crypto/vss"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
)

// bareCase is one message of tss-lib.md, row 19.
type bareCase struct {
	// run passes the message to tss-lib, in a separate process.
	run func(*testing.T, *bareReport)
	// at is where tss-lib panics.
	at string
	// called: the panic is not in a real party, but in a goroutine of ours that makes the same call as a round.
	called bool
	// recovered: the panic is in the calling goroutine, and the party's mutex stays locked. Otherwise the process dies.
	recovered bool
	// refused is our ingress' error for the message.
	refused string
}

// bareReport writes the process' findings, before it dies.
type bareReport struct {
	t   *testing.T
	out io.Writer
}

func (r *bareReport) say(format string, args ...any) {
	_, err := fmt.Fprintf(r.out, format+"\n", args...)
	require.NoError(r.t, err)
}

func (r *bareReport) judge(name protoreflect.Name, tampered, honest error) {
	r.say("%s: honest: %v", name, honest)
	if tampered != nil {
		r.say("refused: %v", tampered)
	}
}

// party runs real parties, with a hostile client that tampers with its messages.
func (r *bareReport) party(b *bare, tamper func(batch)) {
	b.tamper, b.judge = tamper, r.judge
	stack, err := b.run(r.t)
	r.say("%s", stack)
	require.NoError(r.t, err)
	require.NotEmpty(r.t, stack)
	side := b.parties[victim]
	r.say("locked: %v", locked(side[len(side)-1].party))
}

// bareChild names the case that TestBareChild runs.
const bareChild = "MPCD_BARE_CASE"

// TestBareChild is what TestRow19Bare runs in another process.
func TestBareChild(t *testing.T) {
	c, ok := bareCases()[os.Getenv(bareChild)]
	if !ok {
		t.Skip("run by TestRow19Bare")
	}
	c.run(t, &bareReport{t, os.Stdout})
}

// tss-lib.md, row 19: each message does to tss-lib's parties what the row says; our ingress rejects it, and accepts the
// honest one. The caller recovers in all cases, but a panic in one of tss-lib's own goroutines ends the process.
func TestRow19Bare(t *testing.T) {
	t.Parallel()
	cases := bareCases()
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBareChild$", "-test.v")
			cmd.Env = append(os.Environ(), bareChild+"="+name)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			at := stderr.String()
			if c.recovered {
				require.NoError(t, err, stdout.String())
				require.Contains(t, stdout.String(), "locked: true")
				at = stdout.String()
			} else {
				exit := new(exec.ExitError)
				require.ErrorAs(t, err, &exit)
				require.Equal(t, 2, exit.ExitCode(), "%s%s", &stdout, &stderr)
				require.Contains(t, at, "panic: ")
				require.NotContains(t, stdout.String(), "locked")
				require.Equal(t, !c.called, strings.Contains(at, "created by github.com/bnb-chain/tss-lib/v2/"), at)
			}
			require.Contains(t, at, "/tss-lib/v2@v2.0.2/"+c.at+" ")
			require.Contains(t, stdout.String(), "refused: "+c.refused)
			require.Contains(t, stdout.String(), "honest: <nil>\n")
			require.NotRegexp(t, "honest: [^<]", stdout.String())
		})
	}
}

// commit returns a commitment to parts, and its decommitment.
func commit(parts ...*big.Int) (c []byte, d [][]byte) {
	cd := commitments.NewHashCommitmentWithRandomness(big.NewInt(7), parts...)
	for _, x := range cd.D {
		d = append(d, x.Bytes())
	}
	return cd.C.Bytes(), d
}

// on returns a function that tampers with messages of type M.
func on[M proto.Message](f func(M)) func(batch) {
	return func(all batch) {
		var none M
		if m, ok := all[typeOf(none)].(M); ok {
			f(m)
		}
	}
}

func bareCases() map[string]bareCase {
	all := map[string]bareCase{}
	for _, some := range []map[string]bareCase{bareEdDSA(), bareKeygenCases(), bareResharingCases(), bareSigningCases()} {
		maps.Copy(all, some)
	}
	return all
}

// Ed25519: real runs.
func bareEdDSA() map[string]bareCase {
	return map[string]bareCase{
		"EdDSA keygen: a decommitment of nothing": {
			run: func(_ *testing.T, r *bareReport) {
				r.party(bareEdKeygen(), func(all batch) {
					as[*edkeygen.KGRound1Message](all).Commitment, as[*edkeygen.KGRound2Message2](all).DeCommitment = commit()
				})
			},
			at: "eddsa/keygen/round_3.go:97", refused: "KGRound2Message2: decommitment has 1 parts, want 5",
		},
		"EdDSA keygen: a decommitment of one point": {
			run: func(_ *testing.T, r *bareReport) {
				r.party(bareEdKeygen(), func(all batch) {
					r1, r2 := as[*edkeygen.KGRound1Message](all), as[*edkeygen.KGRound2Message2](all)
					r1.Commitment, r2.DeCommitment = commit(r2.UnmarshalDeCommitment()[1:3]...)
				})
			},
			at: "crypto/vss/feldman_vss.go:106", refused: "KGRound2Message2: decommitment has 3 parts, want 5",
		},
		"EdDSA signing: R off the curve": {
			run: func(t *testing.T, r *bareReport) {
				r.party(bareSigning(t, Ed25519), func(all batch) {
					if r1, r2 := as[*edsigning.SignRound1Message](all), as[*edsigning.SignRound2Message](all); r1 != nil {
						r1.Commitment, r2.DeCommitment = commit(big.NewInt(1), big.NewInt(1))
					}
				})
			},
			at: "eddsa/signing/round_3.go:56", recovered: true,
			refused: "SignRound2Message: decommitment is not a point of the group",
		},
	}
}

// ECDSA key generation: since a run takes seconds, the cases make the call of round 3, in a goroutine as it does.
func bareKeygenCases() map[string]bareCase {
	call := func(share *eckeygen.KGRound2Message1, vs vss.Vs) {
		done := make(chan struct{})
		go func() { // as in ecdsa/keygen/round_3.go:71
			defer close(done)
			s := vss.Share{Threshold: 1, ID: big.NewInt(4), Share: share.UnmarshalShare()}
			s.Verify(Secp256k1.ec(), 1, vs)
		}()
		<-done
	}
	five := Secp256k1.baseMult(big.NewInt(5))
	b := &bare{curve: Secp256k1, proto: keygens[Secp256k1], sent: batch{typeOf(&eckeygen.KGRound1Message{}): nil}}
	return map[string]bareCase{
		"ECDSA keygen: a decommitment of nothing": {
			run: func(t *testing.T, r *bareReport) {
				m := &eckeygen.KGRound2Message2{}
				var n []byte
				n, _, _, _, _, m.ModProof = fullKeys(t)
				b.n = new(big.Int).SetBytes(n)
				_, m.DeCommitment = commit(five.X(), five.Y(), five.X(), five.Y())
				honest := b.check(t, m)
				_, m.DeCommitment = commit()
				r.judge("KGRound2Message2", b.check(t, m), honest)
				flat := m.UnmarshalDeCommitment()[1:]
				vs, err := crypto.UnFlattenECPoints(Secp256k1.ec(), flat)
				require.NoError(t, err)
				call(&eckeygen.KGRound2Message1{Share: []byte{7}}, vs)
			},
			at: "crypto/vss/feldman_vss.go:101", called: true, refused: "KGRound2Message2: decommitment has 1 parts, want 5",
		},
		"ECDSA keygen: a share of zero mod q": {
			run: func(t *testing.T, r *bareReport) {
				m := &eckeygen.KGRound2Message1{Share: []byte{7}, FacProof: slices.Repeat([][]byte{{7}}, len(facLimits))}
				honest := b.check(t, m)
				m.Share = Secp256k1.order().Bytes()
				r.judge("KGRound2Message1", b.check(t, m), honest)
				call(m, vss.Vs{five, five})
			},
			at: "crypto/ecpoint.go:111", called: true, refused: "KGRound2Message1: share is not in (0, q)",
		},
	}
}

// ECDSA resharing: real runs, with small keys except in the hostile side's message.
func bareResharingCases() map[string]bareCase {
	keys := func(change func(*ecresharing.DGRound2Message1)) func(*testing.T, *bareReport) {
		return func(t *testing.T, r *bareReport) {
			b, _ := bareResharing(t, small(t))
			b.full = on(fullSize(t))
			r.party(b, on(change))
		}
	}
	return map[string]bareCase{
		"ECDSA resharing: an even N": {
			run: keys(func(m *ecresharing.DGRound2Message1) { m.PaillierN[len(m.GetPaillierN())-1] ^= 1 }),
			at:  "crypto/modproof/proof.go:119", refused: "DGRound2Message1: N is not odd with 2048 bits",
		},
		"ECDSA resharing: an N of zero": {
			run: keys(func(m *ecresharing.DGRound2Message1) { m.PaillierN = []byte{0} }),
			at:  "crypto/modproof/proof.go:119", refused: "DGRound2Message1: N has a leading zero",
		},
		"ECDSA resharing: a DLN proof's length": {
			run: keys(func(m *ecresharing.DGRound2Message1) { m.Dlnproof_1[0] = bytes.Repeat([]byte{0xff}, 8) }), // -1
			at:  "crypto/commitments/commitment_builder.go:84", refused: "DGRound2Message1: dlnproof_1 has 8 bytes, want 1 to 1",
		},
		"ECDSA resharing: a share of zero mod q": {
			run: func(t *testing.T, r *bareReport) {
				b, _ := bareResharing(t, small(t))
				r.party(b, on(func(m *ecresharing.DGRound3Message1) { m.Share = Secp256k1.order().Bytes() }))
			},
			at: "crypto/ecpoint.go:111", recovered: true, refused: "DGRound3Message1: share is not in (0, q)",
		},
		// The victim draws a number below q^3 * N * NTilde, of at most 5,000 bits, where its own N has the usual 2048 bits.
		// Our ingress rejects the proofs before it gets to NTilde.
		"ECDSA resharing: an NTilde of 2192 bits": {
			run: func(t *testing.T, r *bareReport) {
				pre, primes := small(t), allPrimes(t)
				pre[victim].PaillierSK = paillierKey(primes[0], primes[1])
				b, _ := bareResharing(t, pre)
				var own [2][][]byte // of the small N
				b.full = on(func(m *ecresharing.DGRound2Message1) {
					own = [2][][]byte{{m.GetPaillierN()}, m.GetModProof()}
					fullSize(t)(m)
				})
				r.party(b, on(func(m *ecresharing.DGRound2Message1) {
					m.PaillierN, m.ModProof = own[0][0], own[1]
					longNTilde(t, m)
				}))
			},
			at: "common/random.go:25", recovered: true, refused: "DGRound2Message1: dlnproof_1 has 27", // 274 bytes, or 273
		},
	}
}

// fullSize puts keys of full size into a message, with proofs of the right form only.
func fullSize(t *testing.T) func(*ecresharing.DGRound2Message1) {
	return func(m *ecresharing.DGRound2Message1) {
		m.PaillierN, m.NTilde, m.H1, m.H2, m.Dlnproof_1, m.ModProof = fullKeys(t)
		m.Dlnproof_2 = slices.Clone(m.GetDlnproof_1())
	}
}

// longNTilde puts an NTilde of 2192 bits into a message, with proofs that tss-lib makes and accepts. They are cheap:
// mod s^2*L, 1 + s*L has order s.
func longNTilde(t *testing.T, m *ecresharing.DGRound2Message1) {
	t.Helper()
	s, err := rand.Prime(rand.Reader, 64)
	require.NoError(t, err)
	one := big.NewInt(1)
	n := new(big.Int).Lsh(one, 2191)
	n.Div(n, new(big.Int).Mul(s, s))
	step := n.Add(n, one)
	step = new(big.Int).Mul(step, s)
	n = new(big.Int).Mul(step, s)
	require.Equal(t, 2192, n.BitLen())
	h1, alpha := new(big.Int).Add(step, one), big.NewInt(7)
	h2 := new(big.Int).Exp(h1, alpha, n)
	m.NTilde, m.H1, m.H2 = n.Bytes(), h1.Bytes(), h2.Bytes()
	m.Dlnproof_1, err = dlnproof.NewDLNProof(h1, h2, alpha, s, one, n, rand.Reader).Serialize()
	require.NoError(t, err)
	m.Dlnproof_2, err = dlnproof.NewDLNProof(h2, h1, alpha.ModInverse(alpha, s), s, one, n, rand.Reader).Serialize()
	require.NoError(t, err)
}

// ECDSA signing: real runs with the committed vectors.
func bareSigningCases() map[string]bareCase {
	signing := func(tamper func(b *bare) func(batch)) func(*testing.T, *bareReport) {
		return func(t *testing.T, r *bareReport) {
			b := bareSigning(t, Secp256k1)
			r.party(b, tamper(b))
		}
	}
	q := Secp256k1.order()
	return map[string]bareCase{
		"ECDSA signing: a C that is no unit": {
			run: signing(func(b *bare) func(batch) {
				return on(func(m *ecsigning.SignRound1Message1) { m.C = b.record.Parties[hostile].PaillierN.Bytes() })
			}),
			at: "crypto/mta/range_proof.go:168", refused: "SignRound1Message1: c is not a unit mod N^2",
		},
		"ECDSA signing: an S1 of zero mod q": {
			run: signing(func(*bare) func(batch) {
				return on(func(m *ecsigning.SignRound2Message) { m.ProofBobWc[bobS1] = q.Bytes() })
			}),
			at: "crypto/mta/proofs.go:293", refused: "SignRound2Message: proof_bob_wc has an S1 that is zero mod q",
		},
		// round_4.go:43 finds no inverse, and round 5 computes with the nil.
		"ECDSA signing: a theta that cancels the victim's": {
			run: signing(func(b *bare) func(batch) {
				return on(func(m *ecsigning.SignRound3Message) {
					theirs := new(big.Int).SetBytes(as[*ecsigning.SignRound3Message](b.sent).GetTheta())
					m.Theta = theirs.Sub(q, theirs).Bytes()
				})
			}),
			at: "ecdsa/signing/round_5.go:61", recovered: true, refused: "SignRound3Message: theta cancels ours",
		},
		"ECDSA signing: a Schnorr T of zero": {
			run: signing(func(*bare) func(batch) {
				return on(func(m *ecsigning.SignRound4Message) { m.ProofT = q.Bytes() })
			}),
			at: "crypto/ecpoint.go:111", recovered: true, refused: "SignRound4Message: t is not in (0, q)",
		},
		"ECDSA signing: a Schnorr T of zero, of V": {
			run: signing(func(*bare) func(batch) {
				return on(func(m *ecsigning.SignRound6Message) { m.VProofT = q.Bytes() })
			}),
			at: "crypto/ecpoint.go:66", recovered: true, refused: "SignRound6Message: t is not in (0, q)",
		},
		"ECDSA signing: a Schnorr U of zero": {
			run: signing(func(*bare) func(batch) {
				return on(func(m *ecsigning.SignRound6Message) { m.VProofU = q.Bytes() })
			}),
			at: "crypto/ecpoint.go:111", recovered: true, refused: "SignRound6Message: u is not in (0, q)",
		},
	}
}
