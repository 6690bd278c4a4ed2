package e2e_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/mpcd/mpcd/client"
	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// phone is a device with the SDK.
type phone struct {
	*client.Client
	stored [][]byte
}

func newPhone(t testing.TB, s *servertest.Service, name string, cloud *keychain, curves ...client.Curve) *phone {
	t.Helper()
	p := &phone{}
	c, err := client.New(s.Conn, client.WithDisplayName(name), client.WithCurves(curves...), client.WithCloudKey(client.MethodICloud, cloud),
		client.WithStore(func(_ context.Context, share *client.Share) error {
			p.stored = append(p.stored, share.Bytes())
			return nil
		}))
	require.NoError(t, err)
	p.Client = c
	return p
}

// keychain is a user's cloud storage.
type keychain struct {
	mu   sync.Mutex // guards keys
	keys map[string]string
}

func (k *keychain) PutKey(_ context.Context, set, key string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = map[string]string{}
	}
	k.keys[set] = key
	return nil
}

func (k *keychain) GetKey(_ context.Context, set string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[set], nil
}

// steps collects an operation's progress as an app sees it.
type steps []client.Progress

func (s *steps) add(p client.Progress) { *s = append(*s, p) }

func (s steps) check(t testing.TB, want ...string) {
	t.Helper()
	var words []string
	var last client.Progress
	for i, p := range s {
		require.GreaterOrEqual(t, p.Percent, last.Percent)
		require.Equal(t, i == len(s)-1, p.Done)
		if p.Status != last.Status {
			words = append(words, p.Status)
		}
		last = p
	}
	require.Equal(t, want, words)
}

// The main use case: a wallet, its backup under a password, a second device from it, and signatures by both devices,
// verified independently. TestLongWholeLifeWithTheSDK covers both curves.
func TestWholeLifeWithTheSDK(t *testing.T) {
	t.Parallel()
	wholeLife(t, client.CurveEd25519)
}

func wholeLife(t *testing.T, curves ...client.Curve) {
	t.Helper()
	s := servertest.Start(t, servertest.Config{})
	cloud := &keychain{}
	first, second := newPhone(t, s, "first", cloud, curves...), newPhone(t, s, "second", cloud, curves...)

	var creating steps
	share, err := first.CreateWallet(t.Context(), creating.add)
	require.NoError(t, err)
	creating.check(t, "Generating share", "Storing share", "Done")
	require.Len(t, first.stored, 1)

	require.NoError(t, first.SetPassword("correct horse battery staple"))
	var backing steps
	backup, err := first.BackupWallet(t.Context(), share, client.MethodPassword, backing.add)
	require.NoError(t, err)
	require.NoError(t, first.ConfirmBackup(t.Context(), backup, backup.CipherText))
	backing.check(t, "Reading share", "Parsing share", "Generating share", "Encrypting share", "Storing share", "Done")

	require.NoError(t, second.SetPassword("correct horse battery staple"))
	var provisioning steps
	other, err := second.ProvisionWallet(t.Context(), backup.CipherText, client.MethodPassword, provisioning.add)
	require.NoError(t, err)
	require.Len(t, second.stored, 1)
	words := []string{"Reading share", "Decrypting share", "Reading share", "Parsing share", "Generating share", "Storing share", "Done"}
	provisioning.check(t, words...)
	require.Equal(t, curves, slices.Compact(slices.DeleteFunc(curvesOf(provisioning), func(c client.Curve) bool { return c == "" })))

	w, err := second.GetWallet(t.Context(), share.WalletID())
	require.NoError(t, err)
	require.Len(t, w.ShareSets, 3)
	require.Len(t, w.PublicKeys, len(curves))
	require.NotEqual(t, share.ShareSetID(), other.ShareSetID())
	for _, device := range []struct {
		*phone
		share *client.Share
	}{{first, share}, {second, other}} {
		for _, k := range w.PublicKeys {
			payload, curve := []byte("a message"), pb.Curve_CURVE_ED25519
			if k.Curve == client.CurveSecp256k1 {
				payload, curve = digest("a message"), pb.Curve_CURVE_SECP256K1
			}
			sig, err := device.Sign(t.Context(), device.share, k.Curve, payload)
			require.NoError(t, err)
			require.Equal(t, device.share.ShareSetID(), sig.ShareSetID)
			verified(t, &pb.PublicKey{Curve: curve, PublicKey: k.Bytes}, payload, sig.Bytes, sig.RecoveryID)
		}
	}
	// No share was in the service's log or files in the clear.
	s.Stop()
	leaksNothing(t, s.Parts, first.stored[0], second.stored[0])
}

func curvesOf(all steps) (curves []client.Curve) {
	for _, p := range all {
		curves = append(curves, client.Curve(p.Curve))
	}
	return curves
}

// The service's errors reach an app with their reasons.
func TestSDKReturnsErrorReasons(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Auth: servertest.Always("alice")})
	p := newPhone(t, f.Service, "phone", &keychain{})
	pending, err := client.ParseShare(f.pending.share)
	require.NoError(t, err)
	_, err = p.Sign(t.Context(), pending, client.CurveEd25519, []byte("hello"))
	require.Equal(t, "SHARE_SET_PENDING", client.Reason(err))
	altered, err := client.ParseShare(f.first.flipped(1, 1).share)
	require.NoError(t, err)
	_, err = p.BackupWallet(t.Context(), altered, client.MethodICloud, nil)
	require.Equal(t, "SHARE_MALFORMED", client.Reason(err))
	_, err = p.Revoke(t.Context(), f.unbacked.wallet, f.unbacked.set)
	require.Equal(t, "LAST_SHARE_SET", client.Reason(err))
	var e *client.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, codes.FailedPrecondition, e.Code)
}
