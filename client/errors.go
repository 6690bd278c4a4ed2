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

// What the SDK refuses or finds wrong by itself. Errors of the service are *Error.
var (
	// ErrNoStore: the operation makes a signing share and the app gave no place for it.
	ErrNoStore = errors.New("no storage for the new signing share: pass client.WithStore to client.New")
	// ErrNotStored: the app's store failed. Nothing was confirmed, and nothing has changed.
	ErrNotStored = errors.New("the new share could not be stored; nothing has changed, try again")
	// ErrNotConfirmed: the share is stored, but the service was not told so. The call returns the share as well.
	ErrNotConfirmed = errors.New("the new share is stored but not confirmed: call Confirm with it soon, or it will be erased")
	// ErrNotRevoked: recovery made and confirmed the new share, which the call returns as well, but an old set lives on.
	ErrNotRevoked = errors.New("the new share is good and stored, but an old share set could not be revoked: call Revoke for it")
	// ErrBackupNotStored: what was read back is not the backup that was made. It does not count.
	ErrBackupNotStored = errors.New("the backup does not count yet: store CipherText, read it back, and call ConfirmBackup with what was read")
	// ErrNoPassword: a PASSWORD backup without a password.
	ErrNoPassword = errors.New("no password: call SetPassword first, with one that is not empty")
	// ErrPassword: a password that no SDK takes, since platforms would not agree on its bytes.
	ErrPassword = errors.New("the password cannot be used")
	// ErrWrongPassword: the password does not open the backup.
	ErrWrongPassword = errors.New("wrong password: give the one that the backup was made with")
	// ErrNoKeyStorage: a cloud method that the app gave no key storage for.
	ErrNoKeyStorage = errors.New("no key storage for this backup method: pass client.WithCloudKey to client.New")
	// ErrNoKey: the app's key storage could not give or keep a backup's key.
	ErrNoKey = errors.New("the backup's key could not be read from or written to the user's cloud storage: check that the user is signed in there")
	// ErrWrongKey: the key from the cloud storage does not open the backup.
	ErrWrongKey = errors.New("the key in the user's cloud storage does not open this backup: check that it is the same user's account")
	// ErrNotABackup: what should be a backup's ciphertext is not, or has been damaged. The error that wraps it says
	// what was found and what to do, and quotes nothing.
	ErrNotABackup = errors.New("not a backup: pass the whole ciphertext as BackupWallet returned it, with the same method")
	// ErrNotAShare: the bytes are not those of a client share.
	ErrNotAShare = errors.New("not a client share: pass the bytes as Share.Bytes returned them")
	// ErrWrongShare: a share that cannot do what is asked, such as a backup share that should sign.
	ErrWrongShare = errors.New("the share is not of the kind that this call needs")
	// ErrNotAnID: what should name a wallet or a share set is not an id. Nobody was called.
	ErrNotAnID = errors.New("not an id")
	// ErrPayload: a digest or message that cannot be signed.
	ErrPayload = errors.New("the payload cannot be signed")
	// ErrNoOutcome: the service ended a run's stream without a result and without an error.
	ErrNoOutcome = errors.New("the service ended the run without a result; nothing has changed, try again")
	// ErrBadAnswer: the service answered something other than what was asked for. It was not used.
	ErrBadAnswer = errors.New("the service's answer is not what was asked for and was not used; report this to whoever runs the service")
)

// badAnswer says what is wrong with an answer. It must quote no secret.
func badAnswer(format string, args ...any) error {
	return fmt.Errorf("client: %w: %w", ErrBadAnswer, fmt.Errorf(format, args...))
}

// Error is an error of the service, or of the way to it. status.FromError and status.Code
// of google.golang.org/grpc take it too.
type Error struct {
	Code       codes.Code
	Reason     string // of the API, such as ReasonShareSetRevoked; empty when the service did not speak
	Message    string
	Metadata   map[string]string
	RetryAfter time.Duration // how long to wait before the next try; 0 when that cannot help, or the service did not say

	status *status.Status
	retry  bool // the service says that the same call may succeed later
}

// Error implements error. It has what the service's sentence points to: how many of how many
// there are, and when to try again.
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

// Is makes the status of a call whose context ended match the context's error.
func (e *Error) Is(target error) bool {
	switch target {
	case context.Canceled:
		return e.Code == codes.Canceled && e.Reason == ""
	case context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded && e.Reason == ""
	}
	return false
}

// Reason returns the service's reason for err, such as ReasonBackupNotFound, or "" when err
// does not come from the service.
func Reason(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// errorDomain is that of the google.rpc.ErrorInfo of mpcd's own errors; a proxy on the way
// may have others.
const errorDomain = "mpcd"

// serviceError makes a gRPC error an *Error.
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
