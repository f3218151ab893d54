package registry_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// TestPeerings_Model compares the peerings with a model of a few lines, over any order of what operators and strangers do:
// what may follow what, that a trust domain has one live peering, that revoked is final, that an invitation serves one
// cluster until it expires, and that each change is audited once and nothing else is.
//
// Requirements: P1.
func TestPeerings_Model(t *testing.T) {
	others := []*cell{newCell(t, "globex"), newCell(t, "initech")}
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		w := &modelled{cell: newCell(t, "acme"), states: map[string]*modelPeering{}}
		rt.Repeat(map[string]func(*rapid.T){
			"invite": func(rt *rapid.T) {
				peeringID := fmt.Sprintf("prg_%d_%d", run, len(w.states))
				w.states[peeringID] = &modelPeering{inv: w.invite(peeringID, time.Hour), state: registry.PeeringInvited, until: w.now.Add(time.Hour)}
				w.audited++
			},
			"join":      func(rt *rapid.T) { w.joinStep(rt, rapid.SampledFrom(others).Draw(rt, "who")) },
			"suspend":   func(rt *rapid.T) { w.stateStep(rt, registry.PeeringSuspended) },
			"resume":    func(rt *rapid.T) { w.stateStep(rt, registry.PeeringActive) },
			"revoke":    func(rt *rapid.T) { w.stateStep(rt, registry.PeeringRevoked) },
			"imports":   func(rt *rapid.T) { w.importsStep(rt) },
			"time goes": func(*rapid.T) { w.now = w.now.Add(25 * time.Minute) },
			"":          func(rt *rapid.T) { w.compare(rt) },
		})
	})
}

type modelPeering struct {
	inv     trust.Invitation
	state   registry.PeeringState
	domain  string
	until   time.Time
	imports int
}

type modelled struct {
	*cell
	states  map[string]*modelPeering
	audited uint64
}

func (w *modelled) pick(rt *rapid.T) (string, *modelPeering) {
	if len(w.states) == 0 {
		rt.Skip("there is none")
	}
	ids := make([]string, 0, len(w.states))
	for id := range w.states {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	id := rapid.SampledFrom(ids).Draw(rt, "peering")
	return id, w.states[id]
}

func (w *modelled) live(domain string) bool {
	for _, m := range w.states {
		if m.domain == domain && (m.state == registry.PeeringActive || m.state == registry.PeeringSuspended) {
			return true
		}
	}
	return false
}

func (w *modelled) joinStep(rt *rapid.T, who *cell) {
	_, m := w.pick(rt)
	good := rapid.Bool().Draw(rt, "proof")
	j := who.request(m.inv, "n")
	if !good {
		j.Nonce = "another"
	}
	_, err := w.join(j)
	var want fault.Code
	switch {
	case !good || m.state == registry.PeeringRevoked || !w.now.Before(m.until):
		want = fault.Forbidden
	case m.state == registry.PeeringActive && m.domain == who.party.TrustDomain: // asked again
	case m.state != registry.PeeringInvited:
		want = fault.Forbidden
	case w.live(who.party.TrustDomain):
		want = fault.Conflict
	default:
		m.state, m.domain = registry.PeeringActive, who.party.TrustDomain
		w.audited++
	}
	if got := fault.CodeOf(err); got != want {
		rt.Fatalf("join: %v, want %q", err, want)
	}
}

func (w *modelled) stateStep(rt *rapid.T, to registry.PeeringState) {
	id, m := w.pick(rt)
	err := w.state(id, to)
	var want fault.Code
	switch {
	case m.state == to:
	case m.state == registry.PeeringRevoked || m.state == registry.PeeringInvited && to != registry.PeeringRevoked:
		want = fault.Conflict
	default:
		m.state = to
		w.audited++
	}
	if got := fault.CodeOf(err); got != want {
		rt.Fatalf("%s after %s: %v, want %q", to, m.state, err, want)
	}
}

func (w *modelled) importsStep(rt *rapid.T) {
	id, m := w.pick(rt)
	n := rapid.IntRange(0, 2).Draw(rt, "grants")
	var grants []registry.Grant
	for i := range n {
		grants = append(grants, registry.Grant{TenantID: "tnt_x", LocalTenantID: fmt.Sprintf("tnt_%d", i), Scopes: []tenancy.Scope{tenancy.RunsCreate}})
	}
	_, _, err := w.cmd.SetImports.Do(rt.Context(), w.store, "", registry.PeeringChange{PeeringID: id, Grants: grants, By: by})
	var want fault.Code
	switch {
	case m.state == registry.PeeringRevoked:
		want = fault.Conflict
	case n != m.imports:
		m.imports = n
		w.audited++
	}
	if got := fault.CodeOf(err); got != want {
		rt.Fatalf("imports: %v, want %q", err, want)
	}
}

func (w *modelled) compare(rt *rapid.T) {
	var all []registry.Peering
	var head audit.Head
	err := w.store.View(rt.Context(), storage.Read{}, func(s storage.Snapshot) (err error) {
		if head, err = audit.ReadHead(s, ""); err != nil {
			return err
		}
		all, err = registry.ListPeerings(s)
		return err
	})
	if err != nil || len(all) != len(w.states) {
		rt.Fatalf("%d peerings, want %d (%v)", len(all), len(w.states), err)
	}
	for _, p := range all {
		m := w.states[p.ID]
		if p.State != m.state || p.TrustDomain != m.domain || len(p.Imports) != m.imports || (p.InvitationExpiresAt != nil) != (m.state == registry.PeeringInvited) ||
			(p.Bundle == nil) != (m.domain == "") {
			rt.Fatalf("%+v, want %+v", p, m)
		}
	}
	if head.Sequence != w.audited {
		rt.Fatalf("%d acts are audited, %d were done", head.Sequence, w.audited)
	}
}
