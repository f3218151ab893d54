package registry_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// cell is one cluster's tables.
type cell struct {
	t     *testing.T
	org   trusttest.Org
	store *mem.Store
	cmd   *registry.PeeringCommands
	now   time.Time
	party trust.Party
}

func newCell(t *testing.T, organization string) *cell {
	t.Helper()
	return cellOf(t, trusttest.New(t, organization+".test"), organization, "clu_"+organization)
}

func cellOf(t *testing.T, org trusttest.Org, organization, clusterID string) *cell {
	t.Helper()
	c := &cell{t: t, org: org, now: time.Now().UTC().Truncate(time.Second)}
	reg := storage.NewRegistry()
	members := registry.Define(reg)
	c.cmd = registry.DefinePeerings(reg)
	c.store = mem.New(mem.Options{Registry: reg, Now: func() time.Time { return c.now }})
	t.Cleanup(c.store.Close)
	c.party = trust.Party{
		Organization: organization, TrustDomain: c.org.CA.TrustDomain(), ClusterID: clusterID, CA: c.org.Fingerprint(), Addresses: []string{"10.0.0.1:8421"},
	}
	_, _, err := members.Init.Do(t.Context(), c.store, "", registry.Cluster{
		ID: clusterID, Organization: organization, TrustDomain: c.org.CA.TrustDomain(), CA: c.org.CA.CertificatePEM(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cell) invite(peeringID string, life time.Duration) trust.Invitation {
	c.t.Helper()
	i, err := trust.NewInvitation(trust.Invitation{
		PeeringID: peeringID, Organization: c.party.Organization, TrustDomain: c.party.TrustDomain, ClusterID: c.party.ClusterID,
		Addresses: c.party.Addresses, CA: c.party.CA, ExpiresAt: c.now.Add(life),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	_, _, err = c.cmd.Invite.Do(c.t.Context(), c.store, "", registry.NewInvitation{PeeringID: peeringID, Key: i.Key(), ExpiresAt: i.ExpiresAt, By: by})
	if err != nil {
		c.t.Fatal(err)
	}
	return i
}

var by = registry.By{Principal: "usr_admin", CorrelationID: "corr_1"}

// request is what c sends to the inviter.
func (c *cell) request(i trust.Invitation, nonce string) registry.PeeringJoin {
	terms := trust.Terms{PeeringID: i.PeeringID, InviterCA: i.CA, InviterCluster: i.ClusterID, Accepter: c.party, Nonce: nonce}
	return registry.PeeringJoin{
		PeeringID: i.PeeringID, Accepter: c.party, Bundle: c.org.CA.CertificatePEM(), Nonce: nonce, Proof: trust.Prove(i.Key(), terms), By: by,
	}
}

func (c *cell) join(j registry.PeeringJoin) (registry.Peering, error) {
	done, _, err := c.cmd.Join.Do(context.Background(), c.store, "", j)
	return done.Peering, err
}

func (c *cell) acts(action string) (n int) {
	c.t.Helper()
	err := c.store.View(c.t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		for rec, err := range audit.Chain(s, "") {
			if err != nil {
				return err
			}
			if strings.HasPrefix(rec.Action, action) {
				n++
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

func (c *cell) state(peeringID string, s registry.PeeringState) error {
	_, _, err := c.cmd.SetState.Do(context.Background(), c.store, "", registry.PeeringStateChange{ID: "x", PeeringID: peeringID, State: s, By: by})
	return err
}

// paired returns acme with an active peering with globex, who has it too.
func paired(t *testing.T) (acme, globex *cell, i trust.Invitation) {
	t.Helper()
	acme, globex = newCell(t, "acme"), newCell(t, "globex")
	i = acme.invite("prg_1", time.Hour)
	if _, err := acme.join(globex.request(i, "n1")); err != nil {
		t.Fatal(err)
	}
	if err := globex.accept(i, acme); err != nil {
		t.Fatal(err)
	}
	return acme, globex, i
}

func (c *cell) accept(i trust.Invitation, inviter *cell) error {
	_, _, err := c.cmd.Accept.Do(context.Background(), c.store, "", registry.PeeringAccept{
		ID: "y", PeeringID: i.PeeringID, Inviter: inviter.party, Bundle: inviter.org.CA.CertificatePEM(), By: by,
	})
	return err
}

func TestPeering_Pairs(t *testing.T) {
	acme, globex, _ := paired(t)
	for _, c := range []struct{ here, there *cell }{{acme, globex}, {globex, acme}} {
		var p registry.Peering
		err := c.here.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) (err error) {
			p, err = registry.GetPeering(s, "prg_1")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if p.State != registry.PeeringActive || p.TrustDomain != c.there.party.TrustDomain || p.ClusterID != c.there.party.ClusterID ||
			p.Fingerprints != (registry.Fingerprints{Ours: c.here.party.CA, Theirs: c.there.party.CA}) || p.Exports == nil || len(p.Exports) > 0 || len(p.Imports) > 0 {
			t.Errorf("at %s: %+v", c.here.party.Organization, p)
		}
	}
	if acme.acts("peering.") != 2 || globex.acts("peering.") != 1 {
		t.Errorf("audited %d and %d acts, want invite and join, and accept", acme.acts("peering."), globex.acts("peering."))
	}
}

func TestPeering_ImportsAreTurnedExports(t *testing.T) {
	exports := []registry.Grant{{TenantID: "tnt_theirs", LocalTenantID: "tnt_ours", Scopes: []tenancy.Scope{tenancy.RunsCreate}}}
	p := registry.Peering{Imports: registry.Turned(exports)}
	if g, ok := p.Import("tnt_theirs"); !ok || g.TenantID != "tnt_ours" {
		t.Errorf("who is allowed to act as tnt_ours there does not find it: %+v", g)
	}
	if exports[0].TenantID != "tnt_theirs" {
		t.Error("turning changed the original")
	}
}

func TestPeerings_FollowsAndLooksAfresh(t *testing.T) {
	acme, globex := newCell(t, "acme"), newCell(t, "globex")
	peerings := registry.NewPeerings(acme.store, nil)
	defer peerings.Close()
	heard := make(chan registry.PeeringState, 100)
	peerings.Listen(func() {
		if p, ok := peerings.ByTrustDomain("globex.test"); ok {
			heard <- p.State
		}
	})
	await := func(want registry.PeeringState) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case got := <-heard:
				if got == want {
					return
				}
			case <-deadline:
				t.Fatalf("%s was not heard of", want)
			}
		}
	}
	if _, ok, err := peerings.Fresh(t.Context(), "globex.test"); ok || err != nil {
		t.Fatalf("before: %v, %v", ok, err)
	}
	if _, err := acme.join(globex.request(acme.invite("prg_1", time.Hour), "n")); err != nil {
		t.Fatal(err)
	}
	if p, ok, err := peerings.Fresh(t.Context(), "globex.test"); !ok || err != nil || p.State != registry.PeeringActive {
		t.Fatalf("a fresh look does not see what was acknowledged: %v, %v", ok, err)
	}
	await(registry.PeeringActive)
	for _, s := range []registry.PeeringState{registry.PeeringSuspended, registry.PeeringActive, registry.PeeringRevoked} {
		if err := acme.state("prg_1", s); err != nil {
			t.Fatal(err)
		}
		await(s)
		if _, ok := peerings.Active("globex.test"); ok != (s == registry.PeeringActive) {
			t.Errorf("%s: active is %v", s, ok)
		}
	}
	if err := acme.state("prg_1", registry.PeeringActive); !fault.Is(err, fault.Conflict) {
		t.Errorf("a revoked peering was resumed: %v", err)
	}
}

// What an inviter of another version grants may not be understood here; the peering is made all the same, for the inviter has
// recorded it already, and the grants are told again.
func TestPeering_AcceptsWhatItCantRead(t *testing.T) {
	acme, globex := newCell(t, "acme"), newCell(t, "globex")
	i := acme.invite("prg_1", time.Hour)
	done, _, err := globex.cmd.Accept.Do(t.Context(), globex.store, "", registry.PeeringAccept{
		ID: "y", PeeringID: i.PeeringID, Inviter: acme.party, Bundle: acme.org.CA.CertificatePEM(), By: by,
		Imports: []registry.Grant{{TenantID: "tnt_a", LocalTenantID: "tnt_b", Scopes: []tenancy.Scope{"runs:dream"}, MaxDataClassification: "cosmic"}},
	})
	if err != nil || done.Peering.State != registry.PeeringActive || done.Peering.Imports == nil || len(done.Peering.Imports) > 0 {
		t.Errorf("%+v, %v", done.Peering, err)
	}
	// A scope alone does no harm.
	p, _, err := globex.cmd.SetImports.Do(t.Context(), globex.store, "", registry.PeeringChange{
		PeeringID: i.PeeringID, By: by, Grants: []registry.Grant{{TenantID: "tnt_a", LocalTenantID: "tnt_b", Scopes: []tenancy.Scope{"runs:dream"}}},
	})
	if err != nil || len(p.Imports) != 1 {
		t.Errorf("%+v, %v", p.Imports, err)
	}
}
