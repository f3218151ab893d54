package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/pairing"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/tenancy"
)

// forwardBodySize is how large a run may be that a peer forwards: the request of a create, and the journal so far beside it.
const forwardBodySize = 2 << 20

// Federation is what the federation door asks about other organisations, and what it tells them.
type Federation struct {
	// Active returns the active peering with a trust domain, or why nothing of that domain is served now.
	Active func(ctx context.Context, trustDomain string) (registry.Peering, error)
	// Members are the federation doors (HOST:PORT) of this cluster's nodes.
	Members func() []string
	// Load says whether this node takes new runs, and how many it could begin at once.
	Load func() (ready bool, freeSlots int)
	// InTouch returns an error when this node has not heard of its cluster for so long that what it knows of peerings and
	// tenants may be over. nil means that it always has.
	InTouch func() error
	// Called is told of a peering whose node has just asked who this one is; nil tells nobody.
	Called func(peeringID string)
}

// federationTable is what the federation door serves: to nodes of other organisations, and nothing to people. An Open route
// is for callers without a certificate too, a Node route for any admitted peer; every other is done on behalf of a tenant,
// and asks for a forward token that has the route's scope. Handlers find who asks in c.peer, and then the tenant, the
// principal and the rights in c.auth, as everywhere.
func (s *Server) federationTable() []Route {
	node := func(method, path string, serve func(*call) error) Route {
		return Route{Method: method, Template: path, Node: true, serve: serve}
	}
	tenant := func(method, path string, scope tenancy.Scope, serve func(*call) error) Route {
		return Route{Method: method, Template: path, Scope: scope, serve: serve}
	}
	forwarded := tenant("POST", "/v1/federation/runs:forward", tenancy.RunsCreate, (*call).acceptRun)
	forwarded.MaxBody = forwardBodySize
	ingest := tenant("POST", "/v1/federation/events:ingest", tenancy.EventsIngest, (*call).ingestEvents)
	ingest.MaxBody = ingestBody
	return []Route{
		forwarded,
		ingest,
		tenant("GET", "/v1/federation/runs/{run_id}", tenancy.RunsRead, (*call).forwardedRun),
		tenant("GET", "/v1/federation/runs/{run_id}/events", tenancy.RunsRead, (*call).forwardedEvents),
		tenant("POST", "/v1/federation/runs/{run_id}:cancel", tenancy.RunsCancel, (*call).cancelForwarded),
		tenant("POST", "/v1/federation/runs/{run_id}:conclude", tenancy.RunsRead, (*call).concludeForwarded),
		{Method: "GET", Template: "/v1/federation/health", Open: true, serve: health("federation")},
		{Method: "POST", Template: pairing.JoinPath, Open: true, MaxBody: pairing.MaxJoinBody, serve: (*call).joinPeering},
		node("GET", "/v1/peer/info", (*call).peerInfo),
		node("GET", "/v1/federation/peer", (*call).peerInfo),
		node("GET", "/v1/peer/capabilities", (*call).peerCapabilities),
		node("GET", "/v1/federation/peer/capabilities", (*call).peerCapabilities),
	}
}

// FederationRoutes lists what the federation door serves, as data.
func (s *Server) FederationRoutes() []Route { return s.federationTable() }

// FederationHandler serves the federation door. The TLS before it has checked every certificate that was shown.
func (s *Server) FederationHandler() http.Handler { return s.handler(s.federation) }

// peer is a node of another organisation that asks something, proven by the certificate of its connection.
type peer struct {
	id      trust.ID
	peering registry.Peering
	// claims are the forward token's, and grant what they are bound by; nil where the route needs no token.
	claims *trust.ForwardClaims
	grant  *registry.Grant
	// token is for checking again, while a stream lasts.
	scopes []tenancy.Scope
}

// admitPeer finds out which node asks at the federation door, and on whose behalf.
func (c *call) admitPeer() error {
	if c.route != nil && c.route.Open {
		return nil
	}
	if c.r.TLS == nil || len(c.r.TLS.PeerCertificates) == 0 || c.s.o.Federation == nil {
		return fault.New(fault.Unauthorized, "This door is for nodes of paired organisations, by their certificate.")
	}
	leaf := c.r.TLS.PeerCertificates[0]
	who, err := trust.IDOf(leaf)
	if err != nil || time.Now().After(leaf.NotAfter) { // it has expired since the connection was opened
		return fault.New(fault.Unauthorized, "The connection's certificate is not acceptable any more.").Because(err)
	}
	p := &peer{id: who}
	if p.peering, err = c.s.o.Federation.Active(c.ctx(), who.TrustDomain); err != nil {
		return err
	}
	c.peer = p
	if c.route == nil {
		return nil
	}
	if touch := c.s.o.Federation.InTouch; touch != nil {
		if err := touch(); err != nil {
			return err
		}
	}
	if c.route.Node {
		return nil
	}
	return c.actForTenant(p)
}

// actForTenant reads the forward token. What it lets the caller do is what its own side says and what this side grants, and
// never more than either.
func (c *call) actForTenant(p *peer) error {
	if len(c.r.Header.Values("X-API-Key")) > 0 {
		return fault.Invalid("X-API-Key", "API keys open the API's door, not this one; send a forward token.")
	}
	token, err := credential(c.r.Header)
	if err != nil {
		return err
	}
	own := c.s.o.About.ClusterID
	verify := trust.VerifyForward
	if c.r.Method == http.MethodGet {
		verify = c.s.reads.Verify
	}
	p.claims, err = verify(token, c.r.TLS.PeerCertificates[0], own, time.Now())
	if err != nil {
		return err
	}
	if slices.Contains(p.claims.Via(), own) {
		return fault.New(fault.LoopDetected, "The request has come through this cluster before.")
	}
	if want := c.r.Header.Values("X-Tenant-Id"); len(want) > 1 || len(want) == 1 && want[0] != p.claims.TenantID {
		return fault.New(fault.Forbidden, "X-Tenant-Id names another tenant than the token's; leave it out.").With("field", "X-Tenant-Id")
	}
	p.scopes = p.claims.Scopes
	auth, err := c.s.authOf(c.ctx(), p, c.route.Scope)
	if err != nil {
		return err
	}
	auth.Session = &tenancy.SessionInfo{IP: c.source().IP, UserAgent: c.source().UserAgent}
	c.auth = auth
	return nil
}

// authOf is what a forwarded principal may do here now. It sets p.grant.
func (s *Server) authOf(ctx context.Context, p *peer, scope tenancy.Scope) (*tenancy.Auth, error) {
	// Whether the tenant is there or not is nobody's business who has no grant for it.
	refused := fault.New(fault.Forbidden, "There is no grant for this organisation in that tenant; its operator gives one.")
	grant, ok := p.peering.ExportInto(p.claims.TenantID, scope)
	if !ok {
		return nil, refused
	}
	p.grant = &grant
	t, err := s.o.Tenants.Tenant(ctx, grant.LocalTenantID)
	switch {
	case fault.Is(err, fault.NotFound), err == nil && t.Status != tenancy.Active:
		return nil, refused
	case err != nil:
		return nil, err
	}
	class, ok := tenancy.ClassRank(p.claims.PolicyContext.DataClassification)
	if most, _ := tenancy.ClassRank(grant.MaxDataClassification); !ok || grant.MaxDataClassification != "" && class > most {
		return nil, fault.New(fault.Forbidden, "The grant is for data up to the class %s.", grant.MaxDataClassification).With("field", "policy_context.data_classification")
	}
	return &tenancy.Auth{
		TenantID: grant.LocalTenantID, HomeTenantID: grant.LocalTenantID,
		Principal: tenancy.Principal{ID: p.claims.Subject + "@" + p.id.TrustDomain, Type: tenancy.Service},
		Scopes:    grant.Rights(p.scopes), PolicyContext: p.claims.PolicyContext,
	}, nil
}

// again returns a check, for while a stream lasts, of what let the caller open it.
func (c *call) again() (func(context.Context) error, error) {
	s, auth, source, scope := c.s, c.auth, c.source(), c.route.Scope
	if p := c.peer; p != nil {
		opened := *p
		return func(ctx context.Context) error {
			now := opened
			var err error
			if now.peering, err = s.o.Federation.Active(ctx, now.id.TrustDomain); err != nil {
				return err
			}
			if now.peering.ID != opened.peering.ID {
				return errRevoked
			}
			rights, err := s.authOf(ctx, &now, scope)
			if err == nil && !rights.Has(scope) {
				err = errRevoked
			}
			return err
		}, nil
	}
	secret, err := credential(c.r.Header)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		now, err := s.o.Tenants.Authenticate(ctx, secret, source)
		if err != nil {
			return err
		}
		if now.TenantID != auth.TenantID {
			if now, err = s.o.Tenants.ActFor(now, auth.TenantID); err != nil {
				return err
			}
		}
		if !now.Has(scope) {
			return errRevoked
		}
		return nil
	}, nil
}
