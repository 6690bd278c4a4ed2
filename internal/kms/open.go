package kms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/tink-crypto/tink-go-awskms/v3/integration/awskms"
	"github.com/tink-crypto/tink-go-gcpkms/v2/integration/gcpkms"
	"github.com/tink-crypto/tink-go-hcvault/v2/integration/hcvault"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// openVault uses the host in the URI, with the token in VAULT_TOKEN or in the file that VAULT_TOKEN_FILE names, and
// with the other settings that Vault's SDK takes from the environment (VAULT_CACERT, VAULT_CLIENT_CERT,
// VAULT_NAMESPACE). The label goes into associated_data: Vault's context binds nothing unless the key was created
// with derivation.
func openVault(_ context.Context, k *Key) (tink.AEADWithContext, error) {
	u, err := url.Parse(k.uri)
	if err != nil {
		return nil, errors.New("its address cannot be read")
	}
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, fmt.Errorf("vault's settings in the environment: %w", cfg.Error)
	}
	transport, ok := cfg.HttpClient.Transport.(*http.Transport)
	if !ok {
		return nil, errors.New("vault's SDK has an unexpected transport")
	}
	transport.TLSClientConfig.InsecureSkipVerify = false // even with VAULT_SKIP_VERIFY: the response is our keyset
	cfg.Address, cfg.AgentAddress = "https://"+u.Host, ""
	cfg.Timeout, cfg.MaxRetries, cfg.MinRetryWait, cfg.MaxRetryWait = k.timeout, 1, 200*time.Millisecond, time.Second
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	token, err := vaultToken()
	if err != nil {
		return nil, err
	}
	client.SetToken(token)
	a, err := hcvault.NewAEAD(u.EscapedPath(), client.Logical())
	return withoutContext{a}, err
}

func vaultToken() (string, error) {
	if token := os.Getenv("VAULT_TOKEN"); token != "" {
		return token, nil
	}
	path := os.Getenv("VAULT_TOKEN_FILE")
	if path == "" {
		return "", errors.New("there is no token: set VAULT_TOKEN, or VAULT_TOKEN_FILE to a file that holds one")
	}
	b, err := os.ReadFile(path) //nolint:gosec // G304: the operator's own path
	if err != nil {
		return "", fmt.Errorf("VAULT_TOKEN_FILE: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsAny(token, " \n\r\t") {
		return "", errors.New("the file that VAULT_TOKEN_FILE names holds no token: one line is expected")
	}
	return token, nil
}

// withoutContext is an AEAD whose calls have their deadline from elsewhere.
type withoutContext struct{ tink.AEAD }

// EncryptWithContext implements tink.AEADWithContext.
func (a withoutContext) EncryptWithContext(_ context.Context, plaintext, label []byte) ([]byte, error) {
	return a.Encrypt(plaintext, label)
}

// DecryptWithContext implements tink.AEADWithContext.
func (a withoutContext) DecryptWithContext(_ context.Context, ciphertext, label []byte) ([]byte, error) {
	return a.Decrypt(ciphertext, label)
}

// openAWS uses the region in the key's ARN, with the credentials that AWS's SDK finds. The label is the encryption
// context.
func openAWS(ctx context.Context, k *Key) (tink.AEADWithContext, error) {
	return awskms.NewAEADWithContext(ctx, strings.TrimPrefix(k.uri, "aws-kms://"))
}

// openGCP uses Google's application default credentials, over gRPC.
func openGCP(ctx context.Context, k *Key) (tink.AEADWithContext, error) {
	return gcpkms.GetAEADWithContext(ctx, k.uri, gcpkms.WithGoogleAPIClientOptions(k.gcp...))
}
