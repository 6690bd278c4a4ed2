package server

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	rscors "github.com/rs/cors"
	"google.golang.org/grpc/codes"

	"github.com/mpcd/mpcd/internal/session"
)

// cors lets pages of these origins call over HTTP. It answers preflights, which need no credentials; all other
// answers, errors included, let the page read them. Callers authenticate with a token that the page sends: the
// browser's own credentials, such as cookies, are not used.
func cors(origins []string, next http.Handler) http.Handler {
	if len(origins) == 0 {
		return next
	}
	with := func(methods ...string) http.Handler {
		return rscors.New(rscors.Options{
			AllowedOrigins: origins,
			AllowedMethods: methods,
			AllowedHeaders: []string{"Authorization", "Content-Type", "X-Request-Id", "Traceparent"},
			ExposedHeaders: []string{"X-Request-Id", "Retry-After", "WWW-Authenticate"},
			MaxAge:         600, // seconds
		}).Handler(next)
	}
	preflight := with(http.MethodGet, http.MethodHead, http.MethodPost)
	// Pages may also read that a path does not support a method.
	actual := with(http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header.Values("Origin")) > 1 {
			r.Header.Del("Origin") // browsers never send two: neither is trusted
		}
		if r.Method != http.MethodOptions {
			actual.ServeHTTP(w, r)
			return
		}
		const header = "Access-Control-Request-Headers"
		if asked := r.Header.Get(header); asked != "" {
			// rs/cors expects them sorted and lower case, as browsers send them; other clients need not.
			names := strings.Split(strings.ToLower(strings.ReplaceAll(asked, " ", "")), ",")
			slices.Sort(names)
			r.Header.Set(header, strings.Join(names, ","))
		}
		preflight.ServeHTTP(w, r)
	})
}

// LocalOnly protects a service without authentication from web pages elsewhere, which may make a browser send it
// requests:.

// from another origin, which browsers do without a preflight for requests like those of forms, or under a foreign DNS
// name that resolves to this machine (DNS rebinding).
func (s *Server) localOnly(next http.Handler) http.Handler {
	if !s.cfg.Dev {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const dev = "This is a --dev service, which has no authentication. "
		host, port := (&url.URL{Host: r.Host}).Hostname(), ""
		if addr, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
			port = ":" + strconv.Itoa(addr.Port)
		}
		var sentence string
		switch {
		case !isLocalName(host):
			sentence = dev + "It answers only under this machine's own names: call it as 127.0.0.1" + port + " or localhost" + port + "."
		case !s.isLocalOrigin(r):
			sentence = dev + "It takes no calls from web pages of other origins: if this page may use every wallet, " +
				"start the service with its origin in --cors-origins."
		default:
			next.ServeHTTP(w, r)
			return
		}
		s.own(w, r, http.StatusForbidden, because(codes.PermissionDenied, session.ErrPermissionDenied, sentence))
	})
}

// isLocalName reports whether a host name refers to this machine regardless of DNS (RFC 6761, section 6.3).
func isLocalName(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return isLoopbackHost(host) || strings.HasSuffix(host, ".localhost")
}

// isLocalOrigin reports whether a request comes from no page, from one of this service, or from an allowed origin.
func (s *Server) isLocalOrigin(r *http.Request) bool {
	origins := r.Header.Values("Origin")
	own := "http://" + r.Host
	if r.TLS != nil {
		own = "https://" + r.Host
	}
	return len(origins) == 0 ||
		len(origins) == 1 && (strings.EqualFold(origins[0], own) || slices.Contains(s.cfg.CORSOrigins, origins[0]))
}

// appSchemes are schemes of origins of pages in apps and browser extensions.
var appSchemes = []string{"capacitor", "ionic", "chrome-extension"}

// CheckOrigin returns an error that says what is wrong with a web origin: it must be spelled as browsers send it in
// the Origin header, since nothing else ever matches.
func CheckOrigin(origin string) error {
	u, err := url.Parse(origin)
	switch {
	case strings.Contains(origin, "*"):
		return errors.New("is not an exact origin: name each one, without *")
	case origin == "null":
		return errors.New("is what any sandboxed page sends: it identifies no site")
	case err != nil, u.Scheme == "", u.Host == "", u.Opaque != "", strings.ContainsFunc(origin, notPrintableASCII):
		return errors.New("is not an origin, as in https://app.example.com")
	case u.User != nil, u.Path != "", u.RawQuery != "", u.ForceQuery, u.Fragment != "", strings.ContainsAny(origin, "#?"):
		return errors.New("has more than scheme, host and port: an origin has no path, and no slash at its end")
	case strings.ToLower(origin) != origin:
		return errors.New("has capital letters: browsers send none")
	case u.Scheme == "https":
		return checkPort(u, "443")
	case u.Scheme == "http" && isLoopbackHost(u.Hostname()):
		return checkPort(u, "80")
	case u.Scheme == "http":
		return errors.New("is plain http: an attacker on the network could change the page and call as its user; " +
			"only loopback (localhost, 127.0.0.1, [::1]) may be http")
	case !slices.Contains(appSchemes, u.Scheme):
		return errors.New("has another scheme than https, http (loopback only), " + strings.Join(appSchemes, ", "))
	}
	return nil
}

func notPrintableASCII(r rune) bool { return r <= ' ' || r > '~' }

// checkPort returns an error for a port that browsers would spell differently.
func checkPort(u *url.URL, usual string) error {
	port := u.Port()
	_, err := netip.ParseAddrPort("127.0.0.1:" + port)
	switch {
	case port == "" && !strings.HasSuffix(u.Host, ":"):
		return nil
	case port == usual:
		return errors.New("names the usual port: browsers leave out :" + usual)
	case err != nil, strings.HasPrefix(port, "0"):
		return errors.New("is not an origin: its port is none")
	}
	return nil
}

func isLoopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
