package model

import (
	"context"
	"time"

	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// The operations of a model.
const (
	OpChat  = "chat"
	OpEmbed = "embed"
)

// Policy is the policy stage: it finds the rules that bind a caller. Package policy implements it.
type Policy interface {
	// Rules returns the rules of policyID as tenantID sees it; "" is the default policy. An id that the tenant doesn't
	// have is fault.NotFound: a call is never let through unchecked.
	Rules(ctx context.Context, tenantID, policyID string) (Rules, error)
}

// Rules are one ruleset, ready to be applied. They are safe for concurrent use. What they are given is never changed:
// where something has to be replaced, a copy is returned. A blocked call is fault.PolicyBlocked, beside its outcome.
type Rules interface {
	// Request applies the rules to everything of req that a backend would see.
	Request(req *ChatRequest) (*ChatRequest, PolicyOutcome, error)
	// Texts applies the rules to texts on their way in; path names the field they came in.
	Texts(texts []string, path string) ([]string, PolicyOutcome, error)
	// Answer applies the rules to a whole answer.
	Answer(m Message) (Message, PolicyOutcome, error)
	// Stream returns a filter for one streamed answer. What it lets through is, put together, what Answer returns.
	Stream() Filter
	// Limits are the token limits of the rules; zero is none.
	Limits() TokenLimits
}

// TokenLimits bound the size of one call. Zero is no limit.
type TokenLimits struct{ MaxInput, MaxOutput int64 }

// Filter applies rules to one stream. It holds back what might become part of a match, and belongs to one goroutine.
type Filter interface {
	// Push takes the next piece and calls emit for what is certain to pass.
	Push(d Delta, emit func(Delta) error) error
	// Close emits what was held back. It's called once. whole is false when the stream broke off: then the text that came
	// is let through, redacted, and tool calls, which may be cut, are not.
	Close(whole bool, emit func(Delta) error) error
}

// Router is the routing stage. Package route implements it.
type Router interface {
	// Decide chooses among q.Backends. It's a pure function of q, the router's configuration and the health it has seen.
	// A model that doesn't exist or that the tenant may not use is fault.NotFound with details.param "model".
	Decide(q RouteQuery) (Decision, error)
	// Visible returns the models that t may use, with their tiers.
	Visible(t *tenancy.Tenant, backends []Backend) []Info
	// Begin asks whether backend may be called now; when not, it returns the reason, with RetryAfter set.
	Begin(backend string) error
	// End reports how a call went that Begin allowed.
	End(backend, model string, r Report)
}

// Backend is one provider with the models it is known to serve.
type Backend struct {
	Name string
	// Known is false while the backend has not yet said which models it serves.
	Known  bool
	Models []Info
}

// RouteQuery is all that a routing decision depends on, next to the router's configuration and health.
type RouteQuery struct {
	ModelRef     string
	Operation    string // chat or embed
	Tenant       *tenancy.Tenant
	Requirements Requirements
	Backends     []Backend
	// Explain asks for the reasons of what fits too, not only of what doesn't.
	Explain bool
	// Cost returns the highest price a call may have at a model, in nano-dollars. It may be nil.
	Cost func(Info) int64
}

// Decision is a route with its reasons. Candidates are to be tried in order.
type Decision struct {
	ModelRef   string       `json:"model_ref"`
	Candidates []Info       `json:"-"`
	Considered []Considered `json:"candidates"`
}

// Considered says why a model was chosen or not.
type Considered struct {
	Backend string   `json:"backend"`
	Model   string   `json:"model"`
	Chosen  bool     `json:"chosen"`
	Order   int      `json:"order,omitempty"` // 1 is tried first
	Reasons []Reason `json:"reasons"`
}

// Reason is one check and how it went.
type Reason struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Report says how one call of a backend went.
type Report struct {
	// Err is the backend's failure; nil when it answered.
	Err error
	// Left is set when the caller went away or gave up: that says nothing about the backend.
	Left    bool
	Latency time.Duration
}

// Meter counts tokens and knows prices. Package meter implements it.
type Meter interface {
	// CountRequest counts the input tokens of req at a model; exact is false for an estimate.
	CountRequest(backend, model string, req *ChatRequest) (tokens int64, exact bool)
	// CountTexts counts the tokens of texts at a model.
	CountTexts(backend, model string, texts []string) (tokens int64, exact bool)
	// CountMessage counts the output tokens of an answer at a model.
	CountMessage(backend, model string, m *Message) (tokens int64, exact bool)
	// Cost prices u; known is false when the model has no price of its own and the default price was taken.
	Cost(backend, model string, u Usage) (nusd int64, known bool)
}

// Budget makes and ends reservations of direct calls; those of runs ride on their journal. Ledger implements it.
type Budget interface {
	// Reserve holds r back, or refuses with fault.QuotaExceeded or fault.RateLimited. A call whose billing id was settled
	// within the last 10 minutes is free: it holds nothing back and must not be settled.
	Reserve(ctx context.Context, tenantID, billingID string, r quota.Reservation) (free bool, err error)
	// Settle ends a reservation.
	Settle(ctx context.Context, tenantID, billingID string, s quota.Settlement) error
}

// Bounded is implemented by providers that can say beforehand how many tokens an answer has at most, so that no more than
// that is held back for it.
type Bounded interface {
	MaxOutput(model string, req *ChatRequest) int64
}

// InProcess is implemented by providers that call nothing outside the node: there is no backend to be spared, so no
// circuit breaker stands before them.
type InProcess interface {
	InProcess() bool
}
