package tss_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

func TestMain(m *testing.M) {
	// go-log, with which tss-lib logs, starts this goroutine when it is imported, and never ends it.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

// pre returns the pre-params for both sides of one run on c.
func pre(t testing.TB, c tss.Curve, src *tsstest.Source) [2]*tss.PreParams {
	if c == tss.Ed25519 {
		return [2]*tss.PreParams{}
	}
	return src.Pair(t)
}

func keygen(t testing.TB, c tss.Curve, src *tsstest.Source, obs tss.Observer) *[2]tss.NewKey {
	keys, err := tsstest.Keygen(t.Context(), c, pre(t, c, src), obs)
	require.NoError(t, err)
	return keys
}

func reshare(t testing.TB, from *[2]tss.NewKey, src *tsstest.Source) *[2]tss.NewKey {
	c := from[tss.Client].Record.Curve
	keys, err := tsstest.Reshare(t.Context(), &from[tss.Client].Record, shares(from), pre(t, c, src), tss.Observer{})
	require.NoError(t, err)
	return keys
}

func shares(k *[2]tss.NewKey) [2]*tss.KeyShare {
	return [2]*tss.KeyShare{&k[tss.Client].Share, &k[tss.Server].Share}
}

// sign runs both sides of a signing, and verifies the signature.
func sign(t testing.TB, rec *tss.KeyRecord, both [2]*tss.KeyShare, payload []byte) *tss.Signature {
	t.Helper()
	sig, err := tsstest.Sign(t.Context(), rec, both, payload, tss.Observer{})
	require.NoError(t, err)
	require.NoError(t, tss.Verify(rec.Curve, rec.PublicKey, payload, sig))
	return sig
}

func digest(s string) []byte {
	d := sha256.Sum256([]byte(s))
	return d[:]
}

// TestLongLifeOfAKey does it on SECP256K1.
func TestLifeOfAKey(t *testing.T) {
	t.Parallel()
	lifeOfAKey(t, tss.Ed25519)
}

// lifeOfAKey creates a wallet on one curve, backs it up, provisions twice from the backup, and signs with every set,
// the oldest last. All sets have the same public key, and old ones stay valid. Progress increases by one round at a
// time.
func lifeOfAKey(t *testing.T, c tss.Curve) {
	t.Helper()
	src := tsstest.NewSource()
	var r rounds
	first := keygen(t, c, src, r.observer())
	r.requireRising(t)
	backup := reshare(t, first, src)
	second := reshare(t, backup, src)
	third := reshare(t, backup, src)
	for _, k := range []*[2]tss.NewKey{third, second, backup, first} {
		require.Equal(t, first[tss.Client].Record.PublicKey, k[tss.Client].Record.PublicKey)
		sign(t, &k[tss.Client].Record, shares(k), digest("payload"))
	}
}

// rounds records the calls of an Observer's Round.
type rounds struct {
	seen  []int
	total int
}

func (r *rounds) observer() tss.Observer {
	return tss.Observer{Round: func(k, n int) { r.seen, r.total = append(r.seen, k), n }}
}

// requireRising requires every round, from 1 to the protocol's last, once and in order.
func (r *rounds) requireRising(t *testing.T) {
	t.Helper()
	require.NotZero(t, r.total)
	var want []int
	for k := 1; k <= r.total; k++ {
		want = append(want, k)
	}
	require.Equal(t, want, r.seen)
}

func TestRoundsRise(t *testing.T) {
	for _, c := range tss.Curves() {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			run := reshared(t, c)
			run.rounds.requireRising(t)
			require.Equal(t, 5, run.rounds.total)
			rec, both := tss.Vector(t, tss.Signing).Key(t, c)
			var r rounds
			_, err := tsstest.Sign(t.Context(), rec, both, digest("x"), r.observer())
			require.NoError(t, err)
			r.requireRising(t)
		})
	}
}

// resharing is one honest resharing of the committed SIGNING set, run once for all tests of its results.
type resharing struct {
	before [2][]byte // the input shares, encoded before the run
	old    *tss.KeyRecord
	shares [2]*tss.KeyShare  // the inputs themselves, after the run
	pre    [2]*tss.PreParams // used up
	moduli [2][2]string      // the pre-params' N and NTilde, by Party
	rounds rounds
	keys   *[2]tss.NewKey
	err    error
}

var resharings = map[tss.Curve]*struct {
	once sync.Once
	run  resharing
}{tss.Secp256k1: {}, tss.Ed25519: {}}

// reshared returns that resharing on c. Callers must not change it.
func reshared(t testing.TB, c tss.Curve) *resharing {
	t.Helper()
	one := resharings[c]
	one.once.Do(func() {
		r := &one.run
		r.old, r.shares = tss.Vector(t, tss.Signing).Key(t, c)
		for p, s := range r.shares {
			r.before[p] = tss.EncodeKey(t, s)
		}
		r.pre = pre(t, c, tsstest.NewSource())
		for p, pp := range r.pre {
			if pp != nil {
				n, nTilde := pp.Moduli()
				r.moduli[p] = [2]string{n.String(), nTilde.String()}
			}
		}
		// Not t's context, since other tests use the run, too.
		r.keys, r.err = tsstest.Reshare(context.Background(), r.old, r.shares, r.pre, r.rounds.observer())
	})
	require.NoError(t, one.run.err)
	return &one.run
}

// A cancelled run returns at once with the caller's cause, and tss-lib's computations end by themselves: Busy drops to
// zero, and goleak finds nothing. TestLongCancel cancels in more rounds.
func TestCancel(t *testing.T) {
	for c, at := range map[tss.Curve][]int{tss.Ed25519: {1, 3}, tss.Secp256k1: {2}} {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			cancelled(t, c, at...)
		})
	}
}

// cancelled cancels resharings, one in each of some rounds.
func cancelled(t *testing.T, c tss.Curve, at ...int) {
	t.Helper()
	src := tsstest.NewSource()
	rec, both := tss.Vector(t, tss.Signing).Key(t, c)
	for _, at := range at {
		var busy sync.WaitGroup
		ctx, cancel := context.WithCancelCause(t.Context())
		obs := tss.Observer{Busy: &busy, Round: func(k, _ int) {
			if k == at {
				cancel(errStopped)
			}
		}}
		_, err := tsstest.Reshare(ctx, rec, both, pre(t, c, src), obs)
		require.ErrorIs(t, err, errStopped)
		busy.Wait()
		cancel(nil)
	}
	sign(t, rec, both, digest("the old set still signs"))
}

type stoppedError struct{}

func (stoppedError) Error() string { return "stopped by the test" }

var errStopped = stoppedError{}

func TestDeadline(t *testing.T) {
	rec, both := tss.Vector(t, tss.Signing).Key(t, tss.Ed25519)
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	_, err := tsstest.Reshare(ctx, rec, both, [2]*tss.PreParams{}, tss.Observer{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

var write = flag.Bool("write", false, "make new vectors and write them to "+tss.VectorsFile)

// The code reads shares of earlier versions: the committed ones parse, match their records, encode to the same bytes,
// and sign.
func TestVectors(t *testing.T) {
	t.Parallel()
	if *write {
		writeVectors(t)
	}
	f := tss.ReadVectors(t)
	for _, v := range f.Sets {
		s := tss.Vector(t, v.Purpose)
		sum := tss.Hash(s.Encoded)
		require.Equal(t, v.RecordHash, hex.EncodeToString(sum[:]))
		require.Equal(t, tss.SetID{WalletID: f.WalletID, ShareSetID: v.ShareSetID, Purpose: v.Purpose}, s.Record.SetID)
		again, err := s.Record.Encode()
		require.NoError(t, err)
		require.Equal(t, s.Encoded, again)
		for p, share := range s.Shares {
			require.NoError(t, s.Record.Check(share, tss.Party(p), s.Encoded))
			b, err := share.Encode()
			require.NoError(t, err)
			require.True(t, bytes.Equal(s.Bytes[p], b.Reveal()), "the share encodes to other bytes")
		}
		for _, c := range tss.Curves() {
			rec, both := s.Key(t, c)
			require.Equal(t, f.PublicKeys[c.String()], hex.EncodeToString(rec.PublicKey))
			sign(t, rec, both, digest("vector"))
		}
	}
}

func writeVectors(t *testing.T) {
	src := tsstest.NewSource()
	for range src.Len() - 4 { // the last sets, so that tests find the first ones unused
		_, err := src.PreParams(t.Context())
		require.NoError(t, err)
	}
	f := tss.VectorFile{
		Comment: "Public test data: a wallet's SIGNING set and its BACKUP set, format version 1. " +
			"Made by: go test ./internal/tss -run TestVectors -write",
		WalletID:   uuid.NewString(),
		PublicKeys: map[string]string{},
	}
	sets := [2][]*[2]tss.NewKey{}
	for _, c := range tss.Curves() {
		first := keygen(t, c, src, tss.Observer{})
		f.PublicKeys[c.String()] = hex.EncodeToString(first[tss.Client].Record.PublicKey)
		sets[0], sets[1] = append(sets[0], first), append(sets[1], reshare(t, first, src))
	}
	for i, purpose := range []tss.Purpose{tss.Signing, tss.Backup} {
		id := tss.SetID{WalletID: f.WalletID, ShareSetID: uuid.NewString(), Purpose: purpose}
		f.Sets = append(f.Sets, makeVector(t, id, sets[i]))
	}
	b, err := json.MarshalIndent(&f, "", "  ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(tss.VectorsFile, append(b, '\n'), 0o600))
}

// makeVector returns the share set of pairs of new keys.
func makeVector(t *testing.T, id tss.SetID, keys []*[2]tss.NewKey) tss.VectorSet {
	rec := tss.Record{SetID: id}
	for _, k := range keys {
		rec.Keys = append(rec.Keys, k[tss.Client].Record)
	}
	encoded, err := rec.Encode()
	require.NoError(t, err)
	sum := tss.Hash(encoded)
	v := tss.VectorSet{
		ShareSetID: id.ShareSetID, Purpose: id.Purpose,
		RecordHash: hex.EncodeToString(sum[:]), Record: hex.EncodeToString(encoded),
	}
	for p := range v.Shares {
		share := tss.Share{SetID: id, Party: tss.Party(p), RecordHash: sum}
		for _, k := range keys {
			share.Keys = append(share.Keys, k[p].Share)
		}
		b, err := share.Encode()
		require.NoError(t, err)
		v.Shares[p] = hex.EncodeToString(b.Reveal())
	}
	return v
}
