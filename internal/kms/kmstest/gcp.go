package kmstest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"hash/crc32"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// GCP is Google Cloud KMS with one key, for one service account. Google's SDK signs its own token with the account's
// key, and requests none.
type GCP struct {
	*KMS
	kmspb.UnimplementedKeyManagementServiceServer
	URI         string
	Addr        string
	Credentials string         // the service account's file
	Roots       *x509.CertPool // that verify its certificate
	Stop        func()

	account *rsa.PublicKey

	mu  sync.Mutex // guards err
	err error
}

const gcpKey = "projects/p/locations/global/keyRings/r/cryptoKeys/k"

// NewGCP starts a fake Google Cloud KMS. It ends with the test.
func NewGCP(t testing.TB) *GCP {
	t.Helper()
	g := &GCP{KMS: newKMS(t), URI: "gcp-kms://" + gcpKey, Roots: x509.NewCertPool()}
	g.Credentials = g.serviceAccount(t)

	tlsServer := httptest.NewTLSServer(nil) // only for its certificate
	t.Cleanup(tlsServer.Close)
	g.Roots.AddCert(tlsServer.Certificate())
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&tlsServer.TLS.Certificates[0])))
	kmspb.RegisterKeyManagementServiceServer(s, g)
	go func() { _ = s.Serve(lis) }() // ends with Stop
	t.Cleanup(s.Stop)
	g.Addr, g.Stop = lis.Addr().String(), s.Stop
	return g
}

const email = "mpcd@p.iam.gserviceaccount.com"

func (g *GCP) serviceAccount(t testing.TB) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	g.account = &key.PublicKey
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	b, err := json.Marshal(map[string]string{ //nolint:gosec // G101: a key generated a line above
		"type": "service_account", "project_id": "p", "private_key_id": "1", "client_email": email, "client_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": "https://127.0.0.1:1/token",
	})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "credentials.json")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

// Fail makes every call return an error; nil ends that.
func (g *GCP) Fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func (g *GCP) check(ctx context.Context, name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	switch {
	case g.err != nil:
		return g.err
	case !g.signed(strings.Join(md.Get("authorization"), "")):
		return status.Error(codes.Unauthenticated, "Request had invalid authentication credentials.")
	case name != gcpKey:
		return status.Errorf(codes.NotFound, "CryptoKey %s not found.", name)
	}
	return nil
}

// signed verifies a token (RFC 7523, section 3), as far as the SDK can get it wrong.
func (g *GCP) signed(authorization string) bool {
	token, ok := strings.CutPrefix(authorization, "Bearer ")
	parts := strings.Split(token, ".")
	if !ok || len(parts) != 3 {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err != nil || rsa.VerifyPKCS1v15(g.account, crypto.SHA256, digest[:], signature) != nil {
		return false
	}
	var claims struct {
		Iss string `json:"iss"`
		Exp int64  `json:"exp"`
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	return err == nil && json.Unmarshal(b, &claims) == nil && claims.Iss == email && time.Now().Unix() < claims.Exp
}

func sum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
}

// Encrypt implements KeyManagementService.
func (g *GCP) Encrypt(ctx context.Context, req *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	if err := g.check(ctx, req.GetName()); err != nil {
		return nil, err
	}
	c := g.encrypt(req.GetPlaintext(), req.GetAdditionalAuthenticatedData())
	return &kmspb.EncryptResponse{
		Name: gcpKey + "/cryptoKeyVersions/1", Ciphertext: c, CiphertextCrc32C: sum(c),
		VerifiedPlaintextCrc32C:                   req.GetPlaintextCrc32C().GetValue() == sum(req.GetPlaintext()).GetValue(),
		VerifiedAdditionalAuthenticatedDataCrc32C: req.GetAdditionalAuthenticatedDataCrc32C().GetValue() == sum(req.GetAdditionalAuthenticatedData()).GetValue(),
	}, nil
}

// Decrypt implements KeyManagementService.
func (g *GCP) Decrypt(ctx context.Context, req *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	if err := g.check(ctx, req.GetName()); err != nil {
		return nil, err
	}
	p, err := g.decrypt(req.GetCiphertext(), req.GetAdditionalAuthenticatedData())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
	}
	return &kmspb.DecryptResponse{Plaintext: p, PlaintextCrc32C: sum(p)}, nil
}
