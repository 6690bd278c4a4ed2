package e2e_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// An id in the path that is not UTF-8 is an invalid id like any other, on streams too, and only for authenticated
// callers.
func TestIDsThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	d := openSecured(t, servertest.Config{})
	alice, nobody := d.as(t, nil, d.token(t, "alice")), d.as(t, nil)
	id := uuid.NewString()
	for _, bad := range []string{"%ff", "%c0%80", "%ed%a0%80", "a%80b"} {
		for path, names := range map[string][]string{
			"/v1/wallets/" + bad:                                   {"walletId"},
			"/v1/wallets/" + bad + ":provision":                    {"walletId"},
			"/v1/wallets/" + bad + ":backup":                       {"walletId"},
			"/v1/wallets/" + bad + ":sign":                         {"walletId"},
			"/v1/wallets/" + bad + ":signWithDevice":               {"walletId"},
			"/v1/wallets/" + id + "/shareSets/" + bad + ":confirm": {"shareSetId"},
			"/v1/wallets/" + bad + "/shareSets/" + bad + ":revoke": {"walletId", "shareSetId"},
			"/v1/wallets/" + id + "/shareSets/" + bad + ":release": {"shareSetId"},
			"/v1/sessions/" + bad:                                  {"sessionId"},
			"/v1/sessions/" + bad + ":cancel":                      {"sessionId"},
			"/v1/sessions/" + bad + "/messages":                    {"sessionId"},
		} {
			verb := http.MethodPost
			if !strings.Contains(strings.TrimPrefix(path, "/v1/"), ":") && !strings.HasSuffix(path, "messages") {
				verb = http.MethodGet
			}
			st, _ := flat(t, alice, http.StatusBadRequest, verb, path, http.Header{"Authorization": nil}, "")
			require.Equal(t, "INVALID_ARGUMENT", flatReason(t, st))
			for _, name := range names {
				require.Contains(t, wrong(st)[name], "must be a UUID", "%s: %s", path, st.Message())
			}
			st, _ = flat(t, nobody, http.StatusUnauthorized, verb, path, http.Header{"Authorization": nil}, "")
			require.Equal(t, "UNAUTHENTICATED", flatReason(t, st))
		}
	}
}

// A service without authentication refuses calls that a web page elsewhere makes a browser send, whether recognisable
// by their origin or by a foreign name for this machine.
func TestDevIsForThisMachine(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.com"
	f := start(t, servertest.Config{Server: server.Config{Dev: true, CORSOrigins: []string{app}}})
	other := start(t, servertest.Config{Server: server.Config{CORSOrigins: []string{app}}})
	_, port, err := net.SplitHostPort(strings.TrimPrefix(f.URL, "http://"))
	require.NoError(t, err)
	_, path, body := request(t, method(t, signReq(f.first)), signReq(f.first))
	call := func(s *servertest.Service, url, host string, origins ...string) (code int, answered string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
		require.NoError(t, err)
		r.Host = host
		r.Header = http.Header{"Content-Type": {"text/plain"}, "Authorization": asAlice["Authorization"], "Origin": origins}
		resp, err := s.HTTP.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close() //nolint:errcheck // it is read to its end
		all, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		if resp.StatusCode == http.StatusForbidden {
			st := decodedStatus(t, all)
			require.Equal(t, codes.PermissionDenied, st.Code())
			require.Equal(t, "PERMISSION_DENIED", flatReason(t, st))
			s.Log.Wait(t, "finished call", `"request_id":"`+resp.Header.Get("X-Request-Id")+`"`, "PERMISSION_DENIED")
			require.Empty(t, resp.Header.Get("Access-Control-Allow-Origin"))
		}
		return resp.StatusCode, string(all)
	}
	for _, host := range []string{
		"", "127.0.0.1:" + port, "localhost:" + port, "LocalHost", "localhost.", "127.8.9.10", "[::1]:1", "[::1]", "mpcd.localhost:" + port,
	} {
		code, said := call(f.Service, f.URL+path, host)
		require.Equal(t, http.StatusOK, code, "%s: %s", host, said)
	}
	for _, host := range []string{"evil.example", "evil.example:" + port, "127.0.0.1.evil.example", "localhost.evil.example", "notlocalhost", "10.0.0.1", "0.0.0.0", "[::]"} {
		code, said := call(f.Service, f.URL+path, host)
		require.Equal(t, http.StatusForbidden, code, host)
		require.Contains(t, said, "call it as 127.0.0.1:"+port)
		code, _ = call(f.Service, f.URL+path, host, "http://"+host)
		require.Equal(t, http.StatusForbidden, code, "of the same origin")
		code, _ = call(f.Service, f.Admin+"/debug/pprof/", host)
		require.Equal(t, http.StatusForbidden, code, "the admin listener")
	}
	for _, origin := range []string{app, "http://127.0.0.1:" + port} {
		code, said := call(f.Service, f.URL+path, "", origin)
		require.Equal(t, http.StatusOK, code, "%s: %s", origin, said)
	}
	for _, origins := range [][]string{
		{"https://evil.example"}, {"null"}, {""}, {"http://127.0.0.1"}, {"http://localhost:" + port}, {"https://127.0.0.1:" + port},
		{app + ".evil.example"}, {app, "https://evil.example"}, {app, app},
	} {
		code, said := call(f.Service, f.URL+path, "", origins...)
		require.Equal(t, http.StatusForbidden, code, origins)
		require.Contains(t, said, "--cors-origins")
		// With authentication the token protects: a page has none.
		code, said = call(other.Service, other.URL+path, "mpcd.example", origins...)
		require.Equal(t, http.StatusOK, code, said)
	}
}

// Two origins are treated as none.
func TestTwoOrigins(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.com"
	f := start(t, servertest.Config{Server: server.Config{CORSOrigins: []string{app}}})
	for _, origins := range [][]string{{app, "https://evil.example"}, {"https://evil.example", app}, {app, app}} {
		header := asAlice.Clone()
		header["Origin"] = origins
		resp := send(t, f.Service, http.MethodGet, "/v1/wallets", header, nil)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Empty(t, resp.Header.Values("Access-Control-Allow-Origin"))
		header["Access-Control-Request-Method"] = []string{"POST"}
		_, answered := bodiless(t, f.Service, http.MethodOptions, "/v1/wallets", header)
		require.Empty(t, answered.Values("Access-Control-Allow-Origin"))
	}
}

// What the gateway answers itself is logged like a call, and limited by address like calls that are not
// authenticated; valid callers at that address are unaffected.
func TestGatewaysOwnAnswers(t *testing.T) {
	t.Parallel()
	type own struct {
		code       int
		verb, path string
		header     http.Header
		body       string
	}
	all := map[string]own{
		"NotFound":        {404, "GET", "/v2", nil, ""},
		"Unimplemented":   {405, "DELETE", "/v1/wallets", nil, ""},
		"InvalidArgument": {413, "POST", "/v1/wallets", nil, strings.Repeat("a", 2<<20+1)},
		"INVALID":         {415, "POST", "/v1/wallets", http.Header{"Content-Type": {"text/csv"}}, "x"},
	}
	open := start(t, servertest.Config{})
	for code, c := range all {
		h := http.Header{"Authorization": nil, "X-Request-Id": {"own-" + code}, "X-Forwarded-For": {"é"}}
		for k, v := range c.header {
			h[k] = v
		}
		flat(t, open.Service, c.code, c.verb, c.path, h, c.body)
		open.Log.Wait(t, "finished call", `"request_id":"own-`+code+`"`, `"level":"INFO"`, fmt.Sprintf(`"http.code":%d`, c.code),
			`"reason":"INVALID_ARGUMENT"`, `"from":"127.0.0.1"`)
	}
	require.NotContains(t, open.Log.String(), "/v2")
	// A call's address is the peer's, whatever its headers say.
	flat(t, open.Service, http.StatusNotFound, "GET", "/v1/wallets/"+uuid.NewString(), http.Header{"X-Forwarded-For": {"é"}, "X-Request-Id": {"seen"}}, "")
	open.Log.Wait(t, "finished call", `"request_id":"seen"`, `"from":"127.0.0.1"`)

	limited := start(t, servertest.Config{Server: server.Config{Limits: server.Limits{Rate: 1, Burst: 3}}})
	deadline := time.Now().Add(time.Minute)
	for {
		resp := send(t, limited.Service, http.MethodGet, "/v2", http.Header{"X-Request-Id": {"many"}}, nil)
		require.NoError(t, resp.Body.Close())
		if resp.StatusCode == http.StatusTooManyRequests {
			require.NotEmpty(t, resp.Header.Get("Retry-After"))
			break
		}
		require.Equal(t, http.StatusNotFound, resp.StatusCode)
		require.True(t, time.Now().Before(deadline), "it is not limited")
	}
	limited.Log.Wait(t, "finished call", `"request_id":"many"`, "RATE_LIMITED")
	resp := send(t, limited.Service, http.MethodGet, "/v1/wallets", asAlice, nil)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// A caller that asks before sending a body that is too large is refused at once, and does not send it.
func TestTooLargeBodyGetsNoContinue(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	for length, want := range map[int]string{2<<20 + 1: "HTTP/1.1 413 ", 1 << 40: "HTTP/1.1 413 ", 2: "HTTP/1.1 100 "} {
		for _, path := range []string{"/v1/wallets", "/v1/wallets/" + f.first.wallet + ":sign"} {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(f.URL, "http://"))
			require.NoError(t, err)
			require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
			_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", path, length)
			require.NoError(t, err)
			in := bufio.NewReader(conn)
			line, err := in.ReadString('\n')
			require.NoError(t, err)
			require.Contains(t, line, want)
			if length > 2 {
				rest, err := io.ReadAll(in) // to the end of the connection
				require.NoError(t, err)
				require.Contains(t, string(rest), "Connection: close")
				require.Contains(t, string(rest), "more than 2097152 bytes")
			}
			require.NoError(t, conn.Close())
		}
	}
}
