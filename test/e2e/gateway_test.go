package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// asAlice is the header of alice's HTTP calls.
var asAlice = http.Header{"Authorization": {servertest.Bearer("alice")}}

// exchange sends a custom request to the route of req's RPC.
func exchange(t testing.TB, s *servertest.Service, req proto.Message, verb, path string, body []byte) answer {
	t.Helper()
	resp := send(t, s, verb, path, asAlice, body)
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	return read(t, method(t, req), resp)
}

// Each event is sent as it happens: the run is held at two places, and the events before each arrive while it waits
// there. The share is returned sealed.
func TestStreamIsFlushedEventByEvent(t *testing.T) {
	t.Parallel()
	fetch, deposit := servertest.NewGate(), servertest.NewGate()
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: fetch.Wait}
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeDeposit: deposit.Wait}
	}})
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	req := provisionReq(f.backup)
	req.SealTo = key.Recipient().String()
	req.DisplayName = "téléphone 2"
	m := method(t, req)
	verb, path, body := request(t, m, req)
	resp := send(t, f.Service, verb, path, asAlice, body)
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "application/x-ndjson", resp.Header.Get("Content-Type"))
	lines := bufio.NewReader(resp.Body)
	var all []*pb.Progress
	readUntil := func(status string) {
		for {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(line, `{"result":{"progress":{`), line)
			var one struct {
				Result struct{ Progress map[string]any }
			}
			require.NoError(t, json.Unmarshal([]byte(line), &one))
			require.Contains(t, one.Result.Progress, "percent", "zeros are shown")
			require.Contains(t, one.Result.Progress, "done")
			p, ok := decoded(t, m, []byte(strings.TrimSuffix(strings.TrimPrefix(line, `{"result":`), "}\n"))).(withProgress)
			require.True(t, ok)
			all = append(all, p.GetProgress())
			if one.Result.Progress["status"] == status {
				return
			}
		}
	}
	<-fetch.Came
	readUntil("STATUS_READING_SHARE") // the custodian has not answered yet
	fetch.Open()
	<-deposit.Came
	readUntil("STATUS_STORING_SHARE") // nothing is stored yet
	require.Len(t, wallet(t, f.Service, f.first.wallet).GetShareSets(), 5)
	deposit.Open()
	readUntil("STATUS_DONE")
	wellOrdered(t, all, resharing...)

	line, err := lines.ReadBytes('\n')
	require.NoError(t, err)
	var last struct {
		Result struct {
			Outcome struct {
				ClientShare string
				ShareSet    map[string]any
			}
		}
	}
	require.NoError(t, json.Unmarshal(line, &last))
	require.Equal(t, "PURPOSE_SIGNING", last.Result.Outcome.ShareSet["purpose"])
	require.Equal(t, "SHARE_SET_STATE_PENDING", last.Result.Outcome.ShareSet["state"])
	require.Equal(t, "BACKUP_METHOD_UNSPECIFIED", last.Result.Outcome.ShareSet["backupMethod"])
	require.Equal(t, "téléphone 2", last.Result.Outcome.ShareSet["displayName"])
	require.Equal(t, f.backup.set, last.Result.Outcome.ShareSet["parentShareSetId"])
	sealed, err := base64.StdEncoding.DecodeString(last.Result.Outcome.ClientShare)
	require.NoError(t, err)
	opened, err := age.Decrypt(bytes.NewReader(sealed), key)
	require.NoError(t, err)
	share, err := io.ReadAll(opened)
	require.NoError(t, err)
	_, err = lines.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	id, ok := last.Result.Outcome.ShareSet["shareSetId"].(string)
	require.True(t, ok)
	signs(t, f.Service, wallet(t, f.Service, f.first.wallet), confirm(t, f.Service, held{f.first.wallet, id, share}))
}

// Only the headers on the allow list reach the service.
func TestHeadersPassByAllowList(t *testing.T) {
	t.Parallel()
	seen := make(chan metadata.MD, 1)
	f := start(t, servertest.Config{Auth: func(ctx context.Context) (session.Caller, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		seen <- md
		return servertest.Authenticate(ctx)
	}})
	header := http.Header{
		"Authorization": {servertest.Bearer("alice")}, "X-Request-Id": {"call-17"}, "Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		"Grpc-Metadata-Authorization": {"Bearer admin"}, "Grpc-Metadata-Caller": {"admin"}, "Grpc-Metadata-X-Request-Id": {"other"},
		"Cookie": {"session=1"}, "X-Webhook-Secret": {"s"}, "Grpcgateway-Authorization": {"Bearer admin"}, "Accept-Language": {"de"},
	}
	resp := send(t, f.Service, http.MethodGet, "/v1/wallets/"+f.first.wallet, header, nil)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	got := <-seen
	for _, own := range []string{"content-type", "user-agent", ":authority", "grpc-accept-encoding"} { // of the gateway's own connection
		delete(got, own)
	}
	require.Equal(t, []string{"Bearer alice"}, got.Get("authorization"))
	require.Equal(t, []string{"call-17"}, got.Get("x-request-id"))
	require.NotEmpty(t, got.Get("traceparent"))
	for k := range got {
		require.Contains(t, []string{"authorization", "x-request-id", "traceparent", "x-forwarded-for", "x-forwarded-host"}, k)
	}
	for k := range resp.Header {
		require.Contains(t, []string{"Cache-Control", "Content-Type", "Content-Length", "Date", "X-Request-Id"},
			k, "none of the service's metadata leaks out")
	}
}

// A call's id is on every answer, and in the log.
func TestRequestIDIsEchoed(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	paths := map[string]proto.Message{
		"good unary": &pb.GetWalletRequest{WalletId: f.first.wallet}, "bad unary": &pb.GetWalletRequest{WalletId: uuid.NewString()},
		"good stream": f.pendingReq, "bad stream": provisionReq(f.backup.with([]byte("x"))),
	}
	for name, req := range paths {
		verb, path, body := request(t, method(t, req), req)
		for sent, kept := range map[string]bool{
			"call-17 of " + name: false, "call-17/" + strings.ReplaceAll(name, " ", "-"): true, "": false, strings.Repeat("a", 65): false, "é": false,
		} {
			header := asAlice.Clone()
			header.Set("X-Request-Id", sent)
			resp := send(t, f.Service, verb, path, header, body)
			require.NoError(t, resp.Body.Close())
			got := resp.Header.Values("X-Request-Id")
			require.Len(t, got, 1, name)
			if kept {
				require.Equal(t, sent, got[0])
			} else {
				require.NoError(t, uuid.Validate(got[0]), name)
			}
			f.Log.Wait(t, "finished call", `"request_id":"`+got[0]+`"`)
		}
	}
	// Over gRPC it is the same header.
	var header metadata.MD
	ctx := metadata.AppendToOutgoingContext(servertest.As(t.Context(), "alice"), "x-request-id", "call-18")
	stream, err := f.ProvisionWallet(ctx, f.pendingReq)
	require.NoError(t, err)
	header, err = stream.Header()
	require.NoError(t, err)
	require.Equal(t, []string{"call-18"}, header.Get("x-request-id"))
	drain(t, stream)
}

// JSON as docs/HTTP.md describes: enums by name, bytes in base64, fields in either spelling.
func TestJSON(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	w := wallet(t, f.Service, f.first.wallet)
	resp := send(t, f.Service, http.MethodGet, "/v1/wallets/"+f.first.wallet, asAlice, nil)
	var got struct{ Wallet map[string]any }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
	require.NoError(t, resp.Body.Close())
	require.Equal(t, []any{map[string]any{
		"curve": "CURVE_ED25519", "publicKey": base64.StdEncoding.EncodeToString(w.GetPublicKeys()[0].GetPublicKey()),
	}}, got.Wallet["publicKeys"])
	sets, ok := got.Wallet["shareSets"].([]any)
	require.True(t, ok)
	backup, ok := sets[1].(map[string]any)
	require.True(t, ok)
	require.Equal(t, "PURPOSE_BACKUP", backup["purpose"])
	require.Equal(t, "BACKUP_METHOD_PASSWORD", backup["backupMethod"])
	require.Equal(t, "SHARE_SET_STATE_ACTIVE", backup["state"])
	require.NotContains(t, backup, "expireTime", "what is not there is left out")

	for _, spelling := range []string{
		`{"requestId":%q,"signingShare":%q,"curve":"CURVE_ED25519","payload":"aGVsbG8="}`,
		`{"request_id":%q,"signing_share":%q,"curve":2,"payload":"aGVsbG8"}`,
	} {
		// The same request in both spellings: the second one is answered from the first one's session.
		body := strings.Replace(strings.Replace(spelling, "%q", `"0198c0de-8a1b-7c3d-9e4f-5a6b7c8d9e0f"`, 1), "%q",
			`"`+base64.StdEncoding.EncodeToString(f.first.share)+`"`, 1)
		resp := send(t, f.Service, http.MethodPost, "/v1/wallets/"+f.first.wallet+":sign", asAlice, []byte(body))
		a := read(t, method(t, signReq(f.first)), resp)
		require.NoError(t, resp.Body.Close())
		signed := done[*pb.SignResponse](t, a)
		verified(t, w.GetPublicKeys()[0], []byte("hello"), signed.GetSignature(), signed.GetRecoveryId())
	}
}
