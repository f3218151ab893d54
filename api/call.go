package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// call is one request on its way through the door.
type call struct {
	s      *Server
	w      http.ResponseWriter
	r      *http.Request
	route  *Route
	params httprouter.Params
	query  url.Values

	requestID, correlationID string
	traceparent              string
	// chosen is set when the caller named the correlation id in a header: then a body's does not count.
	chosen bool

	auth  *tenancy.Auth
	index uint64
	stale bool
	wrote bool // the answer has begun
	// hijacked is set when the connection was taken over: nothing is written through w any more.
	hijacked bool
	status   int
	key      string // the idempotency key of the header
	start    time.Time
}

func (c *call) ctx() context.Context { return c.r.Context() }

func (c *call) param(name string) string { return strings.TrimPrefix(c.params.ByName(name), "/") }

// ident returns a path parameter that has to be an identifier.
func (c *call) ident(name string) (string, error) {
	v := c.params.ByName(name)
	if !id.Valid(v) {
		return "", fault.Invalid(name, "%s is 1 to %d of [A-Za-z0-9._-].", name, id.MaxLen)
	}
	return v, nil
}

// read says how the caller wants to read.
func (c *call) read() (storage.Read, error) {
	var r storage.Read
	switch v := c.query.Get("consistency"); {
	case v == "default", !c.query.Has("consistency"):
	case v == "stale":
		r.Consistency = storage.Stale
	case v == "linearizable":
		r.Consistency = storage.Linearizable
	default:
		return r, fault.Invalid("consistency", "consistency is default, stale or linearizable, not %.32q.", v)
	}
	if h := c.r.Header.Get("X-AgentOS-Index"); h != "" {
		n, err := strconv.ParseUint(h, 10, 64)
		if err != nil {
			return r, fault.Invalid("X-AgentOS-Index", "X-AgentOS-Index is a whole number.")
		}
		r.MinIndex = n
	}
	c.stale = r.Consistency == storage.Stale
	return r, nil
}

// page reads limit and cursor. A limit of 0 asks the room for its default.
func (c *call) page() (cursor string, limit int, err error) {
	if v := c.query.Get("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > 500 {
			return "", 0, fault.Invalid("limit", "limit is a whole number from 1 to 500.")
		}
	} else {
		limit = 50
	}
	return c.query.Get("cursor"), limit, nil
}

// actor is who asks for a change, with the request's idempotency key for the operation when there is one.
func (c *call) actor() tenancy.Actor {
	a := tenancy.Actor{Auth: c.auth, CorrelationID: c.correlationID}
	if c.key != "" && c.r.Method == http.MethodPost {
		a.Idem = &tenancy.Idempotency{Operation: c.r.Method + " " + c.r.URL.Path, Key: c.key}
	}
	return a
}

// body reads and decodes the request into v, which must be a pointer. The body has to be an object.
func (c *call) body(v any) error {
	raw, err := c.rawBody()
	if err != nil {
		return err
	}
	return c.decode(raw, v)
}

// decode reads raw into v, and takes the members that any body may carry beside its noun.
func (c *call) decode(raw []byte, v any) error {
	var e envelope
	if text := bytes.TrimLeft(raw, " \t\r\n"); len(text) == 0 || text[0] != '{' {
		return fault.Invalid("body", "The body is not a JSON object; send one.")
	}
	if err := strictjson.Visit(raw, v, e.take); err != nil {
		return err
	}
	return c.common(&e)
}

// rawBody reads the whole body within the route's bound.
func (c *call) rawBody() ([]byte, error) {
	limit := c.route.MaxBody
	if limit == 0 {
		limit = defaultBody
	}
	if kind := c.r.Header.Get("Content-Type"); kind != "" {
		media, _, err := mime.ParseMediaType(kind)
		if err != nil || media != "application/json" && !strings.HasSuffix(media, "+json") {
			return nil, fault.New(fault.UnsupportedMediaType, "The body is %.64q; send application/json.", kind)
		}
	}
	if c.r.ContentLength > limit {
		return nil, c.tooLarge(limit)
	}
	buf, err := readAll(http.MaxBytesReader(c.w, c.r.Body, limit), c.r.ContentLength)
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, c.tooLarge(limit)
	}
	if err != nil {
		return nil, fault.Invalid("body", "The body broke off.").Because(err)
	}
	if len(buf) == 0 {
		return nil, fault.Invalid("body", "The body is empty; send a JSON object.")
	}
	return buf, nil
}

// readAll reads r to its end. Memory is taken as bytes come, whatever length was announced, and in pieces that are joined
// once: a buffer that grew by copying would hold a long body twice over, and leave its outgrown halves behind.
func readAll(r io.Reader, announced int64) ([]byte, error) {
	const least, most = 512, 1 << 20
	size := least
	if announced > least {
		size = int(min(announced+1, 64<<10)) // one more, so that the end is seen without growing
	}
	var whole [][]byte
	piece := make([]byte, 0, size)
	for {
		if len(piece) == cap(piece) {
			whole = append(whole, piece)
			piece = make([]byte, 0, min(2*cap(piece), most))
		}
		n, err := r.Read(piece[len(piece):cap(piece)])
		piece = piece[:len(piece)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if whole == nil {
		return piece, nil
	}
	return bytes.Join(append(whole, piece), nil), nil
}

func (c *call) tooLarge(limit int64) error {
	c.w.Header().Set("Connection", "close")
	return fault.New(fault.PayloadTooLarge, "The body is larger than the %d bytes this call takes.", limit).With("limit", limit)
}

// envelope are the members that any body may carry beside its noun, as they stand in the text.
type envelope struct{ auth, correlationID, traceparent []byte }

func (e *envelope) take(name, raw []byte) {
	switch string(name) {
	case "auth":
		e.auth = raw
	case "correlation_id":
		e.correlationID = raw
	case "traceparent":
		e.traceparent = raw
	}
}

// text is a member that is a string, and "" for anything else: it is no more than a wish.
func text(raw []byte) (s string) {
	if len(raw) == 0 || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// claimed is what a body says of its sender. It never gives a right; it may only agree.
type claimed struct {
	TenantID  *string `json:"tenant_id"`
	Principal *struct {
		ID *string `json:"principal_id"`
	} `json:"principal"`
	Scopes []tenancy.Scope `json:"scopes"`
}

// common takes the members that any body may carry.
func (c *call) common(e *envelope) error {
	if id := text(e.correlationID); !c.chosen && wellFormed(id) {
		c.correlationID = id
	}
	if trace := text(e.traceparent); trace != "" && c.r.Header.Get("traceparent") == "" {
		c.traceparent = nextTraceparent(trace)
	}
	if e.auth == nil {
		return nil
	}
	var a *claimed
	if err := strictjson.Decode(e.auth, &a); err != nil {
		return strictjson.Within("auth", err)
	}
	return c.agrees(a)
}

// agrees refuses a body's auth that differs from the verified one.
func (c *call) agrees(a *claimed) error {
	if a == nil || c.auth == nil {
		return nil
	}
	if a.TenantID != nil && *a.TenantID != c.auth.TenantID {
		return fault.New(fault.Forbidden, "The body's auth.tenant_id is not the tenant of the credential.").With("field", "auth.tenant_id")
	}
	if a.Principal != nil && a.Principal.ID != nil && *a.Principal.ID != c.auth.Principal.ID {
		return fault.New(fault.Forbidden, "The body's auth.principal is not the principal of the credential.").With("field", "auth.principal.principal_id")
	}
	for _, s := range a.Scopes {
		if !c.auth.Has(s) {
			return fault.New(fault.Forbidden, "The body's auth.scopes name %q, which the credential does not have.", s).With("field", "auth.scopes")
		}
	}
	return nil
}

// ownTenant refuses another tenant's id in an object's read-only field.
func (c *call) ownTenant(field, tenantID string) error {
	if tenantID != "" && tenantID != c.auth.TenantID {
		return fault.New(fault.Forbidden, "%s is another tenant than the credential's.", field).With("field", field)
	}
	return nil
}

// member is one named part of an answer.
type member struct {
	name  string
	value any
}

// reply answers with an object of the given members, and correlation_id and tenant_id beside them.
func (c *call) reply(status int, members ...member) error {
	b := make([]byte, 0, 1024)
	b = append(b, '{')
	for _, m := range members {
		raw, err := json.Marshal(m.value)
		if err != nil {
			return fmt.Errorf("api: encode %s: %w", m.name, err)
		}
		b = append(append(append(b, '"'), m.name...), '"', ':')
		b = append(append(b, raw...), ',')
	}
	if c.auth != nil {
		b = append(appendString(append(b, `"tenant_id":`...), c.auth.TenantID), ',')
	}
	b = appendString(append(b, `"correlation_id":`...), c.correlationID)
	b = append(b, '}', '\n')
	return c.replyRaw(status, "application/json", b)
}

// replyRaw answers with bytes.
func (c *call) replyRaw(status int, kind string, b []byte) error {
	c.outHeaders()
	h := c.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.wrote, c.status = true, status
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(b)
	}
	return nil
}

// noContent answers 204.
func (c *call) noContent() error {
	c.outHeaders()
	c.wrote, c.status = true, http.StatusNoContent
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// outHeaders sets what every answer carries.
func (c *call) outHeaders() {
	h := c.w.Header()
	h.Set("X-Request-Id", c.requestID)
	h.Set("X-Correlation-Id", c.correlationID)
	index := c.index
	if index == 0 {
		index = c.s.o.Store.Status().Applied
	}
	h.Set("X-AgentOS-Index", strconv.FormatUint(index, 10))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if c.auth != nil {
		h.Set("X-Tenant-Id", c.auth.TenantID)
	}
	if c.stale || c.r.Method == http.MethodGet && c.s.o.Store.Status().Leader == "" {
		h.Set("X-AgentOS-Stale", "true") // without a leader nobody can say that this copy is the newest
	}
}

// created is 201 for something new and 200 otherwise.
func created(isNew bool) int {
	if isNew {
		return http.StatusCreated
	}
	return http.StatusOK
}

// posted is 201, or 200 with the mark of a replay.
func (c *call) posted(replayed bool) int {
	if replayed {
		c.w.Header().Set("Idempotent-Replayed", "true")
		return http.StatusOK
	}
	return http.StatusCreated
}

// cursorOf is a list's next cursor: null at the end.
func cursorOf(next string) member {
	if next == "" {
		return member{"next_cursor", nil}
	}
	return member{"next_cursor", next}
}

// list answers with a list and its cursor; a nil list is an empty one.
func list[T any](c *call, name string, items []T, next string) error {
	if items == nil {
		items = []T{}
	}
	return c.reply(http.StatusOK, member{name, items}, cursorOf(next))
}

func appendString(b []byte, s string) []byte {
	raw, _ := json.Marshal(s)
	return append(b, raw...)
}
