package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
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
	peer  *peer // at the federation door: whose node asks
	index uint64
	stale bool
	wrote bool // the answer has begun
	// hijacked is set when the connection was taken over: nothing is written through w any more.
	hijacked bool
	// noted is set when a room has written the refusal down itself: it's in the audit once.
	noted  bool
	status int
	path   string // without StackBPrefix: the two names of a call are one
	key    string // the idempotency key of the header
	held   int64  // what the body takes of the node's room for large bodies
	start  time.Time
	took   time.Duration // until the answer began, when that's a stream
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
		if err := c.await(n); err != nil {
			return r, err
		}
		r.MinIndex = n
	}
	c.stale = r.Consistency == storage.Stale
	return r, nil
}

// indexWait is how long a state that this node's copy has not reached is waited for.
const indexWait = 5 * time.Second

// await returns when this node's copy has reached index. What a caller demands may never come to be.
func (c *call) await(index uint64) error {
	if c.s.o.Store.Status().Applied >= index {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx(), indexWait)
	defer cancel()
	err := c.s.o.Store.View(ctx, storage.Read{MinIndex: index}, func(storage.Snapshot) error { return nil })
	if err != nil && ctx.Err() != nil {
		return fault.New(fault.Timeout, "This node has not reached the index %d in time; leave X-AgentOS-Index out, or ask again later.", index).With("field", "X-AgentOS-Index").Because(err)
	}
	return err
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
		a.Idem = &tenancy.Idempotency{Operation: c.r.Method + " " + c.path, Key: c.key}
	}
	return a
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
	return c.write(status, kind, b)
}

// write answers with bytes, under headers that are set.
func (c *call) write(status int, kind string, b []byte) error {
	h := c.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.wrote, c.status = true, status
	c.w.WriteHeader(status)
	if c.r.Method == http.MethodHead {
		return nil
	}
	if len(b) > smallAnswer { // a small one lies in the connection's buffers, whether its reader takes it or not
		rc := http.NewResponseController(c.w)
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout + time.Duration(len(b)/bodyPace)*time.Second))
		defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	}
	_, _ = c.w.Write(b)
	return nil
}

// smallAnswer is the largest answer that is written without a deadline.
const smallAnswer = 4 << 10

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

// cursorAt is the cursor of a list that goes on after a name; "" at the end.
func cursorAt(name, tenantID, list string) string {
	if name == "" {
		return ""
	}
	return agent.Cursor(tenantID, list, "", name)
}

// placeOf is the name after which a list goes on.
func placeOf(cursor, tenantID, list string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	return agent.Position(cursor, tenantID, list, "")
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
