package tool

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
)

// The builtin tools.
const (
	Echo      = "tool.echo"
	KVPut     = "tool.kv.put"
	KVGet     = "tool.kv.get"
	HTTPFetch = "tool.http.fetch"
)

// kvKey is the schema of a key of the key-value tools: a memory name.
const kvKey = `{"type":"string","pattern":"^[A-Za-z0-9._-]{1,256}$"}`

// Builtins are the definitions of the builtin tools. Every tenant has them, and none can change them.
func Builtins() []agent.Tool {
	return []agent.Tool{
		{
			ID: Echo, Name: "echo", Kind: KindBuiltin, Idempotent: true,
			Description: "Gives back what it is given.",
			InputSchema: json.RawMessage(`{}`),
		},
		{
			ID: KVPut, Name: "kv_put", Kind: KindBuiltin, Idempotent: true,
			Description: "Keeps a value under a key, for later runs too.",
			InputSchema: json.RawMessage(`{"type":"object","properties":{"key":` + kvKey + `,"value":{}},"required":["key","value"]}`),
		},
		{
			ID: KVGet, Name: "kv_get", Kind: KindBuiltin, Idempotent: true,
			Description: "Gives the value kept under a key, or null when there is none.",
			InputSchema: json.RawMessage(`{"type":"object","properties":{"key":` + kvKey + `},"required":["key"]}`),
		},
		{
			ID: HTTPFetch, Name: "http_fetch", Kind: KindBuiltin,
			Description: "Makes one HTTP request to a public address and gives status, headers and body.",
			InputSchema: json.RawMessage(fetchSchema),
		},
	}
}

// KV is where the key-value tools keep their values.
type KV interface {
	// PutKV stores value, which is valid JSON, under key for in's tenant; the same effect id stores it once.
	PutKV(ctx context.Context, in *Invocation, key string, value json.RawMessage) error
	// GetKV returns the value under key for in's tenant, nil when there is none.
	GetKV(ctx context.Context, in *Invocation, key string) (json.RawMessage, error)
}

// Builtin is the kind of the tools that every node has.
type Builtin struct {
	kv      KV
	fetcher Doer
}

var _ Kind = (*Builtin)(nil)

// NewBuiltin returns the builtin kind. fetcher makes the requests of tool.http.fetch: it must refuse what a tenant must
// not reach from inside.
func NewBuiltin(kv KV, fetcher Doer) *Builtin { return &Builtin{kv: kv, fetcher: fetcher} }

// Invoke implements Kind.
func (b *Builtin) Invoke(ctx context.Context, in *Invocation) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch in.Tool.ID {
	case Echo:
		return in.Input, nil
	case KVPut:
		return b.put(ctx, in)
	case KVGet:
		return b.get(ctx, in)
	case HTTPFetch:
		return fetch(ctx, b.fetcher, in.Input)
	}
	return nil, fault.New(fault.NotFound, "There is no builtin tool %s.", in.Tool.ID)
}

// Check implements Kind. The builtin tools are what Builtins says; nobody defines more of them.
func (b *Builtin) Check(*agent.Tool) error {
	return fault.Invalid("tool.kind", "Tools of kind builtin come with the node; define one of kind http or mcp.")
}

// Repeatable implements Kind: all but requests that may change something elsewhere.
func (b *Builtin) Repeatable(t *agent.Tool, input json.RawMessage) bool {
	return t.Idempotent || t.ID == HTTPFetch && safeMethod(input)
}

func (b *Builtin) put(ctx context.Context, in *Invocation) (json.RawMessage, error) {
	var args struct {
		Key   string          `json:"key"`
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(in.Input, &args); err != nil {
		return nil, fault.Invalid("input", "The input is not an object with key and value.")
	}
	if err := b.kv.PutKV(ctx, in, args.Key, args.Value); err != nil {
		return nil, fmt.Errorf("tool: %s: %w", KVPut, err)
	}
	return json.RawMessage(`{"ok":true}`), nil
}

func (b *Builtin) get(ctx context.Context, in *Invocation) (json.RawMessage, error) {
	var args struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(in.Input, &args); err != nil {
		return nil, fault.Invalid("input", "The input is not an object with a key.")
	}
	value, err := b.kv.GetKV(ctx, in, args.Key)
	if err != nil {
		return nil, fmt.Errorf("tool: %s: %w", KVGet, err)
	}
	if value == nil {
		value = json.RawMessage("null")
	}
	out := make([]byte, 0, len(value)+12)
	out = append(out, `{"value":`...)
	out = append(out, value...)
	return append(out, '}'), nil
}
