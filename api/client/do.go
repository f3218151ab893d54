package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

// ErrTooLong says that an answer was longer than Options.MaxAnswer.
var ErrTooLong = errors.New("the answer is longer than this client takes")

// Request is one call, for what has no method of its own.
type Request struct {
	Method string
	// Path begins with "/"; what it is made of has been escaped.
	Path  string
	Query url.Values
	// Body is sent as JSON: a json.RawMessage as it is, anything else encoded; nil sends none.
	Body any
	// Slow says that the answer may take as long as a model does: only the context bounds it.
	Slow bool

	after uint64 // Last-Event-ID, when above 0
}

// Answer is what a node answered.
type Answer struct {
	Status int
	Header http.Header
	// Body is whole, as it came.
	Body json.RawMessage
}

// Index is the place in the node's log that the answer shows, for Call.MinIndex; 0 when the answer says none.
func (a *Answer) Index() uint64 {
	n, _ := strconv.ParseUint(a.Header.Get("X-AgentOS-Index"), 10, 64)
	return n
}

// CorrelationID names the request in the node's logs.
func (a *Answer) CorrelationID() string { return a.Header.Get("X-Correlation-Id") }

// Replayed reports whether the request had been carried out before, under the same idempotency key.
func (a *Answer) Replayed() bool { return a.Header.Get("Idempotent-Replayed") == "true" }

// Stale reports whether the answer may be older than what was acknowledged.
func (a *Answer) Stale() bool { return a.Header.Get("X-AgentOS-Stale") == "true" }

// Created reports whether the request made something new.
func (a *Answer) Created() bool { return a.Status == http.StatusCreated }

// Pauses between tries: the first, and the longest. A node that asks for a longer one than maxFloor is not waited for.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
	maxFloor   = 30 * time.Second
)

// Do makes one call, and tries again what may be repeated. A refusal is a *fault.Error; the answer is returned beside it.
func (c *Client) Do(ctx context.Context, r Request) (*Answer, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = json.Marshal(r.Body); err != nil {
			return nil, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
		}
	}
	late, noticed := time.Now().Add(Notice), func() {}
	if c.o.Delayed != nil && !r.Slow {
		noticed = notice(c.o.Delayed)
		defer noticed()
	}
	for try := 0; ; try++ {
		a, err := c.try(ctx, r, body)
		if a != nil && c.call.Answer != nil {
			*c.call.Answer = *a
		}
		if err == nil || try >= c.o.Retries || !c.repeatable(r) || !passing(err) {
			return a, err
		}
		if c.o.Delayed != nil && !time.Now().Before(late) {
			noticed()
			c.o.Delayed(err)
		}
		if !pause(ctx, try, floorOf(err)) {
			return a, err
		}
	}
}

// notice tells once, when a call has taken so long, that no answer has come yet. What it returns ends that, and comes back
// after the telling, so that nobody is told two things at once.
func notice(tell func(error)) (end func()) {
	told := make(chan struct{})
	timer := time.AfterFunc(Notice, func() { defer close(told); tell(nil) })
	return sync.OnceFunc(func() {
		if !timer.Stop() {
			<-told
		}
	})
}

// repeatable reports whether r may be carried out twice.
func (c *Client) repeatable(r Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodPost && c.call.IdempotencyKey != ""
}

// passing reports whether err may be gone at the next try.
func passing(err error) bool {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Code.Retryable()
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || errors.Is(err, ErrTooLong) || errors.Is(err, context.Canceled) {
		return false
	}
	return true
}

// floorOf is how long err asks to wait at least.
func floorOf(err error) time.Duration {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.RetryAfter
	}
	return 0
}

// pause waits before the next try: a growing, scattered time on top of the floor. It returns false, at once, when that is
// too long to wait, and when ctx ends.
func pause(ctx context.Context, try int, floor time.Duration) bool {
	step := min(firstPause<<min(try, 16), maxPause)
	wait := floor + step/2 + rand.N(step/2)
	if end, ok := ctx.Deadline(); floor > maxFloor || ok && time.Until(end) < wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// try makes one attempt.
func (c *Client) try(ctx context.Context, r Request, body []byte) (*Answer, error) {
	if c.o.Timeout > 0 && !r.Slow {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.o.Timeout, fmt.Errorf("no answer within %v: %w", c.o.Timeout, os.ErrDeadlineExceeded))
		defer cancel()
	}
	resp, err := c.send(ctx, r, body, "application/json")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return c.read(ctx, r, resp)
}

// send makes the request and returns the answer with its body unread.
func (c *Client) send(ctx context.Context, r Request, body []byte, accept string) (*http.Response, error) {
	target := c.base + r.Path
	query := r.Query
	if c.call.Consistency != "" && r.Method == http.MethodGet {
		query = url.Values{}
		for name, values := range r.Query {
			query[name] = values
		}
		query.Set("consistency", string(c.call.Consistency))
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, reader)
	if err != nil {
		return nil, err
	}
	set := func(name, value string) {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	set("Accept", accept)
	set("User-Agent", c.o.UserAgent)
	set("X-Tenant-Id", c.call.TenantID)
	set("X-Correlation-Id", c.call.CorrelationID)
	set("traceparent", c.call.Traceparent)
	if c.o.Key != "" {
		set("Authorization", "Bearer "+c.o.Key)
	}
	if body != nil {
		set("Content-Type", "application/json")
	}
	if c.call.MinIndex > 0 {
		set("X-AgentOS-Index", strconv.FormatUint(c.call.MinIndex, 10))
	}
	if r.after > 0 {
		set("Last-Event-ID", strconv.FormatUint(r.after, 10))
	}
	if r.Method == http.MethodPost {
		set("Idempotency-Key", c.call.IdempotencyKey)
	}
	resp, err := c.http.Do(req)
	return resp, told(ctx, err)
}

// told puts the reason why ctx ended in place of the bare fact.
func told(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) && errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// read takes the whole answer, within bounds.
func (c *Client) read(ctx context.Context, r Request, resp *http.Response) (*Answer, error) {
	limit := c.o.MaxAnswer
	if resp.StatusCode >= 300 {
		limit = min(limit, maxFailure)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: the answer broke off: %w", r.Method, r.Path, told(ctx, err))
	}
	a := &Answer{Status: resp.StatusCode, Header: resp.Header, Body: raw}
	if resp.StatusCode >= 300 {
		a.Body = raw[:min(int64(len(raw)), limit)]
		return a, failure(a)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s %s: %w: more than %d bytes", r.Method, r.Path, ErrTooLong, limit)
	}
	return a, nil
}

// route fills the ids into the template of a path, as the contract writes it, and escapes them. An empty id is refused: the
// path would be that of something else.
func route(template string, ids ...string) (string, error) {
	var b strings.Builder
	for _, v := range ids {
		before, rest, _ := strings.Cut(template, "{")
		name, after, _ := strings.Cut(rest, "}")
		if v == "" {
			return "", fault.Invalid(name, "%s is empty.", name)
		}
		b.WriteString(before)
		b.WriteString(url.PathEscape(v))
		template = after
	}
	b.WriteString(template)
	return b.String(), nil
}

// ask makes a call and returns the member of the answer that has this name.
func ask[T any](ctx context.Context, c *Client, r Request, noun string) (*T, error) {
	a, err := c.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := a.member(noun, v); err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
	}
	return v, nil
}

// member decodes one member of the answer.
func (a *Answer) member(name string, v any) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(a.Body, &members); err != nil {
		return fmt.Errorf("the answer can't be read: %w", err)
	}
	raw, ok := members[name]
	if !ok {
		return fmt.Errorf("the answer holds no %q", name)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%q of the answer can't be read: %w", name, err)
	}
	return nil
}

// at is route, and a request for it.
func at(method, template string, body any, ids ...string) (Request, error) {
	path, err := route(template, ids...)
	return Request{Method: method, Path: path, Body: body}, err
}

// get asks for one thing by the ids in its path.
func get[T any](ctx context.Context, c *Client, noun, template string, ids ...string) (*T, error) {
	return change[T](ctx, c, http.MethodGet, noun, template, nil, ids...)
}

// change makes a call that answers with a noun.
func change[T any](ctx context.Context, c *Client, method, noun, template string, body any, ids ...string) (*T, error) {
	r, err := at(method, template, body, ids...)
	if err != nil {
		return nil, err
	}
	return ask[T](ctx, c, r, noun)
}

// remove makes a call that answers with nothing.
func (c *Client) remove(ctx context.Context, template string, ids ...string) error {
	r, err := at(http.MethodDelete, template, nil, ids...)
	if err == nil {
		_, err = c.Do(ctx, r)
	}
	return err
}
