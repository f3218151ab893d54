package federation_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/nexixai/agentos/tests/harness"
)

// forger speaks at a federation door as a node would, from the wire contract alone: with a certificate, and with tokens that
// its key signs.
type forger struct {
	t              *testing.T
	cert           *tls.Certificate
	domain, stack  string
	cluster        string // its own
	audience       string // the cluster it speaks to
	door           string // HOST:PORT
	http           *http.Client
	tenant, origin string // whom tokens speak for, and the tenant of its own
	agent          string
}

// clusterOf is the id of a cluster.
func clusterOf(t *testing.T, c *harness.Cluster) string {
	t.Helper()
	return c.Admin(t, 0).Want(t, 200, "GET", "/v1/peer/info", nil).Str("peer.cluster_id")
}

// forge makes a forger with a node's own certificate that speaks at another's door.
func forge(t *testing.T, from *harness.Cluster, to *harness.Cluster) *forger {
	t.Helper()
	n := from.Nodes[0]
	f := &forger{
		t: t, domain: from.Organization + ".agentos.internal", stack: n.Name, cluster: clusterOf(t, from), audience: clusterOf(t, to),
		door: to.Nodes[0].FederationAddr(),
	}
	return f.with(n.Certificate(t))
}

// with is f with another certificate, and connections of its own.
func (f *forger) with(cert *tls.Certificate) *forger {
	g := *f
	g.cert = cert
	conf := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}} // whom it speaks to is not its question
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: conf}
	g.http = &http.Client{Transport: transport, Timeout: bound}
	f.t.Cleanup(transport.CloseIdleConnections)
	return &g
}

func (f *forger) spiffe() string { return "spiffe://" + f.domain + "/node/" + f.stack }

// change alters the claims of a token before it's signed.
type change func(claims map[string]any)

// set is a change of one claim; nil leaves it out.
func set(name string, value any) change {
	return func(claims map[string]any) {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
}

// token signs the claims of a good token, changed.
func (f *forger) token(changes ...change) string {
	f.t.Helper()
	sum := sha256.Sum256(f.cert.Certificate[0])
	claims := map[string]any{
		"iss": f.domain, "sub": "usr_forger", "aud": f.audience, "iat": time.Now().Unix(), "exp": time.Now().Unix() + 50, "jti": "jti_" + ulid.Make().String(),
		"tenant_id": f.tenant, "scope": "runs:create runs:read runs:cancel events:read events:ingest", "policy_context": map[string]any{}, "hops": 2,
		"cnf": map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}, "act": map[string]any{"sub": f.spiffe(), "cluster_id": f.cluster},
	}
	for _, c := range changes {
		c(claims)
	}
	part := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			f.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	signed := part(map[string]any{"alg": "ES256", "typ": "JWT"}) + "." + part(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, f.cert.PrivateKey.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		f.t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// open sends a request and returns the answer, its body unread. An error means that the door did not let it in.
func (f *forger) open(method, path, token string, body any, correlation string) (*http.Response, error) {
	f.t.Helper()
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			f.t.Fatal(err)
		}
		in = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "https://"+f.door+path, in)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Correlation-Id", correlation)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return f.http.Do(req)
}

// call is open, with the answer read.
func (f *forger) call(method, path, token string, body any, correlation string) (harness.Answer, error) {
	resp, err := f.open(method, path, token, body, correlation)
	if err != nil {
		return harness.Answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return harness.Answer{Status: resp.StatusCode, Header: resp.Header, Body: raw}, err
}

// envelope is an event as it travels.
func envelope(sequence int, kind, tenant, agent, run string, payload map[string]any) map[string]any {
	return map[string]any{"event": map[string]any{
		"event_id": "evt_" + ulid.Make().String(), "sequence": sequence, "time": time.Now().UTC().Format(time.RFC3339Nano), "type": "agentos." + kind,
		"tenant_id": tenant, "agent_id": agent, "run_id": run, "step_id": nil,
		"trace": map[string]any{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "span_id": "b7ad6b7169203331"}, "payload": payload,
	}}
}

// forwarded is the body of a good runs:forward.
func (f *forger) forwarded(runID, text string) map[string]any {
	return map[string]any{"forward": map[string]any{
		"target_selector": map[string]any{},
		"run_request":     map[string]any{"agent_id": f.agent, "input": map[string]any{"type": "text", "text": text}},
		"traceparent":     "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"origin": map[string]any{
			"cluster_id": f.cluster, "stack_id": f.stack, "tenant_id": f.origin, "run_id": runID, "attempt": 1, "remaining_ms": 60_000,
			"journal": []any{envelope(1, "run.created", f.origin, f.agent, runID, map[string]any{"status": "queued"})},
		},
	}}
}

func newRun() string { return "run_" + ulid.Make().String() }

// decodePart decodes a part of a token.
func decodePart(part string) any {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return nil
	}
	return harness.Decode(raw)
}
