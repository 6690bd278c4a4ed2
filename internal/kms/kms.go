// Package kms wraps keysets with a key that never leaves a KMS: HashiCorp Vault's transit engine, AWS KMS or Google
// Cloud KMS, through Tink's integrations.
//
// The KMS is used only when a keyset file is read or written: a running service does not depend on it. Each call has
// a deadline. The address comes only from the key's URI, TLS is always verified, and credentials come from where the
// KMS's own SDK looks for them, never from a flag.
//
// The package keeps no key and no plaintext, and puts neither into an error. It trusts the SDKs, and the KMS with the
// keyset.
package kms

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	"github.com/hashicorp/vault/api"
	"github.com/tink-crypto/tink-go/v2/tink"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// timeout bounds one call, including an SDK's own retries.
const timeout = 10 * time.Second

// Key is a key in a KMS. It implements seal.Wrapper.
type Key struct {
	uri      string
	provider *provider
	timeout  time.Duration
	gcp      []option.ClientOption // for tests: Google's SDK takes its endpoint only from the program
}

// provider is a kind of KMS.
type provider struct {
	form *regexp.Regexp
	want string
	open func(ctx context.Context, k *Key) (tink.AEADWithContext, error)
}

var providers = map[string]*provider{
	"hcvault": {
		regexp.MustCompile(`^hcvault://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._-]+)+/keys/[A-Za-z0-9._-]+$`),
		"hcvault://HOST[:PORT]/transit/keys/NAME", openVault,
	},
	"aws-kms": {
		regexp.MustCompile(`^aws-kms://arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]+:(key|alias)/[A-Za-z0-9/_-]+$`),
		"aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID", openAWS,
	},
	"gcp-kms": {
		regexp.MustCompile(`^gcp-kms://projects/[^/?#\s]+/locations/[^/?#\s]+/keyRings/[^/?#\s]+/cryptoKeys/[^/?#\s]+$`),
		"gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K", openGCP,
	},
}

// Check checks the form of a key's URI, without a call to the KMS.
func Check(uri string) error {
	_, err := New(uri)
	return err
}

// New returns the key that a URI names, without a call to the KMS. Its errors do not quote the URI, which may contain
// a password by mistake.
func New(uri string) (*Key, error) {
	scheme, _, _ := strings.Cut(uri, "://")
	p := providers[scheme]
	if p == nil {
		return nil, errors.New("it names no KMS that is known: use hcvault://, aws-kms:// or gcp-kms://")
	}
	if !p.form.MatchString(uri) {
		return nil, fmt.Errorf("it does not name a key: use %s", p.want)
	}
	return &Key{uri: uri, provider: p, timeout: timeout}, nil
}

// Wrap encrypts a keyset.
func (k *Key) Wrap(ctx context.Context, plaintext, label []byte) ([]byte, error) {
	return k.ask(ctx, func(ctx context.Context, a tink.AEADWithContext) ([]byte, error) {
		return a.EncryptWithContext(ctx, plaintext, label)
	})
}

// Unwrap decrypts what Wrap returned for the same label. The caller wipes it.
func (k *Key) Unwrap(ctx context.Context, ciphertext, label []byte) ([]byte, error) {
	return k.ask(ctx, func(ctx context.Context, a tink.AEADWithContext) ([]byte, error) {
		return a.DecryptWithContext(ctx, ciphertext, label)
	})
}

func (k *Key) ask(ctx context.Context, call func(context.Context, tink.AEADWithContext) ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	a, err := k.provider.open(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("the KMS key %s cannot be asked for: %s", k.uri, oneLine(err))
	}
	b, err := call(ctx, a)
	switch {
	case err != nil && ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return nil, fmt.Errorf("the KMS of key %s gave no answer in %v: "+
			"check that it is up and can be reached from here, and try again (%s)", k.uri, k.timeout, oneLine(err))
	case err != nil:
		return nil, fmt.Errorf("the KMS of key %s %s (%s)", k.uri, say[classify(err)], oneLine(err))
	case len(b) == 0: // a keyset is never empty, wrapped or not
		return nil, fmt.Errorf("the KMS of key %s answered without a value: check that its address is that of a KMS", k.uri)
	}
	return b, nil
}

// class is the kind of failure of a KMS.
type class int

const (
	failed class = iota
	refused
	shut
	noKey
)

// say has an error text for the operator per class.
var say = map[class]string{
	failed: "cannot be used now: " +
		"check that it is up and can be reached from here, and that its address is that of a KMS, and try again",
	refused: "refuses: check that this process has valid credentials (mpcd keyset --help says where from), " +
		"and that they may encrypt and decrypt with the key",
	shut: "does not open the keyset: another key wrapped it, or it was altered: " +
		"name that key, or restore the file from its backup",
	noKey: "has no such key, or it is disabled: name the one that wrapped the keyset, or enable it",
}

func classify(err error) class {
	var vault *api.ResponseError
	var aws smithy.APIError
	switch {
	case errors.As(err, &vault):
		switch vault.StatusCode {
		case 401, 403:
			return refused
		case 404:
			return noKey
		case 400:
			return shut
		}
		return failed
	case errors.As(err, &aws):
		return classifyAWS(aws.ErrorCode())
	case strings.Contains(err.Error(), "get credentials"): // AWS's SDK found no credentials
		return refused
	}
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated:
		return refused
	case codes.NotFound, codes.FailedPrecondition:
		return noKey
	case codes.InvalidArgument:
		return shut
	default:
		return failed
	}
}

func classifyAWS(code string) class {
	switch code {
	case "AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException",
		"MissingAuthenticationTokenException", "IncompleteSignature", "InvalidClientTokenId", "OptInRequired":
		return refused
	case "InvalidCiphertextException", "IncorrectKeyException":
		return shut
	case "NotFoundException", "DisabledException", "KMSInvalidStateException":
		return noKey
	}
	return failed
}

// oneLine joins the lines of an SDK's error, and truncates it.
func oneLine(err error) string {
	const enough = 400
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > enough {
		s = s[:enough] + "..."
	}
	return s
}
