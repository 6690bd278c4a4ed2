package tss_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// hostedCreate creates a wallet on one curve in a hosted run.
func hostedCreate(
	t *testing.T, c tss.Curve, preParams func(context.Context) (*tss.PreParams, error),
) (*[2]*tss.Output, error) {
	t.Helper()
	return tss.Hosted(t.Context(), &tss.Operation{
		Party: tss.Server, Kind: "CREATE", SessionID: uuid.NewString(), Attempt: 1,
		Curves: []tss.Curve{c}, Purpose: tss.Signing,
		WalletID: uuid.NewString(), ShareSetID: uuid.NewString(), PreParams: preParams,
	}, nil, preParams)
}

// A hosted run returns both sides' shares of one set, or nothing: with an error, or with a panic.
func TestHostedHasBothSidesOrNothing(t *testing.T) {
	t.Parallel()
	both, err := hostedCreate(t, tss.Ed25519, nil)
	require.NoError(t, err)
	client, server := both[tss.Client], both[tss.Server]
	require.Equal(t, server.Record, client.Record)
	require.Equal(t, server.ShareHash, client.ShareHash)
	rec, err := tss.ParseRecord(server.Record)
	require.NoError(t, err)
	for p, side := range both {
		require.NoError(t, rec.Check(side.Share, tss.Party(p), server.Record))
	}

	fault := errors.New("no pre-params")
	both, err = hostedCreate(t, tss.Secp256k1, func(context.Context) (*tss.PreParams, error) { return nil, fault })
	require.ErrorIs(t, err, fault)
	require.Regexp(t, "^(CLIENT|SERVER) side: ", err.Error())
	require.Nil(t, both)

	require.PanicsWithValue(t, "no pre-params", func() {
		_, _ = hostedCreate(t, tss.Secp256k1, func(context.Context) (*tss.PreParams, error) { panic("no pre-params") })
	})
}
