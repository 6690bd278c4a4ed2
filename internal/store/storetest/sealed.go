package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

type sealedRows interface {
	SealedRows(ctx context.Context, kind string, after int64, limit int) ([]session.SealedRow, error)
	Reseal(ctx context.Context, kind string, rows []session.SealedRow, to [][]byte) (int, error)
}

// everyKind stores one sealed value of each kind, and one that is not sealed under the keyset: a result sealed to its
// caller.
func everyKind(t *testing.T, b Backend) (wallet string, set *session.StoredSet) {
	s, set := NewWallet(t, b, "owner")
	to := NewSession(uuid.NewString(), session.OpCreate)
	start(t, b, to)
	other := NewSet(to, "")
	Succeed(to, other.ID, []byte("sealed to the caller"))
	to.Result.SealedTo = true
	require.NoError(t, b.Commit(t.Context(), to,
		Making(other, &session.Wallet{ID: to.WalletID, Owner: "owner", CreateTime: now()}), Audit("commit", to.WalletID)))
	require.NoError(t, b.AddPreParams(t.Context(), "pre-params 1", tss.Server, random(500), now()))
	_, err := b.SetMetaOnce(t.Context(), "mac keyset", random(60))
	require.NoError(t, err)
	_, err = b.SetMetaOnce(t.Context(), "something else", random(60))
	require.NoError(t, err)
	return s.WalletID, set
}

// rows returns all rows of a kind, page by page.
func rows(t *testing.T, b Backend, kind string) (all []session.SealedRow) {
	t.Helper()
	for after := int64(0); ; {
		page, err := b.SealedRows(t.Context(), kind, after, 1)
		require.NoError(t, err)
		if len(page) == 0 {
			return all
		}
		require.Len(t, page, 1)
		require.Greater(t, page[0].Row, after)
		after = page[0].Row
		all = append(all, page...)
	}
}

// Every sealed value is found, with the label under which it was sealed, and replaced.
func reseal(t *testing.T, b Backend) {
	wallet, set := everyKind(t, b)
	want := map[string]session.Label{
		session.KindPreParams: session.PreParamsLabel("pre-params 1", tss.Server),
		session.KindMAC:       session.MACLabel(),
	}
	for kind, n := range map[string]int{session.KindServerShare: 4, session.KindResult: 1, session.KindPreParams: 1,
		session.KindMAC: 1} {
		found := rows(t, b, kind)
		require.Len(t, found, n, kind)
		if label, ok := want[kind]; ok {
			require.Equal(t, label, found[0].Label)
		}
		to := make([][]byte, n)
		for i := range found {
			to[i] = random(len(found[i].Ciphertext))
		}
		changed, err := b.Reseal(t.Context(), kind, found, to)
		require.NoError(t, err)
		require.Equal(t, n, changed)
		for i, r := range rows(t, b, kind) {
			require.Equal(t, to[i], r.Ciphertext)
			require.Equal(t, found[i].Label, r.Label)
		}
		changed, err = b.Reseal(t.Context(), kind, found, to) // by now it holds the new value
		require.NoError(t, err)
		require.Zero(t, changed)
	}
	found := rows(t, b, session.KindServerShare)
	require.Equal(t, session.ServerShareLabel(wallet, set.ID, tss.Secp256k1), found[0].Label)
	require.Equal(t, session.ResultLabel(wallet, set.SessionID), rows(t, b, session.KindResult)[0].Label)
	got, err := b.Set(t.Context(), wallet, set.ID)
	require.NoError(t, err)
	require.Equal(t, found[0].Ciphertext, got.ServerShare[0].Ciphertext)
	_, err = b.SealedRows(t.Context(), "another kind", 0, 1)
	require.Error(t, err)
}

// Values that change while a batch is prepared keep their change; the rest of the batch is replaced. A value of
// another length is refused, with its whole batch.
func resealRace(t *testing.T, b Backend) {
	wallet, set := everyKind(t, b)
	before := rows(t, b, session.KindServerShare)
	require.NoError(t, b.Revoke(t.Context(), wallet, now(), func([]session.ShareSet) ([]string, error) {
		return []string{set.ID}, nil
	}, Audit("revoke", wallet)))
	to := make([][]byte, len(before))
	for i := range before {
		to[i] = random(len(before[i].Ciphertext))
	}
	changed, err := b.Reseal(t.Context(), session.KindServerShare, before, to)
	require.NoError(t, err)
	require.Equal(t, 2, changed)
	got, err := b.Set(t.Context(), wallet, set.ID)
	require.NoError(t, err)
	require.Nil(t, got.ServerShare, "an erased server share came back")
	require.Empty(t, rows(t, b, session.KindResult), "and its result")

	found := rows(t, b, session.KindPreParams)
	_, _, err = b.ClaimPreParams(t.Context(), tss.Server, time.Time{})
	require.NoError(t, err)
	require.NoError(t, b.AddPreParams(t.Context(), "pre-params 2", tss.Client, random(500), now())) // in the same row
	next := rows(t, b, session.KindPreParams)
	require.Equal(t, found[0].Row, next[0].Row)
	changed, err = b.Reseal(t.Context(), session.KindPreParams, found, [][]byte{random(500)})
	require.NoError(t, err)
	require.Zero(t, changed)
	require.Equal(t, next, rows(t, b, session.KindPreParams))

	left := rows(t, b, session.KindServerShare)
	for _, bad := range [][]byte{nil, random(3), left[1].Ciphertext} {
		_, err = b.Reseal(t.Context(), session.KindServerShare, left, [][]byte{random(len(left[0].Ciphertext)), bad})
		require.Error(t, err)
	}
	_, err = b.Reseal(t.Context(), session.KindServerShare, left, to[:1])
	require.Error(t, err)
	require.Equal(t, left, rows(t, b, session.KindServerShare))
}
