package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/tenancy"
)

// Invocation is one call of one tool.
type Invocation struct {
	Auth   *tenancy.Auth
	Tenant *tenancy.Tenant
	RunID  string
	Tool   *agent.Tool
	// EffectID stays the same when the call is made again because its outcome is unknown.
	EffectID      string
	CorrelationID string
	Traceparent   string
	// Input is valid JSON.
	Input json.RawMessage
	// Timeout bounds the call; 0 means Set.Timeout of the tool.
	Timeout time.Duration
}

// Kind is the treaty of one kind of tool. Implementations are safe for concurrent use.
type Kind interface {
	// Invoke makes the call and returns its output, as JSON. in.Input fits the tool's schema. It obeys ctx promptly, and
	// its failures carry fault codes: InvalidRequest, NotFound, Forbidden, RateLimited, Unavailable, Timeout, Internal.
	Invoke(ctx context.Context, in *Invocation) (json.RawMessage, error)
	// Check refuses, with fault.InvalidRequest and details.field, a definition that Invoke could not use.
	Check(t *agent.Tool) error
	// Repeatable reports whether a call of t with this input may be made again with the same effect id when nobody knows
	// what became of it.
	Repeatable(t *agent.Tool, input json.RawMessage) bool
}

// The kinds of the contract.
const (
	KindBuiltin = "builtin"
	KindHTTP    = "http"
	KindMCP     = "mcp"
)

// Options says what a Set is made of.
type Options struct {
	// Kinds by their name; a tool of a kind that is missing here can't be called.
	Kinds map[string]Kind
	// Timeout bounds a call of a tool that does not say so itself; 0 means 30 s.
	Timeout time.Duration
	// Logger may be nil.
	Logger *zap.Logger
}

// Set calls tools of all kinds.
type Set struct {
	kinds   map[string]Kind
	timeout time.Duration
	schemas *schemas
	log     *zap.Logger
}

// maxTimeout bounds what a tool may ask for by itself.
const maxTimeout = 10 * time.Minute

// New returns a Set.
func New(o Options) *Set {
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &Set{kinds: o.Kinds, timeout: o.Timeout, schemas: newSchemas(), log: o.Logger}
}

// Check refuses a definition that could not be called: of an unknown kind, with a schema that is none, or with a
// configuration its kind can't use. The error is fault.InvalidRequest and names the field.
func (s *Set) Check(t *agent.Tool) error {
	kind, ok := s.kinds[t.Kind]
	if !ok {
		return fault.Invalid("tool.kind", "This node has no tools of kind %q.", t.Kind)
	}
	if _, err := s.schemas.of(t.InputSchema); err != nil {
		return err
	}
	return kind.Check(t)
}

// Repeatable reports whether a call may be made again, with the same effect id, when its outcome is unknown.
func (s *Set) Repeatable(t *agent.Tool, input json.RawMessage) bool {
	kind, ok := s.kinds[t.Kind]
	return ok && kind.Repeatable(t, input)
}

// Timeout is how long a call of t may take.
func (s *Set) Timeout(t *agent.Tool) time.Duration {
	if len(t.Config) == 0 {
		return s.timeout
	}
	var config struct {
		TimeoutMS int64 `json:"timeout_ms"`
	}
	if err := json.Unmarshal(t.Config, &config); err != nil || config.TimeoutMS <= 0 {
		return s.timeout
	}
	return min(time.Duration(min(config.TimeoutMS, maxTimeout.Milliseconds()))*time.Millisecond, maxTimeout)
}

// Invoke makes one call. The output is valid JSON on one line, of at most MaxOutput bytes; truncated says that it's the
// head of a longer one. An input that does not fit the tool's schema is fault.InvalidRequest, a call that takes longer
// than it may fault.Timeout. When ctx ends first, its cause is returned.
func (s *Set) Invoke(ctx context.Context, in Invocation) (output json.RawMessage, truncated bool, err error) {
	kind, ok := s.kinds[in.Tool.Kind]
	if !ok {
		return nil, false, fault.New(fault.UnsupportedCapability, "This node has no tools of kind %q.", in.Tool.Kind).With("missing", []string{"tools." + in.Tool.Kind})
	}
	if len(in.Input) == 0 {
		in.Input = json.RawMessage("{}")
	}
	if err := s.schemas.check(in.Tool.InputSchema, in.Input); err != nil {
		return nil, false, err
	}
	timeout := in.Timeout
	if timeout <= 0 {
		timeout = s.Timeout(in.Tool)
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	output, err = s.guarded(bounded, kind, &in)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, false, fmt.Errorf("tool: %s: %w", in.Tool.ID, context.Cause(ctx))
	case err != nil && bounded.Err() != nil && !fault.Is(err, fault.Timeout) || errors.Is(err, context.DeadlineExceeded):
		return nil, false, fault.New(fault.Timeout, "The tool did not answer within %d ms.", timeout.Milliseconds()).With("timeout_ms", timeout.Milliseconds()).Because(err)
	case err != nil:
		return nil, false, err
	case !json.Valid(output):
		return nil, false, fault.New(fault.Internal, "tool %s gave output that is not JSON", in.Tool.ID)
	}
	output, truncated = Cut(output)
	return output, truncated, nil
}

func (s *Set) guarded(ctx context.Context, kind Kind, in *Invocation) (output json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("tool panicked", zap.String("tool_id", in.Tool.ID), zap.String("run_id", in.RunID),
				zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			output, err = nil, fmt.Errorf("tool: %s panicked: %v", in.Tool.ID, p)
		}
	}()
	return kind.Invoke(ctx, in)
}
