package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// api calls a service directly, without the SDK and its retries.
type api struct {
	mpcdv1.WalletServiceClient
	// each is called with every message of a stream; it may be nil.
	each func(proto.Message)
}

// held is a device's share of one share set.
type held struct {
	wallet, set string
	share       []byte // as received: an age file if the request had seal_to
}

func dialService(t *testing.T, svc *running) *api {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+svc.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &api{WalletServiceClient: mpcdv1.NewWalletServiceClient(conn)}
}

// last reads a stream to its end and returns its last message.
func last[M any, P interface {
	*M
	proto.Message
}](a *api, stream grpc.ServerStreamingClient[M], err error) (P, error) {
	if err != nil {
		return nil, err
	}
	var end P
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return nil, err
		}
		if end = m; a.each != nil {
			a.each(end)
		}
	}
}

func (a *api) create(ctx context.Context, id, sealTo string) (held, error) {
	stream, err := a.CreateWallet(ctx, &mpcdv1.CreateWalletRequest{RequestId: id,
		Curves: []mpcdv1.Curve{mpcdv1.Curve_CURVE_ED25519}, SealTo: sealTo})
	m, err := last(a, stream, err)
	return held{m.GetOutcome().GetWalletId(), m.GetOutcome().GetShareSet().GetShareSetId(),
		m.GetOutcome().GetClientShare()}, err
}

func (a *api) backup(ctx context.Context, from held, id, sealTo string) (held, error) {
	stream, err := a.BackupWallet(ctx, &mpcdv1.BackupWalletRequest{
		RequestId: id, WalletId: from.wallet, BackupMethod: mpcdv1.BackupMethod_BACKUP_METHOD_CUSTOM, SealTo: sealTo,
		ClientSide: &mpcdv1.BackupWalletRequest_SigningShare{SigningShare: from.share},
	})
	m, err := last(a, stream, err)
	return held{from.wallet, m.GetOutcome().GetShareSet().GetShareSetId(), m.GetOutcome().GetClientShare()}, err
}

func (a *api) provision(ctx context.Context, from held, id, sealTo string) (held, error) {
	stream, err := a.ProvisionWallet(ctx, &mpcdv1.ProvisionWalletRequest{
		RequestId: id, WalletId: from.wallet, SealTo: sealTo,
		ClientSide: &mpcdv1.ProvisionWalletRequest_BackupShare{BackupShare: from.share},
	})
	m, err := last(a, stream, err)
	return held{from.wallet, m.GetOutcome().GetShareSet().GetShareSetId(), m.GetOutcome().GetClientShare()}, err
}

func (a *api) confirm(ctx context.Context, h held) error {
	sum := sha256.Sum256(h.share)
	_, err := a.ConfirmShareSet(ctx, &mpcdv1.ConfirmShareSetRequest{WalletId: h.wallet, ShareSetId: h.set,
		ShareSha256: sum[:]})
	return err
}

func (a *api) sign(ctx context.Context, h held, id string) error {
	_, err := a.Sign(ctx, &mpcdv1.SignRequest{RequestId: id, WalletId: h.wallet, SigningShare: h.share,
		Curve: mpcdv1.Curve_CURVE_ED25519, Payload: []byte("hello")})
	return err
}

// stocked creates a wallet with a SIGNING and a BACKUP set, both ACTIVE.
func (a *api) stocked(t *testing.T) (first, backup held) {
	t.Helper()
	first, err := a.create(t.Context(), uuid.NewString(), "")
	require.NoError(t, err)
	require.NoError(t, a.confirm(t.Context(), first))
	backup, err = a.backup(t.Context(), first, uuid.NewString(), "")
	require.NoError(t, err)
	require.NoError(t, a.confirm(t.Context(), backup))
	return first, backup
}

// states returns the states of a wallet's sets.
func (a *api) states(t *testing.T, walletID string) map[string]mpcdv1.ShareSetState {
	t.Helper()
	w, err := a.GetWallet(t.Context(), &mpcdv1.GetWalletRequest{WalletId: walletID})
	require.NoError(t, err)
	all := map[string]mpcdv1.ShareSetState{}
	for _, s := range w.GetWallet().GetShareSets() {
		all[s.GetShareSetId()] = s.GetState()
	}
	return all
}

// interrupted checks that an error is INTERRUPTED: nothing was changed, and the call can be repeated.
func interrupted(err error) error {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && st.Code() == codes.Aborted && info.GetReason() == "INTERRUPTED" {
			return nil
		}
	}
	return fmt.Errorf("want ABORTED with reason INTERRUPTED: %w", err)
}
