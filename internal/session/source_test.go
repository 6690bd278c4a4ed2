package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// A wallet that was never hosted cannot be used by hosted runs, and a device does not send its share.
func TestSourceOfADeviceHeldWallet(t *testing.T) {
	t.Parallel()
	set := newPair(t)
	wallet := set.wallet()
	st := &stub{
		onWallet: func() (*Wallet, error) { return wallet, nil },
		onSet:    func() (*StoredSet, error) { return set.set, nil },
	}
	s := st.runner(t, Config{})
	hosted, device := clientSide{share: set.encoded}, clientSide{device: &Device{ShareSetID: set.set.ID}}
	find := func(from clientSide) (*source, error) {
		_, src, err := s.findSource(t.Context(), Caller{Name: "alice"}, actSign, wallet.ID, Signing, from)
		return src, err
	}
	for _, from := range []clientSide{hosted, device} {
		src, err := find(from)
		require.NoError(t, err)
		require.Equal(t, set.record, src.record)
		require.Equal(t, from.device == nil, src.client != nil)
	}
	wallet.HostedSince = time.Time{}
	_, err := find(hosted)
	require.ErrorIs(t, err, ErrDeviceHeldWallet)
	_, err = find(device)
	require.NoError(t, err)

	wallet.HostedSince, set.set.LockTime = time.Now(), time.Now()
	_, err = find(hosted)
	require.ErrorIs(t, err, ErrShareSetLocked)
	_, err = find(device)
	require.NoError(t, err, "it is told after it has proved its share")
}

// A client share must be for the requested wallet and purpose.
func TestParseShare(t *testing.T) {
	t.Parallel()
	set := newPair(t)
	src := new(source)
	id, err := src.parseShare(set.wallet(), Signing, set.encoded)
	require.NoError(t, err)
	require.Equal(t, set.set.ID, id)
	for _, x := range []struct {
		wallet string
		want   Purpose
	}{{"other", Signing}, {set.set.WalletID, Backup}} {
		_, err = src.parseShare(&Wallet{ID: x.wallet}, x.want, set.encoded)
		require.ErrorIs(t, err, ErrShareSetMismatch)
	}
}

// A client share must have a key on each of its set's curves.
func TestCheckShare(t *testing.T) {
	t.Parallel()
	set := newPair(t)
	src := &source{set: set.set, record: set.record, client: set.shares[tss.Client]}
	require.NoError(t, src.checkShare(set.encoded))
	src.client.Keys = nil
	require.ErrorIs(t, src.checkShare(set.encoded), ErrShareMalformed)
}

// A set's record must contain its wallet's keys, each on its curve.
func TestRecordOfAnotherKey(t *testing.T) {
	t.Parallel()
	set := newPair(t)
	wallet := set.wallet()
	require.NoError(t, wallet.checkRecord("set", set.record))
	key := wallet.Keys[0]
	for name, keys := range map[string][]PublicKey{
		"none": nil, "another curve's": {{Curve: Secp256k1, Key: key.Key}}, "another": {{Curve: Ed25519, Key: key.Key[1:]}},
	} {
		wallet.Keys = keys
		require.ErrorIs(t, wallet.checkRecord("set", set.record), ErrDataCorrupted, name)
	}
}

// The policy is asked about a device-held run after its device has proved its share, and about a hosted one before it
// begins.
func TestWhenThePolicyIsAsked(t *testing.T) {
	t.Parallel()
	set := newPair(t)
	st := &stub{
		onWallet: func() (*Wallet, error) { return set.wallet(), nil },
		onSet:    func() (*StoredSet, error) { return set.set, nil },
	}
	s := st.runner(t, Config{})
	asked := 0
	s.ports.Policy = policy(func() error { asked++; return new(DeniedError) })
	c, device := Caller{Name: "alice"}, &Device{ShareSetID: set.set.ID}
	for _, hosted := range []operation{
		&sign{SignRequest{WalletID: set.set.WalletID, SigningShare: set.encoded, Curve: Ed25519}, c},
		&reshare{op: OpBackup, action: actBackup, from: Signing, caller: c, walletID: set.set.WalletID, share: set.encoded},
	} {
		_, err := hosted.prepare(t.Context(), s)
		require.ErrorIs(t, err, ErrPolicyDenied)
	}
	require.Equal(t, 2, asked)
	for _, held := range []operation{
		&sign{SignRequest{WalletID: set.set.WalletID, Device: device, Curve: Ed25519}, c},
		&reshare{
			target: target{Start: Start{Device: device}},
			op:     OpBackup, action: actBackup, from: Signing, caller: c, walletID: set.set.WalletID,
		},
	} {
		p, err := held.prepare(t.Context(), s)
		require.NoError(t, err)
		require.NotNil(t, p.question)
	}
	require.Equal(t, 2, asked)
}
