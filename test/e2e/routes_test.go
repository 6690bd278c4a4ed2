package e2e_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// bodiless sends a request, whose answer's body must be empty.
func bodiless(t testing.TB, s *servertest.Service, verb, path string, header http.Header) (code int, answered http.Header) {
	t.Helper()
	resp := send(t, s, verb, path, header, nil)
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	all, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Empty(t, all)
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	require.NotEmpty(t, resp.Header.Get("X-Request-Id"))
	return resp.StatusCode, resp.Header
}

// A path of the API with another method is 405, with the methods that it has, and every other path is 404. Neither
// needs credentials.
func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	const get, post, both = "GET, HEAD, OPTIONS", "POST, OPTIONS", "GET, HEAD, POST, OPTIONS"
	id := f.first.wallet
	for path, allow := range map[string]string{
		"/v1/wallets": both, "/v1/wallets/" + id: get, "/v1/wallets/" + id + ":sign": post, "/v1/wallets/" + id + ":signWithDevice": post,
		"/v1/wallets/" + id + ":backup": post, "/v1/wallets/" + id + ":provision": post, "/v1/sessions/" + id: get,
		"/v1/sessions/" + id + ":cancel": post, "/v1/sessions/" + id + "/messages": post, "/v1/wallets/" + id + "/shareSets/" + id + ":revoke": post,
	} {
		for _, verb := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "get", "FOO"} {
			if strings.Contains(allow, verb) {
				continue
			}
			for _, header := range []http.Header{nil, {"X-Http-Method-Override": {"POST"}}, {"X-Http-Method-Override": {"GET"}, "Content-Type": {"application/x-www-form-urlencoded"}}} {
				st, answered := flat(t, f.Service, http.StatusMethodNotAllowed, verb, path, header, "")
				require.Equal(t, []string{allow}, answered.Values("Allow"), "%s %s", verb, path)
				require.Equal(t, codes.Unimplemented, st.Code())
				require.Equal(t, "INVALID_ARGUMENT", flatReason(t, st))
				require.Contains(t, st.Message(), allow)
			}
		}
		code, answered := bodiless(t, f.Service, http.MethodOptions, path, nil)
		require.Equal(t, http.StatusNoContent, code)
		require.Equal(t, allow, answered.Get("Allow"))
		require.Empty(t, answered.Get("Access-Control-Allow-Origin"), "no origin may call unless it is named")
		if !strings.Contains(allow, "HEAD") {
			code, _ = bodiless(t, f.Service, http.MethodHead, path, asAlice)
			require.Equal(t, http.StatusMethodNotAllowed, code)
		}
	}
	code, answered := bodiless(t, f.Service, http.MethodHead, "/v1/wallets/"+id, asAlice)
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "application/json", answered.Get("Content-Type"))
	code, _ = bodiless(t, f.Service, http.MethodHead, "/v1/wallets/"+uuid.NewString(), asAlice)
	require.Equal(t, http.StatusNotFound, code)

	for _, path := range []string{
		"/", "/v1", "/v2/wallets", "/v1/wallets/", "/v1/wallets/" + id + "/", "//v1/wallets", "/v1//wallets", "/v1/./wallets", "/V1/wallets", "/v1/wallets/" + id + ":explode",
		"/v1/wallets/" + id + ":sign:now", "/v1/wallets/" + id + ":", "/v1/wallets/" + id + ":SIGN", "/v1/wallets/:sign", "/v1/wallets/" + id + ":sign/", "/v1%2Fwallets", "/v1/wallets%2f" + id,
		"/v1/wallets/" + id + "/shareSets", "/v1/wallets/" + id + "/shareSets/" + id, "/v1/wallets/" + id + "/shareSets/:revoke", "/v1/wallets//shareSets/" + id + ":revoke",
		"/v1/sessions", "/v1/sessions/" + id + ":stop", "/v1/sessions/" + id + "/messages/", "/healthz", "/metrics",
	} {
		for _, verb := range []string{"GET", "POST", "DELETE", "PUT"} {
			st, answered := flat(t, f.Service, http.StatusNotFound, verb, path, nil, "")
			require.Empty(t, answered.Values("Allow"))
			require.Equal(t, codes.NotFound, st.Code(), "%s %s", verb, path)
			require.Equal(t, "INVALID_ARGUMENT", flatReason(t, st))
		}
		code, _ := bodiless(t, f.Service, http.MethodHead, path, nil)
		require.Equal(t, http.StatusNotFound, code, path)
		resp := send(t, f.Service, http.MethodOptions, path, nil, nil)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusNotFound, resp.StatusCode, path)
	}
}

// Query parameters that are not fields, or are malformed, are refused by name.
func TestBadQueries(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	for query, faults := range map[string]map[string]string{
		"page_size=many":                  {"page_size": "must be a whole number"},
		"pageSize=many":                   {"pageSize": "must be a whole number"},
		"pageSize=":                       {"pageSize": "must be a whole number"},
		"page_size=1.5":                   {"page_size": "must be a whole number"},
		"pageSize=99999999999":            {"pageSize": "must be a whole number"},
		"pageSize=101":                    {"pageSize": "must be from 0 to 100"},
		"page_size=101":                   {"page_size": "must be from 0 to 100"},
		"pageSize=101&pageToken=x":        {"pageSize": "must be from 0 to 100", "pageToken": "must be a nextPageToken"},
		"pageSize=1&pageSize=2":           {"pageSize": "is given more than once"},
		"pageSize=1&page_size=2":          {"page_size": "is given more than once"},
		"owner=alice&owner=alice":         {"owner": "is given more than once"},
		"colour=red":                      {"colour": "is an unknown parameter"},
		"colour=red&pageSize=x&owner=%00": {"colour": "is an unknown parameter", "pageSize": "must be a whole number", "owner": "must be printable"},
		"PageSize=1":                      {"PageSize": "is an unknown parameter"},
		"pageSize[]=1":                    {"?": "is an unknown parameter"},
		"owner.name=alice":                {"?": "is an unknown parameter"},
		"access_token=x":                  {"access_token": "is an unknown parameter"},
		"=x":                              {"?": "is an unknown parameter"},
		"owner=%ff":                       {"owner": "must be text"},
	} {
		st, _ := flat(t, f.Service, http.StatusBadRequest, http.MethodGet, "/v1/wallets?"+query, nil, "")
		require.Equal(t, "INVALID_ARGUMENT", flatReason(t, st))
		got := wrong(st)
		require.Len(t, got, len(faults), "%s: %v", query, got)
		for name, says := range faults {
			require.Contains(t, got[name], says, query)
		}
	}
	for _, query := range []string{"pageSize=%", "pageSize=1;owner=alice", "%zz=1", "pageSize=1&%"} {
		st, _ := flat(t, f.Service, http.StatusBadRequest, http.MethodGet, "/v1/wallets?"+query, nil, "")
		require.Contains(t, st.Message(), "The request is not valid: the query is not", query)
	}
	// A call whose fields are in its path or its body has no parameters.
	id := f.first.wallet
	for path, verb := range map[string]string{
		"/v1/wallets/" + id: "GET", "/v1/sessions/" + id: "GET", "/v1/wallets": "POST", "/v1/wallets/" + id + ":sign": "POST", "/v1/wallets/" + id + ":provision": "POST",
		"/v1/sessions/" + id + ":cancel": "POST",
	} {
		for _, name := range []string{"colour", "wallet_id", "requestId", "session_id"} {
			st, _ := flat(t, f.Service, http.StatusBadRequest, verb, path+"?"+name+"="+id, nil, "")
			require.Contains(t, wrong(st), name, "%s %s", verb, path)
			require.NotContains(t, st.String(), id)
		}
	}
	for _, query := range []string{"", "?", "?pageSize=1&pageToken=&owner=", "?page_size=0&owner=%61lice", "?&pageSize=2&"} {
		done[*pb.ListWalletsResponse](t, exchange(t, f.Service, &pb.ListWalletsRequest{}, http.MethodGet, "/v1/wallets"+query, nil))
	}
	page := done[*pb.ListWalletsResponse](t, exchange(t, f.Service, &pb.ListWalletsRequest{}, http.MethodGet, "/v1/wallets?page_size=1", nil))
	require.Len(t, page.GetWallets(), 1)
}

// The default content types of common clients are accepted as JSON; for other bodies 415 is returned unless they are
// declared as JSON.
func TestContentTypes(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	verb, path, body := request(t, method(t, signReq(f.first)), signReq(f.first))
	for _, kind := range []string{
		"", "application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8", "application/vnd.api+json",
		"application/x-www-form-urlencoded", "text/plain;charset=UTF-8", // curl --data and fetch() with a string
	} {
		header := asAlice.Clone()
		header.Set("Content-Type", kind)
		resp := send(t, f.Service, verb, path, header, body)
		done[*pb.SignResponse](t, read(t, method(t, signReq(f.first)), resp))
		require.NoError(t, resp.Body.Close())
	}
	for kind, text := range map[string]string{
		"application/x-www-form-urlencoded": "requestId=1", "text/plain": "hello", "multipart/form-data; boundary=x": "--x--", "application/xml": string(body),
		"application/json; charset=utf-16": string(body), "application/json; charset=iso-8859-1": string(body), "application/grpc": string(body),
		"application/octet-stream": string(body), "json": string(body), "/": string(body), "application/x-protobuf": "\x0a\x00",
	} {
		for _, path := range []string{path, "/v1/wallets"} {
			st, _ := flat(t, f.Service, http.StatusUnsupportedMediaType, verb, path, http.Header{"Content-Type": {kind}}, text)
			require.Equal(t, codes.InvalidArgument, st.Code(), kind)
			require.Equal(t, "INVALID_ARGUMENT", flatReason(t, st))
			require.Contains(t, st.Message(), "Content-Type: application/json")
		}
	}
	// An empty body needs no type.
	a := exchange(t, f.Service, signReq(f.first), verb, path, nil)
	require.Equal(t, http.StatusBadRequest, a.code)
	for _, coding := range []string{"gzip", "br", "deflate", "gzip, identity"} {
		for _, path := range []string{path, "/v1/wallets"} {
			st, header := flat(t, f.Service, http.StatusUnsupportedMediaType, verb, path, http.Header{"Content-Encoding": {coding}}, string(body))
			require.Equal(t, "identity", header.Get("Accept-Encoding"))
			require.Contains(t, st.Message(), "Content-Encoding")
		}
	}
	resp := send(t, f.Service, verb, path, http.Header{"Authorization": asAlice["Authorization"], "Content-Encoding": {"identity"}}, body)
	done[*pb.SignResponse](t, read(t, method(t, signReq(f.first)), resp))
	require.NoError(t, resp.Body.Close())
}

// Unauthenticated callers are told to send a bearer token, and whether the one they sent was rejected, on streams as
// on other calls.
func TestChallenge(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Auth: func(context.Context) (session.Caller, error) { return session.Caller{}, session.ErrUnauthenticated }})
	for credentials, challenge := range map[string]string{
		"": `Bearer realm="mpcd"`, "Basic YTpi": `Bearer realm="mpcd"`, "Bearer": `Bearer realm="mpcd"`, "Bearer ": `Bearer realm="mpcd"`,
		"Bearer x": `Bearer realm="mpcd", error="invalid_token"`, "bearer x": `Bearer realm="mpcd", error="invalid_token"`,
	} {
		for _, req := range []proto.Message{createReq(), provisionReq(f.backup), &pb.SignWithDeviceRequest{WalletId: f.first.wallet}, signReq(f.first), &pb.GetWalletRequest{WalletId: f.first.wallet}, &pb.ListWalletsRequest{}} {
			verb, path, body := request(t, method(t, req), req)
			header := http.Header{"Authorization": {credentials}}
			if credentials == "" {
				header = nil
			}
			resp := send(t, f.Service, verb, path, header, body)
			a := read(t, method(t, req), resp)
			require.NoError(t, resp.Body.Close())
			refused(t, a, codes.Unauthenticated, "UNAUTHENTICATED")
			require.Equal(t, http.StatusUnauthorized, a.code)
			require.Equal(t, []string{challenge}, a.header.Values("WWW-Authenticate"))
		}
	}
	// Authentication comes first: without it a caller is not told what is wrong with a request.
	resp := send(t, f.Service, http.MethodPost, "/v1/wallets?colour=1", nil, []byte("{"))
	a := read(t, method(t, createReq()), resp)
	require.NoError(t, resp.Body.Close())
	refused(t, a, codes.Unauthenticated, "UNAUTHENTICATED")
}

// A stream that fails before its first message is answered like a unary call; see read for what every answer must be.
func TestStreamErrorsBeforeTheFirstMessage(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	device := func(set string) *pb.SignWithDeviceRequest {
		return &pb.SignWithDeviceRequest{
			WalletId: f.first.wallet, RequestId: uuid.NewString(), Curve: pb.Curve_CURVE_ED25519, Payload: []byte("x"),
			Device: &pb.DeviceSide{Instance: uuid.NewString(), ShareSetId: set},
		}
	}
	for name, c := range map[string]struct {
		req    proto.Message
		reason string
		code   int
	}{
		"wallet":           {set(provisionReq(f.backup), "wallet_id", uuid.NewString()), "WALLET_NOT_FOUND", 404},
		"share":            {provisionReq(f.backup.with([]byte("x"))), "SHARE_MALFORMED", 400},
		"state":            {backupReq(f.pending), "SHARE_SET_PENDING", 400},
		"set of a device":  {device(uuid.NewString()), "SHARE_SET_NOT_FOUND", 404},
		"field":            {createReq(99), "INVALID_ARGUMENT", 400},
		"field, by device": {&pb.SignWithDeviceRequest{}, "INVALID_ARGUMENT", 400},
	} {
		a := overHTTP(t, f.Service, alice, c.req)
		require.Equal(t, c.code, a.code, name)
		require.Empty(t, a.messages)
		i, _ := info(t, a.status)
		require.Equal(t, c.reason, i.GetReason(), name)
	}
	// A run that fails after it has begun reports that in its last line. A call that attaches to an ended session,
	// having seen its progress, is answered like a unary call.
	gate := servertest.NewGate()
	held := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
	}})
	req := provisionReq(held.backup)
	ends := later(func() answer { return overHTTP(t, held.Service, alice, req) })
	<-gate.Came
	id := sessionOf(t, held, req.GetRequestId())
	done[*pb.CancelSessionResponse](t, overHTTP(t, held.Service, alice, &pb.CancelSessionRequest{SessionId: id}))
	a := <-ends
	require.Equal(t, http.StatusOK, a.code)
	require.NotEmpty(t, a.messages)
	refused(t, a, codes.Canceled, "SESSION_CANCELLED")
	req.AfterSequence = 1 << 20
	a = overHTTP(t, held.Service, alice, req)
	require.Equal(t, 499, a.code)
	require.Empty(t, a.messages)
	refused(t, a, codes.Canceled, "SESSION_CANCELLED")
}

// Pages of the named origins may call, and read each answer, including errors. Others may not.
func TestCORS(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.com"
	f := start(t, servertest.Config{Server: server.Config{CORSOrigins: []string{app, "http://localhost:5173"}}})
	preflight := func(origin, method, headers string) http.Header {
		h := http.Header{"Origin": {origin}, "Access-Control-Request-Method": {method}}
		if headers != "" {
			h.Set("Access-Control-Request-Headers", headers)
		}
		code, answered := bodiless(t, f.Service, http.MethodOptions, "/v1/wallets/"+f.first.wallet+":provision", h)
		require.Equal(t, http.StatusNoContent, code)
		require.Empty(t, answered.Get("Access-Control-Allow-Credentials"))
		return answered
	}
	for _, origin := range []string{app, "http://localhost:5173"} {
		for _, headers := range []string{"", "authorization,content-type", "authorization,content-type,traceparent,x-request-id", "Content-Type, Authorization"} {
			got := preflight(origin, http.MethodPost, headers)
			require.Equal(t, origin, got.Get("Access-Control-Allow-Origin"), headers)
			require.Equal(t, http.MethodPost, got.Get("Access-Control-Allow-Methods"))
			require.NotEmpty(t, got.Get("Access-Control-Max-Age"))
			for _, h := range strings.Split(headers, ",") {
				require.Contains(t, got.Get("Access-Control-Allow-Headers"), strings.ToLower(strings.TrimSpace(h)))
			}
		}
	}
	for _, refusedOrigin := range []string{"https://app.example.com.evil.org", "https://evil.org", "http://app.example.com", app + ":8443", app + "/", "null", "https://sub.app.example.com"} {
		require.Empty(t, preflight(refusedOrigin, http.MethodPost, "authorization").Get("Access-Control-Allow-Origin"), refusedOrigin)
	}
	require.Empty(t, preflight(app, http.MethodDelete, "").Get("Access-Control-Allow-Origin"))
	require.Empty(t, preflight(app, http.MethodPost, "cookie").Get("Access-Control-Allow-Origin"))

	large := bytes.Repeat([]byte("a"), 2<<20+1)
	for name, c := range map[string]struct {
		verb, path string
		body       []byte
		header     http.Header
		code       int
	}{
		"good":         {"GET", "/v1/wallets/" + f.first.wallet, nil, asAlice, 200},
		"not found":    {"GET", "/v1/wallets/" + uuid.NewString(), nil, asAlice, 404},
		"no path":      {"GET", "/v2", nil, nil, 404},
		"no method":    {"DELETE", "/v1/wallets", nil, nil, 405},
		"too large":    {"POST", "/v1/wallets", large, asAlice, 413},
		"no JSON":      {"POST", "/v1/wallets", []byte("x"), asAlice, 400},
		"another type": {"POST", "/v1/wallets", []byte("x"), http.Header{"Content-Type": {"text/csv"}}, 415},
		"unknown":      {"POST", "/v1/wallets", nil, http.Header{"Authorization": {"Bearer"}}, 401},
	} {
		header := http.Header{"Origin": {app}}
		maps.Copy(header, c.header)
		resp := send(t, f.Service, c.verb, c.path, header, c.body)
		_, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, c.code, resp.StatusCode, name)
		require.Equal(t, app, resp.Header.Get("Access-Control-Allow-Origin"), name)
		require.Contains(t, resp.Header.Values("Vary"), "Origin", name)
		for _, exposed := range []string{"X-Request-Id", "Retry-After", "Www-Authenticate"} {
			require.Contains(t, resp.Header.Get("Access-Control-Expose-Headers"), exposed, name)
		}
	}
	// Streams work too, and arrive as they happen.
	verb, path, body := request(t, method(t, f.pendingReq), f.pendingReq)
	header := asAlice.Clone()
	header.Set("Origin", app)
	resp := send(t, f.Service, verb, path, header, body)
	require.Equal(t, app, resp.Header.Get("Access-Control-Allow-Origin"))
	require.NotEmpty(t, read(t, method(t, f.pendingReq), resp).messages)
	require.NoError(t, resp.Body.Close())

	// Without origins there is no CORS at all.
	plain := start(t, servertest.Config{})
	resp = send(t, plain.Service, http.MethodGet, "/v1/wallets", http.Header{"Origin": {app}}, nil)
	require.NoError(t, resp.Body.Close())
	for _, h := range []string{"Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary"} {
		require.Empty(t, resp.Header.Values(h))
	}
}

func TestCheckOrigin(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"https://app.example.com", "https://app.example.com:8443", "https://10.0.0.1", "https://[2001:db8::1]:8443", "https://xn--bcher-kva.example",
		"http://localhost", "http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:3000", "https://localhost",
		"capacitor://localhost", "ionic://localhost", "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
	} {
		require.NoError(t, server.CheckOrigin(good), good)
	}
	for bad, says := range map[string]string{
		"*": "without *", "https://*.example.com": "without *", "https://app.example.com:*": "without *", "null": "sandboxed",
		"": "not an origin", "app.example.com": "not an origin", "localhost:3000": "not an origin", "//app.example.com": "not an origin", "https://": "not an origin",
		"https:app.example.com": "not an origin", "https://app.example.com ": "not an origin", "https://bücher.example": "not an origin", "https://a.example,https://b.example": "",
		"https://app.example.com/": "no slash at its end", "https://app.example.com/app": "no path", "https://app.example.com?": "more than", "https://app.example.com#": "more than",
		"https://app.example.com?a=b": "more than", "https://user:pass@app.example.com": "more than", "https://App.example.com": "capital", "HTTPS://app.example.com": "capital",
		"https://app.example.com:443": "leave out :443", "http://localhost:80": "leave out :80", "https://app.example.com:": "port", "https://app.example.com:0": "port", "https://app.example.com:70000": "port",
		"https://app.example.com:08443": "port", "https://app.example.com:x": "not an origin",
		"http://app.example.com": "plain http", "http://10.0.0.1": "plain http", "http://localhost.example.com": "plain http", "ftp://app.example.com": "another scheme", "file:///": "not an origin",
		"file://host": "another scheme", "https://[::1": "not an origin",
	} {
		require.ErrorContains(t, server.CheckOrigin(bad), says, bad)
	}
}

// Grpc-Timeout works for gRPC clients, but not for HTTP callers.
func TestGrpcTimeoutIsIgnoredOverHTTP(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	for _, timeout := range []string{"1n", "nonsense"} {
		header := asAlice.Clone()
		header.Set("Grpc-Timeout", timeout)
		resp := send(t, f.Service, http.MethodGet, "/v1/wallets/"+f.first.wallet, header, nil)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode, timeout)
	}
}
