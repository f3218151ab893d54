package tenancy

// plan is what a tenant of one tier may use unless it's told otherwise.
type plan struct {
	entitlements Entitlements
	quotas       Quotas
}

const (
	gib = int64(1) << 30
	// DefaultPolicy is the ruleset of a tenant that names none.
	DefaultPolicy = "pol_default"
)

// planOf returns the defaults of a plan tier.
func planOf(tier string) (plan, bool) {
	switch tier {
	case "demo":
		return plan{
			entitlements: Entitlements{
				ModelTiersAllowed:    []string{"fast", "balanced"},
				ModelBackendsAllowed: []string{"builtin", "openai", "ollama"},
				ToolIDsAllowed:       []string{"tool.http.fetch", "tool.kv.put", "tool.kv.get", "tool.echo"},
			},
			quotas: Quotas{
				Runs:  RunQuotas{MaxConcurrentRuns: new(int64(10)), RunCreateQPS: new(5.0), RunCreateBurst: new(int64(10))},
				Tools: ToolQuotas{ToolCallsPerMinute: new(int64(120))},
				Models: ModelQuotas{
					TokenBudget:         &TokenBudget{Window: "day", MaxTokens: new(int64(100_000)), MaxCostUSD: new(25.0)},
					MaxTokensPerRequest: new(int64(4_096)),
				},
				Storage: StorageQuotas{MaxMemoryBytes: new(gib)},
			},
		}, true
	case "standard":
		return plan{
			entitlements: Entitlements{ModelTiersAllowed: []string{"fast", "balanced", "premium"}},
			quotas: Quotas{
				Runs:  RunQuotas{MaxConcurrentRuns: new(int64(200)), RunCreateQPS: new(100.0), RunCreateBurst: new(int64(200))},
				Tools: ToolQuotas{ToolCallsPerMinute: new(int64(6_000))},
				Models: ModelQuotas{
					TokenBudget:          &TokenBudget{Window: "day", MaxTokens: new(int64(20_000_000)), MaxCostUSD: new(500.0)},
					MaxTokensPerRequest:  new(int64(128_000)),
					MaxRequestsPerMinute: new(int64(6_000)),
				},
				Storage: StorageQuotas{MaxMemoryBytes: new(10 * gib)},
			},
		}, true
	case "enterprise": // what it buys is agreed upon with its operator, who sets the limits
		return plan{}, true
	}
	return plan{}, false
}
