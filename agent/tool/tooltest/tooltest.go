// Package tooltest is the conformance suite of the kinds of tools: what every kind has to do, whatever it reaches.
//
// Room: Stack A. It imports agent, agent/tool, tenancy and internal/….
package tooltest

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/tenancy"
)

// Case is one kind of tool under test, with calls that show each of its sides. A nil call is skipped only for what the kind
// cannot do at all.
type Case struct {
	// Name is the kind's name.
	Name string
	Kind tool.Kind
	// Works is a call that succeeds, with its output.
	Works *Call
	// Fails is a call that fails with Fails.Code.
	Fails *Call
	// Hangs is a call that does not return before its context ends.
	Hangs *Call
	// Long is a call whose output is longer than tool.MaxOutput.
	Long *Call
	// Misfit is a definition that Check refuses.
	Misfit *agent.Tool
}

// Call is one call of a tool.
type Call struct {
	Tool   agent.Tool
	Input  string
	Output string
	Code   fault.Code
}

// Invocation makes the invocation of a call for a tenant.
func (c *Call) Invocation(tenantID, effectID string) tool.Invocation {
	return tool.Invocation{
		Auth:   &tenancy.Auth{TenantID: tenantID, Principal: tenancy.Principal{ID: "usr_a"}},
		Tenant: &tenancy.Tenant{ID: tenantID, Status: tenancy.Active}, RunID: "run_a",
		Tool: &c.Tool, EffectID: effectID, CorrelationID: "corr_a", Input: json.RawMessage(c.Input), Timeout: 10 * time.Second,
	}
}

// Run holds one kind to the treaty.
func Run(t *testing.T, c Case) {
	set := tool.New(tool.Options{Kinds: map[string]tool.Kind{c.Name: c.Kind}})
	t.Run("works", func(t *testing.T) {
		output, truncated, err := set.Invoke(t.Context(), c.Works.Invocation("tnt_a", "tcall_works"))
		if err != nil || truncated || string(output) != c.Works.Output {
			t.Errorf("output %.300s, truncated %v, err %v", output, truncated, err)
		}
	})
	t.Run("works at once for many", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if output, _, err := set.Invoke(t.Context(), c.Works.Invocation("tnt_a", "tcall_many")); err != nil || string(output) != c.Works.Output {
					t.Errorf("output %.300s, err %v", output, err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("fails with a code", func(t *testing.T) {
		output, _, err := set.Invoke(t.Context(), c.Fails.Invocation("tnt_a", "tcall_fails"))
		if !fault.Is(err, c.Fails.Code) || output != nil {
			t.Errorf("output %.300s, err %v, want %s", output, err, c.Fails.Code)
		}
	})
	t.Run("an ended context calls nobody", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if output, _, err := set.Invoke(ctx, c.Works.Invocation("tnt_a", "tcall_ended")); err == nil {
			t.Errorf("output %.300s", output)
		}
	})
	if c.Hangs != nil {
		t.Run("times out", func(t *testing.T) {
			in := c.Hangs.Invocation("tnt_a", "tcall_hangs")
			in.Timeout = 50 * time.Millisecond
			if _, _, err := set.Invoke(t.Context(), in); !fault.Is(err, fault.Timeout) {
				t.Errorf("err %v, want %s", err, fault.Timeout)
			}
		})
		t.Run("is cut off", func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, context.Canceled)
			defer cancel()
			began := time.Now()
			if _, _, err := set.Invoke(ctx, c.Hangs.Invocation("tnt_a", "tcall_cut")); err == nil || fault.Is(err, fault.Timeout) {
				t.Errorf("err %v, want the context's cause", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	if c.Long != nil {
		t.Run("long output is cut", func(t *testing.T) {
			output, _, err := set.Invoke(t.Context(), c.Long.Invocation("tnt_a", "tcall_long"))
			if err != nil || len(output) > tool.MaxOutput || len(output) < tool.MaxOutput/2 || !json.Valid(output) {
				t.Errorf("%d bytes, valid %v, err %v", len(output), json.Valid(output), err)
			}
		})
	}
	if c.Misfit != nil {
		t.Run("refuses a definition it can't use", func(t *testing.T) {
			if err := c.Kind.Check(c.Misfit); !fault.Is(err, fault.InvalidRequest) {
				t.Errorf("err %v", err)
			}
		})
	}
}
