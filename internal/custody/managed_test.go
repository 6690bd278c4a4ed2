package custody_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/custody"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// deposited is a share set as a run makes it: real keys, deposited, and in the form that the store returns.
type deposited struct {
	*session.StoredSet
	client, server *tss.Share
}

type world struct {
	store   *store.Store
	sealer  *seal.Sealer
	managed *custody.Managed
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "mpcd.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	keys, err := seal.Ephemeral()
	require.NoError(t, err)
	sealer, err := seal.New(t.Context(), keys, s)
	require.NoError(t, err)
	return &world{s, sealer, custody.NewManaged(sealer)}
}

// made has one key pair per curve, for all tests: those of a committed test vector. That all sets have the same key
// makes it harder to tell them apart.
var made = sync.OnceValues(func() (map[tss.Curve]*[2]tss.NewKey, error) {
	b, err := os.ReadFile("../tss/testdata/share_v1.json")
	if err != nil {
		return nil, err
	}
	var v struct {
		Sets []struct {
			Record string
			Shares [2]string // by Party
		}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	encoded, err := hex.DecodeString(v.Sets[0].Record)
	if err != nil {
		return nil, err
	}
	rec, err := tss.ParseRecord(encoded)
	if err != nil {
		return nil, err
	}
	all := map[tss.Curve]*[2]tss.NewKey{}
	for _, key := range rec.Keys {
		all[key.Curve] = new([2]tss.NewKey)
	}
	for p, text := range v.Sets[0].Shares {
		if encoded, err = hex.DecodeString(text); err != nil {
			return nil, err
		}
		share, err := tss.ParseShare(encoded)
		if err != nil {
			return nil, err
		}
		for i, key := range rec.Keys {
			all[key.Curve][p] = tss.NewKey{Record: key, Share: share.Keys[i]}
		}
	}
	return all, nil
})

func (w *world) deposit(t *testing.T, walletID string, purpose tss.Purpose, curves ...tss.Curve) *deposited {
	t.Helper()
	id := tss.SetID{WalletID: walletID, ShareSetID: uuid.NewString(), Purpose: purpose}
	rec := tss.Record{SetID: id}
	both := [2]*tss.Share{{SetID: id, Party: tss.Client}, {SetID: id, Party: tss.Server}}
	all, err := made()
	require.NoError(t, err)
	for _, c := range curves {
		keys := all[c]
		rec.Keys = append(rec.Keys, keys[tss.Client].Record)
		for p := range both {
			both[p].Keys = append(both[p].Keys, keys[p].Share)
		}
	}
	encoded, err := rec.Encode()
	require.NoError(t, err)
	for p := range both {
		both[p].RecordHash = tss.Hash(encoded)
	}
	set := &session.StoredSet{Record: encoded, ShareSet: session.ShareSet{
		ID: id.ShareSetID, WalletID: id.WalletID, Purpose: purpose, State: session.SetPending, CreateTime: time.Now(),
	}}
	if purpose == tss.Backup {
		set.Method = session.Password
	}
	set.ServerShare, err = w.managed.Deposit(t.Context(), "owner", &set.ShareSet, both[tss.Server])
	require.NoError(t, err)
	return &deposited{set, both[tss.Client], both[tss.Server]}
}

func requireSame(t *testing.T, want, got *tss.Share) {
	t.Helper()
	a, err := want.Encode()
	require.NoError(t, err)
	b, err := got.Encode()
	require.NoError(t, err)
	require.True(t, a.Equal(b))
}

func (w *world) requireCorrupted(t *testing.T, set *session.StoredSet) {
	t.Helper()
	share, err := w.managed.Fetch(t.Context(), "owner", set)
	require.ErrorIs(t, err, session.ErrDataCorrupted)
	require.ErrorContains(t, err, set.ID)
	// The error must not blame the caller's share.
	require.NotErrorIs(t, err, tss.ErrShareMalformed)
	require.NotErrorIs(t, err, tss.ErrShareMismatch)
	require.Equal(t, session.ErrDataCorrupted.Reason, session.Reason(err))
	require.Nil(t, share)
}

// A server share survives a deposit and a fetch; the deposit does not alter it.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, curves := range [][]tss.Curve{{tss.Ed25519}, {tss.Secp256k1}, {tss.Secp256k1, tss.Ed25519}} {
		for _, purpose := range []tss.Purpose{tss.Signing, tss.Backup} {
			if purpose == tss.Backup && curves[0] != tss.Ed25519 {
				continue // nothing about the other curve depends on the purpose
			}
			d := w.deposit(t, uuid.NewString(), purpose, curves...)
			s := &session.Session{ID: uuid.NewString(), Caller: "c", RequestID: uuid.NewString(), Fingerprint: []byte("f"), WalletID: d.WalletID,
				Operation: session.OpCreate, State: session.Running, CreateTime: time.Now()}
			_, _, err := w.store.Begin(t.Context(), s, session.Entry{Action: "test", Outcome: "ok"})
			require.NoError(t, err)
			s.State, s.ShareSetID, d.SessionID = session.Succeeded, d.ID, s.ID
			require.NoError(t, w.store.Commit(t.Context(), s, session.Made{Set: d.StoredSet, Wallet: &session.Wallet{ID: d.WalletID, Owner: "owner", CreateTime: time.Now()}}, session.Entry{Action: "test", Outcome: "ok"}))
			set, err := w.store.Set(t.Context(), d.WalletID, d.ID)
			require.NoError(t, err)
			require.Len(t, set.ServerShare, len(curves))

			share, err := w.managed.Fetch(t.Context(), "owner", set)
			require.NoError(t, err)
			requireSame(t, d.server, share)

			// The result is a copy: wiping it affects neither the deposited share nor the next fetch.
			share.Wipe()
			share, err = w.managed.Fetch(t.Context(), "owner", set)
			require.NoError(t, err)
			requireSame(t, d.server, share)
		}
	}
}

// The fetched server share can sign together with the client share.
func TestSigns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deposit(t, uuid.NewString(), tss.Signing, tss.Ed25519)
	share, err := w.managed.Fetch(t.Context(), "owner", d.StoredSet)
	require.NoError(t, err)
	rec, err := tss.ParseRecord(d.Record)
	require.NoError(t, err)
	shares := [2]*tss.KeyShare{&d.client.Keys[0], &share.Keys[0]}
	sig, err := tsstest.Sign(t.Context(), &rec.Keys[0], shares, []byte("payload"), tss.Observer{})
	require.NoError(t, err)
	require.NoError(t, tss.Verify(tss.Ed25519, rec.Keys[0].PublicKey, []byte("payload"), sig))
}

// No ciphertext contains a secret in the clear.
func TestSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deposit(t, uuid.NewString(), tss.Signing, tss.Ed25519)
	encoded, err := d.server.Encode()
	require.NoError(t, err)
	b := encoded.Reveal()
	for i := 0; i+16 <= len(b); i += 8 {
		require.NotContains(t, string(d.ServerShare[0].Ciphertext), string(b[i:i+16]))
	}
}

// spy records the plaintexts that pass through a sealer.
type spy struct {
	session.Sealer
	seen []secret.Bytes
}

func (s *spy) Seal(plaintext secret.Bytes, label session.Label) ([]byte, error) {
	s.seen = append(s.seen, plaintext)
	return s.Sealer.Seal(plaintext, label)
}

func (s *spy) Open(ciphertext []byte, label session.Label) (secret.Bytes, error) {
	plaintext, err := s.Sealer.Open(ciphertext, label)
	s.seen = append(s.seen, plaintext)
	return plaintext, err
}

// Every curve is sealed under its own label, and no encoded share is left in memory.
func TestLabelsAndWiping(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := &spy{Sealer: w.sealer}
	w.managed = custody.NewManaged(s)
	d := w.deposit(t, uuid.NewString(), tss.Signing, tss.Secp256k1, tss.Ed25519)
	_, err := w.managed.Fetch(t.Context(), "owner", d.StoredSet)
	require.NoError(t, err)
	bad := *d.StoredSet
	bad.Record = w.deposit(t, d.WalletID, tss.Signing, tss.Ed25519).Record
	w.requireCorrupted(t, &bad)
	require.Len(t, s.seen, 5)
	for _, b := range s.seen {
		require.NotZero(t, b.Len())
		require.True(t, b.Equal(secret.New(make([]byte, b.Len()))))
	}
	for _, h := range d.ServerShare {
		label := session.Label{Kind: "server share", WalletID: d.WalletID, ShareSetID: d.ID, Curve: h.Curve, Party: tss.Server}
		_, err := w.sealer.Open(h.Ciphertext, label)
		require.NoError(t, err)
	}
}

// A sample, since each fetch computes on the curve; package seal's tests flip every byte.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deposit(t, uuid.NewString(), tss.Signing, tss.Ed25519)
	for _, b := range [][]byte{d.ServerShare[0].Ciphertext, d.Record} {
		for i := 0; i < len(b); i += len(b) / 16 {
			b[i] ^= 0x40
			w.requireCorrupted(t, d.StoredSet)
			b[i] ^= 0x40
		}
	}
	_, err := w.managed.Fetch(t.Context(), "owner", d.StoredSet)
	require.NoError(t, err)
}

// No row can replace another.
func TestSwappedRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wallet := uuid.NewString()
	d := w.deposit(t, wallet, tss.Signing, tss.Secp256k1, tss.Ed25519)
	sameWallet := w.deposit(t, wallet, tss.Signing, tss.Secp256k1, tss.Ed25519)
	otherWallet := w.deposit(t, uuid.NewString(), tss.Signing, tss.Secp256k1, tss.Ed25519)
	otherPurpose := w.deposit(t, wallet, tss.Backup, tss.Ed25519)
	for name, spoil := range map[string]func(s *session.StoredSet){
		"other set's share":      func(s *session.StoredSet) { s.ServerShare = sameWallet.ServerShare },
		"other set's ciphertext": func(s *session.StoredSet) { s.ServerShare[1] = sameWallet.ServerShare[1] },
		"other wallet's share":   func(s *session.StoredSet) { s.ServerShare = otherWallet.ServerShare },
		"other wallet's row":     func(s *session.StoredSet) { s.ServerShare, s.Record = otherWallet.ServerShare, otherWallet.Record },
		"other set's row":        func(s *session.StoredSet) { s.ServerShare, s.Record = sameWallet.ServerShare, sameWallet.Record },
		"other set's record":     func(s *session.StoredSet) { s.Record = sameWallet.Record },
		"other purpose's row":    func(s *session.StoredSet) { s.ServerShare, s.Record = otherPurpose.ServerShare, otherPurpose.Record },
		"other purpose":          func(s *session.StoredSet) { s.Purpose = tss.Backup },
		"other set's id":         func(s *session.StoredSet) { s.ID = sameWallet.ID },
		"other wallet's id":      func(s *session.StoredSet) { s.WalletID = otherWallet.WalletID },
		"curves' ciphertexts": func(s *session.StoredSet) {
			s.ServerShare[0].Ciphertext, s.ServerShare[1].Ciphertext = s.ServerShare[1].Ciphertext, s.ServerShare[0].Ciphertext
		},
		"curves' names": func(s *session.StoredSet) {
			s.ServerShare[0].Curve, s.ServerShare[1].Curve = s.ServerShare[1].Curve, s.ServerShare[0].Curve
		},
		"curves' order":            func(s *session.StoredSet) { s.ServerShare[0], s.ServerShare[1] = s.ServerShare[1], s.ServerShare[0] },
		"one curve twice":          func(s *session.StoredSet) { s.ServerShare[0] = s.ServerShare[1] },
		"one curve too many":       func(s *session.StoredSet) { s.ServerShare = append(s.ServerShare, s.ServerShare[1]) },
		"the first curve missing":  func(s *session.StoredSet) { s.ServerShare = s.ServerShare[1:] },
		"the second curve missing": func(s *session.StoredSet) { s.ServerShare = s.ServerShare[:1] },
		"no share":                 func(s *session.StoredSet) { s.ServerShare = nil },
		"no ciphertext":            func(s *session.StoredSet) { s.ServerShare[1].Ciphertext = nil },
		"no record":                func(s *session.StoredSet) { s.Record = nil },
	} {
		t.Run(name, func(t *testing.T) {
			set := *d.StoredSet
			set.ServerShare = slices.Clone(set.ServerShare)
			spoil(&set)
			w.requireCorrupted(t, &set)
		})
	}
	share, err := w.managed.Fetch(t.Context(), "owner", d.StoredSet)
	require.NoError(t, err)
	requireSame(t, d.server, share)
}

// Even a value sealed under the right label must be the share that the record commits to.
func TestSealedForTheRightPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wallet := uuid.NewString()
	d := w.deposit(t, wallet, tss.Signing, tss.Secp256k1, tss.Ed25519)
	other := w.deposit(t, wallet, tss.Signing, tss.Ed25519)
	label := session.Label{Kind: "server share", WalletID: wallet, ShareSetID: d.ID, Curve: tss.Ed25519, Party: tss.Server}
	encode := func(s *tss.Share) []byte {
		b, err := s.Encode()
		require.NoError(t, err)
		return b.Reveal()
	}
	only := func(s *tss.Share, c tss.Curve) *tss.Share {
		one, err := s.Only(c)
		require.NoError(t, err)
		return one
	}
	fresh, err := tsstest.Keygen(t.Context(), tss.Ed25519, [2]*tss.PreParams{}, tss.Observer{})
	require.NoError(t, err)
	forged := *only(d.server, tss.Ed25519) // another key under this set's name
	forged.Keys = []tss.KeyShare{fresh[tss.Server].Share}
	for name, b := range map[string][]byte{
		"the client's share": encode(only(d.client, tss.Ed25519)),
		"both curves":        encode(d.server),
		"the other curve":    encode(only(d.server, tss.Secp256k1)),
		"another set's":      encode(only(other.server, tss.Ed25519)),
		"another key":        encode(&forged),
		"no share":           []byte("no share"),
		"nothing":            {},
	} {
		t.Run(name, func(t *testing.T) {
			set := *d.StoredSet
			set.ServerShare = slices.Clone(set.ServerShare)
			var err error
			set.ServerShare[1].Ciphertext, err = w.sealer.Seal(secret.New(b), label)
			require.NoError(t, err)
			w.requireCorrupted(t, &set)
		})
	}
}

func TestRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deposit(t, uuid.NewString(), tss.Signing, tss.Ed25519)
	d.State, d.ServerShare = session.SetRevoked, nil
	_, err := w.managed.Fetch(t.Context(), "owner", d.StoredSet)
	require.ErrorIs(t, err, session.ErrShareSetRevoked)
}

// Deposit rejects what Fetch would reject.
func TestDepositRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deposit(t, uuid.NewString(), tss.Signing, tss.Ed25519)
	for name, spoil := range map[string]func(set *session.ShareSet, share *tss.Share){
		"the client's": func(_ *session.ShareSet, share *tss.Share) { *share = *d.client },
		"other set":    func(set *session.ShareSet, _ *tss.Share) { set.ID = uuid.NewString() },
		"other wallet": func(set *session.ShareSet, _ *tss.Share) { set.WalletID = uuid.NewString() },
		"purpose":      func(set *session.ShareSet, _ *tss.Share) { set.Purpose = tss.Backup },
		"no keys":      func(_ *session.ShareSet, share *tss.Share) { share.Keys = nil },
	} {
		t.Run(name, func(t *testing.T) {
			set, share := d.ShareSet, *d.server
			spoil(&set, &share)
			row, err := w.managed.Deposit(t.Context(), "owner", &set, &share)
			require.Error(t, err)
			require.Nil(t, row)
		})
	}
}
