package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/link"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
	"github.com/nexixai/agentos/tenancy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// relations are the peerings of one side.
type relations struct {
	mu   sync.Mutex
	all  map[string]registry.Peering
	ears []func()
}

func (r *relations) ByID(peeringID string) (registry.Peering, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.all[peeringID]
	return p, ok
}

func (r *relations) Listen(heard func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ears = append(r.ears, heard)
}

func (r *relations) bundle(domain string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.all {
		if p.TrustDomain == domain && p.State == registry.PeeringActive {
			return p.Bundle, nil
		}
	}
	return nil, fault.New(fault.Forbidden, "There is no peering with %s.", domain)
}

func (r *relations) set(p registry.Peering) {
	r.mu.Lock()
	r.all[p.ID] = p
	ears := r.ears
	r.mu.Unlock()
	for _, heard := range ears {
		heard()
	}
}

// notes are refusals that were audited.
type notes struct {
	mu   sync.Mutex
	list []tenancy.AuditRecord
}

func (n *notes) Refused(r tenancy.AuditRecord) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, r)
}

// wait returns what was noted once there is anything: the caller hears of its refusal before that is written down.
func (n *notes) wait(t *testing.T) []tenancy.AuditRecord {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		n.mu.Lock()
		list := slices.Clone(n.list)
		n.mu.Unlock()
		if len(list) > 0 {
			return list
		}
		select {
		case <-deadline:
			return nil
		case <-tick.C:
		}
	}
}

// pairOf is globex's door, and acme's links to it.
type pairOf struct {
	t            *testing.T
	acme, globex trusttest.Org
	ours, theirs *relations // acme's and globex's
	links        *link.Links
	creds        *trust.Credentials // acme's
	door         *link.Door
	conns        atomic.Int64 // connections that the door yielded
	noted        notes
	target       link.Target
}

func newPair(t *testing.T, serve http.HandlerFunc) *pairOf {
	t.Helper()
	p := &pairOf{t: t, acme: trusttest.New(t, "acme.test"), globex: trusttest.New(t, "globex.test")}
	active := func(o trusttest.Org, name string) registry.Peering {
		return registry.Peering{
			ID: "prg_1", Organization: name, TrustDomain: o.CA.TrustDomain(), ClusterID: "clu_" + name, State: registry.PeeringActive, Bundle: o.CA.CertificatePEM(),
		}
	}
	p.ours = &relations{all: map[string]registry.Peering{"prg_1": active(p.globex, "globex")}}
	p.theirs = &relations{all: map[string]registry.Peering{"prg_1": active(p.acme, "acme")}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.door = link.OpenDoor(link.DoorOptions{Listener: ln, Credentials: p.globex.Node("stk_g"), Bundles: p.theirs.bundle, Denials: &p.noted})
	p.theirs.Listen(func() { p.door.Cut(p.theirs.bundle) })
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				p.conns.Add(1)
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/federation/health" {
				serve(w, r)
			}
		}),
	}
	var work sync.WaitGroup
	work.Go(func() { _ = s.Serve(p.door) })
	p.creds = p.acme.Node("stk_a")
	p.links = link.New(link.Options{Credentials: p.creds, Peerings: p.ours, ClusterID: "clu_acme"})
	t.Cleanup(func() {
		p.links.Close()
		_ = s.Close()
		_ = p.door.Close()
		work.Wait()
	})
	p.target = link.Target{PeeringID: "prg_1", Address: ln.Addr().String(), StackID: "stk_g"}
	return p
}

func (p *pairOf) do(r link.Request) (string, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	resp, err := p.links.Do(ctx, p.target, r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func (p *pairOf) suspend(of *relations) {
	now, _ := of.ByID("prg_1")
	now.State = registry.PeeringSuspended
	of.set(now)
}

// TestLinks_Do: one connection serves call after call, and each that acts for a tenant carries a token that is good on it.
func TestLinks_Do(t *testing.T) {
	var tokens sync.Map
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Idempotency-Key") != "" {
			t.Error("a header makes net/http resend the call")
		}
		bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if bearer == "" {
			fmt.Fprintf(w, "nobody %s", body)
			return
		}
		c, err := trust.VerifyForward(bearer, r.TLS.PeerCertificates[0], "clu_globex", time.Now())
		if err != nil {
			t.Errorf("the token: %v", err)
			return
		}
		_, again := tokens.LoadOrStore(c.ID, true)
		fmt.Fprintf(w, "%s in %s via %v again=%t", c.Subject, c.TenantID, c.Via(), again)
	})
	if got, err := p.do(link.Request{Method: "POST", Path: "/x", Body: []byte(`{}`), Header: http.Header{"Idempotency-Key": {"k"}}}); got != "nobody {}" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for_ := &trust.ForwardClaims{Subject: "usr_a", TenantID: "tnt_g", Scopes: []tenancy.Scope{tenancy.RunsCreate}, Hops: 2}
	for i, c := range []struct {
		method string
		again  bool
	}{{"POST", false}, {"POST", false}, {"GET", false}, {"GET", true}} {
		want := fmt.Sprintf("usr_a in tnt_g via [clu_acme] again=%t", c.again)
		if got, err := p.do(link.Request{Method: c.method, Path: "/x", For: for_}); got != want || err != nil {
			t.Errorf("call %d: %q, %v, want %q", i, got, err, want)
		}
	}
	if n := p.conns.Load(); n != 1 {
		t.Errorf("%d connections for five calls one after another", n)
	}
}

// TestLinks_renewal: when the certificate is renewed, new calls go over a connection with the new one, and their tokens are
// bound to it; a stream that was open goes on.
//
// Requirements: N4.
func TestLinks_renewal(t *testing.T) {
	more := make(chan struct{})
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			fmt.Fprint(w, "1")
			_ = http.NewResponseController(w).Flush()
			<-more
			fmt.Fprint(w, "2")
			return
		}
		_, err := trust.VerifyForward(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), r.TLS.PeerCertificates[0], "clu_globex", time.Now())
		fmt.Fprint(w, r.TLS.PeerCertificates[0].SerialNumber, " ", err)
	})
	call := link.Request{Method: "GET", Path: "/x", For: &trust.ForwardClaims{Subject: "usr_a", TenantID: "tnt_g"}}
	stream, err := p.links.Do(t.Context(), p.target, link.Request{Method: "GET", Path: "/events", MaxAnswer: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	before, err := p.do(call)
	if err != nil || !strings.HasSuffix(before, " <nil>") {
		t.Fatalf("%q, %v", before, err)
	}
	cert, key := p.acme.Issue(p.acme.ID(trust.Node, "stk_a"), time.Now(), 0)
	if err := p.creds.Replace(cert, key, p.acme.CA.CertificatePEM()); err != nil {
		t.Fatal(err)
	}
	after, err := p.do(call)
	if err != nil || after == before || !strings.HasSuffix(after, " <nil>") {
		t.Errorf("before %q, after %q, %v", before, after, err)
	}
	close(more)
	if whole, err := io.ReadAll(stream.Body); string(whole) != "12" || err != nil {
		t.Errorf("the stream: %q, %v", whole, err)
	}
}

// TestLinks_Unsent: surely unsent is only what never reached a connection.
func TestLinks_Unsent(t *testing.T) {
	var calls atomic.Int64
	p := newPair(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		calls.Add(1)
		panic(http.ErrAbortHandler) // taken, and no answer
	})
	post := link.Request{Method: "POST", Path: "/x", Body: []byte(`{}`)}
	if _, err := p.do(post); err == nil || link.Unsent(err) {
		t.Errorf("an answer that was lost: %v, unsent %t", err, link.Unsent(err))
	}
	if _, err := p.do(post); err == nil || link.Unsent(err) || calls.Load() != 2 {
		t.Errorf("%v; the call arrived %d times, sent twice", err, calls.Load())
	}
	away := p.target
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away.Address = ln.Addr().String()
	_ = ln.Close()
	_, err = p.links.Do(t.Context(), away, post) //nolint:bodyclose // there is none
	if !link.Unsent(err) || !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), away.Address) {
		t.Errorf("nobody listens: %v", err)
	}
	other := p.target
	other.StackID = "stk_other"
	if _, err := p.links.Do(t.Context(), other, post); !link.Unsent(err) || !strings.Contains(err.Error(), "not stk_other") { //nolint:bodyclose // there is none
		t.Errorf("another node answers: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.links.Do(ctx, other, post); !link.Unsent(err) { //nolint:bodyclose // there is none
		t.Errorf("canceled before: %v", err)
	}
}

// TestLinks_refusedThere: a peer that has suspended us is heard before a call is on its way, and the reason is in its own log.
func TestLinks_refusedThere(t *testing.T) {
	p := newPair(t, func(http.ResponseWriter, *http.Request) {})
	if _, err := p.do(link.Request{Method: "GET", Path: "/x"}); err != nil {
		t.Fatal(err)
	}
	p.suspend(p.theirs)
	var err error
	const why = "does not accept this node's certificate"
	for range 5 { // the first may meet the end of a connection that was cut
		if _, err = p.do(link.Request{Method: "POST", Path: "/x", Body: []byte(`{}`)}); err == nil || strings.Contains(err.Error(), why) {
			break
		}
	}
	if !link.Unsent(err) || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, unsent %t", err, link.Unsent(err))
	}
	noted := p.noted.wait(t)
	if len(noted) != 1 || noted[0].Details["reason"] != "There is no peering with acme.test." {
		t.Errorf("audited %+v", noted)
	}
}

// TestLinks_cut: a stream ends when either side suspends the peering, and nothing goes there any more.
func TestLinks_cut(t *testing.T) {
	for name, which := range map[string]func(*pairOf) *relations{
		"here":  func(p *pairOf) *relations { return p.ours },
		"there": func(p *pairOf) *relations { return p.theirs },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, "data: 1\n\n")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			})
			resp, err := p.links.Do(t.Context(), p.target, link.Request{Method: "GET", Path: "/events", MaxAnswer: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if _, err := resp.Body.Read(make([]byte, 64)); err != nil {
				t.Fatal(err)
			}
			p.suspend(which(p))
			began := time.Now()
			if _, err := resp.Body.Read(make([]byte, 64)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the stream goes on, or seems whole: %v", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("cut after %v", took)
			}
			if _, err := p.do(link.Request{Method: "POST", Path: "/x"}); err == nil {
				t.Error("a call went through a suspended peering")
			}
		})
	}
}

// TestLinks_bounds: an answer has a longest length, and a redirect isn't followed.
func TestLinks_bounds(t *testing.T) {
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "https://example.com/", http.StatusTemporaryRedirect)
			return
		}
		_, _ = w.Write(make([]byte, 1000))
	})
	if got, err := p.do(link.Request{Method: "GET", Path: "/x", MaxAnswer: 1000}); err != nil || len(got) != 1000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := p.do(link.Request{Method: "GET", Path: "/x", MaxAnswer: 999}); err == nil || len(got) > 999 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	resp, err := p.links.Do(t.Context(), p.target, link.Request{Method: "GET", Path: "/away"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("%s", resp.Status)
	}
}

// TestDoor_stranger: without a certificate one comes in, as nobody.
func TestDoor_stranger(t *testing.T) {
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, len(r.TLS.PeerCertificates)) })
	transport := &http.Transport{TLSClientConfig: trust.PinnedClient(p.globex.Fingerprint(), nil)}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + p.target.Address + "/x") //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "0" {
		t.Errorf("%s", body)
	}
	if resp.TLS.Version != tls.VersionTLS13 {
		t.Errorf("TLS version %x", resp.TLS.Version)
	}
}

// TestDoor_silent: callers who say nothing, however many, keep no peer out.
func TestDoor_silent(t *testing.T) {
	p := newPair(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") })
	for range 400 {
		c, err := net.Dial("tcp", p.target.Address) //nolint:noctx // a test
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	began := time.Now()
	if got, err := p.do(link.Request{Method: http.MethodGet, Path: "/x"}); err != nil || got != "here" {
		t.Errorf("%q, %v", got, err)
	}
	if took := time.Since(began); took > 4*time.Second { // their time has run out by then, whatever the door does
		t.Errorf("a peer waited for %v", took)
	}
	if p.door.Refused() == 0 {
		t.Error("nobody had to go, so this shows nothing")
	}
}
