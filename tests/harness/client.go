package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Client speaks to one listener with one credential. The zero Key sends none.
type Client struct {
	Base string // "http://127.0.0.1:8420"
	Key  string
	http *http.Client
	dial dialFunc
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// NewClient returns a client whose connections are its own.
func NewClient(base, key string) *Client {
	return newClient(base, key, (&net.Dialer{Timeout: 5 * time.Second}).DialContext)
}

func newClient(base, key string, dial dialFunc) *Client {
	t := &http.Transport{
		DialContext:         dial,
		MaxIdleConnsPerHost: 256,
		DisableCompression:  true,
		// Of use to requests with "Expect: 100-continue": what is refused by its head is then not sent at all.
		ExpectContinueTimeout: 10 * time.Second,
	}
	return &Client{Base: base, Key: key, dial: dial, http: &http.Client{
		Transport:     t,
		Timeout:       60 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// As returns a client for the same listener with another credential, sharing the connections.
func (c *Client) As(key string) *Client {
	return &Client{Base: c.Base, Key: key, http: c.http, dial: c.dial}
}

// Close drops the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Answer is one whole HTTP answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Try sends one request. body may be nil, []byte, string (both sent as they are), an io.Reader, or a value to be encoded
// as JSON. headers are name, value, name, value; a nil-looking value "-" removes a header this client would set.
func (c *Client) Try(ctx context.Context, method, path string, body any, headers ...string) (Answer, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	case string:
		r = strings.NewReader(b)
	case io.Reader:
		r = b
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return Answer{}, err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, r)
	if err != nil {
		return Answer{}, err
	}
	req.GetBody = nil // never sent twice behind our back
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "-" {
			req.Header.Del(headers[i])
		} else {
			req.Header.Add(headers[i], headers[i+1])
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: text}, err
}

// Do is Try that ends the test when no answer comes.
func (c *Client) Do(tb testing.TB, method, path string, body any, headers ...string) Answer {
	tb.Helper()
	a, err := c.Try(context.Background(), method, path, body, headers...)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// Want is Do that ends the test when the status is another than status.
func (c *Client) Want(tb testing.TB, status int, method, path string, body any, headers ...string) Answer {
	tb.Helper()
	a := c.Do(tb, method, path, body, headers...)
	if a.Status != status {
		tb.Fatalf("%s %s: status %d, want %d; body: %s", method, path, a.Status, status, tail(string(a.Body), 1000))
	}
	return a
}

// At returns the value at a dotted path ("run.status", "events.0.type") of the JSON body, nil when there is none. Numbers
// come as json.Number.
func (a Answer) At(path string) any { return At(Decode(a.Body), path) }

// Str returns the string at path, "" when there is none.
func (a Answer) Str(path string) string {
	s, _ := a.At(path).(string)
	return s
}

// Int returns the integer at path, -1 when there is none.
func (a Answer) Int(path string) int64 {
	n, ok := a.At(path).(json.Number)
	if !ok {
		return -1
	}
	i, err := n.Int64()
	if err != nil {
		return -1
	}
	return i
}

// Code returns the error code of the body, "" when it is no error object.
func (a Answer) Code() string { return a.Str("error.code") }

// Decode decodes JSON with numbers kept as they are written; nil when it is none.
func Decode(text []byte) any {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	return v
}

// At walks v by a dotted path of names and indexes.
func At(v any, path string) any {
	if path == "" {
		return v
	}
	for name := range strings.SplitSeq(path, ".") {
		switch t := v.(type) {
		case map[string]any:
			v = t[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(t) {
				return nil
			}
			v = t[i]
		default:
			return nil
		}
	}
	return v
}

// Has reports whether v has a member at path, be it null.
func Has(v any, path string) bool {
	parent, name := "", path
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	m, ok := At(v, parent).(map[string]any)
	if !ok {
		return false
	}
	_, ok = m[name]
	return ok
}

// CheckError reports what is wrong with an error answer: its status, code and shape by the contract's section 1.
func (a Answer) CheckError(status int, code string) error {
	if a.Status != status || a.Code() != code {
		return fmt.Errorf("answer %d %q, want %d %q; body: %s", a.Status, a.Code(), status, code, tail(string(a.Body), 600))
	}
	if a.Str("error.message") == "" {
		return fmt.Errorf("error without a message: %s", a.Body)
	}
	retryable, ok := a.At("error.retryable").(bool)
	if !ok {
		return fmt.Errorf("error without retryable: %s", a.Body)
	}
	switch code {
	case "rate_limited", "internal_error", "dependency_unavailable", "timeout":
		ok = retryable
	default:
		ok = !retryable
	}
	if !ok {
		return fmt.Errorf("%s says retryable=%v: %s", code, retryable, a.Body)
	}
	if _, ok := a.At("error.details").(map[string]any); !ok {
		return fmt.Errorf("error without a details object: %s", a.Body)
	}
	if c := a.Str("correlation_id"); c == "" || c != a.Header.Get("X-Correlation-Id") {
		return fmt.Errorf("correlation_id %q in the body, %q in the header", c, a.Header.Get("X-Correlation-Id"))
	}
	if a.Header.Get("X-Request-Id") == "" {
		return fmt.Errorf("no X-Request-Id on %d %s", status, code)
	}
	return nil
}
