// Package safehttp makes requests to addresses that strangers have named. It connects to public addresses only, decided by
// the address that is really dialled and not by the name that was given, uses no proxy, follows few redirects under the
// same rule, and bounds the time and the bytes of every answer.
//
// Room: plumbing. It imports internal/fault. Requests to configured backends and peers don't go through it.
package safehttp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

// Defaults of Options.
const (
	DefaultTimeout      = 30 * time.Second
	DefaultMaxBody      = 8 << 20
	DefaultMaxRedirects = 5
)

// Options say how to make a Client. Zero fields have their defaults.
type Options struct {
	// Timeout bounds a request with all its redirects, up to the last byte of the body.
	Timeout time.Duration
	// MaxBody is how many bytes of a body can be read, counted after decompression.
	MaxBody int64
	// MaxRedirects is how many redirects are followed.
	MaxRedirects int
	// Allow lists networks that may be reached although they are not public: an operator's own tools.
	Allow []netip.Prefix
}

// Client makes requests. It is safe for concurrent use.
type Client struct {
	http *http.Client
	max  int64
}

// New returns a Client.
func New(o Options) *Client {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxBody <= 0 {
		o.MaxBody = DefaultMaxBody
	}
	if o.MaxRedirects <= 0 {
		o.MaxRedirects = DefaultMaxRedirects
	}
	dialer := &net.Dialer{
		Timeout: 10 * time.Second,
		// Control sees the address after the name was resolved and right before it is connected to: a name that resolves
		// to something else the second time can't get past it.
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			return o.permit(network, address)
		},
	}
	transport := &http.Transport{
		Proxy:                  nil, // a proxy would dial in our place, by its own rules
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  o.Timeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    2,
		MaxIdleConns:           32,
		IdleConnTimeout:        30 * time.Second,
	}
	return &Client{max: o.MaxBody, http: &http.Client{
		Transport: transport, Timeout: o.Timeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > o.MaxRedirects {
				return fault.New(fault.Unavailable, "The address redirects more than %d times.", o.MaxRedirects)
			}
			return scheme(req)
		},
	}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Do makes one request. A refused address is fault.Forbidden. The body that it returns fails with fault.PayloadTooLarge
// once it has given as much as it may.
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	if err := scheme(req); err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*fault.Error](err); ok {
			return nil, e
		}
		return nil, err
	}
	resp.Body = &bounded{ReadCloser: resp.Body, left: c.max, max: c.max}
	return resp, nil
}

func scheme(req *http.Request) error {
	if req.URL == nil || req.URL.Host == "" || req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return fault.Invalid("url", "Only http and https addresses can be asked.")
	}
	if req.URL.User != nil {
		return fault.Invalid("url", "A URL with a password in it is not accepted.")
	}
	return nil
}

// bounded gives at most left bytes.
type bounded struct {
	io.ReadCloser
	left, max int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		var one [1]byte
		if n, err := b.ReadCloser.Read(one[:]); n == 0 {
			return 0, err
		}
		return 0, fault.New(fault.PayloadTooLarge, "The answer is larger than %d bytes.", b.max)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}

// permit refuses every address that is not one of the public internet.
func (o *Options) permit(network, address string) error {
	if !strings.HasPrefix(network, "tcp") {
		return refused()
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return refused()
	}
	ip := at.Addr().WithZone("").Unmap()
	for _, p := range o.Allow {
		if p.Contains(ip) {
			return nil
		}
	}
	if !Public(ip) {
		return refused()
	}
	return nil
}

func refused() error {
	return fault.New(fault.Forbidden, "The address is not one of the public internet; this node does not ask it on anyone's behalf.")
}

// special are networks that are not public and that netip does not know by itself: the special-purpose registries of
// RFC 6890 and its updates, and prefixes that carry an IPv4 address within.
var special = func() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "168.63.129.16/32", // the last: a cloud's host agent on a public address
		"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "::/96", "fec0::/10",
	} {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}()

// Public reports whether ip is an address of the public internet.
func Public(ip netip.Addr) bool {
	ip = ip.WithZone("").Unmap()
	if !ip.IsValid() || !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range special {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}
