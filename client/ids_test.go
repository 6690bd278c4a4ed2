package client_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// notIDs returns forms of a UUID that other programs accept, and typical paste errors.
func notIDs(id string) map[string]string {
	return map[string]string{
		"empty": "", "braces": "{" + id + "}", "urn": "urn:uuid:" + id, "no dashes": strings.ReplaceAll(id, "-", ""),
		"a space before": " " + id, "a space after": id + " ", "a line": id + "\n", "cut": id[:35], "nonsense": "my phone, the red one", "36 of it": strings.Repeat("x", 36),
		"other dashes": strings.ReplaceAll(id, "-", "\u2010"), "full width": strings.Replace(id, id[:1], "\uff11", 1), "huge": strings.Repeat(id, 1<<15),
	}
}

// Ids are converted to lower case, and anything but a UUID is rejected before a call.
func TestIDsAreParsedBeforeACall(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, backup := backedUp(t, c)
	wallet, set := share.WalletID(), share.ShareSetID()
	key := client.PublicKey{Curve: client.CurveEd25519, Bytes: f.wallets[wallet].GetPublicKeys()[0].GetPublicKey()}
	calls := map[string]func(id string) error{
		"ParseID":   func(id string) error { _, err := client.ParseID(id); return err },
		"PinKeys":   func(id string) error { return c.PinKeys(id, key) },
		"GetWallet": func(id string) error { _, err := c.GetWallet(t.Context(), id); return err },
		"Revoke":    func(id string) error { _, err := c.Revoke(t.Context(), id, set); return err },
		"Release":   func(id string) error { _, err := c.Release(t.Context(), id, set); return err },
		"Revoke of": func(id string) error { _, err := c.Revoke(t.Context(), wallet, id); return err },
		"Release of": func(id string) error {
			_, err := c.Release(t.Context(), wallet, id)
			return err
		},
		"RecoverWallet": func(id string) error {
			_, err := c.RecoverWallet(t.Context(), backup.CipherText, client.MethodPassword, []string{set, id}, nil)
			return err
		},
	}
	f.calls = nil
	for name, call := range calls {
		for what, id := range notIDs(set) {
			err := call(id)
			require.ErrorIs(t, err, client.ErrNotAnID, "%s of %s", name, what)
			require.Less(t, len(err.Error()), 200)
			if len(id) > 9 {
				require.NotContains(t, err.Error(), strings.TrimSpace(id), "it may be a secret that was passed by mistake")
			}
		}
	}
	require.Empty(t, f.seen())

	upper := strings.ToUpper(wallet)
	w, err := c.GetWallet(t.Context(), upper)
	require.NoError(t, err)
	require.Equal(t, wallet, w.ID)
	require.Equal(t, set, w.ShareSet(strings.ToUpper(set)).ID)
	require.Nil(t, w.ShareSet("{"+set+"}"))
	_, err = c.Release(t.Context(), upper, strings.ToUpper(set))
	require.NoError(t, err)
	_, err = c.RecoverWallet(t.Context(), backup.CipherText, client.MethodPassword, []string{set, strings.ToUpper(set)}, nil)
	require.NoError(t, err)
	require.Len(t, f.revoked, 1, "the same set twice is one set")
	w, err = c.Revoke(t.Context(), upper, strings.ToUpper(backup.ShareSetID))
	require.NoError(t, err)
	require.Equal(t, client.StateRevoked, w.ShareSet(backup.ShareSetID).State)
	require.Equal(t, backup.ShareSetID, f.revoked[1].GetShareSetId())
	require.Equal(t, wallet, f.revoked[1].GetWalletId())
}

// Keys can be pinned under an id in upper case. If one key is invalid, none of them is pinned.
func TestPinnedKeysApply(t *testing.T) {
	f, conn := newFake(t)
	share, err := newClient(t, f, conn).CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	right := client.PublicKey{Curve: client.CurveEd25519, Bytes: f.wallets[share.WalletID()].GetPublicKeys()[0].GetPublicKey()}
	wrong := client.PublicKey{Curve: client.CurveEd25519, Bytes: append([]byte{right.Bytes[0] ^ 1}, right.Bytes[1:]...)}
	c := newClient(t, f, conn)
	require.NoError(t, c.PinKeys(strings.ToUpper(share.WalletID()), wrong))
	_, err = c.Sign(t.Context(), share, client.CurveEd25519, nil)
	require.ErrorIs(t, err, client.ErrBadAnswer)

	c = newClient(t, f, conn)
	for _, bad := range [][]client.PublicKey{
		{wrong, {Curve: "P256", Bytes: right.Bytes}}, {wrong, {Curve: "", Bytes: right.Bytes}}, {wrong, {Curve: "ed25519", Bytes: right.Bytes}},
		{wrong, {Curve: client.CurveSecp256k1, Bytes: right.Bytes}}, {wrong, {Curve: client.CurveSecp256k1, Bytes: make([]byte, 33)}},
		{wrong, {Curve: client.CurveSecp256k1}}, {wrong, right}, {{Curve: client.CurveEd25519, Bytes: right.Bytes[:31]}},
	} {
		require.Error(t, c.PinKeys(share.WalletID(), bad...))
	}
	require.NoError(t, c.PinKeys(share.WalletID(), right, right), "none of those was pinned")
	_, err = c.Sign(t.Context(), share, client.CurveEd25519, nil)
	require.NoError(t, err)
}

// An unknown curve is ignored, a key of the wrong length is rejected, and an endless list is detected.
func TestOddAnswersAboutWallets(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, err := c.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	f.lieWallet = func(w *mpcdv1.Wallet) {
		w.PublicKeys = append(w.PublicKeys, &mpcdv1.PublicKey{Curve: 99, PublicKey: []byte("later")})
	}
	w, err := c.GetWallet(t.Context(), share.WalletID())
	require.NoError(t, err)
	require.Equal(t, client.Curve("99"), w.PublicKeys[1].Curve)
	f.lieWallet = func(w *mpcdv1.Wallet) {
		w.PublicKeys = []*mpcdv1.PublicKey{{Curve: mpcdv1.Curve_CURVE_SECP256K1, PublicKey: make([]byte, 32)}}
	}
	_, err = c.GetWallet(t.Context(), share.WalletID())
	require.ErrorIs(t, err, client.ErrBadAnswer)

	f.lieWallet = func(w *mpcdv1.Wallet) { w.WalletId = strings.ToUpper(w.GetWalletId()) }
	_, err = c.GetWallet(t.Context(), share.WalletID())
	require.ErrorIs(t, err, client.ErrBadAnswer)
	for _, err := range c.ListWallets(t.Context()) {
		require.ErrorIs(t, err, client.ErrBadAnswer, "an id that is not canonical")
	}
	f.lieWallet = nil
	f.lieToken = uuid.NewString()
	pages := 0
	for _, err = range c.ListWallets(t.Context()) {
		pages++
	}
	require.ErrorIs(t, err, client.ErrBadAnswer)
	require.Less(t, pages, 5)
}
