package placement

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/registry"
)

// StickyLabel is the label whose value keeps runs together that carry neither a session nor a user.
const StickyLabel = "sticky_key"

// Input is all that a decision depends on. The order of its lists doesn't matter.
type Input struct {
	// Asked is the run. Its Auth and Request have to be given.
	Asked run.Placing
	// Routes are the tenant's.
	Routes []*Route
	Here   Here
	Peers  []Peer
}

// Here is this cluster, as seen from one of its nodes.
type Here struct {
	// StackID is the asked node's.
	StackID, Organization string
	// Agent says that the agent is defined here; Tier is its model's tier, "" when it names no tier.
	Agent bool
	Tier  string
	Nodes []Node
	// Supports are the features of this cluster.
	Supports map[string]bool
}

// Node is one node of this cluster.
type Node struct {
	StackID, Region string
	// Drained says that it takes no new runs.
	Drained bool
}

// Peer is one node of another organisation, or of another cell of ours, and the relation through which it is known.
type Peer struct {
	registry.Peer
	// Peering is nil when there is none.
	Peering *registry.Peering
}

// Decide says where a run goes. It's pure: the same input gives the same answer on every node. Neither Local nor Targets are
// set when nothing that matches may take the run; the candidates then say why.
//
// The tenant's most specific route that matches is the rule, and no other is asked: it alone says which places come into
// question. Without one it's this cluster, or, for a caller with a selector, every place. What the selector, the agreement,
// the grant, the class or the region doesn't allow is removed. Of what is left, places that have room go before those that
// don't, and those that answer before those that are away; then comes the preferred tier, then the weights, by a hash of the session, the user or the principal, so that the
// same caller stays at the same place. Where that is a tie this cluster goes first.
func Decide(in *Input) *run.Placed {
	placed, _ := decide(in)
	return placed
}

// decide is Decide; missing is what the places lack that the rule leads to, when there is no place for the run.
func decide(in *Input) (placed *run.Placed, missing []string) {
	d := newDecision(in)
	for i := range in.Here.Nodes {
		d.options = append(d.options, d.local(&in.Here.Nodes[i]))
	}
	for i := range in.Peers {
		d.options = append(d.options, d.remote(&in.Peers[i]))
	}
	d.unknown()
	slices.SortFunc(d.options, (*option).compare)
	placed = d.placed()
	if !placed.Local && len(placed.Targets) == 0 {
		missing = []string{}
		for _, o := range d.options {
			missing = append(missing, o.missing...)
		}
		slices.Sort(missing)
		missing = slices.Compact(missing)
	}
	return placed, missing
}

// decision is one Decide under way.
type decision struct {
	in       *Input
	agentID  string
	tenantID string
	region   string
	class    string
	tier     string // preferred
	selector run.Selector
	free     bool   // no route matches, but the caller's selector chooses
	route    *Route // nil: none matches
	required []string
	key      string
	options  []*option
}

func newDecision(in *Input) *decision {
	a := &in.Asked
	d := &decision{
		in: in, agentID: a.AgentID, tenantID: a.Auth.TenantID, region: a.Auth.PolicyContext.Region, class: a.Auth.PolicyContext.DataClassification,
	}
	if a.Selector != nil {
		d.selector = *a.Selector
	}
	d.tier = cmp.Or(d.selector.PreferredModelTier, in.Here.Tier)
	d.route = d.rule()
	d.free = d.route == nil && a.Selector != nil
	for _, name := range d.selector.RequiredCapabilities {
		d.required = append(d.required, negotiation.Canonical(name))
	}
	if d.route != nil {
		for _, name := range d.route.Match.RequiredCapabilities {
			d.required = append(d.required, negotiation.Canonical(name))
		}
	}
	slices.Sort(d.required)
	d.required = slices.Compact(d.required)
	d.key = d.sticky()
	return d
}

// rule is the most specific route that matches, or nil.
func (d *decision) rule() (best *Route) {
	for _, r := range d.in.Routes {
		if (best == nil || before(r, best) < 0) && r.Match.is(&d.in.Asked, d.tier) {
			best = r
		}
	}
	return best
}

// is reports whether a run is one that m is for.
func (m *Match) is(a *run.Placing, tier string) bool {
	p := &a.Auth.PolicyContext
	switch {
	case m.AgentID != "" && m.AgentID != a.AgentID,
		m.Region != "" && m.Region != p.Region,
		m.DataClassification != "" && m.DataClassification != p.DataClassification,
		m.ModelTier != "" && m.ModelTier != tier:
		return false
	}
	for name, value := range m.Labels {
		if have, ok := a.Request.Context.Labels[name]; !ok || have != value {
			return false
		}
	}
	return true
}

// sticky is what runs have in common that are to be kept at one place: the session, else the user, else StickyLabel, else
// the agent and the principal. It's the tenant's and the route's own, so that two canaries don't choose the same callers.
func (d *decision) sticky() string {
	a, c := &d.in.Asked, &d.in.Asked.Request.Context
	routeID := ""
	if d.route != nil {
		routeID = d.route.ID
	}
	kind, value := "principal", a.AgentID+"\x00"+a.Auth.Principal.ID
	switch label := c.Labels[StickyLabel]; {
	case c.SessionID != "":
		kind, value = "session", c.SessionID
	case c.UserID != "":
		kind, value = "user", c.UserID
	case label != "":
		kind, value = "label", label
	}
	return d.tenantID + "\x00" + routeID + "\x00" + kind + "\x00" + value
}

// draw is a number above 0 and up to 1 that is as good as random, and always the same for one key and one name.
func (d *decision) draw(name string) float64 {
	sum := sha256.Sum256([]byte(d.key + "\x00" + name))
	return (float64(binary.BigEndian.Uint64(sum[:8])>>11) + 1) / (1 << 53)
}

// option is one place under consideration.
type option struct {
	run.Candidate
	ok      bool
	missing []string // what it lacks, of a place that the rule leads to

	local  bool
	named  bool // by the route or the caller, as a node
	target run.Target

	led    bool // the rule leads here
	idle   int  // 0: has room; 1: takes runs; 2: answers, and takes none; 3: doesn't answer
	second bool // lacks what is preferred
	spare  bool // takes only what no other can
	score  float64
	draw   float64
}

// compare orders options: who takes the run first goes first.
func (o *option) compare(p *option) int {
	if c := order(o.ok, p.ok); c != 0 {
		return c
	}
	if !o.ok {
		return cmp.Or(order(o.led, p.led), order(o.local, p.local), o.byName(p))
	}
	return cmp.Or(
		cmp.Compare(o.idle, p.idle), order(!o.second, !p.second), order(!o.spare, !p.spare), cmp.Compare(o.score, p.score),
		order(o.local, p.local), cmp.Compare(o.draw, p.draw), o.byName(p),
	)
}

func (o *option) byName(p *option) int {
	return cmp.Or(strings.Compare(o.Organization, p.Organization), strings.Compare(o.StackID, p.StackID), strings.Compare(o.target.PeeringID, p.target.PeeringID))
}

// order puts what is true first.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// weigh takes the best of the route's targets that lead to o. It reports whether one does.
func (d *decision) weigh(o *option) bool {
	if d.route == nil {
		return d.free || o.local
	}
	led := false
	for i := range d.route.Targets {
		t := &d.route.Targets[i]
		if !t.leads(o) || t.StackID != "" && d.namesake(o) {
			continue
		}
		w := t.weight()
		spare, score := w == 0, 0.0
		if !spare {
			// Efraimidis and Spirakis: the least of -ln(u)/w is each target's with a chance of its weight's share, and so is
			// the next one's of those that are left.
			score = -math.Log(d.draw(t.name())) / float64(w)
		}
		if better := !led || o.spare && !spare || o.spare == spare && score < o.score; better {
			o.spare, o.score, o.named = spare, score, t.StackID != ""
		}
		led = true
	}
	return led
}

// namesake reports whether o, another organisation's node, has a name that somebody else's node has too. A node is named by
// its owner, so such a name says nothing: who is paired with us could take it to get what is meant for another.
func (d *decision) namesake(o *option) bool {
	if o.local {
		return false
	}
	return slices.ContainsFunc(d.in.Here.Nodes, func(n Node) bool { return n.StackID == o.StackID }) ||
		slices.ContainsFunc(d.in.Peers, func(p Peer) bool {
			return p.StackID == o.StackID && p.Organization != o.Organization && p.State == registry.PeerAdmitted
		})
}

// leads reports whether t leads to o.
func (t *Target) leads(o *option) bool {
	switch {
	case t.Local:
		return o.local
	case t.StackID != "":
		return t.StackID == o.StackID
	}
	return t.Organization == o.Organization
}

// placed sums up the ordered options.
func (d *decision) placed() *run.Placed {
	p := &run.Placed{Candidates: make([]run.Candidate, 0, len(d.options))}
	if d.route != nil {
		p.RouteID = d.route.ID
	}
	type cluster struct{ peeringID, clusterID string }
	seen := make(map[cluster]bool)
	for i, o := range d.options {
		first := i == 0 && o.ok
		o.Chosen = first
		p.Candidates = append(p.Candidates, o.Candidate)
		if first && o.local {
			p.Local = true
			if o.named {
				p.StackID = o.StackID
			}
		}
		// Any node of a cluster will do, so a cluster is asked once, at its best node.
		at := cluster{o.target.PeeringID, o.target.ClusterID}
		if !o.ok || o.local || p.Local || seen[at] {
			continue
		}
		seen[at] = true
		o.target.RouteID = p.RouteID
		if d.route != nil {
			o.target.LostAfterMS = d.route.LostAfterMS
		}
		if p.Targets = append(p.Targets, o.target); len(p.Targets) == 1 {
			p.Live = o.idle < 2
		}
	}
	return p
}

// maxCandidates bounds what a refusal tells; explain tells all.
const maxCandidates = 32

// refusal says why nothing that matches takes the run.
func refusal(p *run.Placed, missing []string) error {
	list := p.Candidates[:min(len(p.Candidates), maxCandidates)]
	why := "no place comes into question"
	if len(missing) > 0 {
		why = "what is missing: " + strings.Join(missing, ", ")
	}
	return fault.New(fault.UnsupportedCapability, "No place may or can take this run; %s. Ask POST /v1/federation/routes:explain for each place's reasons.", why).
		With("missing", missing).With("candidates", list)
}
