package conformance_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/conformance"
	"github.com/nexixai/agentos/tests/harness"
)

// door is one of a node's doors that people do not come to, as a node with a certificate speaks to it.
type door struct {
	*world
	base string
	cert *tls.Certificate // nil: none is shown
	http *http.Client
}

func (w *world) door(t *testing.T, base string, cert *tls.Certificate, protocols ...string) *door {
	t.Helper()
	conf := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: protocols} // who answers is not the question here
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, ExpectContinueTimeout: soon}
	if len(protocols) > 0 && protocols[0] != "http/1.1" { // net/http speaks no protocol of this name, but the server does
		transport = &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: soon, DialTLSContext: (&tls.Dialer{Config: conf}).DialContext}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &door{world: w, base: base, cert: cert, http: &http.Client{Transport: transport, Timeout: soon}}
}

// named returns the operation of a "METHOD template", on whichever door.
func (w *world) named(t *testing.T, name string) *conformance.Operation {
	t.Helper()
	for _, o := range conformance.All(w.judge.Docs) {
		if key(o) == name {
			return o
		}
	}
	t.Fatalf("no document has %s", name)
	return nil
}

// want sends a request, has the answer judged, and fails the test when its status is another.
func (d *door) want(t *testing.T, status int, name string, r request, token string) harness.Answer {
	t.Helper()
	o := d.named(t, name)
	var body io.Reader
	switch b := r.body.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(context.Background(), o.Method, d.base+r.path(o), body)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Expect", "100-continue") // what is refused by its length is not sent into a connection that closes
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(r.headers); i += 2 {
		req.Header.Set(r.headers[i], r.headers[i+1])
	}
	resp, err := d.http.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", o.Place(), err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", o.Place(), err)
	}
	a := d.judged(t, o, harness.Answer{Status: resp.StatusCode, Header: resp.Header, Body: raw})
	if a.Status != status {
		t.Errorf("%s: %d, want %d: %.300s", o.Place(), a.Status, status, a.Body)
	}
	return a
}

// token is what globex's node sends along for the demo tenant, from the wire contract alone.
func (d *door) token(t *testing.T, from, to harness.Answer, scope string) string {
	t.Helper()
	sum := sha256.Sum256(d.cert.Certificate[0])
	name := "spiffe://" + from.Str("peer.trust_domain") + "/node/" + from.Str("peer.stack_id")
	part := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	signed := part(object{"alg": "ES256", "typ": "JWT"}) + "." + part(object{
		"iss": from.Str("peer.trust_domain"), "sub": "usr_ann", "aud": to.Str("peer.cluster_id"), "iat": time.Now().Unix(), "exp": time.Now().Unix() + 50,
		"jti": fresh("jti"), "tenant_id": "tnt_demo", "scope": scope, "policy_context": object{}, "hops": 2,
		"cnf": object{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}, "act": object{"sub": name, "cluster_id": from.Str("peer.cluster_id")},
	})
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, d.cert.PrivateKey.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// forwardedRun is the body with which a peer forwards a run of the demo tenant.
func forwardedRun(from harness.Answer, id string) object {
	return object{"forward": object{
		"target_selector": object{}, "run_request": object{"agent_id": "agt_sample_echo_v1", "input": object{"type": "text", "text": "/say from afar"}},
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"origin": object{
			"cluster_id": from.Str("peer.cluster_id"), "stack_id": from.Str("peer.stack_id"), "tenant_id": "tnt_demo", "run_id": id, "attempt": 1, "remaining_ms": 60_000,
			"journal": []any{object{"event": object{
				"event_id": fresh("evt"), "sequence": 1, "time": "2026-11-25T08:00:00Z", "type": "agentos.run.created", "tenant_id": "tnt_demo", "agent_id": "agt_sample_echo_v1",
				"run_id": id, "step_id": nil, "trace": object{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "span_id": "b7ad6b7169203331"},
				"payload": object{"status": "queued"},
			}}},
		},
	}}
}

// TestAnswers_FederationDoor has another organisation's node ask everything that the federation door serves, and judges the
// answers by the same document as those of the API.
//
// Requirements: Q1.
func TestAnswers_FederationDoor(t *testing.T) {
	w := newWorld(t)
	d := suite.Shared(t)
	globex := d.Org(t, "globex")
	from := harness.NewClient(globex.Nodes[0].APIURL, globex.Key(t, "", "platform_admin")).Want(t, 200, "GET", "/v1/peer/info", nil)
	to := w.Root.Want(t, 200, "GET", "/v1/peer/info", nil)
	at := w.door(t, d.Node().FederationURL, globex.Nodes[0].Certificate(t), "http/1.1")
	stranger := w.door(t, d.Node().FederationURL, nil, "http/1.1")
	all := "runs:create runs:read runs:cancel events:read events:ingest"

	for _, name := range []string{"GET /v1/peer/info", "GET /v1/federation/peer", "GET /v1/peer/capabilities", "GET /v1/federation/peer/capabilities"} {
		tag := at.want(t, 200, name, request{}, "").Header.Get("ETag")
		at.want(t, 304, name, request{headers: []string{"If-None-Match", tag}}, "")
		stranger.want(t, 401, name, request{}, "")
	}
	at.want(t, 200, "GET /v1/federation/health", request{}, "")

	const forward = "POST /v1/federation/runs:forward"
	id := fresh("run")
	body := forwardedRun(from, id)
	stranger.want(t, 401, forward, request{body: body}, "")
	at.want(t, 401, forward, request{body: body}, "")
	at.want(t, 401, forward, request{body: body}, "no.token.atall")
	at.want(t, 403, forward, request{body: body}, at.token(t, from, to, "runs:read"))
	at.want(t, 400, forward, request{body: `{"forward":{`}, at.token(t, from, to, all))
	at.want(t, 415, forward, request{body: "{}", headers: []string{"Content-Type", "text/plain"}}, at.token(t, from, to, all))
	at.want(t, 413, forward, request{body: `{"pad":"` + strings.Repeat("a", 2<<20) + `"}`}, at.token(t, from, to, all))
	at.want(t, 200, forward, request{body: body}, at.token(t, from, to, all))
	run := map[string]string{"run_id": id}
	at.want(t, 200, "GET /v1/federation/runs/{run_id}/events", request{params: run}, at.token(t, from, to, all))
	at.want(t, 200, "GET /v1/federation/runs/{run_id}", request{params: run}, at.token(t, from, to, all))
	at.want(t, 404, "GET /v1/federation/runs/{run_id}", request{params: foreign(run)}, at.token(t, from, to, all))
	at.want(t, 404, "GET /v1/federation/runs/{run_id}/events", request{params: foreign(run)}, at.token(t, from, to, all))
	at.want(t, 200, "POST /v1/federation/runs/{run_id}:cancel", request{params: run}, at.token(t, from, to, all))
	at.want(t, 403, "POST /v1/federation/runs/{run_id}:cancel", request{params: run}, at.token(t, from, to, "runs:read"))
	const conclude = "POST /v1/federation/runs/{run_id}:conclude"
	final := request{params: run, body: object{"final": object{"sequence": 1000, "event_id": fresh("evt")}}}
	at.want(t, 200, conclude, final, at.token(t, from, to, all))
	at.want(t, 403, conclude, final, at.token(t, from, to, "runs:create"))
	at.want(t, 400, conclude, request{params: run, body: object{"final": object{"sequence": "1", "event_id": "evt_x"}}}, at.token(t, from, to, all))
	at.want(t, 415, conclude, request{params: run, body: "{}", headers: []string{"Content-Type", "text/plain"}}, at.token(t, from, to, all))
	events := samples()["POST /v1/federation/events:ingest"](w)
	events.body.(object)["ingest"] = object{"source_stack_id": from.Str("peer.stack_id"), "dedupe": object{"mode": "event_id"}}
	at.want(t, 200, "POST /v1/federation/events:ingest", events, at.token(t, from, to, all))
	at.want(t, 400, "POST /v1/federation/events:ingest", request{body: "[]"}, at.token(t, from, to, all))
	at.want(t, 403, "POST /v1/federation/events:ingest", events, at.token(t, from, to, "runs:read"))
	w.succeeded(t, func(o *conformance.Operation) bool {
		names, _ := o.Schemes()
		return slices.Contains(names, "peer")
	})
}

// publicKey makes a key and returns its public half, PKIX in PEM.
func publicKey(tb testing.TB) string {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// TestAnswers_Joining judges the two calls that strangers may make.
//
// Requirements: Q1.
func TestAnswers_Joining(t *testing.T) {
	w := newWorld(t)
	const pairing, joining = "POST /v1/federation/peerings:join", "POST /v1/cluster:join"
	c := harness.NewCluster(t, suite.Binary(t), new(harness.Starter), 1)
	root := c.Admin(t, 0)
	at := w.door(t, "https://"+c.Nodes[0].FederationAddr(), nil, "http/1.1")
	at.want(t, 400, pairing, request{body: "{"}, "")
	at.want(t, 415, pairing, request{body: "{}", headers: []string{"Content-Type", "text/plain"}}, "")
	at.want(t, 413, pairing, request{body: `{"pad":"` + strings.Repeat("a", 64<<10) + `"}`}, "")
	invited := root.Want(t, 201, "POST", "/v1/federation/peerings", object{"ttl_seconds": 600})
	body := acceptance(t, invited.Str("token"))
	forged := object{}
	for name, v := range body {
		forged[name] = v
	}
	forged["nonce"] = "another"
	at.want(t, 403, pairing, request{body: forged}, "")
	at.want(t, 200, pairing, request{body: body}, "")
	of := request{as: root, params: map[string]string{"peering_id": invited.Str("peering.peering_id")}}
	w.want(t, 200, w.at(t, "GET /v1/federation/peerings/{peering_id}"), of)
	w.want(t, 200, w.at(t, "GET /v1/federation/peers"), request{as: root}) // one that was never reached

	joins := w.door(t, "https://"+c.Nodes[0].ClusterAddr(), nil, "agentos-join/1")
	wish := func(token, name string) object {
		return object{"token": token, "public_key": publicKey(t), "hosts": []string{"127.0.0.1"}, "member": object{
			"stack_id": name, "server_id": name + ".1", "region": "local", "version": "1.02.0-dev", "store_version": 1 << 20, "cluster_addr": "127.0.0.1:1",
		}}
	}
	joins.want(t, 400, joining, request{body: "[]"}, "")
	joins.want(t, 415, joining, request{body: "{}", headers: []string{"Content-Type", "text/plain"}}, "")
	joins.want(t, 413, joining, request{body: `{"pad":"` + strings.Repeat("a", 64<<10) + `"}`}, "")
	joins.want(t, 400, joining, request{body: wish("agjt_"+strings.Repeat("A", 60), "stk_new")}, "")
	token := c.Token(t)
	joins.want(t, 200, joining, request{body: wish(token, "stk_new")}, "")
	joins.want(t, 401, joining, request{body: wish(token, "stk_newer")}, "") // it is used up

	of = request{as: root, params: map[string]string{"stack_id": "stk_new"}}
	w.want(t, 200, w.at(t, "POST /v1/admin/cluster/members/{stack_id}:drain"), of)
	w.want(t, 200, w.at(t, "GET /v1/admin/cluster"), request{as: root})
	w.want(t, 200, w.at(t, "POST /v1/admin/cluster/members/{stack_id}:undrain"), of)
	w.want(t, 204, w.at(t, "DELETE /v1/admin/cluster/members/{stack_id}"), of)
	w.succeeded(t, func(o *conformance.Operation) bool {
		names, _ := o.Schemes()
		return o.Ext("x-agentos-door") != "" && len(names) == 0
	})
}

// succeeded fails the test unless each of these operations was answered with success.
func (w *world) succeeded(t *testing.T, of func(*conformance.Operation) bool) {
	t.Helper()
	for _, o := range conformance.All(w.judge.Docs) {
		if o.Planned() || !of(o) {
			continue
		}
		seen := w.seen[key(o)]
		if !seen[200] && !seen[201] && !seen[204] {
			t.Errorf("%s: no success was seen at this door", o.Place())
		}
	}
}
