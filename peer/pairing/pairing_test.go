package pairing_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/pairing"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is one cluster that can be paired with, at a clock of its own.
type site struct {
	*pairing.Service
	org   trusttest.Org
	party trust.Party
	store *mem.Store

	mu      sync.Mutex
	now     time.Time
	refused []audit.Record
}

func (s *site) Refused(r audit.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = append(s.refused, r)
}

func (s *site) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *site) later(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func newSite(tb testing.TB, organization string) *site {
	tb.Helper()
	s := &site{org: trusttest.New(tb, organization+".test"), now: time.Now()}
	s.party = trust.Party{
		Organization: organization, TrustDomain: organization + ".test", ClusterID: "clu_" + organization, CA: s.org.Fingerprint(), Addresses: []string{"127.0.0.1:1"},
	}
	record := registry.Cluster{ID: s.party.ClusterID, Organization: organization, TrustDomain: s.party.TrustDomain, CA: s.org.CA.CertificatePEM()}
	reg := storage.NewRegistry()
	members, commands := registry.Define(reg), registry.DefinePeerings(reg)
	s.store = mem.New(mem.Options{Registry: reg, Now: s.clock})
	tb.Cleanup(s.store.Close)
	if _, _, err := members.Init.Do(tb.Context(), s.store, "", record); err != nil {
		tb.Fatal(err)
	}
	s.Service = pairing.New(pairing.Options{
		Store: s.store, Commands: commands, Cluster: func() registry.Cluster { return record }, Addresses: func() []string { return s.party.Addresses },
		Denials: s, Now: s.clock,
	})
	return s
}

func admin() tenancy.Actor {
	return tenancy.Actor{Auth: &tenancy.Auth{TenantID: "tnt_a", Principal: tenancy.Principal{ID: "usr_admin"}}, CorrelationID: "corr_1"}
}

func (s *site) invite(tb testing.TB, ttl time.Duration) trust.Invitation {
	tb.Helper()
	made, _, _, err := s.Invite(tb.Context(), admin(), pairing.Wish{TTL: ttl})
	if err != nil {
		tb.Fatal(err)
	}
	inv, err := trust.ParseInvitation(made.Token)
	if err != nil {
		tb.Fatal(err)
	}
	return inv
}

// request is what s sends for an invitation.
func (s *site) request(inv trust.Invitation) []byte {
	terms := trust.Terms{PeeringID: inv.PeeringID, InviterCA: inv.CA, InviterCluster: inv.ClusterID, Accepter: s.party, Nonce: "n"}
	raw, _ := json.Marshal(pairing.JoinRequest{
		PeeringID: inv.PeeringID, Organization: s.party.Organization, TrustDomain: s.party.TrustDomain, ClusterID: s.party.ClusterID, Fingerprint: s.party.CA,
		Bundle: string(s.org.CA.CertificatePEM()), Addresses: s.party.Addresses, Nonce: "n", Proof: trust.Prove(inv.Key(), terms),
	})
	return raw
}

// The inviter's clock ends an invitation, to the second, whatever the accepter's says; also for who joined before.
func TestService_InvitationExpires(t *testing.T) {
	acme, globex, initech := newSite(t, "acme"), newSite(t, "globex"), newSite(t, "initech")
	used, open := acme.invite(t, time.Hour), acme.invite(t, time.Hour)
	if _, err := acme.Join(t.Context(), "10.0.0.9", "corr_1", globex.request(used)); err != nil {
		t.Fatal(err)
	}
	acme.later(time.Hour)
	for name, body := range map[string][]byte{"used before": globex.request(used), "never used": initech.request(open)} {
		if _, err := acme.Join(t.Context(), "10.0.0.9", "corr_1", body); !fault.Is(err, fault.Forbidden) || strings.Contains(err.Error(), "has expired:") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(acme.refused) != 2 || !strings.Contains(acme.refused[0].Details["reason"].(string), "it has expired") {
		t.Errorf("audited %+v", acme.refused)
	}
	// The next invitation sweeps what nobody can use any more out of the store.
	acme.invite(t, time.Hour)
	n := 0
	_ = acme.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		return s.Scan(storage.Prefix("peerings/invitations/"), func(string, []byte) bool { n++; return true })
	})
	if n != 1 {
		t.Errorf("%d invitations are kept", n)
	}
}

// However many clusters bring the same invitation at once, it serves one.
//
// Requirements: P1.
func TestService_JoinOnce(t *testing.T) {
	acme := newSite(t, "acme")
	inv := acme.invite(t, time.Hour)
	var bodies [][]byte
	for i := range 8 {
		bodies = append(bodies, newSite(t, fmt.Sprintf("org%d", i)).request(inv))
	}
	var wg sync.WaitGroup
	got := make(chan error, len(bodies))
	for i, body := range bodies {
		wg.Go(func() {
			_, err := acme.Join(context.Background(), fmt.Sprintf("10.0.0.%d", i), "corr_1", body)
			got <- err
		})
	}
	wg.Wait()
	close(got)
	ok := 0
	for err := range got {
		switch {
		case err == nil:
			ok++
		case !fault.Is(err, fault.Forbidden):
			t.Error(err)
		}
	}
	if ok != 1 || len(acme.refused) != len(bodies)-1 {
		t.Errorf("%d joined, %d refusals audited", ok, len(acme.refused))
	}
}

// Whom nobody can pair with: the cluster itself, an impostor of its own trust domain, one of its own name, and who is paired
// already.
//
// Requirements: P1.
func TestService_JoinConflicts(t *testing.T) {
	acme, globex := newSite(t, "acme"), newSite(t, "globex")
	if _, err := acme.Join(t.Context(), "10.0.0.9", "corr_1", globex.request(acme.invite(t, time.Hour))); err != nil {
		t.Fatal(err)
	}
	impostor, namesake, twin := newSite(t, "acme"), newSite(t, "other"), newSite(t, "globex")
	impostor.party.ClusterID, namesake.party.Organization, twin.party.ClusterID = "clu_other", "acme", "clu_twin"
	for name, s := range map[string]*site{"itself": acme, "another CA of our domain": impostor, "our name": namesake, "paired already": globex, "its domain is paired already": twin} {
		_, err := acme.Join(t.Context(), "10.0.0.9", "corr_1", s.request(acme.invite(t, time.Hour)))
		if !fault.Is(err, fault.Conflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(acme.refused); n != 5 {
		t.Errorf("%d refusals are audited", n)
	}
	// Another cell of our own has our CA, and another cluster id.
	inv := acme.invite(t, time.Hour)
	acme.party.ClusterID = "clu_cell"
	if _, err := acme.Join(t.Context(), "10.0.0.9", "corr_1", acme.request(inv)); err != nil {
		t.Errorf("another cell of one's own: %v", err)
	}
}

// A CA that its owner does not name is not taken, however good the proof.
func TestService_JoinBundle(t *testing.T) {
	acme, globex, other := newSite(t, "acme"), newSite(t, "globex"), newSite(t, "globex")
	inv := acme.invite(t, time.Hour)
	for name, bundle := range map[string][]byte{"another's": other.org.CA.CertificatePEM(), "none": nil, "too long": []byte(strings.Repeat("x", 20<<10))} {
		var r pairing.JoinRequest
		_ = json.Unmarshal(globex.request(inv), &r)
		r.Bundle = string(bundle)
		raw, _ := json.Marshal(r)
		if _, err := acme.Join(t.Context(), "10.0.0.9", "corr_1", raw); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := acme.Join(t.Context(), "10.0.0.9", "corr_1", globex.request(inv)); err != nil {
		t.Errorf("what was refused has used the invitation up: %v", err)
	}
}

func TestService_AllowBySource(t *testing.T) {
	s := newSite(t, "acme")
	drain := func(source string) (n int) {
		for s.Allow(source) == nil {
			n++
			if n > 1000 {
				t.Fatalf("%s is not bounded", source)
			}
		}
		return n
	}
	if n := drain("10.0.0.1"); n != 20 {
		t.Errorf("%d tries at once", n)
	}
	if err := s.Allow("10.0.0.1"); !fault.Is(err, fault.RateLimited) || fault.Of(err).RetryAfter <= 0 {
		t.Error(err)
	}
	if s.Allow("10.0.0.2") != nil {
		t.Error("one source locks another out")
	}
	drain("fd00::1")
	if s.Allow("fd00::2") == nil {
		t.Error("a host with a network of addresses is many sources")
	}
	for i := range 10_000 {
		_ = s.Allow(fmt.Sprintf("10.%d.%d.7", i>>8, i&255))
		if i%1000 == 0 {
			_ = s.Allow("10.0.0.1")
		}
	}
	if s.Allow("10.0.0.1") == nil {
		t.Error("a flood of other sources makes a source forgotten that is still there")
	}
	s.later(time.Second)
	if s.Allow("10.0.0.1") != nil {
		t.Error("it is locked out for good")
	}
}

// FuzzService_Join: whatever a stranger sends, it is refused with a code that tells nothing, and nothing comes of it.
func FuzzService_Join(f *testing.F) {
	acme, globex := newSite(f, "acme"), newSite(f, "globex")
	inv := acme.invite(f, time.Hour)
	good := string(globex.request(inv))
	for _, s := range []string{good[:len(good)-10], strings.Replace(good, "clu_globex", "clu_x", 1), "{}", "", "[]", `{"peering_id":null}`, `{"addresses":[1]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		_, err := acme.Join(t.Context(), "10.0.0.9", "corr_1", []byte(body))
		if err == nil {
			var r pairing.JoinRequest
			if json.Unmarshal([]byte(body), &r) != nil || !trust.Proven(inv.Key(), trust.Terms{
				PeeringID: r.PeeringID, InviterCA: inv.CA, InviterCluster: inv.ClusterID, Nonce: r.Nonce,
				Accepter: trust.Party{Organization: r.Organization, TrustDomain: r.TrustDomain, ClusterID: r.ClusterID, CA: r.Fingerprint, Addresses: r.Addresses},
			}, r.Proof) {
				t.Fatalf("%q has joined", body)
			}
			return
		}
		switch fault.CodeOf(err) {
		case fault.InvalidRequest, fault.Forbidden, fault.Conflict:
		default:
			t.Fatalf("%q: %v", body, err)
		}
	})
}
