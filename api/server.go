package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

const (
	defaultBody = 1 << 20
	modelBody   = 32 << 20
	maxHeader   = 64 << 10
	// StackBPrefix is the second name of the whole surface, so that both stacks can be put behind separate names.
	StackBPrefix = "/stack-b"
)

// Options are the rooms behind the door. All of them are needed unless said otherwise.
type Options struct {
	Store   storage.Store
	Tenants Tenants
	Runs    Runs
	Events  Events
	Catalog Catalog
	Memory  Memory
	Models  Models
	// Rulesets and Prices are what governs the models.
	Rulesets Rulesets
	Prices   Prices
	Cluster  Cluster
	Peerings Peerings
	// Routes say where a tenant's runs go, Placement what comes of it.
	Routes    Routes
	Placement Placement
	// Peers is the list of peers; nil means that there are none.
	Peers Peers
	// Federation is what the federation door needs; nil means that there is none.
	Federation *Federation
	// Executor takes runs that other organisations forward.
	Executor Executor
	// OpenAI speaks OpenAI's wire format.
	OpenAI OpenAI
	// Denials takes note of refusals; nil means that they are not audited.
	Denials interface{ Refused(audit.Record) }
	// Observe is told of every answered request; nil means nobody.
	Observe func(Observation)
	// Dependencies names what readiness depends on, and how to ask.
	Dependencies func(ctx context.Context) map[string]error
	// About says who this node is.
	About About
	// AdminApart takes the admin routes off the public door; they stand on the admin listener only.
	AdminApart bool
	// BodyRoom is how many bytes all bodies under way may take together beyond the first MiB of each; 0 means
	// DefaultBodyRoom.
	BodyRoom int64
	Logger   *zap.Logger
}

// DefaultBodyRoom holds eight of the largest bodies.
const DefaultBodyRoom = 8 * modelBody

// About is what a node says of itself.
type About struct {
	Version, Commit, BuiltAt        string
	StackID, Organization, Region   string
	TrustDomain, ClusterID, Mode    string
	StoreEpoch                      string
	APIURL, FederationURL, AdminURL string
	MaxConcurrentRuns               int
	Capabilities                    map[string]bool
	Backends                        []string
	Tiers                           []string
}

// Observation is one answered request, for metrics.
type Observation struct {
	Method, Template string
	Status           int
	TenantID         string
	Code             fault.Code // "" for a success
	Duration         time.Duration
}

// Server is the door. It is safe for concurrent use.
type Server struct {
	o      Options
	log    *zap.Logger
	public *router
	admin  *router
	// federation is the door of other organisations' nodes.
	federation *router
	// joining is the door of nodes that are no members yet.
	joining  *router
	reads    trust.ForwardReads
	routes   []Route
	pages    map[string]*page // by their path
	streams  *streams
	bodies   atomic.Int64 // what is taken of Options.BodyRoom
	draining atomic.Bool
}

// New returns a door to the rooms of o.
func New(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.BodyRoom == 0 {
		o.BodyRoom = DefaultBodyRoom
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &Server{o: o, log: o.Logger, streams: newStreams()}
	var err error
	if s.pages, err = loadPages(); err != nil {
		return nil, err
	}
	s.routes = s.table()
	public, admin := s.pageRoutes(), s.pageRoutes()
	for _, r := range s.routes {
		if !r.Admin || !o.AdminApart {
			public = append(public, r)
		}
		if r.Admin || r.Open || r.Scope == tenancy.PlatformAdmin {
			admin = append(admin, r)
		}
	}
	if s.public, err = newRouter(public); err != nil {
		return nil, err
	}
	if s.admin, err = newRouter(admin); err != nil {
		return nil, err
	}
	if s.federation, err = newRouter(s.federationTable()); err != nil {
		return nil, err
	}
	s.joining, err = newRouter(s.joinTable())
	return s, err
}

// validate names a room that is missing: found here, and not by the first who asks for it.
func (o *Options) validate() error {
	for name, room := range map[string]any{
		"Store": o.Store, "Tenants": o.Tenants, "Runs": o.Runs, "Events": o.Events, "Catalog": o.Catalog, "Memory": o.Memory, "Models": o.Models,
		"Rulesets": o.Rulesets, "Prices": o.Prices, "Cluster": o.Cluster, "Peerings": o.Peerings, "Routes": o.Routes, "Placement": o.Placement, "OpenAI": o.OpenAI,
	} {
		if room == nil {
			return fmt.Errorf("api: Options.%s is missing", name)
		}
	}
	return nil
}

// Routes lists what is served, as data: the operations of the contract.
func (s *Server) Routes() []Route { return s.routes }

// Handler serves the public door.
func (s *Server) Handler() http.Handler { return s.handler(s.public) }

// AdminHandler serves the admin routes alone, for the admin listener.
func (s *Server) AdminHandler() http.Handler { return s.handler(s.admin) }

// HTTP returns a server with the timeouts this door needs: a slow head is cut off, a long stream is not.
func HTTP(h http.Handler, log *zap.Logger) *http.Server {
	if log == nil {
		log = zap.NewNop()
	}
	std, _ := zap.NewStdLogAt(log, zap.DebugLevel)
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader, ErrorLog: std,
	}
}

// Refuse lets no new work in from now on, and readiness says so. Reads and event streams go on.
func (s *Server) Refuse() { s.draining.Store(true) }

// Drain refuses new work too, and ends the event streams politely, each after a whole frame. It returns when the streams
// have ended or ctx has.
func (s *Server) Drain(ctx context.Context) {
	s.Refuse()
	s.streams.drain(ctx)
}

// Streams is the number of open event streams.
func (s *Server) Streams() int { return s.streams.len() }

func (s *Server) handler(rt *router) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{s: s, w: w, r: r, start: time.Now(), requestID: id.New(id.Request)}
		defer c.release()
		defer func() {
			p := recover()
			switch {
			case p == nil:
			case p == http.ErrAbortHandler: //nolint:errorlint // the server's own sentinel, compared as it does
				c.finish(nil) // a stream that was cut has been answered all the same
				panic(p)
			default:
				s.log.Error("a request panicked", zap.Any("panic", p), zap.String("correlation_id", c.correlationID), zap.ByteString("stack", debug.Stack()))
				c.finish(errors.New("panic"))
			}
		}()
		c.awaitBody(bodyPatience)
		c.finish(c.run(rt))
	})
}

// run takes a request through the door's checks to its handler.
func (c *call) run(rt *router) error {
	if err := c.identify(); err != nil {
		return err
	}
	if err := c.find(rt); err != nil {
		if rt == c.s.federation { // a stranger learns not even what there is
			return cmp.Or(c.admitPeer(), err)
		}
		return err
	}
	var broken error
	if c.r.URL.RawQuery != "" {
		c.query, broken = url.ParseQuery(c.r.URL.RawQuery)
	}
	if !c.route.Open {
		prove := c.authenticate
		if rt == c.s.federation {
			prove = c.admitPeer
		}
		if err := prove(); err != nil {
			return err
		}
		if broken != nil { // what can't be read would be left out: a list without its filter, a stream from its beginning
			return fault.Invalid("query", "The query can't be read: names and values are percent-encoded, with '&' between them.").Because(broken)
		}
		if scope := c.route.Scope; scope != "" && !c.auth.Has(scope) {
			return fault.New(fault.Forbidden, "This needs the scope %s, which the credential does not have.", scope).With("scope", string(scope))
		}
	}
	if c.s.draining.Load() && !c.route.Open && c.r.Method != http.MethodGet && c.r.Method != http.MethodHead {
		return fault.New(fault.Unavailable, "This node is stopping; ask another, or again in a moment.").With("service", "node").After(time.Second)
	}
	return c.route.serve(c)
}

// find looks up the request's route.
func (c *call) find(rt *router) error {
	c.path = c.r.URL.Path
	if rest, ok := strings.CutPrefix(c.path, StackBPrefix+"/"); ok && rest != "v1/health" {
		c.path = "/" + rest
	}
	method := c.r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	route, params, allowed := rt.find(method, c.path)
	switch {
	case route == nil && len(allowed) > 0:
		if slices.Contains(allowed, http.MethodGet) {
			allowed = append(allowed, http.MethodHead)
		}
		c.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return fault.New(fault.MethodNotAllowed, "%.16s is not served here; %s is.", c.r.Method, strings.Join(allowed, ", "))
	case route == nil:
		return fault.New(fault.NotFound, "There is nothing at this path.")
	}
	c.route, c.params = route, params
	// A slash that was escaped is part of a name. Only a model's may have one; any other would end where it doesn't.
	if params.ByName("model_id") == "" && strings.Contains(strings.ToLower(c.r.URL.RawPath), "%2f") {
		return fault.Invalid("path", "A name in the path holds a slash; names are of [A-Za-z0-9._-].")
	}
	return nil
}

// identify gives the request its ids and refuses headers that could mean two things.
func (c *call) identify() error {
	h := c.r.Header
	if v := h.Values("X-Correlation-Id"); len(v) == 1 && wellFormed(v[0]) {
		c.correlationID, c.chosen = v[0], true
	} else {
		c.correlationID = id.New(id.Correlation)
	}
	c.traceparent = nextTraceparent(h.Get("traceparent"))
	if keys := h.Values("Idempotency-Key"); len(keys) > 1 || len(keys) == 1 && (keys[0] == "" || len(keys[0]) > tenancy.MaxIdempotencyKey) {
		return fault.Invalid("Idempotency-Key", "Idempotency-Key comes once and has 1 to %d bytes.", tenancy.MaxIdempotencyKey)
	}
	c.key = h.Get("Idempotency-Key")
	return nil
}

// authenticate proves who asks, and for which tenant.
func (c *call) authenticate() error {
	h := c.r.Header
	secret, err := credential(h)
	if err != nil {
		return err
	}
	if len(h.Values("X-Tenant-Id")) > 1 {
		return fault.Invalid("X-Tenant-Id", "X-Tenant-Id comes at most once.")
	}
	auth, err := c.s.o.Tenants.Authenticate(c.ctx(), secret, c.source())
	if err != nil {
		return err
	}
	c.auth = auth
	if want := h.Values("X-Tenant-Id"); len(want) == 1 {
		if c.auth, err = c.s.o.Tenants.ActFor(auth, want[0]); err != nil {
			c.auth = auth
			return err
		}
	}
	return nil
}

// credential takes the one secret of a request.
func credential(h http.Header) (string, error) {
	bearers, keys := h.Values("Authorization"), h.Values("X-API-Key")
	if len(bearers) > 1 || len(keys) > 1 {
		return "", fault.Invalid("Authorization", "A request carries one credential.")
	}
	var found string
	if len(bearers) == 1 {
		kind, value, ok := strings.Cut(bearers[0], " ")
		if !ok || !strings.EqualFold(kind, "Bearer") {
			return "", fault.New(fault.Unauthorized, "Authorization must be 'Bearer' and an API key.")
		}
		found = strings.TrimSpace(value)
	}
	if len(keys) == 1 {
		if found != "" && found != keys[0] {
			return "", fault.Invalid("X-API-Key", "Authorization and X-API-Key differ; send one of them.")
		}
		found = keys[0]
	}
	if found == "" {
		return "", fault.New(fault.Unauthorized, "Send an API key as 'Authorization: Bearer …' or 'X-API-Key: …'.")
	}
	return found, nil
}

// finish answers an error, and tells log, audit and metrics how the request ended.
func (c *call) finish(err error) {
	code := fault.Code("")
	if err != nil {
		f := fault.Of(err)
		code = f.Code
		if code == fault.Internal && !c.left(err) {
			c.s.log.Error("a request failed", zap.Error(err), zap.String("correlation_id", c.correlationID), zap.String("path", c.template()))
		}
		if !c.wrote && !c.hijacked {
			c.status = c.writeError(err)
		}
		c.refused(code)
	}
	if c.s.o.Observe != nil {
		o := Observation{Method: c.r.Method, Template: c.template(), Status: c.status, Code: code, Duration: c.duration()}
		if code == fault.Internal && c.left(err) {
			o.Status, o.Code = statusLeft, "" // nobody failed, and nobody reads the answer
		}
		if c.auth != nil {
			o.TenantID = c.auth.TenantID
		}
		c.s.o.Observe(o)
	}
	if ce := c.s.log.Check(zap.DebugLevel, "request"); ce != nil {
		ce.Write(zap.String("method", c.r.Method), zap.String("route", c.template()), zap.Int("status", c.status),
			zap.Duration("duration", c.duration()), zap.String("correlation_id", c.correlationID))
	}
}

// statusLeft is what is counted for a caller who left before the answer.
const statusLeft = 499

// left reports whether err is no more than that the caller has gone.
func (c *call) left(err error) bool {
	return errors.Is(err, context.Canceled) && c.r.Context().Err() != nil
}

// duration is how long the caller waited for the answer; of a stream, for its beginning.
func (c *call) duration() time.Duration {
	if c.took > 0 {
		return c.took
	}
	return time.Since(c.start)
}

func (c *call) template() string {
	if c.route == nil {
		return "none"
	}
	return c.route.Template
}

// refused writes denials to the audit: those of identity and rights, not those of form.
func (c *call) refused(code fault.Code) {
	switch code {
	case fault.Unauthorized, fault.Forbidden, fault.NotFound, fault.RateLimited, fault.QuotaExceeded, fault.PolicyBlocked, fault.LoopDetected:
	default:
		return
	}
	if c.noted || c.s.o.Denials == nil || c.route == nil {
		return
	}
	rec := audit.Record{
		Principal: "anonymous", Action: "http." + strings.ToLower(c.r.Method), Resource: c.route.Template, Outcome: string(code),
		CorrelationID: c.correlationID, Details: map[string]any{"source": c.source().IP},
	}
	if c.auth != nil {
		rec.TenantID, rec.Principal = c.auth.TenantID, c.auth.Principal.ID
	}
	if c.peer != nil {
		rec.Peer = c.peer.id.TrustDomain
		if c.auth == nil {
			rec.Principal = c.peer.id.String()
		}
	}
	c.s.o.Denials.Refused(rec)
}

// source is where the request comes from.
func (c *call) source() tenancy.Source {
	host, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if err != nil {
		host = c.r.RemoteAddr
	}
	return tenancy.Source{IP: host, UserAgent: c.r.UserAgent()}
}
