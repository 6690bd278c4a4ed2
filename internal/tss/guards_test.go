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

// One test for each row of docs/tss-lib.md that a guard answers and no other file names.

// untouched is a Conn for runs that must be refused before any party is built.
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

// requireRefused runs a resharing and a signing that must both be refused with the same error,
// before any party is built and without using pre-params up.
func requireRefused(t *testing.T, want error, rec *tss.KeyRecord, share *tss.KeyShare, party tss.Party) {
	t.Helper()
	u := untouched{t}
	in := tss.ReshareInput{Party: party, Old: rec, Share: share, NewKeys: newKeys(t, share)}
	_, err := tss.Reshare(t.Context(), u, in, u.observer())
	require.ErrorIs(t, err, want)
	_, err = tss.Sign(t.Context(), u, tss.SignInput{Party: party, Record: rec, Share: share, Payload: digest("x")}, u.observer())
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

// tss-lib takes a party with an old party's key for a member of both committees, and
// panics on equal keys: four distinct ones, or nothing is built.
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
					in := tss.ReshareInput{Party: tss.Client, Old: rec, Share: both[tss.Client], NewKeys: keys, PreParams: pre}
					_, err := tss.Reshare(t.Context(), u, in, u.observer())
					require.ErrorContains(t, err, "party key")
					if strings.Contains(name, "old") {
						continue
					}
					_, err = tss.Keygen(t.Context(), u, tss.KeygenInput{Curve: c, Party: tss.Client, Keys: keys, PreParams: pre}, u.observer())
					require.ErrorContains(t, err, "party key")
				}
			})
		}
		if c == tss.Secp256k1 {
			_, err = pre.Encode()
			require.NoError(t, err, "a refused run does not use pre-params up")
		}
	}
}

// tss-lib zeroes the old Xi through a shared pointer.
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

// A new set gets Paillier and ring-Pedersen keys of its own, from pre-params that are
// used once; without them nothing starts, least of all a search for primes.
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
			in := tss.ReshareInput{Party: tss.Client, Old: run.old, Share: run.shares[tss.Client], NewKeys: newKeys(t, nil), PreParams: pre}
			_, err := tss.Reshare(t.Context(), u, in, u.observer())
			require.ErrorIs(t, err, tss.ErrPreParams)
			_, err = tss.Keygen(t.Context(), u, tss.KeygenInput{Curve: tss.Secp256k1, Keys: in.NewKeys, PreParams: pre}, u.observer())
			require.ErrorIs(t, err, tss.ErrPreParams)
		})
	}
}

// An old party's save carries the old Paillier key: what comes out of a resharing is
// the new party's.
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

// tss-lib acknowledges in round 4 what it checks in round 5: the side whose last check
// fails has no result, although the other one, to which all is well, ends with one.
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

// tss-lib panics on a signer that its save data does not know, and on equal keys.
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

// tss-lib compares only the first message of index 0 with what it has: each side refuses
// another public key, the one at index 0 and the one at index 1.
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
		e.requireBlamed(t, from, "names another public key")
	}
}

// reflector is a peer that sends back, changed, what it gets of one type. It shows what
// a side does about a message without the cost of a second side.
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

// The same for ECDSA, and row 17: a first message with another session id than ours, or
// with none, is refused, which tss-lib's new party at index 1 never looks at.
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
				in := tss.ReshareInput{Party: tss.Party(party), Old: rec, Share: share, NewKeys: newKeys(t, share), PreParams: pre}
				synctest.Test(t, func(t *testing.T) {
					ctx, stop := context.WithTimeout(t.Context(), time.Hour) // jumped to if nobody objects
					defer stop()
					conn := &reflector{target: "binance.tsslib.ecdsa.resharing.DGRound1Message", change: change, back: make(chan tss.Message, 1)}
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

// What tss-lib would sign wrongly, crash on, or sign although it should not.
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
		tss.Secp256k1: {nil, make([]byte, 32), one[:31], append(one, 0), append([]byte{0}, one...), q.Bytes(), bytes.Repeat([]byte{0xff}, 32)},
		tss.Ed25519:   {make([]byte, tss.MaxMessageBytes+1)},
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
			_, err := tss.Sign(t.Context(), u, tss.SignInput{Record: rec, Share: both[tss.Client], Payload: payload}, u.observer())
			require.ErrorIs(t, err, tss.ErrPayload, i)
		}
	}
}

// No Go file of this repository, tests included, names the options that switch tss-lib's
// proofs off; comments and strings may.
func TestRow13ProofsStayOn(t *testing.T) {
	forbidden := []string{"SetNoProofMod", "SetNoProofFac"}
	require.Equal(t, forbidden, identifiers([]byte("package p\n// SetNoProofMod\nfunc f() { x.SetNoProofMod(); y := z.SetNoProofFac; _ = \"SetNoProofFac\" }"), forbidden))
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

// A share that names 6N as a Paillier key killed the process: nothing is built from one
// whose secrets are not the record's.
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
		for _, bad := range []*big.Int{new(big.Int).Add(xi, big.NewInt(1)), new(big.Int).Add(xi, c.Order()), times(xi, -1), new(big.Int), nil} {
			requireRefused(t, tss.ErrShareMalformed, rec, both[tss.Client].SetXi(bad), tss.Client)
		}
	}
}
