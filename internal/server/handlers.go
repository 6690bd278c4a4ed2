package server

import (
	"context"

	"google.golang.org/grpc"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/names"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/wire"
)

// handlers implements the service. Other RPCs are UNIMPLEMENTED.
type handlers struct {
	pb.UnimplementedWalletServiceServer
	sessions *session.Service
}

// CreateWallet implements the RPC.
func (h *handlers) CreateWallet(req *pb.CreateWalletRequest, stream grpc.ServerStreamingServer[pb.CreateWalletResponse]) error {
	p := parserOf(stream.Context())
	r := session.CreateRequest{Start: p.start(req), Owner: p.name("owner", req.GetOwner(), names.MaxOwner), Curves: p.curves("curves", req.GetCurves())}
	if err := p.err(); err != nil {
		return err
	}
	run, err := h.sessions.Create(stream.Context(), caller(stream.Context()), r)
	return follow(stream.Context(), run, err, req, func(e event) error {
		switch {
		case e.progress != nil:
			return stream.Send(&pb.CreateWalletResponse{Event: &pb.CreateWalletResponse_Progress{Progress: e.progress}})
		case e.message != nil:
			return stream.Send(&pb.CreateWalletResponse{Event: &pb.CreateWalletResponse_Message{Message: e.message}})
		}
		out := &pb.CreateWalletResult{ShareSet: e.set, ClientShare: e.share, WalletId: e.walletID}
		return stream.Send(&pb.CreateWalletResponse{Event: &pb.CreateWalletResponse_Outcome{Outcome: out}})
	})
}

// BackupWallet implements the RPC.
func (h *handlers) BackupWallet(req *pb.BackupWalletRequest, stream grpc.ServerStreamingServer[pb.BackupWalletResponse]) error {
	p := parserOf(stream.Context())
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
	return follow(stream.Context(), run, err, req, func(e event) error {
		switch {
		case e.progress != nil:
			return stream.Send(&pb.BackupWalletResponse{Event: &pb.BackupWalletResponse_Progress{Progress: e.progress}})
		case e.message != nil:
			return stream.Send(&pb.BackupWalletResponse{Event: &pb.BackupWalletResponse_Message{Message: e.message}})
		}
		out := &pb.BackupWalletResult{ShareSet: e.set, ClientShare: e.share}
		return stream.Send(&pb.BackupWalletResponse{Event: &pb.BackupWalletResponse_Outcome{Outcome: out}})
	})
}

// ProvisionWallet implements the RPC.
func (h *handlers) ProvisionWallet(req *pb.ProvisionWalletRequest, stream grpc.ServerStreamingServer[pb.ProvisionWalletResponse]) error {
	p := parserOf(stream.Context())
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
	return follow(stream.Context(), run, err, req, func(e event) error {
		switch {
		case e.progress != nil:
			return stream.Send(&pb.ProvisionWalletResponse{Event: &pb.ProvisionWalletResponse_Progress{Progress: e.progress}})
		case e.message != nil:
			return stream.Send(&pb.ProvisionWalletResponse{Event: &pb.ProvisionWalletResponse_Message{Message: e.message}})
		}
		out := &pb.ProvisionWalletResult{ShareSet: e.set, ClientShare: e.share}
		return stream.Send(&pb.ProvisionWalletResponse{Event: &pb.ProvisionWalletResponse_Outcome{Outcome: out}})
	})
}

// event is a session's event as messages that all three streams share.
type event struct {
	progress *pb.Progress
	message  *pb.ProtocolMessage // for a device
	outcome  *session.Outcome    // if neither of them is set
	walletID string
	set      *pb.ShareSet
	share    []byte
}

// resumed is how a streaming request says what its caller has seen.
type resumed interface {
	GetAfterSequence() uint32
	GetDevice() *pb.DeviceSide
}

// follow sends a run's events to a stream. The run continues when the stream ends.
func follow(ctx context.Context, run *session.Run, err error, from resumed, send func(event) error) error {
	if err != nil {
		return err
	}
	after := from.GetAfterSequence()
	if d := from.GetDevice(); d != nil && d.GetAttempt() == 0 {
		after = 0 // a new run: what the caller saw was of another attempt, or of a session that was never recorded
	}
	return run.Follow(ctx, after, from.GetDevice().GetAck(), func(e session.Event) error {
		switch {
		case e.Progress != nil:
			return send(event{progress: toProgress(run.SessionID(), e.Progress)})
		case e.Part != nil:
			return send(event{message: wire.Numbered(e.Part)})
		}
		return send(event{outcome: e.Outcome, walletID: e.Outcome.WalletID, set: toShareSet(&e.Outcome.Set), share: e.Outcome.ClientShare.Reveal()})
	})
}

// Sign implements the RPC.
func (h *handlers) Sign(ctx context.Context, req *pb.SignRequest) (*pb.SignResponse, error) {
	p := parserOf(ctx)
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
	err = run.Follow(ctx, 0, 0, func(e session.Event) error {
		if e.Outcome != nil {
			resp = toSignature(e.Outcome)
		}
		return nil
	})
	return resp, err
}

// SignWithDevice implements the RPC.
func (h *handlers) SignWithDevice(req *pb.SignWithDeviceRequest, stream grpc.ServerStreamingServer[pb.SignWithDeviceResponse]) error {
	p := parserOf(stream.Context())
	r := session.SignRequest{
		RequestID: p.uuid("request_id", req.GetRequestId()),
		WalletID:  p.uuid("wallet_id", req.GetWalletId()),
		Curve:     p.curve("curve", req.GetCurve()),
		Payload:   req.GetPayload(),
	}
	if req.GetDevice() == nil {
		p.fault("device", "is required")
	} else {
		r.Device = p.device(req.GetDevice(), true)
	}
	if err := p.err(); err != nil {
		return err
	}
	run, err := h.sessions.Sign(stream.Context(), caller(stream.Context()), r)
	return follow(stream.Context(), run, err, req, func(e event) error {
		switch {
		case e.progress != nil:
			return stream.Send(&pb.SignWithDeviceResponse{Event: &pb.SignWithDeviceResponse_Progress{Progress: e.progress}})
		case e.message != nil:
			return stream.Send(&pb.SignWithDeviceResponse{Event: &pb.SignWithDeviceResponse_Message{Message: e.message}})
		}
		return stream.Send(&pb.SignWithDeviceResponse{Event: &pb.SignWithDeviceResponse_Outcome{Outcome: toSignature(e.outcome)}})
	})
}

// SendMessages implements the RPC.
func (h *handlers) SendMessages(ctx context.Context, req *pb.SendMessagesRequest) (*pb.SendMessagesResponse, error) {
	p := parserOf(ctx)
	sessionID, instance := p.uuid("session_id", req.GetSessionId()), p.uuid("instance", req.GetInstance())
	parts := p.parts("messages", req.GetMessages())
	if err := p.err(); err != nil {
		return nil, err
	}
	ack, err := h.sessions.SendMessages(ctx, caller(ctx), sessionID, instance, req.GetAttempt(), parts)
	if err != nil {
		return nil, err
	}
	return &pb.SendMessagesResponse{Ack: ack}, nil
}

// ConfirmShareSet implements the RPC.
func (h *handlers) ConfirmShareSet(ctx context.Context, req *pb.ConfirmShareSetRequest) (*pb.ConfirmShareSetResponse, error) {
	p := parserOf(ctx)
	walletID, setID := p.uuid("wallet_id", req.GetWalletId()), p.uuid("share_set_id", req.GetShareSetId())
	sum := p.hash("share_sha256", req.GetShareSha256())
	if err := p.err(); err != nil {
		return nil, err
	}
	w, err := h.sessions.Confirm(ctx, caller(ctx), walletID, setID, sum)
	if err != nil {
		return nil, err
	}
	return &pb.ConfirmShareSetResponse{Wallet: toWallet(w)}, nil
}

// RevokeShareSet implements the RPC.
func (h *handlers) RevokeShareSet(ctx context.Context, req *pb.RevokeShareSetRequest) (*pb.RevokeShareSetResponse, error) {
	p := parserOf(ctx)
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

// ReleaseShareSet implements the RPC.
func (h *handlers) ReleaseShareSet(ctx context.Context, req *pb.ReleaseShareSetRequest) (*pb.ReleaseShareSetResponse, error) {
	p := parserOf(ctx)
	walletID, setID := p.uuid("wallet_id", req.GetWalletId()), p.uuid("share_set_id", req.GetShareSetId())
	if err := p.err(); err != nil {
		return nil, err
	}
	w, err := h.sessions.Release(ctx, caller(ctx), walletID, setID)
	if err != nil {
		return nil, err
	}
	return &pb.ReleaseShareSetResponse{Wallet: toWallet(w)}, nil
}

// GetWallet implements the RPC.
func (h *handlers) GetWallet(ctx context.Context, req *pb.GetWalletRequest) (*pb.GetWalletResponse, error) {
	p := parserOf(ctx)
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
	p := parserOf(ctx)
	owner := p.name("owner", req.GetOwner(), names.MaxOwner)
	limit, after := p.pageSize("page_size", req.GetPageSize()), p.pageToken("page_token", req.GetPageToken())
	if err := p.err(); err != nil {
		return nil, err
	}
	page, next, err := h.sessions.List(ctx, caller(ctx), owner, after, limit)
	if err != nil {
		return nil, err
	}
	resp := &pb.ListWalletsResponse{NextPageToken: toPageToken(next)}
	for i := range page {
		resp.Wallets = append(resp.Wallets, toWallet(&page[i]))
	}
	return resp, nil
}

// CancelSession implements the RPC.
func (h *handlers) CancelSession(ctx context.Context, req *pb.CancelSessionRequest) (*pb.CancelSessionResponse, error) {
	p := parserOf(ctx)
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
	p := parserOf(ctx)
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
