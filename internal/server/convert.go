package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
)

// The enums of package session have the API's numbers; a test checks that.

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func toProgress(id string, p *session.Progress) *pb.Progress {
	return &pb.Progress{
		Status:        pb.Status(p.Status),
		Done:          p.Done,
		Percent:       p.Percent,
		Curve:         pb.Curve(p.Curve),
		Round:         p.Round,
		Rounds:        p.Rounds,
		Elapsed:       durationpb.New(p.Elapsed),
		SessionId:     id,
		Sequence:      p.Sequence,
		QueuePosition: p.QueuePosition,
		Attempt:       p.Attempt,
	}
}

func toSignature(o *session.Outcome) *pb.SignResponse {
	return &pb.SignResponse{Signature: o.Signature.Bytes[:], RecoveryId: uint32(o.Signature.RecoveryID), ShareSetId: o.SignedBy}
}

func toShareSet(s *session.ShareSet) *pb.ShareSet {
	return &pb.ShareSet{
		ShareSetId:       s.ID,
		Purpose:          pb.Purpose(s.Purpose),
		BackupMethod:     pb.BackupMethod(s.Method),
		State:            pb.ShareSetState(s.State),
		ParentShareSetId: s.ParentID,
		CreateTime:       timestamp(s.CreateTime),
		DisplayName:      s.DisplayName,
		ExpireTime:       timestamp(s.ExpireTime),
		RevokeTime:       timestamp(s.RevokeTime),
		LockTime:         timestamp(s.LockTime),
		Aborts:           s.Aborts,
		SoftAborts:       s.SoftAborts,
		LimitedUntil:     timestamp(s.LimitedUntil),
	}
}

func toWallet(w *session.Wallet) *pb.Wallet {
	out := &pb.Wallet{
		WalletId:    w.ID,
		Owner:       w.Owner,
		CreateTime:  timestamp(w.CreateTime),
		HostedSince: timestamp(w.HostedSince),
		LockTime:    timestamp(w.LockTime),
		Aborts:      w.HardAborts,
		SoftAborts:  w.SoftAborts,
	}
	for i := range w.Sets {
		out.ShareSets = append(out.ShareSets, toShareSet(&w.Sets[i]))
	}
	if w.Confirmed() {
		for _, k := range w.Keys {
			out.PublicKeys = append(out.PublicKeys, &pb.PublicKey{Curve: pb.Curve(k.Curve), PublicKey: k.Key})
		}
	}
	return out
}

func toSession(s *session.Session) *pb.Session {
	out := &pb.Session{
		SessionId:  s.ID,
		WalletId:   s.WalletID,
		Operation:  pb.Operation(s.Operation),
		State:      pb.SessionState(s.State),
		Attempt:    s.Attempt,
		ShareSetId: s.ShareSetID,
		CreateTime: timestamp(s.CreateTime),
		ExpireTime: timestamp(s.ExpireTime),
	}
	if s.Progress.Sequence > 0 {
		out.Progress = toProgress(s.ID, &s.Progress)
	}
	if err := s.Err(); err != nil {
		st := toStatus(err)
		out.Error = &pb.SessionError{Code: int32(st.Code()), Reason: session.Reason(err), Message: st.Message()} //nolint:gosec // G115: codes are 0 to 16
	}
	return out
}
