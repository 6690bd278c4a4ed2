package session_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
)

// fingerprints records the fingerprints of requests, and lets none of them begin.
type fingerprints struct {
	session.Sealer
	last []byte
}

func (f *fingerprints) MAC(b []byte) ([]byte, error) {
	f.last = bytes.Clone(b)
	return nil, errFault
}

// nothingUnfinished is a store without sessions.
type nothingUnfinished struct{ session.Housekeeper }

func (nothingUnfinished) InterruptAll(context.Context, session.Budget) (int, error) { return 0, nil }

// Requests have the same fingerprint if all of their fields are equal, except the instance of the device.
func TestFingerprintHasEveryField(t *testing.T) {
	t.Parallel()
	sealer := &fingerprints{}
	s, err := session.New(t.Context(), session.Ports{Housekeeper: nothingUnfinished{}, Sealer: sealer, Log: slog.New(slog.DiscardHandler)}, session.Config{})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)

	create := func(change func(*session.CreateRequest)) func() (*session.Run, error) {
		req := session.CreateRequest{Start: session.Start{RequestID: "id", DisplayName: "phone"}, Owner: "alice", Curves: []session.Curve{session.Ed25519}}
		change(&req)
		return func() (*session.Run, error) {
			return s.Create(t.Context(), session.Caller{Name: "alice", Scopes: []session.Scope{session.ScopeWrite}}, req)
		}
	}
	backup := func(change func(*session.BackupRequest)) func() (*session.Run, error) {
		req := session.BackupRequest{
			Start: session.Start{RequestID: "id", DisplayName: "phone"}, WalletID: "wallet", SigningShare: secret.New([]byte("share")), Method: session.Custom,
		}
		change(&req)
		return func() (*session.Run, error) { return s.Backup(t.Context(), alice, req) }
	}
	provision := func(change func(*session.ProvisionRequest)) func() (*session.Run, error) {
		req := session.ProvisionRequest{
			Start: session.Start{RequestID: "id", DisplayName: "phone"}, WalletID: "wallet", BackupShare: secret.New([]byte("share")),
		}
		change(&req)
		return func() (*session.Run, error) { return s.Provision(t.Context(), alice, req) }
	}
	sign := func(change func(*session.SignRequest)) func() (*session.Run, error) {
		req := session.SignRequest{
			RequestID: "id", WalletID: "wallet", SigningShare: secret.New([]byte("share")), Curve: session.Ed25519, Payload: bytes.Repeat([]byte{7}, 32),
		}
		change(&req)
		return func() (*session.Run, error) { return s.Sign(t.Context(), alice, req) }
	}
	device := func(change func(*session.SignRequest)) func() (*session.Run, error) {
		req := session.SignRequest{
			RequestID: "id", WalletID: "wallet", Device: &session.Device{ShareSetID: "set", Instance: "one"}, Curve: session.Ed25519,
			Payload: bytes.Repeat([]byte{7}, 32),
		}
		change(&req)
		return func() (*session.Run, error) { return s.Sign(t.Context(), alice, req) }
	}

	seen := map[string]string{}
	for name, call := range map[string]func() (*session.Run, error){
		"create":               create(func(*session.CreateRequest) {}),
		"create: owner":        create(func(r *session.CreateRequest) { r.Owner = "bob" }),
		"create: curves":       create(func(r *session.CreateRequest) { r.Curves = []session.Curve{session.Secp256k1} }),
		"create: both curves":  create(func(r *session.CreateRequest) { r.Curves = []session.Curve{session.Ed25519, session.Secp256k1} }),
		"create: name":         create(func(r *session.CreateRequest) { r.DisplayName = "Phone" }),
		"create: recipient":    create(func(r *session.CreateRequest) { r.SealTo = key.Recipient() }),
		"create: device":       create(func(r *session.CreateRequest) { r.Device = &session.Device{} }),
		"create: its name":     create(func(r *session.CreateRequest) { r.Device, r.DisplayName = &session.Device{}, "Phone" }),
		"backup":               backup(func(*session.BackupRequest) {}),
		"backup: wallet":       backup(func(r *session.BackupRequest) { r.WalletID = "other" }),
		"backup: share":        backup(func(r *session.BackupRequest) { r.SigningShare = secret.New([]byte("Share")) }),
		"backup: method":       backup(func(r *session.BackupRequest) { r.Method = session.Password }),
		"backup: device":       backup(func(r *session.BackupRequest) { r.Device = &session.Device{ShareSetID: "set"} }),
		"backup: its set":      backup(func(r *session.BackupRequest) { r.Device = &session.Device{ShareSetID: "Set"} }),
		"provision":            provision(func(*session.ProvisionRequest) {}),
		"provision: wallet":    provision(func(r *session.ProvisionRequest) { r.WalletID = "other" }),
		"provision: share":     provision(func(r *session.ProvisionRequest) { r.BackupShare = secret.New([]byte("Share")) }),
		"provision: recipient": provision(func(r *session.ProvisionRequest) { r.SealTo = key.Recipient() }),
		"sign":                 sign(func(*session.SignRequest) {}),
		"sign: wallet":         sign(func(r *session.SignRequest) { r.WalletID = "other" }),
		"sign: share":          sign(func(r *session.SignRequest) { r.SigningShare = secret.New([]byte("Share")) }),
		"sign: curve":          sign(func(r *session.SignRequest) { r.Curve = session.Secp256k1 }),
		"sign: payload":        sign(func(r *session.SignRequest) { r.Payload = bytes.Repeat([]byte{8}, 32) }),
		"device":               device(func(*session.SignRequest) {}),
		"device: wallet":       device(func(r *session.SignRequest) { r.WalletID = "other" }),
		"device: set":          device(func(r *session.SignRequest) { r.Device = &session.Device{ShareSetID: "other"} }),
		"device: curve":        device(func(r *session.SignRequest) { r.Curve = session.Secp256k1 }),
		"device: payload":      device(func(r *session.SignRequest) { r.Payload = bytes.Repeat([]byte{8}, 32) }),
	} {
		sealer.last = nil
		_, err := call()
		require.ErrorIs(t, err, errFault, name)
		require.NotEmpty(t, sealer.last, name)
		require.Empty(t, seen[string(sealer.last)], "%s is told apart", name)
		seen[string(sealer.last)] = name
		if name == "create: both curves" {
			both := bytes.Clone(sealer.last)
			for _, curves := range [][]session.Curve{nil, {session.Secp256k1, session.Ed25519}, {session.Ed25519, session.Secp256k1}} {
				_, err := create(func(r *session.CreateRequest) { r.Curves = curves })()
				require.ErrorIs(t, err, errFault)
				require.Equal(t, both, sealer.last, "in whatever order, and where none is named")
			}
		}
		if name == "device" {
			same := bytes.Clone(sealer.last)
			_, err := device(func(r *session.SignRequest) {
				r.Device = &session.Device{ShareSetID: "set", Instance: "two", Attempt: 3, Ack: 7}
			})()
			require.ErrorIs(t, err, errFault)
			require.Equal(t, same, sealer.last, "another instance asks for the same")
		}
	}
}
