package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// problem is an error as the API tells it: a stable code, what happened, and what mends it.
type problem struct {
	Status int    `json:"-"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy"`
}

func (p problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone
}

// Guard refuses calls that do not come from a program of this machine: a web page (Origin), a name that was rebound
// to loopback (Host), or a caller without the token when one is configured. It knows nothing of what is asked.
type Guard struct {
	token     [sha256.Size]byte
	needToken bool
	onSocket  bool
	hosts     []string
	next      http.Handler
}

// NewGuard puts a guard before a handler.
func NewGuard(cfg Config, next http.Handler) *Guard {
	return &Guard{
		token: sha256.Sum256([]byte(cfg.APIToken)), needToken: cfg.APIToken != "",
		onSocket: cfg.APISocket != "", hosts: cfg.AllowedHosts, next: next,
	}
}

func (g *Guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.Header.Values("Origin")) > 0 {
		problem{http.StatusForbidden, "origin_refused", "requests of web pages are not served", "call from a program, without an Origin header"}.write(w)
		return
	}
	if !g.onSocket && !g.hostAllowed(r.Host) {
		problem{http.StatusForbidden, "host_refused", "the Host header names another machine", "use 127.0.0.1 or localhost, or list the name in allowed_hosts"}.write(w)
		return
	}
	if g.needToken && r.URL.Path != "/healthz" && !g.tokenRight(r.Header.Get("Authorization")) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		problem{http.StatusUnauthorized, "token_required", "the bearer token is missing or wrong", "send Authorization: Bearer with the api_token of the node's config"}.write(w)
		return
	}
	g.next.ServeHTTP(w, r)
}

func (g *Guard) tokenRight(header string) bool {
	scheme, token, _ := strings.Cut(header, " ")
	given := sha256.Sum256([]byte(token))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(given[:], g.token[:]) == 1
}

func (g *Guard) hostAllowed(host string) bool {
	name := host
	if bare, _, err := net.SplitHostPort(host); err == nil {
		name = bare
	}
	name = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"))
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr.Unmap().IsLoopback() || slices.Contains(g.hosts, name)
	}
	return name == "localhost" || slices.Contains(g.hosts, name)
}
