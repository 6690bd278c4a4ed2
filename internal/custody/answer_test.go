package custody

import (
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// From any response of a custodian, only a share of the requested set is picked.
func FuzzAnswer(f *testing.F) {
	id := tss.SetID{WalletID: "5a1b2c3d-0000-4000-8000-000000000001", ShareSetID: "5a1b2c3d-0000-4000-8000-000000000002", Purpose: tss.Backup}
	keys, err := tsstest.Keygen(f.Context(), tss.Ed25519, [2]*tss.PreParams{}, tss.Observer{})
	require.NoError(f, err)
	for _, party := range []tss.Party{tss.Client, tss.Server} {
		share := &tss.Share{SetID: id, Party: party, Keys: []tss.KeyShare{keys[party].Share}}
		b, err := share.Encode()
		require.NoError(f, err)
		answer, err := json.Marshal(map[string]any{"backupShares": [][]byte{b.Reveal()}})
		require.NoError(f, err)
		_, err = pick(answer, id)
		require.Equal(f, party == tss.Server, err == nil)
		f.Add(answer)
	}
	for _, seed := range []string{``, `{}`, `{"backupShares":["AAAA"]}`, `{"backupShares":[null,1,{}]}`, `{"backupShares":null}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		b, err := pick(answer, id)
		if err != nil {
			require.ErrorIs(t, err, errNotThere)
			require.Zero(t, b.Len())
			return
		}
		share, err := tss.ParseShare(b.Reveal())
		require.NoError(t, err)
		require.Equal(t, id, share.SetID)
		require.Equal(t, tss.Server, share.Party)
	})
}

// Only the set's own share in a wrong encoding is a permanent error. Other entries may belong to other sets, and do
// not show whether a share is still to appear.
func TestForeignEntriesAreNotPermanentErrors(t *testing.T) {
	t.Parallel()
	id := tss.SetID{WalletID: "5a1b2c3d-0000-4000-8000-000000000001", ShareSetID: "5a1b2c3d-0000-4000-8000-000000000002", Purpose: tss.Backup}
	keys, err := tsstest.Keygen(t.Context(), tss.Ed25519, [2]*tss.PreParams{}, tss.Observer{})
	require.NoError(t, err)
	encoded, err := (&tss.Share{SetID: id, Party: tss.Server, Keys: []tss.KeyShare{keys[tss.Server].Share}}).Encode()
	require.NoError(t, err)
	once := base64.StdEncoding.EncodeToString(encoded.Reveal())
	twice := base64.StdEncoding.EncodeToString([]byte(once))
	const sealed = "age-encryption.org/v1\n-> X25519 a\n"
	for name, x := range map[string]struct {
		all       []any
		permanent bool
		says      string
	}{
		"of every type":             {[]any{"AAAA", 1, nil, map[string]any{}, []any{}}, false, "is a JSON object"},
		"no text":                   {[]any{1, nil, []any{}, true}, false, "it contains only shares of other sets"},
		"encrypted":                 {[]any{"AAAA", base64.StdEncoding.EncodeToString([]byte(sealed))}, false, "still encrypted (age)"},
		"encrypted, not base64":     {[]any{sealed}, false, "still encrypted (age)"},
		"an object with a share":    {[]any{map[string]any{"share": once}}, false, "is a JSON object"},
		"its own, twice":            {[]any{twice}, true, "encoded in base64 twice"},
		"its own after foreign":     {[]any{map[string]any{}, sealed, twice}, true, "encoded in base64 twice"},
		"its own in another base64": {[]any{sealed, base64.RawURLEncoding.EncodeToString(encoded.Reveal()) + " "}, true, "RFC 4648, section 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer, err := json.Marshal(map[string]any{"backupShares": x.all})
			require.NoError(t, err)
			_, err = pick(answer, id)
			failed := new(session.WebhookError)
			require.ErrorAs(t, err, &failed)
			require.Equal(t, x.permanent, failed.Permanent)
			require.ErrorContains(t, err, x.says)
		})
	}
}
