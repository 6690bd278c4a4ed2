package tss_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"go/scanner"
	"go/token"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"

	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// Tests of the guards in docs/tss-lib.md for rows that have no other file.

// untouched is a Conn for runs that must fail before any party is built.
type untouched struct{ t *testing.T }

func (u untouched) Send(context.Context, tss.Message) error {
	u.t.Error("a message was sent")
	return context.Canceled
}

func (u untouched) Recv(context.Context) (tss.Message, error) {
	u.t.Error("a message was awaited")
	return tss.Message{}, context.Canceled
}

func (u untouched) observer() tss.Observer {
	return tss.Observer{Round: func(int, int) { u.t.Error("a round was entered") }}
}

// requireRefused runs a resharing and a signing that must both fail with the same error, before any party is built and
// without using up pre-params.
func requireRefused(t *testing.T, want error, rec *tss.KeyRecord, share *tss.KeyShare, party tss.Party) {
	t.Helper()
	u := untouched{t}
	in := tss.ReshareInput{Party: party, Old: rec, Share: share, NewKeys: newKeys(t, share)}
	_, err := tss.Reshare(t.Context(), u, in, u.observer())
	require.ErrorIs(t, err, want)
	sign := tss.SignInput{Party: party, Record: rec, Share: share, Payload: digest("x")}
	_, err = tss.Sign(t.Context(), u, sign, u.observer())
	require.ErrorIs(t, err, want)
}

func newKeys(t *testing.T, share *tss.KeyShare) tss.PartyKeys {
	c := tss.Secp256k1
	if share != nil {
		c = share.Curve
	}
	keys, err := tss.NewPartyKeys(c)
	require.NoError(t, err)
	return keys
}

// A resharing needs four distinct party keys: tss-lib treats a new party with an old one's key as a member of both
// committees, and panics on equal keys.
func TestRow1FourDistinctPartyKeys(t *testing.T) {
	t.Parallel()
	for _, c := range tss.Curves() {
		rec, both := tss.Vector(t, tss.Signing).Key(t, c)
		pre := pre(t, c, tsstest.NewSource())[tss.Client]
		fresh, err := tss.NewPartyKeys(c)
		require.NoError(t, err)
		q := c.Order()
		for name, bad := range map[string]*big.Int{
			"the old client's": rec.Parties[tss.Client].PartyKey,
			"the old server's": rec.Parties[tss.Server].PartyKey,
			"the other new":    fresh[tss.Server],
			"zero":             new(big.Int),
			"q":                q,
			"over q":           new(big.Int).Add(fresh[tss.Client], q),
			"negative":         big.NewInt(-1),
			"none":             nil,
		} {
			t.Run(c.String()+" "+name, func(t *testing.T) {
				u := untouched{t}
				for _, keys := range []tss.PartyKeys{{bad, fresh[tss.Server]}, {fresh[tss.Server], bad}} {
					in := tss.ReshareInput{
						Party: tss.Client, Old: rec, Share: both[tss.Client], NewKeys: keys, PreParams: pre,
					}
					_, err := tss.Reshare(t.Context(), u, in, u.observer())
					require.ErrorContains(t, err, "party key")
					if strings.Contains(name, "old") {
						continue
					}
					create := tss.KeygenInput{Curve: c, Party: tss.Client, Keys: keys, PreParams: pre}
					_, err = tss.Keygen(t.Context(), u, create, u.observer())
					require.ErrorContains(t, err, "party key")
				}
			})
		}
		if c == tss.Secp256k1 {
			_, err = pre.Encode()
			require.NoError(t, err, "a run that fails at once does not use up pre-params")
		}
	}
}

// tss-lib sets the old Xi to zero through a shared pointer; the input shares are unchanged.
func TestRow2InputIsUnchanged(t *testing.T) {
	for _, c := range tss.Curves() {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			run := reshared(t, c)
			for p, s := range run.shares {
				require.True(t, bytes.Equal(run.before[p], tss.EncodeKey(t, s)), "the input share changed")
			}
			sign(t, run.old, run.shares, digest("the old set"))
			sign(t, &run.keys[tss.Client].Record, shares(run.keys), digest("the new set"))
		})
	}
}

// A new set gets its own Paillier key and ring-Pedersen parameters, from pre-params that are used once. Without them a
// run fails at once, and does not search for primes.
func TestRow3FreshPreParams(t *testing.T) {
	run := reshared(t, tss.Secp256k1)
	seen := map[string]bool{}
	for _, rec := range []*tss.KeyRecord{run.old, &run.keys[tss.Client].Record} {
		for _, p := range rec.Parties {
			for _, v := range []*big.Int{p.PaillierN, p.NTilde, p.H1, p.H2} {
				require.False(t, seen[v.String()], "a modulus or generator is used twice")
				seen[v.String()] = true
			}
		}
	}
	for p, want := range run.moduli {
		got := run.keys[p].Record.Parties[p]
		require.Equal(t, want, [2]string{got.PaillierN.String(), got.NTilde.String()}, "not the pre-params that were given")
	}
	for name, pre := range map[string]*tss.PreParams{"used": run.pre[tss.Client], "none": nil, "empty": {}} {
		t.Run(name, func(t *testing.T) {
			u := untouched{t}
			in := tss.ReshareInput{
				Party: tss.Client, Old: run.old, Share: run.shares[tss.Client], NewKeys: newKeys(t, nil), PreParams: pre,
			}
			_, err := tss.Reshare(t.Context(), u, in, u.observer())
			require.ErrorIs(t, err, tss.ErrPreParams)
			create := tss.KeygenInput{Curve: tss.Secp256k1, Keys: in.NewKeys, PreParams: pre}
			_, err = tss.Keygen(t.Context(), u, create, u.observer())
			require.ErrorIs(t, err, tss.ErrPreParams)
		})
	}
}

// An old party's save data has the old Paillier key; the result of a resharing is the new party's.
func TestRow5NoOldPrimes(t *testing.T) {
	run := reshared(t, tss.Secp256k1)
	old := map[string]bool{}
	for _, s := range run.shares {
		for _, x := range s.Primes() {
			old[x.String()] = true
		}
	}
	require.Len(t, old, 4)
	for p := range run.keys {
		share, rec := &run.keys[p].Share, &run.keys[p].Record
		primes := share.Primes()
		require.False(t, old[primes[0].String()] || old[primes[1].String()], "a prime of an old key")
		require.Zero(t, rec.Parties[p].PaillierN.Cmp(new(big.Int).Mul(primes[0], primes[1])))
		require.NotZero(t, share.Xi().Cmp(run.shares[p].Xi()))
	}
}

// tss-lib acknowledges in round 4 what it checks in round 5. The side whose last check fails has no result, although
// the other one has.
func TestRow7FirstErrorEnds(t *testing.T) {
	t.Parallel()
	alter := mutate(t, func(m protoreflect.Message) {
		msg, ok := m.Interface().(*ecresharing.DGRound4Message1)
		require.True(t, ok)
		flip(msg.GetFacProof()[0])
	})
	n := &network{from: tss.Server, target: "binance.tsslib.ecdsa.resharing.DGRound4Message1", apply: alter}
	e := duel(t, n, subjects(tss.Secp256k1)[1].start(t, tss.Vector(t, tss.Signing), tsstest.NewSource()))
	require.Equal(t, 5, e.requireBlamed(t, tss.Server, "a proof did not verify"))
	require.False(t, e.made[tss.Client])
}

// tss-lib panics on a signer that is not in its save data, and on equal keys.
func TestRow8CommitteeMismatch(t *testing.T) {
	for _, c := range tss.Curves() {
		t.Run(c.String(), func(t *testing.T) {
			rec, both := tss.Vector(t, tss.Signing).Key(t, c)
			other, others := tss.Vector(t, tss.Backup).Key(t, c)
			share := both[tss.Client]
			swapped := *rec
			swapped.Parties[0], swapped.Parties[1] = rec.Parties[1], rec.Parties[0]
			equal := *rec
			equal.Parties[tss.Server].PartyKey = equal.Parties[tss.Client].PartyKey
			unknown := *share
			unknown.PartyKey = big.NewInt(7)

			requireRefused(t, tss.ErrShareMismatch, other, share, tss.Client)
			requireRefused(t, tss.ErrShareMismatch, rec, others[tss.Client], tss.Client)
			requireRefused(t, tss.ErrShareMismatch, rec, share, tss.Server)
			requireRefused(t, tss.ErrShareMismatch, &swapped, share, tss.Client)
			requireRefused(t, tss.ErrShareMismatch, rec, &unknown, tss.Client)
			requireRefused(t, tss.ErrShareMismatch, rec, share, 2)
			requireRefused(t, tss.ErrShareMismatch, nil, share, tss.Client)
			requireRefused(t, tss.ErrShareMismatch, rec, nil, tss.Client)
			requireRefused(t, tss.ErrRecordMalformed, &equal, share, tss.Client)
			wrongCurve := *share
			wrongCurve.Curve = tss.Secp256k1 + tss.Ed25519 - c
			requireRefused(t, tss.ErrShareMismatch, rec, &wrongCurve, tss.Client)
		})
	}
}

// Both sides reject another public key in round 1: tss-lib only checks the message of index 0.
func TestRow9PublicKeyInRound1(t *testing.T) {
	t.Parallel()
	rec, _ := tss.Vector(t, tss.Signing).Key(t, tss.Ed25519)
	require.NotZero(t, rec.Parties[0].PartyKey.Cmp(rec.Parties[1].PartyKey), "one of them has index 0")
	other, _ := tss.Vector(t, tss.Signing).Key(t, tss.Ed25519)
	other = other.WithXi(t, tss.Client, big.NewInt(5))
	x, y := tss.Coordinates(t, other)
	for _, from := range []tss.Party{tss.Client, tss.Server} {
		replace := mutate(t, func(m protoreflect.Message) {
			fields := m.Descriptor().Fields()
			m.Set(fields.ByName("eddsa_pub_x"), protoreflect.ValueOfBytes(x))
			m.Set(fields.ByName("eddsa_pub_y"), protoreflect.ValueOfBytes(y))
		})
		n := &network{from: from, target: "binance.tsslib.eddsa.resharing.DGRound1Message", apply: replace}
		e := duel(t, n, subjects(tss.Ed25519)[1].start(t, tss.Vector(t, tss.Signing), nil))
		e.requireBlamed(t, from, "a round 1 message with another public key")
	}
}

// reflector is a peer that sends messages of one type back, changed. It tests how a side handles a message without the
// cost of a second side.
type reflector struct {
	target msgName
	change rule
	back   chan tss.Message
}

func (r *reflector) Send(_ context.Context, m tss.Message) error {
	if nameOf(m) == r.target {
		r.back <- r.change(m)[0]
	}
	return nil
}

func (r *reflector) Recv(ctx context.Context) (tss.Message, error) {
	select {
	case m := <-r.back:
		return m, nil
	case <-ctx.Done():
		return tss.Message{}, context.Cause(ctx)
	}
}

// The same for ECDSA, and row 17: a round 1 message with another session id than ours, or none, is rejected; tss-lib's
// new party of index 1 never checks it.
func TestRow17SessionIDInRound1(t *testing.T) {
	rec, both := tss.Vector(t, tss.Signing).Key(t, tss.Secp256k1)
	for name, x := range map[string]struct {
		change func(*ecresharing.DGRound1Message)
		want   string
	}{
		"another ssid":  {func(m *ecresharing.DGRound1Message) { flip(m.GetSsid()) }, "another session id"},
		"no ssid":       {func(m *ecresharing.DGRound1Message) { m.Ssid = nil }, "session id"},
		"a longer ssid": {func(m *ecresharing.DGRound1Message) { m.Ssid = append(m.GetSsid(), 0) }, "session id"},
		"another x":     {func(m *ecresharing.DGRound1Message) { flip(m.GetEcdsaPubX()) }, "another public key"},
		"another y":     {func(m *ecresharing.DGRound1Message) { flip(m.GetEcdsaPubY()) }, "another public key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := tsstest.NewSource()
			for party, share := range both {
				pre, err := src.PreParams(t.Context())
				require.NoError(t, err)
				change := mutate(t, func(m protoreflect.Message) {
					msg, ok := m.Interface().(*ecresharing.DGRound1Message)
					require.True(t, ok)
					x.change(msg)
				})
				in := tss.ReshareInput{
					Party: tss.Party(party), Old: rec, Share: share, NewKeys: newKeys(t, share), PreParams: pre,
				}
				synctest.Test(t, func(t *testing.T) {
					ctx, stop := context.WithTimeout(t.Context(), time.Hour) // reached at once if the message is accepted
					defer stop()
					conn := &reflector{
						target: "binance.tsslib.ecdsa.resharing.DGRound1Message", change: change, back: make(chan tss.Message, 1),
					}
					_, err = tss.Reshare(ctx, conn, in, tss.Observer{})
				})
				var pe *tss.ProtocolError
				require.ErrorAs(t, err, &pe)
				require.Equal(t, tss.Party(party).Other(), pe.Culprit)
				require.ErrorContains(t, err, x.want)
			}
		})
	}
}

// Payloads that tss-lib would sign wrongly, panic on, or sign although it should not.
func TestRow11Payloads(t *testing.T) {
	t.Parallel()
	q := tss.Secp256k1.Order()
	minusOne := new(big.Int).Sub(q, big.NewInt(1)).FillBytes(make([]byte, 32))
	one := append(make([]byte, 31), 1)
	good := map[tss.Curve][][]byte{
		tss.Secp256k1: {minusOne, one},
		tss.Ed25519: {
			{}, {0}, {0, 0, 0}, {7}, []byte("\x00\x00leading zeros"), bytes.Repeat([]byte{0xff}, tss.MaxMessageBytes),
		},
	}
	bad := map[tss.Curve][][]byte{
		tss.Secp256k1: {
			nil, make([]byte, 32), one[:31], append(one, 0), append([]byte{0}, one...), q.Bytes(),
			bytes.Repeat([]byte{0xff}, 32),
		},
		tss.Ed25519: {make([]byte, tss.MaxMessageBytes+1)},
	}
	for _, c := range tss.Curves() {
		rec, both := tss.Vector(t, tss.Signing).Key(t, c)
		for i, payload := range good[c] {
			require.NoError(t, tss.CheckPayload(c, payload))
			sig := sign(t, rec, both, payload)
			if c == tss.Ed25519 {
				require.True(t, ed25519.Verify(rec.PublicKey, payload, sig.Bytes[:]), i)
			}
		}
		for i, payload := range bad[c] {
			require.ErrorIs(t, tss.CheckPayload(c, payload), tss.ErrPayload, i)
			u := untouched{t}
			in := tss.SignInput{Record: rec, Share: both[tss.Client], Payload: payload}
			_, err := tss.Sign(t.Context(), u, in, u.observer())
			require.ErrorIs(t, err, tss.ErrPayload, i)
		}
	}
}

// No Go code of this repository, tests included, uses the options that turn off tss-lib's proofs.
func TestRow13ProofsStayOn(t *testing.T) {
	forbidden := []string{"SetNoProofMod", "SetNoProofFac"}
	sample := "package p\n// SetNoProofMod\nfunc f() { x.SetNoProofMod(); y := z.SetNoProofFac; _ = \"SetNoProofFac\" }"
	require.Equal(t, forbidden, identifiers([]byte(sample), forbidden))
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(root, "go.mod"))
	seen := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen++
		require.Empty(t, identifiers(src, forbidden), path)
		return nil
	}))
	require.Greater(t, seen, 20)
}

// identifiers returns those of names that src uses, in order.
func identifiers(src []byte, names []string) (found []string) {
	var s scanner.Scanner
	fset := token.NewFileSet()
	s.Init(fset.AddFile("", fset.Base(), len(src)), src, nil, 0)
	for {
		_, tok, lit := s.Scan()
		if tok == token.EOF {
			return found
		}
		if tok == token.IDENT && slices.Contains(names, lit) {
			found = append(found, lit)
		}
	}
}

// A share with 6N as its Paillier key killed the process; shares whose secrets do not match the record are rejected.
func TestRow14SecretsAreTheRecords(t *testing.T) {
	t.Parallel()
	rec, both := tss.Vector(t, tss.Signing).Key(t, tss.Secp256k1)
	n := rec.Parties[tss.Client].PaillierN
	share := both[tss.Client]
	p, q := share.Primes()[0], share.Primes()[1]
	times := func(x *big.Int, k int64) *big.Int { return new(big.Int).Mul(x, big.NewInt(k)) }
	for name, pair := range map[string][2]*big.Int{
		"6N":               {times(p, 2), times(q, 3)},
		"even":             {times(p, 2), q},
		"the same twice":   {p, p},
		"1 and N":          {big.NewInt(1), n},
		"N and 1":          {n, big.NewInt(1)},
		"negative":         {times(p, -1), times(q, -1)},
		"zero":             {new(big.Int), new(big.Int)},
		"the other side's": {both[tss.Server].Primes()[0], both[tss.Server].Primes()[1]},
	} {
		t.Run(name, func(t *testing.T) {
			requireRefused(t, tss.ErrShareMalformed, rec, share.SetPrimes(pair[0], pair[1]), tss.Client)
		})
	}
	for _, c := range tss.Curves() {
		rec, both := tss.Vector(t, tss.Signing).Key(t, c)
		xi := both[tss.Client].Xi()
		plus := func(k *big.Int) *big.Int { return new(big.Int).Add(xi, k) }
		for _, bad := range []*big.Int{plus(big.NewInt(1)), plus(c.Order()), times(xi, -1), new(big.Int), nil} {
			requireRefused(t, tss.ErrShareMalformed, rec, both[tss.Client].SetXi(bad), tss.Client)
		}
	}
}
