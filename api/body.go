package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/tenancy"
)

// How long a body may take to come: bodyPatience, and a second more for each bodyPace bytes it may have.
const (
	bodyPatience = 30 * time.Second
	bodyPace     = 64 << 10
)

// largeBody is how much of a body counts as small; what goes beyond takes of the room for large bodies.
const largeBody = 1 << 20

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
	c.awaitBody(bodyPatience + time.Duration(limit/bodyPace)*time.Second)
	buf, err := c.readAll(http.MaxBytesReader(c.w, c.r.Body, limit), c.r.ContentLength)
	if err == nil {
		_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	}
	_, large := errors.AsType[*http.MaxBytesError](err)
	switch {
	case large:
		return nil, c.tooLarge(limit)
	case fault.Is(err, fault.RateLimited):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fault.Invalid("body", "The body came too slowly; send it faster, or less.").Because(err)
	case err != nil:
		return nil, fault.Invalid("body", "The body broke off.").Because(err)
	case len(buf) == 0:
		return nil, fault.Invalid("body", "The body is empty; send a JSON object.")
	}
	return buf, nil
}

// awaitBody sets how long the body may take from now on. It is set for every request that has one, because the server
// reads, before it answers, what a handler has left: the deadline is lifted only when the whole body has come.
func (c *call) awaitBody(d time.Duration) {
	if c.r.ContentLength != 0 {
		_ = http.NewResponseController(c.w).SetReadDeadline(time.Now().Add(d))
	}
}

// readAll reads r to its end. Memory is taken as bytes come, whatever length was announced, and in pieces that are joined
// once: a buffer that grew by copying would hold a long body twice over, and leave its outgrown halves behind.
func (c *call) readAll(r io.Reader, announced int64) ([]byte, error) {
	const least, most = 512, 1 << 20
	size := least
	if announced >= least {
		size = int(min(announced+1, 64<<10)) // one more, so that the end is seen without growing
	}
	var whole [][]byte
	read := 0
	piece := make([]byte, 0, size)
	for {
		if len(piece) == cap(piece) {
			next := min(2*cap(piece), most)
			if read+next > largeBody {
				if err := c.hold(int64(next)); err != nil {
					return nil, err
				}
			}
			whole = append(whole, piece)
			piece = make([]byte, 0, next)
		}
		n, err := r.Read(piece[len(piece):cap(piece)])
		piece = piece[:len(piece)+n]
		read += n
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

// hold takes n bytes of the room that all large bodies under way share, until the request is answered: many of them at
// once must not take the node's memory from everybody else.
func (c *call) hold(n int64) error {
	if c.s.bodies.Add(n) > c.s.o.BodyRoom {
		c.s.bodies.Add(-n)
		c.w.Header().Set("Connection", "close")
		return fault.New(fault.RateLimited, "This node holds as many large bodies as it has room for; send it again in a moment.").After(time.Second)
	}
	c.held += n
	return nil
}

// release gives back what hold took.
func (c *call) release() {
	if c.held > 0 {
		c.s.bodies.Add(-c.held)
		c.held = 0
	}
}

func (c *call) tooLarge(limit int64) error {
	c.w.Header().Set("Connection", "close")
	return fault.New(fault.PayloadTooLarge, "The body is larger than the %d bytes this call takes.", limit).With("limit", limit)
}

// envelope are the members that any body may carry beside its noun, as they stand in the text.
type envelope struct{ auth, correlationID, traceparent, tenantID []byte }

func (e *envelope) take(name, raw []byte) {
	switch string(name) {
	case "auth":
		e.auth = raw
	case "correlation_id":
		e.correlationID = raw
	case "traceparent":
		e.traceparent = raw
	case "tenant_id":
		e.tenantID = raw
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
	if err := c.ownTenant("tenant_id", text(e.tenantID)); err != nil {
		return err
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

// ownTenant refuses another tenant's id in an object's read-only field. An object that lies in a tenant named by the path
// is that tenant's, any other the credential's.
func (c *call) ownTenant(field, tenantID string) error {
	if c.auth == nil { // a peer's node, for itself
		return nil
	}
	own := c.auth.TenantID
	if c.route.Admin && c.params.ByName("id") != "" {
		own = c.params.ByName("id")
	}
	if tenantID != "" && tenantID != own {
		return fault.New(fault.Forbidden, "%s names another tenant than the object's own; leave it out.", field).With("field", field)
	}
	return nil
}
