package custody_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/custodian"
	"github.com/mpcd/mpcd/internal/custody"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/webhook"
)

// With a replicated custodian, a stored share may take a moment to appear.
func TestReadBackWaitsForALaggingCustodian(t *testing.T) {
	t.Parallel()
	for name, notYet := range map[string]http.HandlerFunc{
		"an empty list": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"backupShares": []}`) },
		"other shares":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"backupShares": ["AAAA"]}`) },
		"not found":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"no content":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	} {
		for _, lag := range []time.Duration{300 * time.Millisecond, 2 * time.Second} {
			t.Run(fmt.Sprint(name, " for ", lag), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				var stored atomic.Int64
				inner := reference(t, nil)
				c := w.custodianWith(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/backup/fetch" && time.Since(time.UnixMicro(stored.Load())) < lag {
						notYet(rw, r)
						return
					}
					inner.ServeHTTP(rw, r)
					if r.URL.Path == "/backup" {
						stored.Store(time.Now().UnixMicro())
					}
				}), func(*custody.WebhookConfig) {}) // with the service's default ReadBack
				d := w.elsewhere(t, uuid.NewString(), tss.Ed25519)
				_, err := c.Deposit(t.Context(), "alice", &d.ShareSet, d.server)
				require.NoError(t, err)
			})
		}
	}
}

// A share that does not appear within seconds is not backed up; a custodian that refuses, or returns another share,
// is not retried.
func TestReadBackEnds(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		code      int
		fetches   int32 // 0: more than two
		permanent bool
		says      string
	}{
		"never there": {http.StatusNotFound, 0, false, "the custodian answers 404: it does not have the share (yet), or the URL is not the one"},
		"no content":  {http.StatusNoContent, 0, false, "it is not JSON of the form"},
		"refused":     {http.StatusForbidden, 1, true, "it answers 403"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var fetches atomic.Int32
			c := w.custodianWith(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/backup/fetch" {
					fetches.Add(1)
					rw.WriteHeader(x.code)
				}
			}), func(cfg *custody.WebhookConfig) { cfg.ReadBack = 2 * time.Second })
			d := w.elsewhere(t, uuid.NewString(), tss.Ed25519)
			_, err := c.Deposit(t.Context(), "alice", &d.ShareSet, d.server)
			failed := new(session.WebhookError)
			require.ErrorAs(t, err, &failed)
			require.Equal(t, x.permanent, failed.Permanent)
			require.ErrorContains(t, err, x.says)
			if x.fetches > 0 {
				require.Equal(t, x.fetches, fetches.Load())
			} else {
				require.Greater(t, fetches.Load(), int32(2))
			}
		})
	}
}

// Whether and when to retry, as the custodian says, reaches the session.
func TestCustodianSaysWhetherItCanPass(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]session.WebhookError{
		http.StatusBadRequest:          {Permanent: true},
		http.StatusUnauthorized:        {Permanent: true},
		http.StatusForbidden:           {Permanent: true},
		http.StatusNotFound:            {Permanent: true},
		http.StatusFound:               {Permanent: true},
		http.StatusRequestTimeout:      {RetryAfter: time.Hour},
		http.StatusTooEarly:            {RetryAfter: time.Hour},
		http.StatusTooManyRequests:     {RetryAfter: time.Hour},
		http.StatusInternalServerError: {RetryAfter: time.Hour},
		http.StatusServiceUnavailable:  {RetryAfter: time.Hour},
	} {
		w := newWorld(t)
		c := w.custodianAt(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Retry-After", "3600")
			rw.WriteHeader(code)
		}), nil)
		d := w.elsewhere(t, uuid.NewString(), tss.Ed25519)
		_, stored := c.Deposit(t.Context(), "alice", &d.ShareSet, d.server)
		_, fetched := c.Fetch(t.Context(), "alice", d.StoredSet)
		for _, err := range []error{stored, fetched} {
			require.ErrorIs(t, err, session.ErrWebhookFailed)
			got := new(session.WebhookError)
			require.ErrorAs(t, err, &got)
			require.Equal(t, want.Permanent, got.Permanent, code)
			require.Equal(t, want.RetryAfter, got.RetryAfter, code)
			require.ErrorContains(t, err, fmt.Sprint("try 1: it answers ", code))
		}
	}
}

// 1,100 shares of one owner are more than 1 MiB, the limit of a response. The message names the set, so that the
// custodian can return only its share; a response with all of them is rejected with an error that says what to do.
func TestManySharesOfOneOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "custodian.db")
	s, err := custodian.Open(t.Context(), path)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	share := make([]byte, 1000)
	for range 1100 {
		_, _ = rand.Read(share) // never fails
		_, err := tx.ExecContext(t.Context(), "INSERT INTO shares (pair_id, client_id, method, share) VALUES (?, 'alice', 'PASSWORD', ?)", uuid.NewString(), share)
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
	require.NoError(t, db.Close())
	verifier, err := webhook.ParseSecret(secret.New([]byte(signingSecret)))
	require.NoError(t, err)
	inner := custodian.New(s, custodian.Config{Verifiers: []*webhook.Signer{verifier}}, slog.New(slog.DiscardHandler))
	bodies := make(chan string, 8)
	c := w.custodianAt(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(b))
		if r.URL.Path == "/backup/fetch" {
			bodies <- string(b)
		}
		inner.ServeHTTP(rw, r)
	}), nil)
	d := w.elsewhere(t, uuid.NewString(), tss.Curves()...)
	_, err = c.Deposit(t.Context(), "alice", &d.ShareSet, d.server)
	require.NoError(t, err)
	fetched, err := c.Fetch(t.Context(), "alice", d.StoredSet)
	require.NoError(t, err)
	requireSame(t, d.server, fetched)
	for range 2 {
		require.JSONEq(t, `{"clientId":"alice","backupSharePairId":"`+d.ID+`"}`, <-bodies)
	}

	all := w.custodianAt(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, `{"backupShares": ["`+strings.Repeat("A", 2<<20)+`"]}`)
	}), nil)
	_, err = all.Fetch(t.Context(), "alice", d.StoredSet)
	require.ErrorContains(t, err, "its answer has more than 1048576 bytes: let it answer the one share that backupSharePairId names")
}

// Before a share is sent it is on the list of what the custodian is to delete, and only the set's commit removes it:
// due immediately if the deposit fails, and after the run's end otherwise.
func TestDepositsArePlannedToBeDeleted(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		answer   http.HandlerFunc
		dueAfter time.Duration // 0: at once
	}{
		"hidden":  {func(http.ResponseWriter, *http.Request) {}, 0},
		"refused": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, 15 * time.Second},
		"kept":    {nil, 12 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var h http.Handler = x.answer
			if x.answer == nil {
				h = reference(t, nil)
			}
			c := w.custodianWith(t, h, func(cfg *custody.WebhookConfig) { cfg.Deletions, cfg.ReadBack = w.store, time.Millisecond })
			d := w.elsewhere(t, uuid.NewString(), tss.Ed25519)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			_, err := c.Deposit(ctx, "alice", &d.ShareSet, d.server)
			require.Equal(t, x.answer == nil, err == nil)
			if x.answer == nil {
				early, err := w.store.DueDeletions(t.Context(), time.Now().Add(9*time.Minute), 1)
				require.NoError(t, err)
				require.Empty(t, early, "while the run may still commit it")
			}
			due, err := w.store.DueDeletions(t.Context(), time.Now().Add(x.dueAfter), 2)
			require.NoError(t, err)
			require.Len(t, due, 1)
			due[0].Due = time.Time{}
			require.Equal(t, session.Deletion{ShareSetID: d.ID, WalletID: d.WalletID, Owner: "alice"}, due[0])
		})
	}
}
