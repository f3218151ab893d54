package client

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Defaults of Options.
const (
	DefaultUserAgent = "agentos-client"
	DefaultRetries   = 3
	DefaultTimeout   = 30 * time.Second
	DefaultMaxAnswer = 64 << 20
	DefaultPatience  = 30 * time.Second
	// Notice is how long a call takes before Delayed is told.
	Notice = 2 * time.Second
)

// Options say which node to speak to, and how. BaseURL has to be given; the zero value of a field means its default.
type Options struct {
	// BaseURL is where the node's API is, such as http://127.0.0.1:8420. A path in it stands before every path.
	BaseURL string
	// Key is the API key; without one only what is open to everybody can be asked.
	Key string
	// HTTP makes the requests; whatever it says, no redirect is followed. Nil has one made with connections of its own,
	// which Close drops.
	HTTP *http.Client
	// RootCAs are whom to trust for TLS, when HTTP is nil; nil means the system's.
	RootCAs *x509.CertPool
	// UserAgent is what the client calls itself.
	UserAgent string
	// Retries is how often a request that may be repeated is tried again; negative means never.
	Retries int
	// Timeout bounds each try of a call, except that calls of models and streams are bounded by their context alone;
	// negative means no bound.
	Timeout time.Duration
	// MaxAnswer bounds one answer, in bytes.
	MaxAnswer int64
	// Delayed is told, in the middle of a call other than a model's or a stream's, why there is no answer after Notice: nil
	// when nothing has come yet, and later the error of a try that is about to be made again.
	Delayed func(err error)
	// Patience is how long Follow goes on asking while nothing new comes through; negative means for as long as its context.
	Patience time.Duration
}

// Consistency says how a node is to read.
type Consistency string

// The ways to read. The zero value leaves it to the node, which is Default.
const (
	// Default is the node's own copy, at least as new as what this caller wrote there.
	Default Consistency = "default"
	// Stale is the node's own copy, also while it has no leader.
	Stale Consistency = "stale"
	// Linearizable is at least as new as everything acknowledged anywhere before.
	Linearizable Consistency = "linearizable"
)

// Call says what is special about the calls of a client that With returns.
type Call struct {
	// IdempotencyKey makes a POST that is sent again the same request, for at least 24 hours. It belongs to one request.
	IdempotencyKey string
	// TenantID is the tenant to act for, if it's another than the key's: a platform admin's service may.
	TenantID string
	// Consistency and MinIndex say how new what is read has to be. MinIndex is an earlier Answer.Index.
	Consistency Consistency
	MinIndex    uint64
	// CorrelationID and Traceparent (W3C Trace Context) tie the call to something larger.
	CorrelationID string
	Traceparent   string
	// Answer, when set, is given the answer of each call, also of one that failed: the last one, if there are several.
	Answer *Answer
}

// Client speaks to one node with one key. It is safe for concurrent use.
type Client struct {
	o    Options
	base string
	http *http.Client
	own  bool // http was made here
	call Call
}

// New returns a Client. It asks nothing yet.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.BaseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("client: the base URL %q is not http://HOST:PORT or https://HOST:PORT", o.BaseURL)
	}
	if strings.ContainsAny(o.Key, " \t\r\n") {
		return nil, fmt.Errorf("client: the API key holds white space")
	}
	if o.UserAgent == "" {
		o.UserAgent = DefaultUserAgent
	}
	if o.Retries == 0 {
		o.Retries = DefaultRetries
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxAnswer <= 0 {
		o.MaxAnswer = DefaultMaxAnswer
	}
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	c := &Client{o: o, base: strings.TrimRight(o.BaseURL, "/")}
	if o.HTTP != nil {
		given := *o.HTTP
		c.http = &given
	} else {
		c.http, c.own = newHTTP(o.RootCAs), true
	}
	// A node never redirects; who does is no node, and must not get the key.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

func newHTTP(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   5 * time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
	}}
}

// Close drops the connections that the client made. Calls under way go on.
func (c *Client) Close() {
	if c.own {
		c.http.CloseIdleConnections()
	}
}

// BaseURL is the node that c speaks to.
func (c *Client) BaseURL() string { return c.base }

// With returns a client of the same node and key, on the same connections, whose calls are special in that way. The
// connections stay c's to close.
func (c *Client) With(call Call) *Client {
	other := *c
	other.call, other.own = call, false
	return &other
}
