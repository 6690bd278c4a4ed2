package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"google.golang.org/protobuf/proto"

	"github.com/mpcd/mpcd/internal/session"
)

// RowStore keeps sealed rows.
type RowStore interface {
	MetaStore
	// SealedRows returns up to limit rows of a kind (see session.SealedKinds) in order, starting after the given row
	// (0: from the first); an empty list if there are none.
	SealedRows(ctx context.Context, kind string, after int64, limit int) ([]session.SealedRow, error)
	// Reseal durably replaces rows[i].Ciphertext by to[i], and returns how many it replaced. A row that changed
	// meanwhile is left alone; the replaced bytes are no longer in the store.
	Reseal(ctx context.Context, kind string, rows []session.SealedRow, to [][]byte) (int, error)
	// Record writes an audit entry.
	Record(ctx context.Context, e session.Entry) error
}

const (
	// batch is how many rows are read, and at most resealed, in one transaction.
	batch = 100
	// batchPause is the pause after each batch, which leaves the store to runs. A batch takes a few milliseconds, so a
	// million rows take ten minutes.
	batchPause = 50 * time.Millisecond
	// retryPause is the pause after an error of the store.
	retryPause = time.Minute
)

// Resealer reseals everything in a store under the primary key. It can be stopped at any time: what is left is found
// by its ciphertext, which names its key.
type Resealer struct {
	sealer *Sealer
	rows   RowStore
	log    *slog.Logger
	left   atomic.Int64
}

// NewResealer returns a Resealer. It works while Run runs.
func NewResealer(s *Sealer, rows RowStore, log *slog.Logger) *Resealer {
	return &Resealer{sealer: s, rows: rows, log: log}
}

// Left returns how many rows are known to be under an older key. It is 0 until Run has counted them.
func (r *Resealer) Left() int64 { return r.left.Load() }

// Run reseals until nothing is left or ctx is done. With a keyset of one key there is nothing to do. Errors of the
// store are logged and retried. Rows that do not decrypt are logged and skipped: as long as they exist, their key
// cannot be disabled.
func (r *Resealer) Run(ctx context.Context) {
	if len(r.sealer.keys.Keys()) == 1 {
		return
	}
	tick := time.NewTicker(retryPause)
	defer tick.Stop()
	for {
		done, err := r.all(ctx)
		switch {
		case done || ctx.Err() != nil:
			return
		case err != nil:
			r.log.Error("rows could not be resealed; will retry", "left", r.Left(), "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// all counts what is left, and reseals all kinds. It returns done if nothing is left that decrypts.
func (r *Resealer) all(ctx context.Context) (done bool, err error) {
	primary := r.sealer.keys.primary()
	count, err := Census(ctx, r.rows)
	if err != nil {
		return false, err
	}
	left := count.Total() - count.Of(primary)
	r.left.Store(int64(left))
	if left == 0 {
		r.log.Info("all rows are sealed under the primary key; older keys can be disabled", "key", primary.String(), "rows", count.Total())
		return true, nil
	}
	r.log.Info("re-sealing", "key", primary.String(), "left", left, "rows", count.Total())
	if err := r.record(ctx, "keyset.reseal.begin", left); err != nil {
		return false, err
	}
	var resealed, shut int
	for _, kind := range session.SealedKinds() {
		n, bad, err := r.kind(ctx, kind)
		resealed += n
		shut += bad
		if err != nil {
			return false, err
		}
	}
	r.log.Info("re-sealed", "key", primary.String(), "rows", resealed, "left", r.Left())
	if shut > 0 {
		r.log.Error("some rows do not open: their wallets' share sets are damaged, and their keys are still needed", "rows", shut)
	}
	// Rows that changed concurrently, or were sealed by another process with an older keyset, are found in the next
	// round.
	return int(r.Left()) <= shut, r.record(ctx, "keyset.reseal.end", resealed)
}

func (r *Resealer) record(ctx context.Context, action string, rows int) error {
	return r.rows.Record(ctx, session.Entry{
		Time: time.Now(), Action: action, Outcome: "ok", Detail: fmt.Sprintf("key %v, %d rows", r.sealer.keys.primary(), rows),
	})
}

// kind reseals the rows of one kind. It returns how many it resealed, and how many do not decrypt.
func (r *Resealer) kind(ctx context.Context, kind string) (resealed, shut int, err error) {
	primary := r.sealer.keys.primary()
	for after := int64(0); ; {
		page, err := r.rows.SealedRows(ctx, kind, after, batch)
		if err != nil || len(page) == 0 {
			return resealed, shut, err
		}
		after = page[len(page)-1].Row
		var old []session.SealedRow
		var to [][]byte
		for _, row := range page {
			if id, ok := keyOf(&row); ok && id == primary {
				continue
			}
			c, err := r.reseal(&row)
			if err != nil {
				shut++
				r.log.Error("a row cannot be resealed", "row", row.Row, "error", err)
				continue
			}
			old, to = append(old, row), append(to, c)
		}
		if len(old) > 0 {
			n, err := r.rows.Reseal(ctx, kind, old, to)
			if err != nil {
				return resealed, shut, err
			}
			resealed += n
			r.left.Add(-int64(n))
		}
		select {
		case <-time.After(batchPause):
		case <-ctx.Done():
			return resealed, shut, ctx.Err()
		}
	}
}

// reseal decrypts a row and seals it under the primary key.
func (r *Resealer) reseal(row *session.SealedRow) ([]byte, error) {
	if row.Label.Kind == session.KindMAC {
		return r.resealMAC(row)
	}
	plain, err := r.sealer.Open(row.Ciphertext, row.Label)
	if err != nil {
		return nil, err
	}
	defer plain.Wipe()
	return r.sealer.Seal(plain, row.Label)
}

func (r *Resealer) resealMAC(row *session.SealedRow) ([]byte, error) {
	bound := associated(row.Label)
	h, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(row.Ciphertext)), r.sealer.aead, bound)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name(row.Label), session.ErrDataCorrupted)
	}
	var b bytes.Buffer
	if err := h.WriteWithAssociatedData(keyset.NewBinaryWriter(&b), r.sealer.aead, bound); err != nil {
		return nil, fmt.Errorf("seal %s: %w", name(row.Label), err)
	}
	return b.Bytes(), nil
}

// keyOf returns the key id in a row's ciphertext.
func keyOf(row *session.SealedRow) (KeyID, bool) {
	if row.Label.Kind == session.KindMAC {
		return macSealedUnder(row.Ciphertext)
	}
	return sealedUnder(row.Ciphertext)
}

// macSealedUnder is sealedUnder for the MAC keyset, which is in Tink's own envelope.
func macSealedUnder(sealed []byte) (KeyID, bool) {
	var e tinkpb.EncryptedKeyset
	if err := proto.Unmarshal(sealed, &e); err != nil {
		return 0, false
	}
	return sealedUnder(e.GetEncryptedKeyset())
}

// Count has the number of rows sealed under each key, by kind.
type Count map[KeyID]map[string]int

// Of returns how many rows a key sealed.
func (c Count) Of(id KeyID) (n int) {
	for _, rows := range c[id] {
		n += rows
	}
	return n
}

// Total returns how many sealed rows there are.
func (c Count) Total() (n int) {
	for id := range c {
		n += c.Of(id)
	}
	return n
}

// Census counts the sealed rows of a store, in small steps. Rows without a key id count for key 0, which no keyset
// has.
func Census(ctx context.Context, rows RowStore) (Count, error) {
	count := Count{}
	for _, kind := range session.SealedKinds() {
		for after := int64(0); ; {
			page, err := rows.SealedRows(ctx, kind, after, batch)
			if err != nil {
				return nil, err
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].Row
			for _, row := range page {
				id, _ := keyOf(&row)
				if count[id] == nil {
					count[id] = map[string]int{}
				}
				count[id][kind]++
			}
		}
	}
	return count, nil
}

// CensusOf is Census for a store that must belong to the keyset: a count for another database, or one that was never
// used, would be misleading.
func CensusOf(ctx context.Context, keys *Keyset, rows RowStore) (Count, error) {
	sealed, err := rows.Meta(ctx, macMeta)
	if err != nil {
		return nil, err
	}
	if sealed == nil {
		return nil, errors.New("no service has used the database yet: name the one that the keyset seals")
	}
	if _, err := New(ctx, keys, rows); err != nil {
		return nil, err
	}
	return Census(ctx, rows)
}

// Unneeded returns an error if rows still need a key, with how many of which kind.
func (c Count) Unneeded(id KeyID) error {
	if c.Of(id) == 0 {
		return nil
	}
	var what string
	for _, kind := range session.SealedKinds() {
		if n := c[id][kind]; n > 0 {
			what += fmt.Sprintf(", %d of kind %q", n, kind)
		}
	}
	return fmt.Errorf("%d rows are still sealed under key %v%s: "+
		"restart the service, which reseals them, and wait until `mpcd keyset status` shows none", c.Of(id), id, what)
}

// Unknown returns the keys that sealed rows but are not in the keyset.
func (c Count) Unknown(keys *Keyset) []KeyID {
	var ids []KeyID
	for id := range c {
		if _, ok := keys.key(id); !ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
