package forward

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
)

// Paths of the wire between organisations.
const (
	forwardPath = "/v1/federation/runs:forward"
	runPath     = "/v1/federation/runs/"
)

// Request is the body of runs:forward, inside "forward".
type Request struct {
	Selector    run.Selector    `json:"target_selector"`
	Run         json.RawMessage `json:"run_request"`
	Traceparent string          `json:"traceparent,omitempty"`
	// Origin is set between nodes, and absent when a principal asks.
	Origin *Sender `json:"origin,omitempty"`
}

// RunRequest is the run that is asked for: a create's body, and the agent.
type RunRequest struct {
	AgentID        string             `json:"agent_id"`
	Input          run.Input          `json:"input"`
	Context        run.Context        `json:"context"`
	Tooling        run.Tooling        `json:"tooling"`
	Options        run.RequestOptions `json:"run_options"`
	IdempotencyKey string             `json:"idempotency_key,omitempty"`
}

// Sender is what the origin's cluster says of the run: its identity there, and its journal so far.
type Sender struct {
	ClusterID     string `json:"cluster_id"`
	StackID       string `json:"stack_id"`
	TenantID      string `json:"tenant_id"` // the origin's
	RunID         string `json:"run_id"`
	Attempt       uint64 `json:"attempt"`
	RemainingMS   int64  `json:"remaining_ms"`
	CorrelationID string `json:"correlation_id,omitempty"`
	// FinalAck says that the origin will tell how the run ended there (Final).
	FinalAck bool `json:"final_ack,omitempty"`
	// Journal is the run's events so far, from the first, as {"event":{…}}.
	Journal []json.RawMessage `json:"journal"`
}

// Forwarded is the answer to runs:forward, inside "forwarded".
type Forwarded struct {
	TenantID        string     `json:"tenant_id"`
	RunID           string     `json:"run_id"`
	EventsURL       string     `json:"events_url"` // relative, at the node that was asked
	RemoteStackID   string     `json:"remote_stack_id"`
	RemoteRunID     string     `json:"remote_run_id"`
	RemoteEventsURL string     `json:"remote_events_url"` // for the forwarding peer
	Status          run.Status `json:"status"`
}

// Final is the body of runs/{run_id}:conclude, inside "final": the event that ended the run at its origin. The answer is a
// run.Concluded, inside "concluded".
type Final struct {
	Sequence uint64 `json:"sequence"`
	EventID  string `json:"event_id"`
}

// EventsPath is where the peer that forwarded a run follows it.
func EventsPath(runID string) string { return runPath + runID + "/events" }

// Call is one request to a node of another organisation.
type Call struct {
	PeeringID string
	// StackID is the node that is to answer, at Address (HOST:PORT of its federation door).
	StackID, Address string
	Method, Path     string
	Body             []byte // JSON, or nil
	Claims           trust.ForwardClaims
	Header           http.Header
}

// Wire carries calls. It sends each at most once, over a connection that was proven on both sides.
type Wire interface {
	// Do sends the call and returns the answer, whose body the caller closes. ctx bounds the answer and its body.
	Do(ctx context.Context, c Call) (*http.Response, error)
	// Unsent reports whether err, of Do, says that surely no byte of the request has been written.
	Unsent(err error) bool
}

// Peers knows the nodes of other organisations.
type Peers interface {
	// Peers lists them; the slice and what it holds are shared and never changed.
	Peers() []registry.Peer
	// Listen calls heard after changes, until the owner closes. heard returns at once.
	Listen(heard func())
}
