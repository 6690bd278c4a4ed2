package main

import (
	"strings"

	"github.com/mpcd/mpcd/client"
)

// sdkTexts replaces texts of the SDK and the service, which address a programmer, by texts for the user of a command.
var sdkTexts = strings.NewReplacer(
	"client: ", "",
	client.ErrNotAShare.Error(), `not a share: name a file that "mpcd wallet" wrote`,
	client.ErrWrongShare.Error(), "not the share that this command needs",
	client.ErrNotConfirmed.Error(), "the service did not answer its confirmation",
	client.ErrBackupNotStored.Error(), "it was not confirmed",
	client.ErrNotRevoked.Error(), "the new share is stored and confirmed, but an old share set could not be revoked",

	// The service's advice to a programmer, who has a request id and sees RetryInfo. client.Error has the time to wait
	// at the end of its text.
	"Try again after the time in RetryInfo; the same request id may be used.", "Run the command again later.",
	"Try again after the time in RetryInfo.", "Run the command again later.",
	"the first of them after the time in RetryInfo", "the first of them after the time that is named here",
	"Repeat it, a run with the same request id: that begins its next attempt.", "Run the command again.",
	"Repeat the call with the same request id: that begins its next attempt.", "Run the command again.",
	"start again with a new request id", "run the command again",
	"Start again with a new request id", "Run the command again",
)
