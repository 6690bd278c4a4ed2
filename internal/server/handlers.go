package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
)

// handlers implements the service. RPCs that it does not name are UNIMPLEMENTED.
type handlers struct {
	pb.UnimplementedWalletServiceServer
	sessions *session.Service
}

var errDeviceHeld = status.Error(codes.Unimplemented, "device-held sessions are not built yet: send the share itself")

// CreateWallet implements the RPC.
func (h *handlers) CreateWallet(req *pb.CreateWalletRequest, stream grpc.ServerStreamingServer[pb.CreateWalletResponse]) error {
	if req.GetDevice() != nil {
		return errDeviceHeld
	}
	var p parser
	r := session.CreateRequest{Start: p.start(req), Owner: p.name("owner", req.GetOwner(), maxOwner), Curves: p.curves("curves", req.GetCurves())}
	if err := p.err(); err != nil {
		return err
	}
	run, err := h.sessions.Create(stream.Context(), caller(stream.Context()), r)
	return follow(stream.Context(), run, err, req.GetAfterSequence(), func(e event) error {
		if e.progress != nil {
			return stream.Send(&pb.CreateWalletResponse{Event: &pb.CreateWalletResponse_Progress{Progress: e.progress}})
		}
		out := &pb.CreateWalletResult{ShareSet: e.set, ClientShare: e.share, WalletId: e.walletID}
		return stream.Send(&pb.CreateWalletResponse{Event: &pb.CreateWalletResponse_Outcome{Outcome: out}})
	})
}

// BackupWallet implements the RPC.
func (h *handlers) BackupWallet(req *pb.BackupWalletRequest, stream grpc.ServerStreamingServer[pb.BackupWalletResponse]) error {
	if req.GetDevice() != nil {
		return errDeviceHeld
	}
	var p parser
	r := session.BackupRequest{
		Start:        p.start(req),
		WalletID:     p.uuid("wallet_id", req.GetWalletId()),
		SigningShare: secret.New(req.GetSigningShare()),
		Method:       p.method("backup_method", req.GetBackupMethod()),
	}
	if req.GetClientSide() == nil {
		p.fault("signing_share", "is required")
	}
	if err := p.err(); err != nil {
		return err
	}
	run, err := h.sessions.Backup(stream.Context(), caller(stream.Context()), r)
	return follow(stream.Context(), run, err, req.GetAfterSequence(), func(e event) error {
		if e.progress != nil {
			return stream.Send(&pb.BackupWalletResponse{Event: &pb.BackupWalletResponse_Progress{Progress: e.progress}})
		}
		out := &pb.BackupWalletResult{ShareSet: e.set, ClientShare: e.share}
		return stream.Send(&pb.BackupWalletResponse{Event: &pb.BackupWalletResponse_Outcome{Outcome: out}})
	})
}

// ProvisionWallet implements the RPC.
func (h *handlers) ProvisionWallet(req *pb.ProvisionWalletRequest, stream grpc.ServerStreamingServer[pb.ProvisionWalletResponse]) error {
	if req.GetDevice() != nil {
		return errDeviceHeld
	}
	var p parser
	r := session.ProvisionRequest{
		Start:       p.start(req),
		WalletID:    p.uuid("wallet_id", req.GetWalletId()),
		BackupShare: secret.New(req.GetBackupShare()),
	}
	if req.GetClientSide() == nil {
		p.fault("backup_share", "is required")
	}
	if err := p.err(); err != nil {
		return err
	}
	run, err := h.sessions.Provision(stream.Context(), caller(stream.Context()), r)
	return follow(stream.Context(), run, err, req.GetAfterSequence(), func(e event) error {
		if e.progress != nil {
			return stream.Send(&pb.ProvisionWalletResponse{Event: &pb.ProvisionWalletResponse_Progress{Progress: e.progress}})
		}
		out := &pb.ProvisionWalletResult{ShareSet: e.set, ClientShare: e.share}
		return stream.Send(&pb.ProvisionWalletResponse{Event: &pb.ProvisionWalletResponse_Outcome{Outcome: out}})
	})
}

// event is a session's event in the messages that all three streams share.
type event struct {
	progress *pb.Progress // nil with the outcome
	walletID string
	set      *pb.ShareSet
	share    []byte
}

// follow sends a run's events to one stream. The run goes on when the stream ends.
func follow(ctx context.Context, run *session.Run, err error, after uint32, send func(event) error) error {
	if err != nil {
		return err
	}
	return run.Follow(ctx, after, func(e session.Event) error {
		if e.Progress != nil {
			return send(event{progress: toProgress(run.SessionID(), e.Progress)})
		}
		return send(event{walletID: e.Outcome.WalletID, set: toShareSet(&e.Outcome.Set), share: e.Outcome.ClientShare.Reveal()})
	})
}

// Sign implements the RPC.
func (h *handlers) Sign(ctx context.Context, req *pb.SignRequest) (*pb.SignResponse, error) {
	var p parser
	r := session.SignRequest{
		RequestID:    p.uuid("request_id", req.GetRequestId()),
		WalletID:     p.uuid("wallet_id", req.GetWalletId()),
		SigningShare: secret.New(req.GetSigningShare()),
		Curve:        p.curve("curve", req.GetCurve()),
		Payload:      req.GetPayload(),
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	run, err := h.sessions.Sign(ctx, caller(ctx), r)
	if err != nil {
		return nil, err
	}
	var resp *pb.SignResponse
	err = run.Follow(ctx, 0, func(e session.Event) error {
		if o := e.Outcome; o != nil {
			resp = &pb.SignResponse{Signature: o.Signature.Bytes[:], RecoveryId: uint32(o.Signature.RecoveryID), ShareSetId: o.SignedBy}
		}
		return nil
	})
	return resp, err
}

// ConfirmShareSet implements the RPC.
func (h *handlers) ConfirmShareSet(ctx context.Context, req *pb.ConfirmShareSetRequest) (*pb.ConfirmShareSetResponse, error) {
	var p parser
	walletID, setID := p.uuid("wallet_id", req.GetWalletId()), p.uuid("share_set_id", req.GetShareSetId())
	if len(req.GetShareSha256()) != 32 {
		p.fault("share_sha256", "must be the 32-byte SHA-256 of the plaintext client share")
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	w, err := h.sessions.Confirm(ctx, caller(ctx), walletID, setID, req.GetShareSha256())
	if err != nil {
		return nil, err
	}
	return &pb.ConfirmShareSetResponse{Wallet: toWallet(w)}, nil
}

// RevokeShareSet implements the RPC.
func (h *handlers) RevokeShareSet(ctx context.Context, req *pb.RevokeShareSetRequest) (*pb.RevokeShareSetResponse, error) {
	var p parser
	walletID, setID := p.uuid("wallet_id", req.GetWalletId()), p.uuid("share_set_id", req.GetShareSetId())
	if err := p.err(); err != nil {
		return nil, err
	}
	w, err := h.sessions.Revoke(ctx, caller(ctx), walletID, setID, req.GetKeepDescendants(), req.GetAllowLast())
	if err != nil {
		return nil, err
	}
	return &pb.RevokeShareSetResponse{Wallet: toWallet(w)}, nil
}

// GetWallet implements the RPC.
func (h *handlers) GetWallet(ctx context.Context, req *pb.GetWalletRequest) (*pb.GetWalletResponse, error) {
	var p parser
	walletID := p.uuid("wallet_id", req.GetWalletId())
	if err := p.err(); err != nil {
		return nil, err
	}
	w, err := h.sessions.Wallet(ctx, caller(ctx), walletID)
	if err != nil {
		return nil, err
	}
	return &pb.GetWalletResponse{Wallet: toWallet(w)}, nil
}

// ListWallets implements the RPC.
func (h *handlers) ListWallets(ctx context.Context, req *pb.ListWalletsRequest) (*pb.ListWalletsResponse, error) {
	var p parser
	owner := p.name("owner", req.GetOwner(), maxOwner)
	limit, after := p.pageSize("page_size", req.GetPageSize()), p.pageToken("page_token", req.GetPageToken())
	if err := p.err(); err != nil {
		return nil, err
	}
	page, next, err := h.sessions.List(ctx, caller(ctx), owner, after, limit)
	if err != nil {
		return nil, err
	}
	resp := &pb.ListWalletsResponse{NextPageToken: next}
	for i := range page {
		resp.Wallets = append(resp.Wallets, toWallet(&page[i]))
	}
	return resp, nil
}

// CancelSession implements the RPC.
func (h *handlers) CancelSession(ctx context.Context, req *pb.CancelSessionRequest) (*pb.CancelSessionResponse, error) {
	var p parser
	sessionID := p.uuid("session_id", req.GetSessionId())
	if err := p.err(); err != nil {
		return nil, err
	}
	s, err := h.sessions.Cancel(ctx, caller(ctx), sessionID)
	if err != nil {
		return nil, err
	}
	return &pb.CancelSessionResponse{Session: toSession(s)}, nil
}

// GetSession implements the RPC.
func (h *handlers) GetSession(ctx context.Context, req *pb.GetSessionRequest) (*pb.GetSessionResponse, error) {
	var p parser
	sessionID := p.uuid("session_id", req.GetSessionId())
	if err := p.err(); err != nil {
		return nil, err
	}
	s, err := h.sessions.Session(ctx, caller(ctx), sessionID)
	if err != nil {
		return nil, err
	}
	return &pb.GetSessionResponse{Session: toSession(s)}, nil
}
