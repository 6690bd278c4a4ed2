package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// flat sends a request and requires a bare status as its answer, which it returns.
func flat(t testing.TB, s *servertest.Service, code int, verb, path string, header http.Header, body string) (*status.Status, http.Header) {
	t.Helper()
	h := asAlice.Clone()
	maps.Copy(h, header)
	resp := send(t, s, verb, path, h, []byte(body))
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	all, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, code, resp.StatusCode, "%s", all)
	require.Equal(t, []string{"application/json"}, resp.Header.Values("Content-Type"))
	require.Equal(t, []string{"no-store"}, resp.Header.Values("Cache-Control"))
	require.NotEmpty(t, resp.Header.Get("X-Request-Id"))
	st := decodedStatus(t, all)
	i, _ := info(t, st)
	require.Equal(t, "mpcd", i.GetDomain())
	for _, words := range []string{"strconv", "proto:", "json:", "parsing", "illegal base64"} {
		require.NotContains(t, st.Message(), words, "Go's words")
	}
	return st, resp.Header
}

func flatReason(t testing.TB, st *status.Status) string {
	t.Helper()
	i, _ := info(t, st)
	return i.GetReason()
}

// wrong returns what is said about each field.
func wrong(st *status.Status) map[string]string {
	all := map[string]string{}
	for _, d := range st.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				all[v.GetField()] = v.GetDescription()
			}
		}
	}
	return all
}

// A bad body is refused with a bare status for unary calls and streams alike, which says what is wrong and quotes
// nothing: it may be most of a share.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	secret := base64.StdEncoding.EncodeToString(f.backup.share)
	good := func(extra string) string {
		return `{"requestId":"` + uuid.NewString() + `","backupShare":"` + secret + `"` + extra + `}`
	}
	before := wallet(t, f.Service, f.first.wallet)
	cases := map[string]struct {
		body, says string
		code       int
	}{
		"an unknown field":                   {good(`,"colour":"red"`), "colour is an unknown field", 400},
		"a misspelt field":                   {strings.ReplaceAll(good(""), "backupShare", "backup_Share"), "backup_Share is an unknown field", 400},
		"a share for a name":                 {`{"` + secret + `":1}`, "? is an unknown field", 400},
		"a field twice":                      {good(`,"sealTo":"a","seal_to":"b"`), "seal_to is given more than once", 400},
		"a null and a value":                 {good(`,"sealTo":null,"sealTo":"b"`), "sealTo is given more than once", 400},
		"two of a oneof":                     {good(`,"device":{}`), "device cannot be given together with backupShare", 400},
		"not JSON":                           {"backupShare=" + secret, "not JSON", 400},
		"cut short":                          {good("")[:50], "not JSON", 400},
		"an array":                           {"[" + good("") + "]", "not JSON", 400},
		"text":                               {`"` + secret + `"`, "not JSON", 400},
		"null":                               {"null", "not JSON", 400},
		"nested too deeply":                  {good(`,"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000)), "not JSON", 400},
		"not UTF-8":                          {good(",\"displayName\":\"\xff\""), "not JSON", 400},
		"half a surrogate pair":              {good(`,"displayName":"\ud800"`), "displayName must be text", 400},
		"a number where text belongs":        {good(`,"displayName":1`), "displayName must be text", 400},
		"an object where text belongs":       {good(`,"displayName":{"a":1}`), "displayName must be text", 400},
		"text where an object belongs":       {strings.ReplaceAll(good(""), "backupShare", "device"), "device must be a JSON object", 400},
		"a share that is not base64":         {strings.Replace(good(""), secret, secret+"!", 1), "backupShare must be base64", 400},
		"a share that is a number":           {strings.Replace(good(""), `"`+secret+`"`, "12", 1), "backupShare must be base64", 400},
		"a negative after_sequence":          {good(`,"afterSequence":-1`), "afterSequence must be a whole number from 0 to 4294967295", 400},
		"an after_sequence that is too much": {good(`,"afterSequence":4294967296`), "afterSequence must be a whole number", 400},
		"a fraction":                         {good(`,"after_sequence":1.5`), "after_sequence must be a whole number", 400},
		"an unknown field of a message":      {`{"device":{"share":1}}`, "device.share is an unknown field", 400},
		"a wrong type in a message":          {`{"device":{"instance":1,"shareSetId":"x"}}`, "device.instance must be text", 400},
		"more than 2 MiB":                    {good(`,"displayName":"` + strings.Repeat("a", 2<<20) + `"`), "more than 2097152 bytes", 413},
		"more than 2 MiB after the JSON":     {good("") + strings.Repeat(" ", 2<<20) + secret, "more than 2097152 bytes", 413},
		"more after the JSON":                {good("") + "{}", "not JSON", 400},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			st, _ := flat(t, f.Service, c.code, http.MethodPost, "/v1/wallets/"+f.first.wallet+":provision", nil, c.body)
			require.Equal(t, codes.InvalidArgument, st.Code())
			require.Equal(t, "INVALID_ARGUMENT", flatReason(t, st))
			require.Contains(t, st.Message(), c.says)
			require.NotContains(t, st.String(), secret[:20])
			body := strings.ReplaceAll(c.body, "backupShare", "signingShare")
			st, _ = flat(t, f.Service, c.code, http.MethodPost, "/v1/wallets/"+f.first.wallet+":sign", nil, body)
			require.NotContains(t, st.String(), secret[:20])
		})
	}
	for _, body := range []string{"", " \r\n", "{}", `{"requestId":null}`} {
		a := exchange(t, f.Service, provisionReq(f.backup), http.MethodPost, "/v1/wallets/"+f.first.wallet+":provision", []byte(body))
		refused(t, a, codes.InvalidArgument, "INVALID_ARGUMENT", "request_id", "backup_share")
	}
	require.NotContains(t, f.Log.String(), secret[:20])
	require.True(t, proto.Equal(before, wallet(t, f.Service, f.first.wallet)))
}

// All faults of a request are answered at once, whether in the JSON, a type, the base64 or what the service requires,
// with the names that the caller used.
func TestAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	path := "/v1/wallets/" + f.first.wallet
	for name, c := range map[string]struct {
		path, body string
		fields     []string
	}{
		"stream":                 {path + ":provision", `{"requestId":"x","displayName":1,"sealTo":"me","backupShare":"!","afterSequence":-1,"colour":1}`, []string{"requestId", "displayName", "sealTo", "backupShare", "afterSequence", "colour"}},
		"unary":                  {path + ":sign", `{"requestId":"x","curve":"P256","signingShare":7,"payload":"-+"}`, []string{"requestId", "curve", "signingShare", "payload"}},
		"as sent":                {path + ":sign", `{"request_id":"x","curve":[],"signing_share":7}`, []string{"request_id", "curve", "signing_share"}},
		"not sent, in its style": {path + ":provision", `{"seal_to":"me"}`, []string{"seal_to", "request_id", "backup_share"}},
		"in both spellings":      {path + ":provision", `{"request_id":"x","displayName":1,"backup_share":1}`, []string{"request_id", "displayName", "backup_share"}},
		"what is not there":      {path + ":provision", `{"sealTo":"me"}`, []string{"sealTo", "requestId", "backupShare"}},
		"path and body":          {"/v1/wallets/x/shareSets/y:confirm", `{"shareSha256":"AAAA","share_sha":1}`, []string{"walletId", "shareSetId", "shareSha256", "share_sha"}},
		"path, in its style":     {"/v1/wallets/x/shareSets/y:confirm", `{"share_sha256":"AAAA","shareSHA":1}`, []string{"wallet_id", "share_set_id", "share_sha256", "shareSHA"}},
		"nested":                 {path + ":provision", `{"requestId":"x","device":{"shareSetId":"y","instance":3,"attempt":"z"}}`, []string{"requestId", "device.shareSetId", "device.instance", "device.attempt"}},
		"nested, as sent":        {path + ":backup", `{"requestId":"x","device":{"share_set_id":"y"},"backupMethod":"PAPER"}`, []string{"requestId", "device.share_set_id", "device.instance", "backupMethod"}},
		"nothing is said twice":  {path + ":signWithDevice", `{"requestId":"x","device":"phone","curve":9,"payload":1}`, []string{"requestId", "device", "curve", "payload"}},
		"elements":               {"/v1/wallets", `{"requestId":1,"curves":["CURVE_ED25519","P256",null,4]}`, []string{"requestId", "curves[1]", "curves[2]", "curves[3]"}},
		"a list that is none":    {"/v1/wallets", `{"requestId":1,"curves":"CURVE_ED25519"}`, []string{"requestId", "curves"}},
		"messages":               {"/v1/sessions/x/messages", `{"messages":[{"payload":"!","curve":"P256"},{"hello":{"sessionKey":"=","nonce":"AA"}},7],"instance":8}`, []string{"sessionId", "messages[0].payload", "messages[0].curve", "messages[1].hello.sessionKey", "messages[2]", "instance"}},
		"messages, as sent":      {"/v1/sessions/x/messages", `{"messages":[{"hello":{"session_key":7}}],"instance":8}`, []string{"session_id", "messages[0].hello.session_key", "instance"}},
		"query and body":         {path + ":provision?colour=red&requestId=1&backup_share=2", `{"sealTo":"me","displayName":7}`, []string{"sealTo", "displayName", "colour", "requestId", "backup_share"}},
		"another id in the body": {path + ":sign", `{"walletId":"` + uuid.NewString() + `","curve":7}`, []string{"walletId", "curve", "requestId"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, _ := flat(t, f.Service, http.StatusBadRequest, http.MethodPost, c.path, nil, c.body)
			require.Equal(t, "INVALID_ARGUMENT", flatReason(t, st))
			require.ElementsMatch(t, c.fields, slices.Collect(maps.Keys(wrong(st))), st.Message())
			for field, says := range wrong(st) {
				require.Contains(t, st.Message(), field+" "+says, "the sentence has the same names")
				require.NotContains(t, says, "proto")
			}
		})
	}
	// Over gRPC the names are the proto files'.
	refused(t, overGRPC(t, f.Service, alice, &pb.ProvisionWalletRequest{WalletId: f.first.wallet, RequestId: "x"}),
		codes.InvalidArgument, "INVALID_ARGUMENT", "request_id", "backup_share")
	// Repeating an id is allowed if it is the same.
	body, err := json.Marshal(map[string]any{
		"walletId": strings.ToUpper(f.first.wallet), "requestId": uuid.NewString(), "signingShare": f.first.share, "curve": "CURVE_ED25519", "payload": "AA",
	})
	require.NoError(t, err)
	done[*pb.SignResponse](t, exchange(t, f.Service, signReq(f.first), http.MethodPost, path+":sign", body))
}

// A call with a faulty body or query never runs, however valid the rest of it.
func TestNothingRunsOnAFaultyBody(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	device := &pb.DeviceSide{Instance: uuid.NewString(), ShareSetId: f.first.set}
	before := f.snapshot(t, overGRPC)
	for _, req := range []proto.Message{
		createReq(), backupReq(f.first), provisionReq(f.backup), signReq(f.first), confirmReq(f.pending), revokeReq(f.second), releaseReq(f.first),
		&pb.SignWithDeviceRequest{WalletId: f.first.wallet, RequestId: uuid.NewString(), Device: device, Curve: pb.Curve_CURVE_ED25519, Payload: []byte("x")},
		&pb.GetWalletRequest{WalletId: f.first.wallet}, &pb.ListWalletsRequest{},
		&pb.GetSessionRequest{SessionId: f.pendingRun.messages[0].(withProgress).GetProgress().GetSessionId()}, //nolint:errcheck,forcetypeassert // it has one
		&pb.CancelSessionRequest{SessionId: uuid.NewString()},
		&pb.SendMessagesRequest{SessionId: uuid.NewString(), Instance: uuid.NewString(), Messages: []*pb.ProtocolMessage{{Sequence: 1, Mac: []byte("x")}}},
	} {
		verb, path, body := request(t, method(t, req), req)
		withColour := strings.Replace(strings.Replace(string(body), "{", `{"colour":1,`, 1), ",}", "}", 1)
		for sent, bad := range map[string]string{path: withColour, strings.TrimSuffix(path, "?") + "?colour=1": string(body)} {
			if verb == http.MethodGet && bad == "" && sent == path {
				continue // it has no body
			}
			st, _ := flat(t, f.Service, http.StatusBadRequest, verb, sent, nil, bad)
			require.Equal(t, []string{"colour"}, slices.Collect(maps.Keys(wrong(st))), "%s %s", verb, sent)
		}
	}
	require.True(t, proto.Equal(before, f.snapshot(t, overGRPC)), "something changed")
}

func wrapped(text string, width int, newline string) string {
	var lines []string
	for line := range slices.Chunk([]byte(text), width) {
		lines = append(lines, string(line)+newline)
	}
	return strings.Join(lines, "")
}

// Base64 is accepted in the form of every encoder in use, at any length.
func TestBase64OfEveryEncoder(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	std, url := base64.StdEncoding, base64.URLEncoding
	encoders := map[string]func([]byte) string{
		"plain":                  std.EncodeToString,
		"plain, unpadded":        base64.RawStdEncoding.EncodeToString,
		"URL":                    url.EncodeToString,
		"URL, unpadded":          base64.RawURLEncoding.EncodeToString,
		"Android's DEFAULT":      func(b []byte) string { return wrapped(std.EncodeToString(b), 76, "\n") },
		"Android's CRLF":         func(b []byte) string { return wrapped(std.EncodeToString(b), 76, "\r\n") },
		"Android's NO_PADDING":   func(b []byte) string { return wrapped(base64.RawStdEncoding.EncodeToString(b), 76, "\n") },
		"Android's URL_SAFE":     func(b []byte) string { return wrapped(url.EncodeToString(b), 76, "\n") },
		"openssl":                func(b []byte) string { return wrapped(std.EncodeToString(b), 64, "\n") },
		"Python's encodebytes":   func(b []byte) string { return wrapped(std.EncodeToString(b), 76, "\n") },
		"with spaces":            func(b []byte) string { return " " + wrapped(std.EncodeToString(b), 5, " \t") },
		"a break in the padding": func(b []byte) string { return strings.ReplaceAll(std.EncodeToString(b), "=", "\n=") },
	}
	// The error shows whether it decoded to 32 bytes.
	for n := range 201 {
		value := bytes.Repeat([]byte{0xfb, 0xef, 0xff}, n)[:n]
		for name, encode := range encoders {
			body, err := json.Marshal(map[string]string{"shareSha256": encode(value)})
			require.NoError(t, err)
			a := exchange(t, f.Service, confirmReq(f.pending), http.MethodPost,
				"/v1/wallets/"+f.pending.wallet+"/shareSets/"+f.pending.set+":confirm", body)
			if n == 32 {
				refused(t, a, codes.InvalidArgument, "SHARE_SET_MISMATCH")
			} else {
				require.Contains(t, a.status.Message(), "shareSha256 must be the 32-byte SHA-256", "%s, %d bytes", name, n)
			}
		}
	}
	// The decoded bytes are right, also within a nested message.
	for _, encode := range encoders {
		body, err := json.Marshal(map[string]string{
			"requestId": uuid.NewString(), "signingShare": encode(f.first.share), "curve": "CURVE_ED25519", "payload": encode([]byte("hello")),
		})
		require.NoError(t, err)
		body = bytes.ReplaceAll(body, []byte("/"), []byte(`\/`)) // as PHP writes it
		signed := done[*pb.SignResponse](t, exchange(t, f.Service, signReq(f.first), http.MethodPost, "/v1/wallets/"+f.first.wallet+":sign", body))
		key := wallet(t, f.Service, f.first.wallet).GetPublicKeys()[0]
		verified(t, key, []byte("hello"), signed.GetSignature(), signed.GetRecoveryId())
	}
}

// Invalid base64 is refused by name with the same text at every length.
func TestBadBase64(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	for n := 3; n < 40; n++ {
		whole := strings.Repeat("AbC9", n)
		for text, says := range map[string]string{
			whole + "A":          "whole base64",
			whole + "AA=":        "padding whole",
			whole + "AAA==":      "padding whole",
			whole + "A===":       "padding whole",
			whole + "=":          "padding whole",
			whole + "====":       "padding whole",
			"=" + whole:          "a character that is not of base64",
			"AA==" + whole:       "a character that is not of base64",
			"+-" + whole + "AA":  "one alphabet",
			"_" + whole + "/AA":  "one alphabet",
			whole + "*":          "a character that is not of base64",
			"*" + whole + "AAA":  "a character that is not of base64",
			whole + "\u00a0AAAA": "a character that is not of base64",
			whole + `\n` + "AA":  "a character that is not of base64", // a backslash and an n
		} {
			body, err := json.Marshal(map[string]any{"requestId": uuid.NewString(), "signingShare": text, "messages": 1})
			require.NoError(t, err)
			st, _ := flat(t, f.Service, http.StatusBadRequest, http.MethodPost, "/v1/wallets/"+f.first.wallet+":sign", nil, string(body))
			require.Contains(t, wrong(st)["signingShare"], says, text)
			require.NotContains(t, st.String(), "AbC9")
		}
	}
	// The same for a message in a list.
	body := fmt.Sprintf(`{"instance":%q,"attempt":1,"messages":[{"sequence":1,"payload":"%s\n"},{"sequence":2,"mac":"A"}]}`, uuid.NewString(), "AAAA")
	st, _ := flat(t, f.Service, http.StatusBadRequest, http.MethodPost, "/v1/sessions/"+uuid.NewString()+"/messages", nil, body)
	require.Equal(t, []string{"messages[1].mac"}, slices.Collect(maps.Keys(wrong(st))))
}
