package storetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

type pool interface {
	AddPreParams(ctx context.Context, id string, p session.Party, sealed []byte, made time.Time) error
	ClaimPreParams(ctx context.Context, p session.Party, after time.Time) (id string, sealed []byte, err error)
	DropPreParams(ctx context.Context, before time.Time) (int, error)
	CountPreParams(ctx context.Context) (n [2]int, oldest time.Time, err error)
	Renew(ctx context.Context, why string) (dropped int, err error)
}

// claim returns the id of the set that a party gets, or "".
func claim(t *testing.T, b Backend, p session.Party, after time.Time) string {
	t.Helper()
	id, sealed, err := b.ClaimPreParams(t.Context(), p, after)
	require.NoError(t, err)
	require.Equal(t, id, strings.TrimPrefix(string(sealed), "sealed "))
	return id
}

func addSet(t *testing.T, b Backend, id string, p session.Party, made time.Time) {
	t.Helper()
	require.NoError(t, b.AddPreParams(t.Context(), id, p, []byte("sealed "+id), made))
}

func counts(t *testing.T, b Backend, client, server int) {
	t.Helper()
	n, _, err := b.CountPreParams(t.Context())
	require.NoError(t, err)
	require.Equal(t, [2]int{tss.Client: client, tss.Server: server}, n)
}

// A party gets only its own sets, oldest first, none twice and none that is too old.
func preParams(t *testing.T, b Backend) {
	at := now()
	counts(t, b, 0, 0)
	require.Empty(t, claim(t, b, tss.Server, time.Time{}))
	addSet(t, b, "s1", tss.Server, at.Add(-time.Minute))
	addSet(t, b, "c1", tss.Client, at.Add(-time.Hour))
	addSet(t, b, "s0", tss.Server, at.Add(-2*time.Hour))
	addSet(t, b, "c2", tss.Client, at)
	require.Error(t, b.AddPreParams(t.Context(), "neither", 2, []byte("sealed"), at))
	counts(t, b, 2, 2)
	require.Equal(t, "s1", claim(t, b, tss.Server, at.Add(-90*time.Minute)), "s0 is too old")
	require.Equal(t, "s0", claim(t, b, tss.Server, time.Time{}))
	require.Empty(t, claim(t, b, tss.Server, time.Time{}), "the server does not get the client's")
	require.Equal(t, "c1", claim(t, b, tss.Client, time.Time{}))
	counts(t, b, 1, 0)
	addSet(t, b, "s2", tss.Server, at) // in the row of a claimed one
	n, err := b.DropPreParams(t.Context(), at.Add(time.Second))
	require.NoError(t, err)
	require.Equal(t, 2, n)
	counts(t, b, 0, 0)
	require.Empty(t, claim(t, b, tss.Client, time.Time{}))
}

func preParamsRace(t *testing.T, b Backend) {
	addSet(t, b, "c", tss.Client, now())
	addSet(t, b, "s", tss.Server, now())
	require.Equal(t, 1, race(t, func(int) bool {
		id, _, err := b.ClaimPreParams(t.Context(), tss.Server, time.Time{})
		assert.NoError(t, err)
		assert.NotEqual(t, "c", id)
		return id != ""
	}))
}

// Sets of a past incarnation are gone, and the log says why.
func preParamsRenewal(t *testing.T, b Backend) {
	addSet(t, b, "c1", tss.Client, now())
	addSet(t, b, "s1", tss.Server, now())
	n, err := b.Renew(t.Context(), "a reason")
	require.NoError(t, err)
	require.Equal(t, 2, n)
	counts(t, b, 0, 0)
	require.Empty(t, claim(t, b, tss.Server, time.Time{}))
	lines, err := b.Audit(t.Context(), "")
	require.NoError(t, err)
	last := lines[len(lines)-1]
	require.Equal(t, "preparams.drop", last.Action)
	require.Equal(t, "2 sets: a reason", last.Detail)
	addSet(t, b, "s2", tss.Server, now())
	counts(t, b, 0, 1)
	require.Equal(t, "s2", claim(t, b, tss.Server, time.Time{}))
}

// A modulus of the service's that is already recorded shows that its pool was restored.
func preParamsOfAnOlderState(t *testing.T, b Backend) {
	ctx, a := t.Context(), [32]byte{1}
	require.NoError(t, b.ReserveModuli(ctx, uuid.NewString(), session.MadeHere, a))
	addSet(t, b, "s1", tss.Server, now())
	require.ErrorIs(t, b.ReserveModuli(ctx, uuid.NewString(), session.MadeByDevice, a), session.ErrModulusUsed)
	counts(t, b, 0, 1) // a device that repeats a modulus must not cause the pool to be dropped
	require.ErrorIs(t, b.ReserveModuli(ctx, uuid.NewString(), session.MadeHere, a), session.ErrModulusUsed)
	counts(t, b, 0, 0)
}

// The service's moduli are recorded once for all wallets, a device's once per wallet, and never one of the service's.
// A refused call records nothing.
func moduli(t *testing.T, b Backend) {
	const device, here = session.MadeByDevice, session.MadeHere
	ctx, mine, other := t.Context(), uuid.NewString(), uuid.NewString()
	x := func(n byte) [32]byte { return [32]byte{n} }
	used := func(wallet string, maker session.Maker, sums ...[32]byte) {
		t.Helper()
		require.ErrorIs(t, b.ReserveModuli(ctx, wallet, maker, sums...), session.ErrModulusUsed)
	}
	require.NoError(t, b.ReserveModuli(ctx, mine, device, x(1), x(3)))
	used(mine, device, x(1))
	used(mine, device, x(4), x(3))
	used(other, device, x(4), x(4))
	require.NoError(t, b.ReserveModuli(ctx, mine, device, x(4)))
	require.NoError(t, b.ReserveModuli(ctx, other, device, x(1), x(3), x(4)))
	require.NoError(t, b.ReserveModuli(ctx, mine, device))

	require.NoError(t, b.ReserveModuli(ctx, mine, here, x(5), x(6)))
	for _, wallet := range []string{mine, other} {
		used(wallet, here, x(5))
		used(wallet, here, x(7), x(6))
		used(wallet, here, x(1)) // a device's
		used(wallet, device, x(5))
		used(wallet, device, x(7), x(6))
	}
	require.NoError(t, b.ReserveModuli(ctx, other, here, x(7)))
	used(other, here, x(8), x(8))
}

func moduliRace(t *testing.T, b Backend) {
	wallet := uuid.NewString()
	require.Equal(t, 1, race(t, func(i int) bool {
		err := b.ReserveModuli(t.Context(), wallet, session.MadeByDevice, sha256.Sum256(fmt.Append(nil, i)), [32]byte{2})
		if err != nil {
			assert.ErrorIs(t, err, session.ErrModulusUsed)
		}
		return err == nil
	}))
	require.Equal(t, 1, race(t, func(i int) bool {
		err := b.ReserveModuli(t.Context(), uuid.NewString(), session.MadeHere,
			sha256.Sum256(fmt.Append(nil, "here", i)), [32]byte{3})
		if err != nil {
			assert.ErrorIs(t, err, session.ErrModulusUsed)
		}
		return err == nil
	}))
}
