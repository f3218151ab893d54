package run

import (
	"context"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/tenancy"
)

// Placing is what a placement is asked about: a run that is about to be made.
type Placing struct {
	Auth    *tenancy.Auth // with the policy context tightened by the request
	AgentID string
	Request *Request
	// Selector narrows where the run may go beside the tenant's routes; nil doesn't.
	Selector *Selector
	// Hops is how many more organisations the run may cross; 0 keeps it here.
	Hops int
	// Via are the cluster ids that the run has come through, the first origin first.
	Via []string
	// Explain asks for the candidates also where the choice is plain.
	Explain bool
}

// Asking checks a request for a run and returns what a Placer is to be asked about it.
func Asking(by *tenancy.Auth, agentID string, req *Request) (Placing, error) {
	if !id.Valid(agentID) {
		return Placing{}, fault.Invalid("agent_id", "An agent id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	}
	if req.Input.Type == "" {
		req.Input.Type = "text"
	}
	if err := req.validate(); err != nil {
		return Placing{}, err
	}
	auth := *by
	var err error
	auth.PolicyContext, err = tighten(auth.PolicyContext, req.PolicyContext)
	return Placing{Auth: &auth, AgentID: agentID, Request: req, Hops: MaxHops}, err
}

// Selector is a caller's own wish of where a run is to go. Zero fields don't narrow.
type Selector struct {
	StackID              string   `json:"stack_id,omitempty"`
	Region               string   `json:"region,omitempty"`
	Organization         string   `json:"organization,omitempty"`
	RequiredCapabilities []string `json:"required_capabilities,omitempty"`
	PreferredModelTier   string   `json:"preferred_model_tier,omitempty"`
}

// Target is a place for a run in another organisation's cluster.
type Target struct {
	PeeringID    string `json:"peering_id"`
	Organization string `json:"organization"`
	ClusterID    string `json:"cluster_id"`
	// StackID is the node that is asked first; any of its cluster will do.
	StackID string `json:"stack_id"`
	// TenantID is the tenant there that ours stands for.
	TenantID string `json:"tenant_id"`
	RouteID  string `json:"route_id,omitempty"`
	// FinalAck says that the peer wants to be told how the run ended here, and shows its end to nobody else before.
	FinalAck bool `json:"final_ack,omitempty"`
	// LostAfterMS is how long the peer may be silent before the run is given up; 0 waits for the run's own deadline.
	LostAfterMS int64 `json:"lost_after_ms,omitempty"`
}

// Placed is where a run goes, and why.
type Placed struct {
	// Local says that it runs in this cluster.
	Local bool
	// StackID is the node of this cluster that was asked for by name; "" leaves the choice to the cluster.
	StackID string
	// Targets are where else it may go, best first; each is tried only when the one before has surely not taken it.
	Targets []Target
	// Live says that the first of Targets answers, and takes runs now.
	Live    bool
	RouteID string
	// Candidates explain the choice: every place that was looked at, the chosen one first. They are left out where the run
	// stays here because no route says otherwise, unless Placing.Explain asks for them.
	Candidates []Candidate
}

// Placer decides where a run goes. It answers from memory.
type Placer interface {
	// Place decides. fault.NotFound: there is no such agent here and no route to one. fault.UnsupportedCapability: nothing
	// that matches may or can take it; details.missing and details.candidates say why. fresh asks to look at the store
	// itself, because the answer from memory was that there is no such agent. From memory, "here" may also be said of an
	// agent that is nowhere: where there is no route, whoever makes the run finds out. The answer is shared; don't change it.
	Place(ctx context.Context, p Placing, fresh bool) (*Placed, error)
}
