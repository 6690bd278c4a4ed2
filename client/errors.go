package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The SDK's own errors. Errors of the service are *Error.
var (
	// ErrNoStore: the operation creates a signing share, and the app has not set where to store it.
	ErrNoStore = errors.New("no storage for the new signing share: pass client.WithStore to client.New")
	// ErrNotStored: the app's StoreFunc failed. Nothing was confirmed, and nothing has changed.
	ErrNotStored = errors.New("the new share could not be stored; nothing has changed, try again")
	// ErrNotConfirmed: the share is stored, but could not be confirmed to the service. The call returns the share as well.
	ErrNotConfirmed = errors.New(
		"the new share is stored but not confirmed: call Confirm with it soon, or it will be erased")
	// ErrNotRevoked: the new share, which the call returns as well, is stored and confirmed, but an old set could not be
	// revoked.
	ErrNotRevoked = errors.New(
		"the new share is stored and confirmed, but an old share set could not be revoked: call Revoke for it")
	// ErrBackupNotStored: the text that was read back is not the backup that was made. It is not confirmed.
	ErrBackupNotStored = errors.New(
		"the backup is not confirmed: store CipherText, read it back, and call ConfirmBackup with the text that was read")
	// ErrNoPassword: a PASSWORD backup needs a password.
	ErrNoPassword = errors.New("no password: call SetPassword first, with one that is not empty")
	// ErrPassword: the password is rejected by every SDK, since platforms would encode it differently.
	ErrPassword = errors.New("the password cannot be used")
	// ErrWrongPassword: the password does not open the backup.
	ErrWrongPassword = errors.New("wrong password: use the one that the backup was made with")
	// ErrNoKeyStorage: the app has set no key storage for the backup's cloud method.
	ErrNoKeyStorage = errors.New("no key storage for this backup method: pass client.WithCloudKey to client.New")
	// ErrNoKey: the app's key storage failed to return or store a backup's key.
	ErrNoKey = errors.New("the backup's key could not be read from or written to the user's cloud storage: " +
		"check that the user is signed in there")
	// ErrWrongKey: the key from the cloud storage does not open the backup.
	ErrWrongKey = errors.New("the key in the user's cloud storage does not open this backup: " +
		"check that it is the same user's account")
	// ErrNotABackup: the text is not a backup's ciphertext, or has been damaged. The error that wraps it says what was
	// found and what to do, and does not quote the text.
	ErrNotABackup = errors.New(
		"not a backup: pass the whole ciphertext as BackupWallet returned it, with the same method")
	// ErrNotAShare: the bytes are not those of a client share.
	ErrNotAShare = errors.New("not a client share: pass the bytes as Share.Bytes returned them")
	// ErrWrongShare: the share cannot be used for this call, such as a backup share for signing.
	ErrWrongShare = errors.New("the share is not of the kind that this call needs")
	// ErrNotAnID: the argument is not the id of a wallet or share set. No call was made.
	ErrNotAnID = errors.New("not an id")
	// ErrPayload: the payload is not a digest or message that the curve can sign.
	ErrPayload = errors.New("the payload cannot be signed")
	// ErrNoOutcome: the service ended a run's stream without a result and without an error.
	ErrNoOutcome = errors.New("the service ended the run without a result; nothing has changed, try again")
	// ErrBadAnswer: the service's answer does not match the request. It was not used.
	ErrBadAnswer = errors.New(
		"the service's answer does not match the request and was not used; report this to the service's operator")
)

// badAnswer returns an ErrBadAnswer. The text must not quote a secret.
func badAnswer(format string, args ...any) error {
	return fmt.Errorf("client: %w: %w", ErrBadAnswer, fmt.Errorf(format, args...))
}

// Error is an error returned by the service, or by the transport. It works with status.FromError and status.Code of
// google.golang.org/grpc.
type Error struct {
	Code       codes.Code
	Reason     string // of the API, such as ReasonShareSetRevoked; empty if the error is not the service's
	Message    string
	Metadata   map[string]string
	RetryAfter time.Duration // how long to wait before the next try; 0: a retry cannot help, or no time was given

	status *status.Status
	retry  bool // the service says that the same call may succeed later
}

// Error implements error. To the service's message it adds the reason, the count and limit, and the time to wait.
func (e *Error) Error() string {
	name := e.Reason
	if name == "" {
		name = e.Code.String()
	}
	count, limit := e.Metadata["count"], e.Metadata["limit"]
	if count != "" && limit != "" {
		name += fmt.Sprintf(", %s of %s", count, limit)
	}
	if e.RetryAfter >= time.Second {
		name += fmt.Sprintf(", try again in %v", e.RetryAfter.Round(time.Second))
	}
	return fmt.Sprintf("%s (%s)", e.Message, name)
}

// GRPCStatus returns the status with all of its details.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Is reports whether the call ended with its context, for target context.Canceled or context.DeadlineExceeded.
func (e *Error) Is(target error) bool {
	switch target {
	case context.Canceled:
		return e.Code == codes.Canceled && e.Reason == ""
	case context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded && e.Reason == ""
	}
	return false
}

// Reason returns the service's reason for err, such as ReasonBackupNotFound, or "" if err does not come from the
// service.
func Reason(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// errorDomain is the domain of the google.rpc.ErrorInfo in mpcd's errors. A proxy's errors may have other domains.
const errorDomain = "mpcd"

// serviceError converts a gRPC error into an *Error.
func serviceError(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	e := &Error{Code: st.Code(), Message: st.Message(), status: st}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == errorDomain {
				e.Reason, e.Metadata = d.GetReason(), d.GetMetadata()
			}
		case *errdetails.RetryInfo:
			e.RetryAfter, e.retry = d.GetRetryDelay().AsDuration(), true
		}
	}
	return e
}
