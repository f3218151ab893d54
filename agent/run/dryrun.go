package run

import (
	"context"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// DryRun is what a create would have come to.
type DryRun struct {
	Decision   Decision    `json:"decision"`
	Candidates []Candidate `json:"candidates"`
	// PolicyOutcome is what the policy says of the input; nil when this node has nobody to ask.
	PolicyOutcome *model.PolicyOutcome `json:"policy_outcome"`
	Quotas        []quota.Limit        `json:"quotas"`
}

// Decision is where a run would go.
type Decision struct {
	Target  string  `json:"target"` // a stack_id
	RouteID *string `json:"route_id"`
}

// Candidate is one place where a run could go, and why it would, or would not.
type Candidate struct {
	StackID      string   `json:"stack_id"`
	Organization string   `json:"organization"`
	Chosen       bool     `json:"chosen"`
	Reasons      []Reason `json:"reasons"`
}

// Reason is one check of a candidate.
type Reason struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// DryRun says what Create would do, and changes nothing. What Create would refuse for the request's own sake is refused
// alike; quotas and policy are reported instead.
func (s *Service) DryRun(ctx context.Context, by tenancy.Actor, agentID string, req Request) (*DryRun, error) {
	args, err := s.prepare(by, agentID, &req, Meta{})
	if err != nil {
		return nil, err
	}
	out := &DryRun{}
	local, err := s.whither(ctx, by, args, &req, out)
	if err != nil {
		return nil, err
	}
	var tenant *tenancy.Tenant
	policyID := ""
	err = storage.Find(ctx, s.store, storage.Read{}, func(r storage.Snapshot) error {
		if tenant, err = s.commands.tenants.Tenant(r, args.TenantID); err != nil {
			return err
		}
		if tenant.Status != tenancy.Active {
			return errDisabled()
		}
		if local {
			if _, err := s.commands.admissible(r, args); err != nil {
				return err
			}
			ag, err := s.commands.agents.Agent(r, args.TenantID, agentID)
			if err != nil {
				return err
			}
			policyID = ag.PolicyID
		}
		out.Quotas, err = quota.Status(r, tenant, time.Now())
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.policy != nil {
		auth := *by.Auth
		auth.PolicyContext = args.PolicyContext
		caller := model.Caller{Auth: &auth, Tenant: tenant, AgentID: agentID, PolicyID: policyID}
		outcome, _, err := s.policy.Check(ctx, caller, req.Input.Text, policyID)
		switch {
		case err == nil:
			out.PolicyOutcome = &outcome
		case fault.Is(err, fault.PolicyBlocked):
			out.PolicyOutcome = &model.PolicyOutcome{Decision: "blocked", Reasons: []string{fault.Of(err).Message}, Redactions: []model.Redaction{}}
		default:
			return nil, err
		}
	}
	return out, nil
}

// whither fills in where the run would go, and reports whether that's here.
func (s *Service) whither(ctx context.Context, by tenancy.Actor, a *createArgs, req *Request, out *DryRun) (local bool, err error) {
	if s.placer == nil {
		out.Decision.Target, out.Candidates = s.stackID, []Candidate{s.local(a)}
		return true, nil
	}
	auth := *by.Auth
	auth.PolicyContext = a.PolicyContext
	asked := Placing{Auth: &auth, AgentID: a.AgentID, Request: req, Hops: MaxHops, Explain: true}
	placed, err := s.placer.Place(ctx, asked, false)
	if fault.Is(err, fault.NotFound) {
		placed, err = s.placer.Place(ctx, asked, true)
	}
	if err != nil {
		return false, err
	}
	out.Candidates = placed.Candidates
	if placed.RouteID != "" {
		out.Decision.RouteID = &placed.RouteID
	}
	switch {
	case !placed.Local:
		out.Decision.Target = placed.Targets[0].StackID
	case len(placed.Candidates) > 0:
		out.Decision.Target = placed.Candidates[0].StackID
	default:
		out.Decision.Target = s.stackID
	}
	return placed.Local, nil
}

// local is this cluster as a candidate, where nobody is asked for others.
func (s *Service) local(a *createArgs) Candidate {
	c := Candidate{StackID: s.stackID, Organization: s.org, Chosen: true, Reasons: []Reason{
		{Check: "agent", OK: true, Detail: "The agent " + a.AgentID + " is hosted here."},
	}}
	if region := a.PolicyContext.Region; region != "" {
		c.Reasons = append(c.Reasons, Reason{Check: "region", OK: true, Detail: "This cluster has a node in " + region + "."})
	}
	return c
}

func errDisabled() error {
	return fault.New(fault.Forbidden, "The tenant is disabled; ask its operator to enable it.")
}
