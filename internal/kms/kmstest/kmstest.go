// Package kmstest has fakes of KMSs, as far as mpcd uses them: Vault's transit engine and AWS KMS over HTTPS, Google
// Cloud KMS over gRPC. Each checks credentials, binds a ciphertext to its key and associated data, and returns errors
// worded as the real one's.
//
// They listen on loopback with a certificate of their own authority. No program imports the package.
package kmstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// KMS is common to all fakes.
type KMS struct {
	mu    sync.Mutex // guards fault and calls
	fault http.HandlerFunc
	calls int

	key cipher.AEAD
}

func newKMS(t testing.TB) *KMS {
	t.Helper()
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	block, err := aes.NewCipher(b)
	require.NoError(t, err)
	key, err := cipher.NewGCM(block)
	require.NoError(t, err)
	return &KMS{key: key}
}

// Fault puts a handler in front of an HTTP fake; nil removes it.
func (k *KMS) Fault(f http.HandlerFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = f
}

// Calls returns how often it was called.
func (k *KMS) Calls() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls
}

// serve wraps an HTTP fake.
func (k *KMS) serve(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	k.mu.Lock()
	fault := k.fault
	k.calls++
	k.mu.Unlock()
	if fault != nil {
		next = fault
	}
	next(w, r)
}

func (k *KMS) encrypt(plaintext, bound []byte) []byte {
	nonce := make([]byte, k.key.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return k.key.Seal(nonce, nonce, plaintext, bound)
}

func (k *KMS) decrypt(ciphertext, bound []byte) ([]byte, error) {
	n := k.key.NonceSize()
	if len(ciphertext) < n {
		return nil, errors.New("too short")
	}
	return k.key.Open(nil, ciphertext[:n], ciphertext[n:], bound)
}

func answer(w http.ResponseWriter, code int, kind string, v any) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the caller has disconnected
}

// caFile writes a server's certificate to a file.
func caFile(t testing.TB, s *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	return path
}

// Vault is the transit engine of a Vault, with one key named mpcd.
type Vault struct {
	*KMS
	URI   string
	Token string
	CA    string // a file
	Close func()
}

// NewVault starts a fake Vault. It ends with the test.
func NewVault(t testing.TB) *Vault {
	t.Helper()
	v := &Vault{KMS: newKMS(t), Token: "hvs.test-" + rand.Text()}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { v.serve(w, r, v.handle) }))
	t.Cleanup(s.Close)
	v.CA, v.Close = caFile(t, s), s.Close
	v.URI = "hcvault://" + strings.TrimPrefix(s.URL, "https://") + "/transit/keys/mpcd"
	return v
}

// Env returns the environment of a process that may use it.
func (v *Vault) Env() []string { return []string{"VAULT_TOKEN=" + v.Token, "VAULT_CACERT=" + v.CA} }

// VaultError responds as Vault does.
func VaultError(w http.ResponseWriter, code int, errs ...string) {
	answer(w, code, "application/json", map[string][]string{"errors": errs})
}

// handle implements encrypt and decrypt of https://developer.hashicorp.com/vault/api-docs/secret/transit.
func (v *Vault) handle(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Plaintext      []byte `json:"plaintext"`
		Ciphertext     string `json:"ciphertext"`
		AssociatedData []byte `json:"associated_data"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&req)
	switch {
	case r.Header.Get("X-Vault-Token") != v.Token:
		VaultError(w, http.StatusForbidden, "permission denied")
	case r.Method != http.MethodPut && r.Method != http.MethodPost:
		VaultError(w, http.StatusMethodNotAllowed, "unsupported operation")
	case err != nil:
		VaultError(w, http.StatusBadRequest, "error parsing JSON")
	case r.URL.Path == "/v1/transit/encrypt/mpcd":
		v.data(w, map[string]any{"ciphertext": "vault:v1:" + base64Of(v.encrypt(req.Plaintext, req.AssociatedData)), "key_version": 1})
	case r.URL.Path == "/v1/transit/decrypt/mpcd":
		b64, ok := strings.CutPrefix(req.Ciphertext, "vault:v1:")
		if !ok {
			VaultError(w, http.StatusBadRequest, "invalid ciphertext: no prefix")
			return
		}
		plain, err := v.decrypt(fromBase64(b64), req.AssociatedData)
		if err != nil {
			VaultError(w, http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		v.data(w, map[string]any{"plaintext": base64Of(plain)})
	case strings.HasPrefix(r.URL.Path, "/v1/transit/decrypt/"):
		VaultError(w, http.StatusBadRequest, "encryption key not found")
	default:
		VaultError(w, http.StatusNotFound, "no handler for route \""+strings.TrimPrefix(r.URL.Path, "/v1/")+"\". route entry not found.")
	}
}

func (v *Vault) data(w http.ResponseWriter, data map[string]any) {
	answer(w, http.StatusOK, "application/json", map[string]any{
		"request_id": rand.Text(), "lease_id": "", "renewable": false, "lease_duration": 0, "data": data, "wrap_info": nil, "warnings": nil, "auth": nil,
	})
}
