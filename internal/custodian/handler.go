package custodian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/age"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/mpcd/mpcd/internal/secret"
)

// Config configures a receiver.
type Config struct {
	Verifiers     []*webhooks.Webhook // of Standard Webhooks, one per secret that mpcd may sign with: any one suffices
	HeaderSecrets []secret.Bytes      // accepted values of X-Webhook-Secret; empty: the header is ignored
	Token         secret.Bytes        // bearer token of the apps' API; empty: the API is off
	Identity      *age.X25519Identity // decrypts shares that arrive encrypted; nil: they are returned as they arrived
}

// The bodies of mpcd's webhooks, and of the apps' API.
type (
	deposit struct {
		ClientID string `json:"clientId"`
		Method   string `json:"backupMethod"`
		Share    string `json:"share"` // base64
		PairID   string `json:"backupSharePairId"`
	}
	query struct {
		ClientID string `json:"clientId"`
		PairID   string `json:"backupSharePairId"` // of a fetch; "": all of the client's
	}
	found struct {
		BackupShares []string `json:"backupShares"` // base64
	}
	cipherText struct {
		CipherText string `json:"cipherText"`
	}
)

const (
	maxBody = 1 << 20
	maxID   = 256 // in characters, as for an owner
)

var methods = []string{"PASSWORD", "ICLOUD", "GDRIVE", "PASSKEY", "FIREBASE", "CUSTOM"}

type handler struct {
	cfg   Config
	store *Store
	log   *slog.Logger
}

// New returns the receiver's handler.
func New(store *Store, cfg Config, log *slog.Logger) http.Handler {
	h := &handler{cfg: cfg, store: store, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /backup", h.webhook(h.backup))
	mux.HandleFunc("POST /backup/fetch", h.webhook(h.fetch))
	mux.HandleFunc("POST /backup/delete", h.webhook(h.delete))
	if len(cfg.Token.Reveal()) > 0 {
		mux.HandleFunc("GET /users/{id}/encrypted-user-backup-shares", h.app(h.get))
		mux.HandleFunc("PUT /users/{id}/encrypted-user-backup-shares", h.app(h.put))
		mux.HandleFunc("GET /clients/{id}/backup", h.app(h.get))
		mux.HandleFunc("PUT /clients/{id}/backup", h.app(h.put))
	}
	return mux
}

// refusal is an error response. Its text is for the caller, and quotes nothing of the request.
type refusal struct {
	code int
	text string
}

// Error implements error.
func (r refusal) Error() string { return r.text }

// answer writes a response.
func (h *handler) answer(w http.ResponseWriter, r *http.Request, body any, err error) {
	code := http.StatusOK
	var no refusal
	switch {
	case errors.As(err, &no):
		code, body = no.code, map[string]string{"error": no.text}
	case errors.Is(err, errReplayed), errors.Is(err, errOther):
		code, body = http.StatusConflict, map[string]string{"error": err.Error()}
	case errors.Is(err, errDeleted):
		code, body = http.StatusGone, map[string]string{"error": err.Error()}
	case errors.Is(err, errNothing):
		code, body = http.StatusNotFound, map[string]string{"error": err.Error()}
	case err != nil:
		h.log.Error("failed", "path", r.URL.Path, "error", err)
		code, body = http.StatusInternalServerError, map[string]string{"error": "the custodian failed; try again"}
	case body == nil:
		code = http.StatusNoContent
	}
	h.log.Info("call", "method", r.Method, "path", r.Pattern, "code", code, "webhook_id", limited(r.Header.Get(webhooks.HeaderWebhookID)))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body) // a caller that disconnected needs no response
	}
}

func limited(s string) string {
	if checkID(s) != nil {
		return ""
	}
	return s
}

// webhook passes on messages that mpcd signed.
func (h *handler) webhook(next func(ctx context.Context, id string, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer, err := func() (any, error) {
			body, err := read(w, r)
			if err != nil {
				return nil, err
			}
			if err := h.known(body, r.Header); err != nil {
				return nil, err
			}
			id := r.Header.Get(webhooks.HeaderWebhookID)
			if err := checkID(id); err != nil {
				return nil, err
			}
			return next(r.Context(), id, body)
		}()
		h.answer(w, r, answer, err)
	}
}

// known checks that a message is from mpcd. Two secrets are valid while one is being replaced.
func (h *handler) known(body []byte, header http.Header) error {
	if !slices.ContainsFunc(h.cfg.Verifiers, func(v *webhooks.Webhook) bool { return v.Verify(body, header) == nil }) {
		return refusal{http.StatusUnauthorized,
			"the message is not signed with the shared secret, or its timestamp is not current"}
	}
	given := []byte(header.Get("X-Webhook-Secret"))
	isGiven := func(want secret.Bytes) bool { return same(given, want.Reveal()) }
	if len(h.cfg.HeaderSecrets) > 0 && !slices.ContainsFunc(h.cfg.HeaderSecrets, isGiven) {
		return refusal{http.StatusUnauthorized, "X-Webhook-Secret is wrong"}
	}
	return nil
}

// app passes on calls with the app token.
func (h *handler) app(next func(w http.ResponseWriter, r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || !same([]byte(token), h.cfg.Token.Reveal()) {
			h.answer(w, r, nil, refusal{http.StatusUnauthorized, "a bearer token is needed"})
			return
		}
		if err := checkID(r.PathValue("id")); err != nil {
			h.answer(w, r, nil, err)
			return
		}
		answer, err := next(w, r)
		h.answer(w, r, answer, err)
	}
}

// same compares in constant time, whatever the lengths.
func same(a, b []byte) bool {
	x, y := sha256.Sum256(a), sha256.Sum256(b)
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return nil, refusal{http.StatusRequestEntityTooLarge, "the body has more than 1 MiB"}
	}
	if err != nil {
		return nil, refusal{http.StatusBadRequest, "the body ended early"}
	}
	return body, nil
}

// parse decodes one JSON object. Unknown fields are ignored, so that fields may be added.
func parse(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(into); err != nil {
		return refusal{http.StatusBadRequest, "the body is not a JSON object of the fields that it should have"}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refusal{http.StatusBadRequest, "the body has more than one JSON object"}
	}
	return nil
}

func checkID(id string) error {
	if id == "" || utf8.RuneCountInString(id) > maxID || !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl) {
		return refusal{http.StatusBadRequest, fmt.Sprintf("an id has 1 to %d characters, none of them a control character", maxID)}
	}
	return nil
}

func checkMethod(method string) error {
	if !slices.Contains(methods, method) {
		return refusal{http.StatusBadRequest, "backupMethod is one of " + strings.Join(methods, ", ")}
	}
	return nil
}

func (h *handler) backup(ctx context.Context, id string, body []byte) (any, error) {
	var m deposit
	if err := parse(body, &m); err != nil {
		return nil, err
	}
	share, err := base64.StdEncoding.DecodeString(m.Share)
	if err != nil || len(share) == 0 {
		return nil, refusal{http.StatusBadRequest, "share is not base64"}
	}
	if err := errors.Join(checkID(m.ClientID), checkID(m.PairID), checkMethod(m.Method)); err != nil {
		return nil, err
	}
	return nil, h.store.deposit(ctx, id, body, &m, share)
}

func (h *handler) fetch(ctx context.Context, id string, body []byte) (any, error) {
	var q query
	if err := parse(body, &q); err != nil {
		return nil, err
	}
	err := checkID(q.ClientID)
	if q.PairID != "" {
		err = errors.Join(err, checkID(q.PairID))
	}
	if err != nil {
		return nil, err
	}
	shares, err := h.store.shares(ctx, id, body, q)
	if err != nil {
		return nil, err
	}
	out := found{BackupShares: []string{}}
	for _, share := range shares {
		if share, err = h.open(share); err != nil {
			return nil, err
		}
		out.BackupShares = append(out.BackupShares, base64.StdEncoding.EncodeToString(share))
	}
	return out, nil
}

func (h *handler) delete(ctx context.Context, id string, body []byte) (any, error) {
	var q query
	if err := parse(body, &q); err != nil {
		return nil, err
	}
	if err := errors.Join(checkID(q.ClientID), checkID(q.PairID)); err != nil {
		return nil, err
	}
	return nil, h.store.delete(ctx, id, body, q)
}

// open decrypts a share that arrived as an age file, if there is an identity.
func (h *handler) open(share []byte) ([]byte, error) {
	if h.cfg.Identity == nil || !bytes.HasPrefix(share, []byte("age-encryption.org/")) {
		return share, nil
	}
	r, err := age.Decrypt(bytes.NewReader(share), h.cfg.Identity)
	if err != nil {
		return nil, errors.New("a share is not encrypted to the identity that is there")
	}
	return io.ReadAll(io.LimitReader(r, maxBody))
}

func (h *handler) put(w http.ResponseWriter, r *http.Request) (any, error) {
	body, err := read(w, r)
	if err != nil {
		return nil, err
	}
	var c cipherText
	if err := parse(body, &c); err != nil {
		return nil, err
	}
	if c.CipherText == "" {
		return nil, refusal{http.StatusBadRequest, "cipherText is empty"}
	}
	method, err := method(r)
	if err != nil {
		return nil, err
	}
	return nil, h.store.putText(r.Context(), r.PathValue("id"), method, c.CipherText)
}

func (h *handler) get(_ http.ResponseWriter, r *http.Request) (any, error) {
	method, err := method(r)
	if err != nil {
		return nil, err
	}
	text, err := h.store.text(r.Context(), r.PathValue("id"), method)
	return cipherText{text}, err
}

// method is in the query of a user's backup, but not of a client's.
func method(r *http.Request) (string, error) {
	m := r.URL.Query().Get("backupMethod")
	if strings.HasPrefix(r.Pattern, "GET /clients") || strings.HasPrefix(r.Pattern, "PUT /clients") {
		return "", nil
	}
	return m, checkMethod(m)
}
