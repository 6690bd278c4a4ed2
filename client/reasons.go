package client

// The reasons of the service's errors, as Reason and Error.Reason have them. docs/HTTP.md says which
// code each comes with, and the comments of the API which call may answer which. A later service may
// have more.
const (
	ReasonInvalidArgument  = "INVALID_ARGUMENT"
	ReasonShareMalformed   = "SHARE_MALFORMED"
	ReasonShareSetMismatch = "SHARE_SET_MISMATCH"
	ReasonRequestIDReused  = "REQUEST_ID_REUSED"
	ReasonWalletNotFound   = "WALLET_NOT_FOUND"
	ReasonShareSetNotFound = "SHARE_SET_NOT_FOUND"
	ReasonSessionNotFound  = "SESSION_NOT_FOUND"
	ReasonBackupNotFound   = "BACKUP_NOT_FOUND"
	ReasonShareSetPending  = "SHARE_SET_PENDING"
	ReasonShareSetRevoked  = "SHARE_SET_REVOKED"
	ReasonShareSetLocked   = "SHARE_SET_LOCKED"
	ReasonLastShareSet     = "LAST_SHARE_SET"
	ReasonSessionExpired   = "SESSION_EXPIRED"
	ReasonOverloaded       = "OVERLOADED"
	ReasonTooManyPending   = "TOO_MANY_PENDING"
	ReasonShareSetBusy     = "SHARE_SET_BUSY"
	ReasonShareSetLimited  = "SHARE_SET_LIMITED"
	ReasonShuttingDown     = "SHUTTING_DOWN"
	ReasonProtocolAborted  = "PROTOCOL_ABORTED"
	ReasonSessionCancelled = "SESSION_CANCELLED"
	ReasonInterrupted      = "INTERRUPTED"
	ReasonPermissionDenied = "PERMISSION_DENIED"
	ReasonDeviceHeldWallet = "DEVICE_HELD_WALLET"
	ReasonPolicyDenied     = "POLICY_DENIED"
	ReasonWebhookFailed    = "WEBHOOK_FAILED"
	ReasonUnauthenticated  = "UNAUTHENTICATED"
	ReasonRateLimited      = "RATE_LIMITED"
	ReasonDataCorrupted    = "DATA_CORRUPTED"
	ReasonInternal         = "INTERNAL"
)
