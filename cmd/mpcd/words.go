package main

import (
	"strings"

	"github.com/mpcd/mpcd/client"
)

// sdkWords puts what the SDK says to an app's programmer into a command's words.
var sdkWords = strings.NewReplacer(
	"client: ", "",
	client.ErrNotAShare.Error(), `not a share: name a file that "mpcd wallet" wrote`,
	client.ErrWrongShare.Error(), "not the share that this needs",
	client.ErrNotConfirmed.Error(), "the service did not answer its confirmation",
	client.ErrBackupNotStored.Error(), "it was not confirmed",
	client.ErrNotRevoked.Error(), "the new share is good, but an old share set could not be revoked",

	// The service's advice to a programmer, who has a request id and sees RetryInfo. How long to
	// wait stands at the end of the error (client.Error).
	"Try again after the time in RetryInfo; the same request id may be used.", "Run the command again later.",
	"Try again after the time in RetryInfo.", "Run the command again later.",
	"the first of them after the time in RetryInfo", "the first of them after the time that is named here",
	"Repeat it, a run with the same request id: that begins its next attempt.", "Run the command again.",
	"Repeat the call with the same request id: that begins its next attempt.", "Run the command again.",
	"start again with a new request id", "run the command again",
	"Start again with a new request id", "Run the command again",
)
