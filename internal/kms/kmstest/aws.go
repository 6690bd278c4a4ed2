package kmstest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func fromBase64(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil // which does not decrypt
	}
	return b
}

// AWS is AWS KMS with one key.
type AWS struct {
	*KMS
	URI       string
	arn       string
	accessKey string
	secretKey string
	url, ca   string
	Close     func()
}

const region = "eu-central-1"

// NewAWS starts a fake AWS KMS. It ends with the test.
func NewAWS(t testing.TB) *AWS {
	t.Helper()
	a := &AWS{KMS: newKMS(t), arn: "arn:aws:kms:" + region + ":111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", accessKey: "AKIA" + rand.Text()[:16], secretKey: rand.Text()}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, a.handle) }))
	t.Cleanup(s.Close)
	a.URI, a.url, a.ca, a.Close = "aws-kms://"+a.arn, s.URL, caFile(t, s), s.Close
	return a
}

// Env returns the environment of a process that may use it.
func (a *AWS) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + a.accessKey, "AWS_SECRET_ACCESS_KEY=" + a.secretKey, "AWS_ENDPOINT_URL_KMS=" + a.url, "AWS_CA_BUNDLE=" + a.ca,
		"AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=2", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
	}
}

// AWSError responds as AWS KMS does: with its kind of JSON, and with 400 for nearly everything.
func AWSError(w http.ResponseWriter, code int, kind, message string) {
	w.Header().Set("X-Amzn-Requestid", rand.Text())
	answer(w, code, "application/x-amz-json-1.1", map[string]string{"__type": kind, "message": message})
}

// handle implements Encrypt and Decrypt of https://docs.aws.amazon.com/kms/latest/APIReference/.
func (a *AWS) handle(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || !a.signed(r, body) {
		AWSError(w, http.StatusBadRequest, "InvalidSignatureException", "The request signature we calculated does not match the signature you provided.")
		return
	}
	var req struct {
		KeyID             string `json:"KeyId"`
		Plaintext         []byte
		CiphertextBlob    []byte
		EncryptionContext map[string]string
	}
	if err := json.Unmarshal(body, &req); err != nil {
		AWSError(w, http.StatusBadRequest, "SerializationException", "")
		return
	}
	if req.KeyID != a.arn {
		AWSError(w, http.StatusBadRequest, "NotFoundException", "Key '"+req.KeyID+"' does not exist")
		return
	}
	var bound bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(req.EncryptionContext)) {
		bound.WriteString(name + "=" + req.EncryptionContext[name] + "\n")
	}
	switch r.Header.Get("X-Amz-Target") {
	case "TrentService.Encrypt":
		answer(w, http.StatusOK, "application/x-amz-json-1.1", map[string]any{
			"CiphertextBlob": a.encrypt(req.Plaintext, bound.Bytes()), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": a.arn,
		})
	case "TrentService.Decrypt":
		plain, err := a.decrypt(req.CiphertextBlob, bound.Bytes())
		if err != nil {
			AWSError(w, http.StatusBadRequest, "InvalidCiphertextException", "")
			return
		}
		answer(w, http.StatusOK, "application/x-amz-json-1.1", map[string]any{"Plaintext": plain, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": a.arn})
	default:
		AWSError(w, http.StatusBadRequest, "UnknownOperationException", "")
	}
}

// signed verifies a request's Signature Version 4 by signing the same request again.
func (a *AWS) signed(r *http.Request, body []byte) bool {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > 5*time.Minute {
		return false
	}
	given := r.Header.Get("Authorization")
	_, rest, _ := strings.Cut(given, "SignedHeaders=")
	names, _, _ := strings.Cut(rest, ",")
	again, err := http.NewRequestWithContext(r.Context(), r.Method, "https://"+r.Host+r.URL.RequestURI(), bytes.NewReader(body)) //nolint:gosec // G704: it is signed, not sent
	if err != nil {
		return false
	}
	for name := range strings.SplitSeq(names, ";") {
		if v := r.Header.Values(name); v != nil {
			again.Header[http.CanonicalHeaderKey(name)] = v
		}
	}
	sum := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: a.accessKey, SecretAccessKey: a.secretKey}, again, hex.EncodeToString(sum[:]), "kms", region, at)
	return err == nil && again.Header.Get("Authorization") == given
}
