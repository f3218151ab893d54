package placement

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/tenancy"
)

// needed are the features without which a run can't cross: it's sent, under the id that it has here, and its events come
// back as a stream.
var needed = [...]string{"events_stream", "origin_run_ids", "runs_forward"}

// finalAck is the feature by which who works on a run is told how it ended at its origin.
const finalAck = "final_ack"

// spare are features that are asked for and that a run does without: their lack is never the reason.
var spare = [...]string{"events_ingest", finalAck}

// check notes one check of o. missing, with a failed one, is what o lacks in a word.
func (o *option) check(name string, ok bool, missing, format string, args ...any) bool {
	o.Reasons = append(o.Reasons, run.Reason{Check: name, OK: ok, Detail: fmt.Sprintf(format, args...)})
	if !ok {
		o.ok = false
		if o.led && missing != "" {
			o.missing = append(o.missing, missing)
		}
	}
	return ok
}

// local looks at one node of this cluster.
func (d *decision) local(n *Node) *option {
	o := &option{
		Candidate: run.Candidate{StackID: n.StackID, Organization: d.in.Here.Organization, Reasons: []run.Reason{}}, ok: true, local: true,
	}
	d.rules(o)
	o.check("agent", d.in.Here.Agent, "agent:"+d.agentID, "The agent %s is %s here.", d.agentID, hosted(d.in.Here.Agent))
	d.canDo(o, d.in.Here.Supports, d.required)
	o.check("classification", true, "", "Data of any class may be worked on within the own organisation.")
	d.resides(o, n.Region)
	if n.Drained {
		o.check("live", false, "live:"+n.StackID, "The node is drained, and takes no new runs.")
	} else {
		o.check("live", true, "", "The node is one of this cluster.")
	}
	if o.StackID != d.in.Here.StackID {
		o.draw = d.draw("node/" + o.StackID) // the asked node has 0 and goes first
	}
	return o
}

func hosted(yes bool) string {
	if yes {
		return "hosted"
	}
	return "not hosted"
}

// remote looks at one node of others.
func (d *decision) remote(p *Peer) *option {
	o := &option{Candidate: run.Candidate{StackID: p.StackID, Organization: p.Organization, Reasons: []run.Reason{}}, ok: true}
	o.target = run.Target{PeeringID: p.PeeringID, Organization: p.Organization, ClusterID: p.ClusterID, StackID: p.StackID}
	if p.Peering != nil && o.target.ClusterID == "" {
		o.target.ClusterID = p.Peering.ClusterID
	}
	o.draw = d.draw("node/" + o.StackID)
	o.target.FinalAck = p.Agreement != nil && slices.Contains(p.Agreement.Features, finalAck)
	d.rules(o)
	d.related(o, p)
	d.agreed(o, p)
	d.offers(o, p)
	d.granted(o, p)
	d.resides(o, p.Region)
	d.distance(o)
	d.live(o, p)
	if tier := d.selector.PreferredModelTier; tier != "" && (p.Capabilities == nil || !slices.Contains(p.Capabilities.Models.Tiers, tier)) {
		o.second = true
	}
	return o
}

// rules asks the tenant's route, and the caller's selector.
func (d *decision) rules(o *option) {
	o.led = d.weigh(o)
	switch {
	case d.route != nil && o.led:
		o.check("route", true, "", "The route %s leads here.", d.route.ID)
	case d.route != nil && slices.ContainsFunc(d.route.Targets, func(t Target) bool { return t.StackID == o.StackID }):
		o.led = true
		o.check("route", false, "route:"+o.StackID, "The route %s names this node, and nodes of several organisations have the name: name the organisation instead.", d.route.ID)
	case d.route != nil:
		o.check("route", false, "", "The route %s is the one for this run, and it doesn't lead here.", d.route.ID)
	case d.free:
		o.check("route", true, "", "No route is for this run, and the caller chooses.")
	case o.led:
		o.check("route", true, "", "No route is for this run, so it stays in this cluster.")
	default:
		o.check("route", false, "", "No route of the tenant leads here for this run.")
	}
	s := &d.selector
	var off []string
	if s.StackID != "" {
		o.named = o.named || s.StackID == o.StackID
		if s.StackID != o.StackID || s.Organization == "" && d.namesake(o) {
			off = append(off, "stack_id "+s.StackID+one(s.StackID == o.StackID))
		}
	}
	if s.Organization != "" && s.Organization != o.Organization {
		off = append(off, "organization "+s.Organization)
	}
	switch {
	case d.in.Asked.Selector == nil:
	case off != nil:
		o.check("selector", false, "selector", "The caller asks for %s.", strings.Join(off, " and "))
	default:
		o.check("selector", true, "", "It is what the caller asks for.")
	}
}

// one says of a name that is right that it isn't enough.
func one(right bool) string {
	if right {
		return ", which is the name of several organisations' nodes, without saying whose"
	}
	return ""
}

// resides keeps a run in the region that it's bound to, and in the one that the caller asks for. A place of unknown region
// is in none.
func (d *decision) resides(o *option, region string) {
	for _, want := range [...]struct{ region, who string }{{d.region, "policy"}, {d.selector.Region, "caller"}} {
		if want.region == "" || want.region == region {
			continue
		}
		where := "it's in " + region
		if region == "" {
			where = "its region isn't known"
		}
		o.check("region", false, "region:"+want.region, "The run's %s asks for the region %s, and %s.", want.who, want.region, where)
		return
	}
	if d.region == "" && d.selector.Region == "" {
		o.check("region", true, "", "The run is bound to no region.")
		return
	}
	o.check("region", true, "", "It's in the region %s.", region)
}

// related asks whether there is a relation to the peer's organisation, and in force.
func (d *decision) related(o *option, p *Peer) {
	peering := p.Peering
	switch {
	case peering == nil:
		o.check("peering", false, "peering:"+p.Organization, "There is no peering with %s.", p.Organization)
	case peering.State != registry.PeeringActive:
		o.check("peering", false, "peering:"+p.Organization, "The peering with %s is %s.", p.Organization, peering.State)
	case p.State != registry.PeerAdmitted:
		o.check("peering", false, "peering:"+p.Organization, "The peer is %s, not admitted.", p.State)
	case peering.Organization != p.Organization || peering.ClusterID != "" && peering.ClusterID != o.target.ClusterID:
		o.check("peering", false, "peering:"+p.Organization, "The peer isn't of the cluster that the peering is with.")
	case o.target.ClusterID == "":
		o.check("peering", false, "peering:"+p.Organization, "Its cluster isn't known yet.")
	default:
		o.check("peering", true, "", "The peering with %s is active.", p.Organization)
	}
}

// agreed asks what was negotiated.
func (d *decision) agreed(o *option, p *Peer) {
	a := p.Agreement
	switch {
	case a == nil:
		o.check("agreement", false, "agreement:"+p.StackID, "Nothing has been agreed with it yet: it has not told what it can do.")
		return
	case !a.Usable:
		o.check("agreement", false, "agreement:"+p.StackID, "No agreement: %s.", lacks(a.Missing, nil))
		return
	}
	o.check("agreement", true, "", "Agreed on contract %s.", a.Contract)
	have := make(map[string]bool, len(a.Features))
	for _, name := range a.Features {
		have[negotiation.Canonical(name)] = true
	}
	d.canDo(o, have, slices.Concat(needed[:], d.required), a.Missing...)
}

// canDo asks for features.
func (d *decision) canDo(o *option, have map[string]bool, want []string, known ...negotiation.Missing) {
	var lacking []string
	for _, name := range want {
		if !have[name] && !slices.Contains(lacking, name) {
			lacking = append(lacking, name)
		}
	}
	if len(lacking) == 0 {
		o.check("capabilities", true, "", "It has all that is required.")
		return
	}
	slices.Sort(lacking)
	o.check("capabilities", false, lacking[0], "It lacks %s.", lacks(known, lacking))
	if o.led {
		o.missing = append(o.missing, lacking[1:]...)
	}
}

// lacks lists what is missing, with the reason where one is known. Without names it lists all that is known and that a run needs.
func lacks(known []negotiation.Missing, names []string) string {
	reasons := make(map[string]string, len(known))
	for _, m := range known {
		reasons[m.Name] = m.Reason
	}
	if names == nil {
		for _, m := range known {
			if !slices.Contains(spare[:], m.Name) {
				names = append(names, m.Name)
			}
		}
		slices.Sort(names)
	}
	parts := make([]string, len(names))
	for i, name := range names {
		if parts[i] = name; reasons[name] != "" {
			parts[i] += " (" + reasons[name] + ")"
		}
	}
	return strings.Join(parts, ", ")
}

// offers asks whether the peer hosts the agent, when it tells its agents.
func (d *decision) offers(o *option, p *Peer) {
	if p.Capabilities == nil || p.Capabilities.Agents == nil {
		o.check("agent", true, "", "It doesn't tell which agents it hosts.")
		return
	}
	there := slices.ContainsFunc(p.Capabilities.Agents, func(a registry.AgentOffered) bool { return a.ID == d.agentID })
	o.check("agent", there, "agent:"+d.agentID, "The agent %s is %s there.", d.agentID, hosted(there))
}

// granted asks what the other side lets our tenant do, and notes the tenant there. Of several grants the first that allows
// the run is taken, by their tenants' ids.
func (d *decision) granted(o *option, p *Peer) {
	var grants []registry.Grant
	if p.Peering != nil {
		for _, g := range p.Peering.Imports {
			if g.LocalTenantID == d.tenantID {
				grants = append(grants, g)
			}
		}
	}
	if len(grants) == 0 {
		o.check("grant", false, "grant:"+d.tenantID, "%s grants nothing to the tenant %s.", p.Organization, d.tenantID)
		o.check("classification", false, "", "Without a grant no data may cross.")
		return
	}
	slices.SortFunc(grants, func(a, b registry.Grant) int { return strings.Compare(a.TenantID, b.TenantID) })
	best := &grants[0]
	for i := range grants {
		if g := &grants[i]; d.may(g) == "" && d.within(g) {
			best = g
			break
		}
	}
	if why := d.may(best); why != "" {
		o.check("grant", false, "grant:"+d.tenantID, "%s", why)
	} else {
		o.target.TenantID = best.TenantID
		o.check("grant", true, "", "It may be run there for the tenant %s.", best.TenantID)
	}
	class, bound := d.class, best.MaxDataClassification
	if class == "" {
		class = "none"
	}
	switch {
	case !d.within(best):
		o.check("classification", false, "classification:"+d.class, "Data of class %s may not go there; class %s may at most.", class, bound)
	case bound == "":
		o.check("classification", true, "", "The grant sets no bound to the class of data.")
	default:
		o.check("classification", true, "", "Data of class %s may go there; up to %s may.", class, bound)
	}
}

// may says why a grant doesn't allow the run, "" when it does.
func (d *decision) may(g *registry.Grant) string {
	switch {
	case !slices.Contains(g.Scopes, tenancy.RunsCreate):
		return "The grant lacks the scope " + string(tenancy.RunsCreate) + "."
	case g.Agents != nil && !slices.Contains(g.Agents, d.agentID):
		return "The grant doesn't name the agent " + d.agentID + "."
	case g.TenantID == "":
		return "The grant names no tenant there."
	}
	return ""
}

// within reports whether data of the run's class may cross under a grant. What isn't known is refused.
func (d *decision) within(g *registry.Grant) bool {
	class, known := tenancy.ClassRank(d.class)
	bound, ok := tenancy.ClassRank(g.MaxDataClassification)
	switch {
	case !known || !ok:
		return false
	case g.MaxDataClassification == "":
		return true
	}
	return class <= bound
}

// distance keeps a run from crossing too often, and from coming back.
func (d *decision) distance(o *option) {
	if hops := d.in.Asked.Hops; hops <= 0 {
		o.check("hops", false, "hops", "The run may cross no further organisation.")
	} else {
		o.check("hops", true, "", "The run may cross %d more organisations.", hops)
	}
	if slices.Contains(d.in.Asked.Via, o.target.ClusterID) {
		o.check("loop", false, "loop:"+o.target.ClusterID, "The run has come through the cluster %s already.", o.target.ClusterID)
	} else {
		o.check("loop", true, "", "The run has not been there.")
	}
}

// live says whether the peer could take the run now. One that can't stays in question, behind those that can: the run waits.
func (d *decision) live(o *option, p *Peer) {
	switch {
	case p.Reachable && p.Ready && p.FreeSlots > 0:
		o.check("live", true, "", "It answers, and has room for %d more runs.", p.FreeSlots)
	case p.Reachable && p.Ready:
		o.idle = 1
		o.check("live", true, "", "It answers, and takes new runs, which wait for a free worker there.")
	case p.Reachable:
		o.idle = 2
		o.check("live", true, "", "It answers, but takes no new runs at the moment; a run would wait for it.")
	default:
		o.idle = 3
		o.check("live", true, "", "It doesn't answer at the moment%s; a run would wait for it.", because(p.Reason))
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + strings.TrimSuffix(reason, ".") + ")"
}

// unknown adds the targets of the route that are nobody's.
func (d *decision) unknown() {
	if d.route == nil {
		return
	}
	for i := range d.route.Targets {
		t := &d.route.Targets[i]
		if t.Local || slices.ContainsFunc(d.options, t.leads) {
			continue
		}
		o := &option{Candidate: run.Candidate{StackID: t.StackID, Organization: t.Organization, Reasons: []run.Reason{}}, ok: true, led: true}
		o.check("route", true, "", "The route %s leads here.", d.route.ID)
		o.check("peering", false, "peering:"+t.Organization+t.StackID, "No peer of that name is known.")
		d.options = append(d.options, o)
	}
}
