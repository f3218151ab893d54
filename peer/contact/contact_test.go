package contact_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/contact"
	"github.com/nexixai/agentos/peer/link"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stub is another organisation's node as the wire contract has it, and nothing of this house behind it.
type stub struct {
	mu      sync.Mutex
	info    string
	caps    string
	headers http.Header
	tagged  bool // answers carry an ETag
	down    bool
	asked   []time.Time // capabilities
	whole   int         // answers with a body
	pinned  []string    // the node that was demanded
}

func (s *stub) Do(_ context.Context, to link.Target, r link.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Path == "/v1/peer/capabilities" || s.down {
		s.asked = append(s.asked, time.Now())
	}
	s.pinned = append(s.pinned, to.StackID)
	if s.down {
		return nil, fault.New(fault.Unavailable, "The peer globex does not answer at TCP %s: connection refused.", to.Address).Because(errors.New("refused"))
	}
	body, tag := `{"peer":`+s.info+`,"correlation_id":"c"}`, `"i"`
	if r.Path == "/v1/peer/capabilities" {
		body = `{"capabilities":` + s.caps + `,"correlation_id":"c"}`
		tag = `"` + s.caps[:min(len(s.caps), 40)] + `"`
	}
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	for name, v := range s.headers {
		resp.Header[name] = v
	}
	if s.tagged {
		resp.Header.Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			resp.StatusCode, resp.Body = 304, io.NopCloser(bytes.NewReader(nil))
			return resp, nil
		}
	}
	s.whole++
	return resp, nil
}

func (s *stub) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

const globexInfo = `{"stack_id":"stk_g","region":"eu","api_versions":["v1"],"organization":"globex","trust_domain":"globex.test","cluster_id":"clu_g","store_epoch":"e1"}`

// world is acme's cluster, paired with globex, whose one door is a stub.
type world struct {
	t        *testing.T
	store    *mem.Store
	cmds     *registry.HeardCommands
	peering  *registry.PeeringCommands
	peerings *registry.Peerings
	book     *contact.Book
	stub     *stub
}

func newWorld(t *testing.T, s *stub) *world {
	t.Helper()
	reg := storage.NewRegistry()
	members := registry.Define(reg)
	w := &world{t: t, peering: registry.DefinePeerings(reg), cmds: registry.DefineHeard(reg), stub: s}
	w.store = mem.New(mem.Options{Registry: reg})
	w.store.Start()
	acme, globex := trusttest.New(t, "acme.test"), trusttest.New(t, "globex.test")
	record := registry.Cluster{ID: "clu_a", Organization: "acme", TrustDomain: "acme.test", CA: acme.CA.CertificatePEM()}
	if _, _, err := members.Init.Do(t.Context(), w.store, "", record); err != nil {
		t.Fatal(err)
	}
	_, _, err := w.peering.Accept.Do(t.Context(), w.store, "", registry.PeeringAccept{
		ID: "cmd_1", PeeringID: "prg_1", Bundle: globex.CA.CertificatePEM(),
		Inviter: trust.Party{Organization: "globex", TrustDomain: "globex.test", ClusterID: "clu_g", CA: globex.Fingerprint(), Addresses: []string{"g:8421"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.peerings = registry.NewPeerings(w.store, nil)
	w.open()
	t.Cleanup(func() {
		w.book.Close()
		w.peerings.Close()
		w.store.Close()
	})
	return w
}

func (w *world) open() {
	w.book = contact.Open(contact.Options{
		Store: w.store, Commands: w.cmds, Peerings: w.peerings, Links: w.stub,
		Offer: func() negotiation.Offer {
			return negotiation.Offer{
				APIVersions: []string{"v1"}, Contract: negotiation.Range{Min: negotiation.Version{Major: 1, Minor: 2}, Max: negotiation.Version{Major: 1, Minor: 2}},
				Supports: map[string]bool{"runs_forward": true, "origin_run_ids": true, "events_stream": true, "tenant_isolation": true},
			}
		},
	})
}

// pass lets time pass, and everything come to rest.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

func caps(contract, supports string) string {
	return `{"supports":` + supports + `,"limits":{"max_concurrent_runs":7},"models":{"tiers":["fast"],"backends":["b"],"max_context_tokens":1},"contract":` + contract + `}`
}

const allOf = `{"runs_forward":true,"origin_run_ids":true,"events.stream":true,"tenant_isolation":true}`

// TestBook_skew: an older peer and a newer one are used as far as both can; what no version joins is refused with the reason.
//
// Requirements: P2.
func TestBook_skew(t *testing.T) {
	for name, c := range map[string]struct {
		caps     string
		usable   bool
		features []string
		missing  string // one of the reasons
	}{
		"alike":              {caps(`{"min":"1.2","max":"1.2"}`, allOf), true, []string{"events_stream", "origin_run_ids", "runs_forward", "tenant_isolation"}, "events_ingest"},
		"one minor up":       {caps(`{"min":"1.2","max":"1.3"}`, `{"runs_forward":true,"origin_run_ids":true,"events_stream":true,"tenant_isolation":true,"time_travel":true}`), true, []string{"events_stream", "origin_run_ids", "runs_forward", "tenant_isolation"}, "events_ingest"},
		"one feature down":   {caps(`{"min":"1.2","max":"1.2"}`, `{"runs_forward":true,"events_stream":true,"tenant_isolation":true}`), true, []string{"events_stream", "runs_forward", "tenant_isolation"}, "origin_run_ids"},
		"one major up":       {caps(`{"min":"2.0","max":"2.1"}`, allOf), false, []string{}, "contract"},
		"too old":            {caps(`{"min":"1.0","max":"1.1"}`, allOf), false, []string{}, "contract"},
		"no isolation":       {caps(`{"min":"1.2","max":"1.2"}`, `{"runs_forward":true}`), false, []string{}, "tenant_isolation"},
		"nothing but a name": {caps(`{"min":"1.2","max":"1.2"}`, `{}`), false, []string{}, "tenant_isolation"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, &stub{info: globexInfo, caps: c.caps})
				pass(time.Second)
				p, ok := w.book.Find("stk_g")
				if !ok || !p.Reachable || p.Agreement == nil || p.State != registry.PeerAdmitted || p.Source != registry.FromPeering {
					t.Fatalf("%+v, %v", p, w.book.Unreachable())
				}
				a := p.Agreement
				if a.Usable != c.usable || !slices.Equal(a.Features, c.features) {
					t.Errorf("usable %t, features %v", a.Usable, a.Features)
				}
				if !slices.ContainsFunc(a.Missing, func(m negotiation.Missing) bool { return m.Name == c.missing && m.Reason != "" }) {
					t.Errorf("missing %v, want a reason for %s", a.Missing, c.missing)
				}
			})
		})
	}
}

// TestBook_polls: a door that answers is asked every two seconds and sends what has changed; one that doesn't is asked less
// and less often, but every half a minute; and all of it ends with the book.
//
// Requirements: N2, P2.
func TestBook_polls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{info: globexInfo, caps: caps(`{"min":"1.2","max":"1.2"}`, allOf), tagged: true, headers: http.Header{"X-Agentos-Free-Slots": {"3"}, "X-Agentos-Ready": {"true"}}}
		w := newWorld(t, s)
		pass(21 * time.Second)
		s.change(func() {
			if n := len(s.asked); n < 10 || n > 12 {
				t.Errorf("asked %d times in 21 s", n)
			}
			if s.whole != 2 {
				t.Errorf("%d whole answers for two things that did not change", s.whole)
			}
			if s.pinned[0] != "" || s.pinned[1] != "stk_g" || s.pinned[len(s.pinned)-1] != "stk_g" {
				t.Errorf("demanded %v", s.pinned)
			}
			s.headers.Set("X-AgentOS-Free-Slots", "0")
			s.headers.Set("X-AgentOS-Ready", "false")
		})
		if p, _ := w.book.Find("stk_g"); !p.Ready || p.FreeSlots != 3 {
			t.Errorf("ready %t, free %d", p.Ready, p.FreeSlots)
		}
		index := w.store.Status().Applied
		pass(10 * time.Second)
		if p, _ := w.book.Find("stk_g"); p.Ready || p.FreeSlots != 0 {
			t.Errorf("ready %t, free %d", p.Ready, p.FreeSlots)
		}
		if now := w.store.Status().Applied; now != index {
			t.Errorf("what changes at each look went into the store: %d to %d", index, now)
		}
		s.change(func() { s.down, s.asked = true, nil })
		pass(5 * time.Minute)
		s.change(func() {
			if n := len(s.asked); n < 10 || n > 20 {
				t.Errorf("asked %d times in 5 min of silence", n)
			}
			for i := 1; i < len(s.asked); i++ {
				if gap := s.asked[i].Sub(s.asked[i-1]); gap > 31*time.Second {
					t.Errorf("a gap of %v", gap)
				}
			}
		})
		away := w.book.Unreachable()
		if p, _ := w.book.Find("stk_g"); p.Reachable || p.Reason == "" || p.Capabilities == nil || p.Agreement == nil || len(away) != 1 || away[0].StackID != "stk_g" {
			t.Errorf("%+v, %+v", p, away)
		}
		s.change(func() { s.down = false })
		pass(31 * time.Second)
		if p, _ := w.book.Find("stk_g"); !p.Reachable || len(w.book.Unreachable()) != 0 {
			t.Errorf("back: %+v", p)
		}
	})
}

// TestBook_keeps: what was heard is in the store, imports with it, and is there after a restart; a suspended peering's nodes
// are asked no more.
//
// Requirements: P2, P3.
func TestBook_keeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		offered := strings.TrimSuffix(caps(`{"min":"1.2","max":"1.2"}`, allOf), "}") + `,"grants":[{"tenant_id":"tnt_a","local_tenant_id":"tnt_g","scopes":["runs:create"]}],"members":["g:8421","g2:8421"]}`
		s := &stub{info: globexInfo, caps: offered, tagged: true}
		w := newWorld(t, s)
		pass(5 * time.Second)
		p, _ := w.peerings.ByID("prg_1")
		want := []registry.Grant{{TenantID: "tnt_g", LocalTenantID: "tnt_a", Scopes: []tenancy.Scope{tenancy.RunsCreate}}}
		a, _ := json.Marshal(p.Imports)
		b, _ := json.Marshal(want)
		if string(a) != string(b) || !slices.Equal(p.Addresses, []string{"g:8421", "g2:8421"}) {
			t.Errorf("imports %s, addresses %v", a, p.Addresses)
		}
		heard := 0
		w.book.Listen(func() { heard++ })
		w.book.Close()
		s.change(func() { s.down = true })
		w.open()
		pass(5 * time.Second)
		if p, ok := w.book.Find("stk_g"); !ok || p.Reachable || p.Capabilities == nil || len(p.Capabilities.Grants) != 1 || !p.Agreement.Usable {
			t.Errorf("after a restart: %+v", p)
		}
		_, _, err := w.peering.SetState.Do(t.Context(), w.store, "", registry.PeeringStateChange{ID: "cmd_2", PeeringID: "prg_1", State: registry.PeeringSuspended})
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.change(func() { s.asked, s.down = nil, false })
		pass(time.Minute)
		s.change(func() {
			if len(s.asked) > 0 {
				t.Errorf("a suspended peering's door was asked %d times", len(s.asked))
			}
		})
		if p, _ := w.book.Find("stk_g"); p.State != registry.PeerSuspended || p.Reachable || p.Reason == "" {
			t.Errorf("suspended: %+v", p)
		}
	})
}

// TestBook_liars: who says that it is another, or says what can't be read, is no peer.
func TestBook_liars(t *testing.T) {
	good := caps(`{"min":"1.2","max":"1.2"}`, allOf)
	for name, s := range map[string]*stub{
		"another cluster":      {info: strings.Replace(globexInfo, "clu_g", "clu_x", 1), caps: good},
		"another trust domain": {info: strings.Replace(globexInfo, "globex.test", "acme.test", 1), caps: good},
		"another organisation": {info: strings.Replace(globexInfo, `"organization":"globex"`, `"organization":"acme"`, 1), caps: good},
		"no name":              {info: strings.Replace(globexInfo, "stk_g", "a b", 1), caps: good},
		"a name twice":         {info: globexInfo, caps: `{"supports":{},"supports":{}}`},
		"a version of words":   {info: globexInfo, caps: caps(`{"min":"one","max":"two"}`, allOf)},
		"not JSON":             {info: globexInfo, caps: `hello`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, s)
				pass(10 * time.Second)
				if list := w.book.Peers(); len(list) != 0 {
					t.Errorf("%+v", list)
				}
				if away := w.book.Unreachable(); len(away) != 1 || away[0].Reason == "" || away[0].Address != "g:8421" || away[0].Organization != "globex" {
					t.Errorf("%+v", away)
				}
			})
		})
	}
}

// TestBook_ping asks now, and says what came of it.
func TestBook_ping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{info: globexInfo, caps: caps(`{"min":"1.2","max":"1.2"}`, allOf)}
		w := newWorld(t, s)
		pass(time.Second)
		if pong, err := w.book.Ping(t.Context(), "stk_g"); err != nil || pong.StackID != "stk_g" || pong.Organization != "globex" || pong.FreeSlots != 7 {
			t.Errorf("%+v, %v", pong, err)
		}
		if _, err := w.book.Ping(t.Context(), "stk_nobody"); !fault.Is(err, fault.NotFound) {
			t.Errorf("nobody: %v", err)
		}
		s.change(func() { s.down = true })
		if _, err := w.book.Ping(t.Context(), "stk_g"); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "g:8421") {
			t.Errorf("away: %v", err)
		}
	})
}

// TestBook_called: a peer that is back and calls is tried again at once, and one that stays away no more often than it calls.
func TestBook_called(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{info: globexInfo, caps: caps(`{"min":"1.2","max":"1.2"}`, allOf), down: true}
		w := newWorld(t, s)
		pass(3 * time.Minute) // so that half a minute lies between two tries
		s.change(func() { s.asked = nil })
		w.book.Called("prg_another")
		for range 1000 {
			w.book.Called("prg_1")
			pass(10 * time.Millisecond)
		}
		s.change(func() {
			if n := len(s.asked); n < 4 || n > 6 {
				t.Errorf("asked %d times in 10 s full of calls", n)
			}
			s.down = false
		})
		pass(2 * time.Second)
		w.book.Called("prg_1")
		pass(100 * time.Millisecond)
		if p, _ := w.book.Find("stk_g"); !p.Reachable || len(w.book.Unreachable()) != 0 {
			t.Errorf("back, and calling: %+v", p)
		}
		s.change(func() { s.asked = nil })
		for range 10 {
			w.book.Called("prg_1")
		}
		pass(time.Second)
		s.change(func() {
			if n := len(s.asked); n > 1 {
				t.Errorf("asked %d times within a second, of a peer that answers", n)
			}
		})
	})
}
