package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/tss"
)

// reasonOf returns the service's reason for an error of a call.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// breakRun begins a device-held signing with a valid proof and then breaks the protocol. The device must be blamed.
func (a *api) breakRun(t *testing.T, h held) {
	t.Helper()
	instance := uuid.NewString()
	stream, err := a.SignWithDevice(t.Context(), &mpcdv1.SignWithDeviceRequest{
		WalletId: h.wallet, RequestId: uuid.NewString(), Curve: mpcdv1.Curve_CURVE_ED25519, Payload: []byte("hello"),
		Device: &mpcdv1.DeviceSide{ShareSetId: h.set, Instance: instance},
	})
	require.NoError(t, err)
	first, err := stream.Recv()
	require.NoError(t, err)
	p := first.GetProgress()
	messages := []*mpcdv1.ProtocolMessage{servertest.Hello(t, h.share, tss.HelloContext{
		Operation: tss.OperationSign, SessionID: p.GetSessionId(), Attempt: 1, Instance: instance, Payload: []byte("hello"),
	}), {Sequence: 2, Mac: []byte("x")}}
	require.Eventually(t, func() bool { // the message is accepted once the run has a slot
		resp, err := a.SendMessages(t.Context(), &mpcdv1.SendMessagesRequest{SessionId: p.GetSessionId(), Instance: instance,
			Attempt: 1, Messages: messages})
		return err != nil || resp.GetAck() == 2
	}, 2*time.Minute, 5*time.Millisecond)
	_, err = last(a, stream, nil)
	require.Equal(t, "PROTOCOL_ABORTED", reasonOf(err), "%v", err)
}

// A set's abort budget is configurable, and survives a kill of the service. The command line shows how much is used,
// and can reset it.
func TestAbortBudget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	serve := func() (*running, *api) {
		svc, err := startService(dir, "mpcd", os.Environ(), "--dev", "--aborts=2")
		require.NoError(t, err)
		t.Cleanup(svc.kill)
		return svc, dialService(t, svc)
	}
	mpcd := func(svc *running, args ...string) string {
		out, err := exec.CommandContext(t.Context(), "mpcd", append(args, "--addr", svc.grpc)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	svc, a := serve()
	first, _ := a.stocked(t)
	set := first.set + "  SIGNING  ACTIVE"
	a.breakRun(t, first)
	require.NoError(t, a.sign(t.Context(), first, uuid.NewString()))
	require.Contains(t, mpcd(svc, "wallet", "show", "--wallet", first.wallet), set+"   aborts: 1\n")
	require.Contains(t, mpcd(svc, "wallet", "show", "--wallet", first.wallet), "all sets  aborts: 1\n")
	svc.kill()

	svc, a = serve()
	a.breakRun(t, first)
	svc.kill()

	svc, a = serve()
	require.Equal(t, "SHARE_SET_LOCKED", reasonOf(a.sign(t.Context(), first, uuid.NewString())))
	require.Regexp(t, set+` +LOCKED 20\S+Z, aborts: 2\n`, mpcd(svc, "wallet", "show", "--wallet", first.wallet))
	shown := mpcd(svc, "wallet", "show", "--json", "--wallet", first.wallet)
	require.Regexp(t, `"lockTime":"20[^"]+Z","aborts":2`, shown)
	require.Regexp(t, set+` *\n`, mpcd(svc, "wallet", "release", "--wallet", first.wallet, "--set", first.set))
	require.NoError(t, a.sign(t.Context(), first, uuid.NewString()))
	require.NotContains(t, mpcd(svc, "wallet", "show", "--json", "--wallet", first.wallet), "aborts")
	require.NoError(t, svc.stop())
	out, err := exec.CommandContext(t.Context(), "mpcd", "audit", "list", "--wallet", first.wallet, "--db", "sqlite://"+
		filepath.Join(dir, "mpcd.db")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, "share_set.lock .*set "+first.set+" .*culprit CLIENT\n", string(out))
	require.Regexp(t, "share_set.release .*set "+first.set, string(out))
}
