package federation_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// stub is an organisation with one node whose program is not ours: pairing, door, tokens, journal and stream are made here,
// from the wire contract alone. So it can be of any version, and say anything.
type stub struct {
	t                           testing.TB
	name, node, domain, cluster string
	addr                        string
	ca                          []byte // PEM
	door                        tls.Certificate

	mu     sync.Mutex
	theirs struct { // as the join told
		domain string
		roots  *x509.CertPool
	}
	info, caps map[string]any
	instead    map[string]http.HandlerFunc // what is said at a path instead of what the contract wants
	edit       func(event map[string]any)  // what is put into each event besides
	extra      map[string]any              // what is put into each answer besides
	runs       map[string]*stubRun
	asked      int  // times that runs:forward was called
	deaf       bool // it won't hear how runs ended
	wrong      []string
}

// stubRun is a run that was forwarded to a stub.
type stubRun struct {
	tenant, agent, id string
	trace             any
	finalAck          bool     // its origin said that it will tell how it ended
	told              []string // which event ended it there, each time that it was told
	heard             int      // those that it was not deaf to
	events            []map[string]any
	more              chan struct{} // closed and made anew with each event
}

// stubTenant is the tenant that a stub lets others act in.
const stubTenant = "tnt_there"

func newStub(t *testing.T, name string) *stub {
	t.Helper()
	s := &stub{
		t: t, name: name, node: "stk_" + name, domain: name + ".example", cluster: "clu_" + name,
		instead: map[string]http.HandlerFunc{}, runs: map[string]*stubRun{},
	}
	s.certify()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.door}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.info = map[string]any{
		"stack_id": s.node, "environment": "demo", "region": "local", "api_versions": []any{"v1"}, "organization": name, "trust_domain": s.domain, "cluster_id": s.cluster,
		"endpoints": map[string]any{"stack_a_base_url": "", "stack_b_base_url": "", "federation_base_url": "https://" + s.addr},
		"build":     map[string]any{"version": "0", "git_sha": "0", "timestamp": "2026-01-01T00:00:00Z"}, "store_epoch": "1",
	}
	s.caps = map[string]any{
		"supports": map[string]any{
			"runs_forward": true, "events_stream": true, "events_ingest": true, "tenant_isolation": true, "tool_hosting": true, "origin_run_ids": true,
		},
		"limits":   map[string]any{"max_concurrent_runs": 10, "max_event_streams": 10},
		"models":   map[string]any{"tiers": []any{"fast"}, "backends": []any{"stub"}, "max_context_tokens": 1000},
		"contract": map[string]any{"min": "1.2", "max": "1.2"},
		"members":  []any{s.addr},
	}
	server := &http.Server{Handler: http.HandlerFunc(s.serve), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, w := range s.wrong {
			t.Errorf("%s was asked what the contract doesn't let: %s", name, w)
		}
	})
	return s
}

// certify makes the organisation's CA and its node's certificate.
func (s *stub) certify() {
	s.t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			s.t.Fatal(err)
		}
		return k
	}
	template := func(serial int64, path string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: s.name}, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour), URIs: []*url.URL{{Scheme: "spiffe", Host: s.domain, Path: path}},
		}
	}
	caKey, leafKey := key(), key()
	ca, leaf := template(1, ""), template(2, "/node/"+s.node)
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		s.t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	s.door = tls.Certificate{Certificate: [][]byte{leafDER, caDER}, PrivateKey: leafKey}
}

// tag is an HMAC over texts, each after its length.
func tag(key []byte, texts ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, text := range texts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		h.Write([]byte(text))
	}
	return h.Sum(nil)
}

// accept pairs with who wrote the invitation.
func (s *stub) accept(invitation string) {
	s.t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(invitation, "aiv_"))
	if err != nil {
		s.t.Fatal(err)
	}
	var in struct {
		PeeringID, Domain, Cluster, CA, Secret string
		Doors                                  []string
	}
	v := harness.Decode(raw)
	for at, to := range map[string]*string{"p": &in.PeeringID, "d": &in.Domain, "c": &in.Cluster, "f": &in.CA, "s": &in.Secret} {
		*to, _ = harness.At(v, at).(string)
	}
	for _, door := range harness.At(v, "a").([]any) {
		in.Doors = append(in.Doors, door.(string))
	}
	secret, err := base64.RawURLEncoding.DecodeString(in.Secret)
	if err != nil {
		s.t.Fatal(err)
	}
	bare := bytes.Replace(raw, []byte(`,"s":"`+in.Secret+`"`), nil, 1)
	block, _ := pem.Decode(s.ca)
	sum := sha256.Sum256(block.Bytes)
	print, nonce := hex.EncodeToString(sum[:]), rand.Text()
	proof := tag(tag(secret, "agentos invitation key 1", string(bare)),
		"agentos invitation proof 1", in.PeeringID, in.CA, in.Cluster, s.name, s.domain, s.cluster, print, nonce, s.addr)
	body, _ := json.Marshal(map[string]any{
		"peering_id": in.PeeringID, "organization": s.name, "trust_domain": s.domain, "cluster_id": s.cluster, "fingerprint": print, "bundle": string(s.ca),
		"addresses": []string{s.addr}, "nonce": nonce, "proof": hex.EncodeToString(proof),
	})
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		for _, c := range cs.PeerCertificates {
			if sum := sha256.Sum256(c.Raw); hex.EncodeToString(sum[:]) == in.CA {
				return nil
			}
		}
		return fmt.Errorf("%s does not show the CA of the invitation", in.Doors[0])
	}}}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	resp, err := client.Post("https://"+in.Doors[0]+"/v1/federation/peerings:join", "application/json", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	a := harness.Answer{Status: resp.StatusCode, Body: answer}
	bundle := a.Str("peering.bundles.inviter")
	if err != nil || a.Status != 200 || a.Str("peering.state") != "active" || a.Str("peering.trust_domain") != in.Domain {
		s.t.Fatalf("%s joins: %d %s, %v", s.name, a.Status, answer, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.theirs.domain, s.theirs.roots = in.Domain, x509.NewCertPool()
	if !s.theirs.roots.AppendCertsFromPEM([]byte(bundle)) {
		s.t.Fatalf("the inviter's CA is %q", bundle)
	}
}

// grant lets a tenant of theirs act in stubTenant.
func (s *stub) grant(tenant string, more map[string]any) {
	g := map[string]any{
		"tenant_id": tenant, "local_tenant_id": stubTenant,
		"scopes": []any{"runs:create", "runs:read", "runs:cancel", "runs:forward", "events:read", "tools:invoke", "models:invoke"},
	}
	for name, v := range more {
		g[name] = v
	}
	s.set(func() { s.caps["grants"] = []any{g} })
}

// set changes what the stub says.
func (s *stub) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// forwards is how often runs:forward was called.
func (s *stub) forwards() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// serve is the federation door.
func (s *stub) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	instead := s.instead[r.URL.Path]
	s.mu.Unlock()
	runID, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/federation/runs/"), "/")
	w.Header().Set("Content-Type", "application/json")
	switch {
	case instead != nil:
		instead(w, r)
	case r.URL.Path == "/v1/federation/health":
		_, _ = io.WriteString(w, `{"status":"ok","service":"federation","version":"0"}`)
	case r.URL.Path == "/v1/peer/info":
		s.tell(w, r, "peer", func() any { return s.info })
	case r.URL.Path == "/v1/peer/capabilities":
		s.tell(w, r, "capabilities", func() any { return s.caps })
	case r.URL.Path == "/v1/federation/runs:forward" && r.Method == http.MethodPost:
		s.forward(w, r)
	case what == "events" && r.Method == http.MethodGet:
		s.events(w, r, runID)
	case strings.HasSuffix(runID, ":conclude") && r.Method == http.MethodPost:
		s.conclude(w, r, strings.TrimSuffix(runID, ":conclude"))
	case strings.HasSuffix(runID, ":cancel") && r.Method == http.MethodPost:
		s.cancel(w, r, strings.TrimSuffix(runID, ":cancel"))
	default:
		s.refuse(w, http.StatusNotFound, "not_found")
	}
}

func (s *stub) refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"code":%q,"message":"No.","retryable":false,"details":{}},"correlation_id":"corr_stub"}`, code)
}

// reply answers with v as the member name, and with whatever is to be put beside it.
func (s *stub) reply(w http.ResponseWriter, name string, v any) {
	all := map[string]any{name: v, "correlation_id": "corr_stub"}
	s.mu.Lock()
	for k, x := range s.extra {
		all[k] = x
		w.Header().Set("X-AgentOS-"+k, "of another version")
	}
	raw, _ := json.Marshal(all)
	s.mu.Unlock()
	_, _ = w.Write(raw)
}

// tell answers a conditional request.
func (s *stub) tell(w http.ResponseWriter, r *http.Request, name string, what func() any) {
	if err := s.known(r); err != nil {
		s.refuse(w, http.StatusUnauthorized, "unauthorized")
		return
	}
	s.mu.Lock()
	raw, _ := json.Marshal(what())
	s.mu.Unlock()
	sum := sha256.Sum256(raw)
	etag := `"` + hex.EncodeToString(sum[:]) + `"`
	w.Header().Set("ETag", etag)
	w.Header().Set("X-AgentOS-Ready", "true")
	w.Header().Set("X-AgentOS-Free-Slots", "7")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.reply(w, name, json.RawMessage(raw))
}

// forward takes a run, and works on it at once: all of it, or its beginning if its text says "hold".
func (s *stub) forward(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Forward struct {
			Selector struct {
				StackID string `json:"stack_id"`
			} `json:"target_selector"`
			Run struct {
				AgentID string `json:"agent_id"`
				Input   struct {
					Type, Text string
				} `json:"input"`
			} `json:"run_request"`
			Origin struct {
				ClusterID, StackID string
				TenantID           string `json:"tenant_id"`
				RunID              string `json:"run_id"`
				Attempt            int    `json:"attempt"`
				RemainingMS        int64  `json:"remaining_ms"`
				FinalAck           bool   `json:"final_ack"`
				Journal            []struct{ Event map[string]any }
			} `json:"origin"`
		} `json:"forward"`
	}
	err := s.allowed(r, "runs:create")
	if err == nil {
		err = json.NewDecoder(r.Body).Decode(&body)
	}
	f, o := &body.Forward, &body.Forward.Origin
	if err == nil && (o.RunID == "" || o.Attempt < 1 || o.RemainingMS < 1 || len(o.Journal) < 1 || f.Selector.StackID != s.node || f.Run.Input.Type != "text") {
		err = fmt.Errorf("runs:forward says %+v", body)
	}
	if err != nil {
		s.complain(err)
		s.refuse(w, http.StatusBadRequest, "invalid_request")
		return
	}
	s.mu.Lock()
	s.asked++
	if s.runs[o.RunID] == nil {
		run := &stubRun{tenant: stubTenant, agent: f.Run.AgentID, id: o.RunID, finalAck: o.FinalAck, more: make(chan struct{})}
		for _, j := range o.Journal {
			run.events, run.trace = append(run.events, j.Event), j.Event["trace"]
		}
		s.runs[o.RunID] = run
		s.work(run, f.Run.Input.Text)
	}
	s.mu.Unlock()
	events := "/v1/federation/runs/" + o.RunID + "/events"
	s.reply(w, "forwarded", map[string]any{
		"tenant_id": stubTenant, "run_id": o.RunID, "events_url": events, "remote_stack_id": s.node, "remote_run_id": o.RunID, "remote_events_url": events,
		"status": "running", "queue_place": []any{1, nil},
	})
}

// work writes what a run does. s.mu is held.
func (s *stub) work(run *stubRun, text string) {
	s.write(run, "run.started", "", map[string]any{"status": "running", "stack_id": s.node, "attempt": 1})
	if text == "hold" {
		return
	}
	step := newID("stp")
	s.write(run, "run.step.started", step, map[string]any{"step_kind": "model", "name": "tier:fast"})
	s.write(run, "model.requested", step, map[string]any{"model_ref": "tier:fast", "operation": "chat", "requirements": map[string]any{}, "input_summary": map[string]any{"messages": 1, "has_tools": false}})
	s.write(run, "model.completed", step, map[string]any{
		"model_ref": "tier:fast", "operation": "chat", "status": "ok", "latency_ms": 1, "error": nil,
		"policy_outcome": map[string]any{"decision": "allowed", "reasons": []any{}, "redactions": []any{}},
		"usage":          map[string]any{"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "cost_usd": 0.5},
		"route":          map[string]any{"backend": "stub", "model": "one", "node": s.node, "fallback_used": false},
	})
	s.write(run, "run.step.completed", step, map[string]any{"status": "ok", "duration_ms": 1})
	s.write(run, "run.completed", "", map[string]any{"status": "completed", "output": map[string]any{"type": "text", "text": s.name + ": " + text}})
}

// write adds an event to a run's journal. s.mu is held.
func (s *stub) write(run *stubRun, kind, step string, payload map[string]any) {
	e := map[string]any{
		"event_id": newID("evt"), "sequence": len(run.events) + 1, "time": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), "type": "agentos." + kind,
		"tenant_id": run.tenant, "agent_id": run.agent, "run_id": run.id, "step_id": nil, "trace": run.trace, "payload": payload,
	}
	if step != "" {
		e["step_id"] = step
	}
	if s.edit != nil {
		s.edit(e)
	}
	run.events = append(run.events, e)
	close(run.more)
	run.more = make(chan struct{})
}

// events streams a run's journal from after the sequence that is asked for.
func (s *stub) events(w http.ResponseWriter, r *http.Request, runID string) {
	s.mu.Lock()
	run := s.runs[runID]
	s.mu.Unlock()
	if err := s.allowed(r, "runs:read"); err != nil || run == nil {
		s.complain(fmt.Errorf("events of %s: %v", runID, err))
		s.refuse(w, http.StatusNotFound, "not_found")
		return
	}
	var next int
	if _, err := fmt.Sscan(r.URL.Query().Get("after_sequence"), &next); err != nil {
		s.complain(fmt.Errorf("after_sequence %q", r.URL.RawQuery))
	}
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, ": hello\nretry: 50\n\nmood: good\nevent: agentos.hint\ndata: {\"hint\":1}\n\n")
	for {
		s.mu.Lock()
		fresh, more := slices.Clone(run.events[min(next, len(run.events)):]), run.more
		s.mu.Unlock()
		for _, e := range fresh {
			next++
			raw, _ := json.Marshal(map[string]any{"event": e})
			fmt.Fprintf(w, "mood: good\nid: %d\nevent: agentos.event\ndata: %s\n\n", next, raw)
			switch e["type"] {
			case "agentos.run.completed", "agentos.run.canceled":
				return
			}
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

// cancel ends a run.
func (s *stub) cancel(w http.ResponseWriter, r *http.Request, runID string) {
	if err := s.allowed(r, "runs:cancel"); err != nil {
		s.complain(err)
	}
	s.mu.Lock()
	if run := s.runs[runID]; run != nil && len(run.events) < 4 {
		s.write(run, "run.cancel_requested", "", map[string]any{"by": "them"})
		s.write(run, "run.canceled", "", map[string]any{"status": "canceled", "by": "them"})
	}
	s.mu.Unlock()
	s.reply(w, "run", map[string]any{"run_id": runID, "status": "running"})
}

// conclude hears which event ended a run at its origin.
func (s *stub) conclude(w http.ResponseWriter, r *http.Request, runID string) {
	var body struct {
		Final struct {
			Sequence int    `json:"sequence"`
			EventID  string `json:"event_id"`
		} `json:"final"`
	}
	err := s.allowed(r, "runs:read")
	if err == nil {
		err = json.NewDecoder(r.Body).Decode(&body)
	}
	s.mu.Lock()
	run, deaf := s.runs[runID], s.deaf
	if err == nil && run == nil {
		err = fmt.Errorf("the end of %s is told, which never came", runID)
	}
	if err == nil {
		if run.told = append(run.told, fmt.Sprint(body.Final.Sequence, " ", body.Final.EventID)); !deaf {
			run.heard++
		}
	}
	s.mu.Unlock()
	switch {
	case err != nil:
		s.complain(err)
		s.refuse(w, http.StatusBadRequest, "invalid_request")
	case deaf:
		s.refuse(w, http.StatusServiceUnavailable, "dependency_unavailable")
	default:
		s.reply(w, "concluded", map[string]any{"run_id": runID, "status": "completed", "completed_at": time.Now().UTC().Format(time.RFC3339Nano), "superseded": false, "regrets": []any{}})
	}
}

// end is what a stub was told of a run's end, and how often it has heard that.
func (s *stub) end(runID string) (told []string, heard int, finalAck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	run := s.runs[runID]
	return slices.Clone(run.told), run.heard, run.finalAck
}

func (s *stub) complain(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, err.Error())
}

// known checks the caller's certificate against the CA that the join gave.
func (s *stub) known(r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(r.TLS.PeerCertificates) == 0 || s.theirs.roots == nil {
		return fmt.Errorf("%s %s without a certificate, or before pairing", r.Method, r.URL.Path)
	}
	leaf := r.TLS.PeerCertificates[0]
	_, err := leaf.Verify(x509.VerifyOptions{Roots: s.theirs.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err == nil && (len(leaf.URIs) != 1 || leaf.URIs[0].Scheme != "spiffe" || leaf.URIs[0].Host != s.theirs.domain || !strings.HasPrefix(leaf.URIs[0].Path, "/node/")) {
		err = fmt.Errorf("its name is %v", leaf.URIs)
	}
	return err
}

// allowed checks the forward token besides, claim by claim.
func (s *stub) allowed(r *http.Request, scope string) error {
	if err := s.known(r); err != nil {
		return err
	}
	text := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return fmt.Errorf("%s %s: no token: %q", r.Method, r.URL.Path, text)
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(p); err != nil {
			return err
		}
	}
	leaf := r.TLS.PeerCertificates[0]
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if sig := raw[2]; !ok || len(sig) != 64 || !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return fmt.Errorf("%s %s: the token's signature is not of the certificate's key", r.Method, r.URL.Path)
	}
	a := harness.Answer{Body: raw[1]}
	thumb := sha256.Sum256(leaf.Raw)
	left := a.Int("exp") - time.Now().Unix()
	cnf, _ := a.At("cnf").(map[string]any)
	switch {
	case harness.At(harness.Decode(raw[0]), "alg") != "ES256", a.Str("iss") != s.theirs.domain, a.Str("aud") != s.cluster, a.Str("tenant_id") != stubTenant, a.Str("sub") == "",
		a.Str("jti") == "", left < 0 || left > 60, cnf["x5t#S256"] != base64.RawURLEncoding.EncodeToString(thumb[:]), a.Int("hops") < 0 || a.Int("hops") > 3,
		a.Str("act.sub") != leaf.URIs[0].String(), !slices.Contains(strings.Fields(a.Str("scope")), scope):
		return fmt.Errorf("%s %s: the claims are %s", r.Method, r.URL.Path, raw[1])
	}
	return nil
}
