package server

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mpcd/mpcd/internal/session"
)

// errorDomain is the ErrorInfo.domain of every error of this service.
const errorDomain = "mpcd"

// public is what a caller is told about one kind of failure.
type public struct {
	code     codes.Code
	sentence string // what happened, and what to do next
}

// publicErrors maps each reason to what callers see.
var publicErrors = map[string]public{
	session.ErrInvalidArgument.Reason: {codes.InvalidArgument, "The request is not valid."},
	session.ErrShareMalformed.Reason: {codes.InvalidArgument,
		"The share was not made by this service, or it was altered. Send the share's bytes exactly as they were " +
			"stored, after decrypting its backup.",
	},
	session.ErrShareSetMismatch.Reason: {codes.InvalidArgument,
		"The share is of another wallet, of another share set, or of the wrong purpose. A backup share " +
			"provisions; a signing share signs and makes backups.",
	},
	session.ErrRequestIDReused.Reason: {codes.InvalidArgument,
		"This request id was used before with other parameters. Repeat the call exactly to attach to that " +
			"session, or use a new UUID.",
	},
	session.ErrWalletNotFound.Reason: {codes.NotFound, "There is no such wallet, or it is not yours."},
	session.ErrShareSetNotFound.Reason: {codes.NotFound,
		"The wallet has no such share set. GetWallet lists the ones that it has.",
	},
	session.ErrSessionNotFound.Reason: {codes.NotFound, "There is no such session, or you did not start it."},
	session.ErrBackupNotFound.Reason: {codes.FailedPrecondition,
		"The wallet has no finished backup. Call BackupWallet, store its ciphertext, then ConfirmShareSet.",
	},
	session.ErrShareSetPending.Reason: {codes.FailedPrecondition,
		"The share set was not confirmed. Store its client share, then call ConfirmShareSet.",
	},
	session.ErrShareSetRevoked.Reason: {codes.FailedPrecondition,
		"The share set was revoked: the service's share of it is erased. Provision a new one from a backup.",
	},
	session.ErrShareSetLocked.Reason: {codes.FailedPrecondition,
		"The share set is locked: the client caused too many sessions that used it to abort. Provision a new set " +
			"from a backup that is not locked, or ask an admin to release it.",
	},
	session.ErrLastShareSet.Reason: {codes.FailedPrecondition,
		"It is the wallet's last usable set of its purpose. Make another one first; an admin may allow revoking " +
			"the last one.",
	},
	session.ErrSessionExpired.Reason: {codes.FailedPrecondition,
		"The session's result was confirmed, or has expired. Start again with a new request id.",
	},
	session.ErrOverloaded.Reason: {codes.ResourceExhausted,
		"Too many runs are waiting. Try again after the time in RetryInfo; the same request id may be used.",
	},
	session.ErrTooManyPending.Reason: {codes.ResourceExhausted,
		"The wallet has too many unconfirmed share sets. Confirm those whose client share is stored " +
			"(ConfirmShareSet); the others are erased when they expire, the first of them after the time in RetryInfo.",
	},
	session.ErrShareSetBusy.Reason: {codes.ResourceExhausted,
		"The share set is in use by as many device-held runs as are allowed at once; a disconnected device stops " +
			"counting after some minutes. Try again after the time in RetryInfo; the same request id may be used.",
	},
	session.ErrShareSetLimited.Reason: {codes.ResourceExhausted,
		"The share set has used up its budget of ECDSA signings that a device began and did not finish; one is " +
			"restored each day. Sign with another set of the wallet, or ask an admin to release it. Try again after " +
			"the time in RetryInfo; the same request id may be used.",
	},
	session.ErrShuttingDown.Reason: {codes.Unavailable, "The service is shutting down. Try again soon."},
	session.ErrSessionCancelled.Reason: {codes.Canceled,
		"The session was cancelled, and nothing was changed. Start again with a new request id.",
	},
	session.ErrProtocolAborted.Reason: {codes.Aborted,
		"The protocol was aborted, and nothing was changed. Start again with a new request id.",
	},
	session.ErrInterrupted.Reason: {codes.Aborted,
		"The call was interrupted, and nothing was changed. Repeat it, a run with the same request id: that " +
			"begins its next attempt.",
	},
	session.ErrPermissionDenied.Reason: {codes.PermissionDenied, "You may not do this."},
	session.ErrDeviceHeldWallet.Reason: {codes.FailedPrecondition,
		"The wallet is device-held: its client shares must not be sent to the service. Let the device run its own " +
			"side.",
	},
	session.ErrPolicyDenied.Reason: {codes.PermissionDenied, "The wallet provider's policy does not allow this."},
	session.ErrWebhookFailed.Reason: {codes.Unavailable,
		"The wallet provider's own service, which keeps the server's backup shares or authorises calls, failed. " +
			"Nothing was changed. Repeat the call with the same request id: that begins its next attempt.",
	},
	session.ErrUnauthenticated.Reason: {codes.Unauthenticated,
		"The caller is not authenticated. Send one valid bearer token, or, over gRPC, use a client certificate " +
			"that the service accepts.",
	},
	session.ErrRateLimited.Reason: {codes.ResourceExhausted, "Too many calls. Try again after the time in RetryInfo."},
	session.ErrDataCorrupted.Reason: {codes.DataLoss,
		"What the service stored for this wallet cannot be read. Nothing was changed; ask the service's operator.",
	},
	session.ErrInternal.Reason: {codes.Internal,
		"The service failed, and nothing was changed. Its operator finds the cause in the log by the request id.",
	},
}

// webhookRefused is the sentence for a permanent WEBHOOK_FAILED.
const webhookRefused = "The wallet provider's own service, which keeps the server's backup shares or authorises " +
	"calls, refused. Nothing was changed. Its operator must act first; after that, start again " +
	"with a new request id."

// sentenceOf returns a more specific sentence for some errors; "" if the reason's sentence suffices.
func sentenceOf(err error) string {
	if o := new(session.OverloadedError); errors.As(err, &o) && o.Own {
		return "You have too many runs waiting. Try again after the time in RetryInfo; the same request id may be used."
	}
	if empty := new(session.NoPreParamsError); errors.As(err, &empty) {
		return noPreParams
	}
	l := new(session.LimitedError)
	switch {
	case !errors.As(err, &l):
		return hashSentence(err)
	case l.Proofs:
		return "Too many of your devices could not prove that they hold the share of the set they named. Use the share " +
			"of that set. Try again after the time in RetryInfo; the same request id may be used."
	}
	return "You have started too many new device-held wallets. Try again after the time in RetryInfo; the same " +
		"request id may be used."
}

// noPreParams is the sentence for an OVERLOADED due to a lack of pre-params.
const noPreParams = "The service has no pre-params ready for a new share on secp256k1; it makes more. Nothing " +
	"was changed. Try again after the time in RetryInfo; the same request id may be used."

// retryDelays are the reasons that may be temporary, with when to retry if the error does not say. All other errors
// carry no RetryInfo: retrying cannot help.
var retryDelays = map[string]time.Duration{
	session.ErrInterrupted.Reason:     200 * time.Millisecond, // the next attempt begins at once
	session.ErrShuttingDown.Reason:    2 * time.Second,
	session.ErrOverloaded.Reason:      2 * time.Second,
	session.ErrRateLimited.Reason:     time.Second,
	session.ErrWebhookFailed.Reason:   2 * time.Second,
	session.ErrTooManyPending.Reason:  10 * time.Second,
	session.ErrShareSetBusy.Reason:    10 * time.Second,
	session.ErrShareSetLimited.Reason: time.Hour,
}

// toStatus converts an error of a call into the status that its caller sees. A status is returned unchanged.
func toStatus(err error) *status.Status {
	if s, ok := status.FromError(err); ok {
		return s
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		if session.Reason(err) == session.ErrInternal.Reason { // the call ended, not the run
			return status.FromContextError(err)
		}
	}
	reason := session.Reason(err)
	p, ok := publicErrors[reason]
	if !ok {
		reason = session.ErrInternal.Reason
		p = publicErrors[reason]
	}
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: reason}
	details := []protoadapt.MessageV1{info}
	sentence := p.sentence
	if s := sentenceOf(err); s != "" {
		sentence = s
	}
	if faults := faultsOf(err); len(faults) > 0 {
		violations := faults.violations()
		sentence = invalidSentence(violations)
		if violations = slices.DeleteFunc(violations, isWhole); len(violations) > 0 {
			details = append(details, &errdetails.BadRequest{FieldViolations: violations})
		}
	}
	var aborted *session.AbortedError
	if errors.As(err, &aborted) {
		info.Metadata = map[string]string{"culprit": aborted.Culprit, "round": strconv.Itoa(aborted.Round)}
	}
	if denied := new(session.DeniedError); errors.As(err, &denied) && denied.Why != "" {
		info.Metadata = map[string]string{"policy": denied.Why}
	}
	if pending := new(session.PendingError); errors.As(err, &pending) {
		info.Metadata = map[string]string{"count": strconv.Itoa(pending.Count), "limit": strconv.Itoa(pending.Limit)}
	}
	d, ok := retryIn(err, reason)
	if reason == session.ErrWebhookFailed.Reason && !ok {
		sentence = webhookRefused
	}
	if ok {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	}
	s, err := status.New(p.code, sentence).WithDetails(details...)
	if err != nil {
		return status.New(p.code, sentence) // details that cannot be encoded
	}
	return s
}

// retryIn returns when a failed call may be retried, and false if that cannot help.
func retryIn(err error, reason string) (time.Duration, bool) {
	var webhook *session.WebhookError
	var later session.LaterError
	var d time.Duration
	switch {
	case errors.As(err, &webhook) && webhook.Permanent:
		return 0, false
	case errors.As(err, &later):
		d = later.Later()
	}
	usual, ok := retryDelays[reason]
	if d <= 0 {
		d = usual
	}
	return d, ok
}

// reason returns the reason in a status, or "".
func reason(s *status.Status) string {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// requestError holds all faults of a request.
type requestError []*session.FieldError

// Error implements error.
func (e requestError) Error() string {
	all := make([]error, len(e))
	for i, f := range e {
		all[i] = f
	}
	return errors.Join(all...).Error()
}

// Is makes a requestError a session.ErrInvalidArgument.
func (e requestError) Is(target error) bool { return target == session.ErrInvalidArgument }

// As yields the first fault, so that session.Reason finds its reason.
func (e requestError) As(target any) bool {
	f, ok := target.(**session.FieldError)
	if ok && len(e) > 0 {
		*f = e[0]
	}
	return ok && len(e) > 0
}

// cover reports whether there is a fault of the field at path, of one that contains it, or of one inside it: then
// further faults there are not reported.
func (e requestError) cover(path string) bool {
	return slices.ContainsFunc(e, func(f *session.FieldError) bool {
		return within(f.Field, path) || within(path, f.Field)
	})
}

// within reports whether the field at path is the field at outer, or inside it. "" is the whole request.
func within(outer, path string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (outer == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// faultsOf returns the faults of a request in err, if any.
func faultsOf(err error) requestError {
	var all requestError
	var one *session.FieldError
	if !errors.As(err, &all) && errors.As(err, &one) {
		all = requestError{one}
	}
	return all
}

func (e requestError) violations() []*errdetails.BadRequest_FieldViolation {
	var out []*errdetails.BadRequest_FieldViolation
	for _, f := range e {
		out = append(out, &errdetails.BadRequest_FieldViolation{
			Field: f.Field, Description: f.Want, Reason: session.ErrInvalidArgument.Reason,
		})
	}
	return out
}

// isWhole reports whether a violation concerns the whole request rather than a field.
func isWhole(v *errdetails.BadRequest_FieldViolation) bool { return v.GetField() == "" }

// invalidSentence lists all faults of a request.
func invalidSentence(violations []*errdetails.BadRequest_FieldViolation) string {
	var all []string
	for _, v := range violations {
		all = append(all, strings.TrimSpace(v.GetField()+" "+v.GetDescription()))
	}
	return "The request is not valid: " + strings.Join(all, "; ") + "."
}
