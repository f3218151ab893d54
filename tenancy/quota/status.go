package quota

import (
	"math"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Limit is one limit of a tenant and how much of it is in use.
type Limit struct {
	Name  string   `json:"name"`
	Limit *float64 `json:"limit"` // null: unlimited
	Used  float64  `json:"used"`
	OK    bool     `json:"ok"` // one more fits
}

// Status returns every limit that a run of t would meet now. It takes nothing.
func Status(r storage.Reader, t *tenancy.Tenant, now time.Time) ([]Limit, error) {
	slots, err := readRuns(r, tenancy.Place(t.ID, "quota", "runs"))
	if err != nil {
		return nil, err
	}
	q := &t.Quotas
	all := []Limit{counted(maxConcurrentRuns, q.Runs.MaxConcurrentRuns, slots.slots)}
	all = append(all, createLimit(slots, &q.Runs, now))
	for _, m := range [...]struct {
		name, part string
		most       *int64
	}{
		{toolCallsPerMinute, "tools", q.Tools.ToolCallsPerMinute},
		{maxRequestsPerMinute, "models", q.Models.MaxRequestsPerMinute},
	} {
		state, err := readMinute(r, tenancy.Place(t.ID, "quota", m.part))
		if err != nil {
			return nil, err
		}
		if m.most == nil {
			state = minute{} // what is unlimited isn't counted
		} else {
			state.advance(*m.most, now)
		}
		all = append(all, counted(m.name, m.most, state.sum()))
	}
	tokens, cost := Limit{Name: "max_tokens", OK: true}, Limit{Name: "max_cost_usd", OK: true}
	budgets, err := Budgets(r, t, now)
	if err != nil {
		return nil, err
	}
	for _, b := range budgets {
		l := &tokens
		if b.Unit == "usd" {
			l = &cost
		}
		l.Limit, l.Used = &b.Limit, b.Spent+b.Reserved
		l.OK = l.Used < b.Limit
	}
	return append(all, tokens, cost), nil
}

func counted(name string, most *int64, used int64) Limit {
	l := Limit{Name: name, Used: float64(used), OK: true}
	if most != nil {
		f := float64(*most)
		l.Limit, l.OK = &f, used < *most
	}
	return l
}

func createLimit(s runs, q *tenancy.RunQuotas, now time.Time) Limit {
	l := Limit{Name: "run_create_burst", OK: true}
	switch {
	case zero(q.RunCreateBurst) || q.RunCreateQPS != nil && *q.RunCreateQPS <= 0:
		none := 0.0
		l.Limit, l.OK = &none, false
	case q.RunCreateQPS != nil:
		burst := burstOf(q)
		s.refill(*q.RunCreateQPS, burst, now)
		l.Limit, l.Used = &burst, max(math.Ceil(burst-s.level-1e-9), 0) // never -0
		l.OK = l.Used < burst
	}
	return l
}

// Budget is one budget of a tenant in the current window. Spent and reserved stand apart.
type Budget struct {
	Level    string    `json:"level"`  // "tenant"
	Unit     string    `json:"unit"`   // tokens or usd
	Window   string    `json:"window"` // minute, hour, day or month
	Limit    float64   `json:"limit"`
	Spent    float64   `json:"spent"`
	Reserved float64   `json:"reserved"`
	ResetsAt time.Time `json:"resets_at"`
}

// Budgets returns the tenant's budgets as they stand now; none when it has none.
func Budgets(r storage.Reader, t *tenancy.Tenant, now time.Time) ([]Budget, error) {
	b := t.Quotas.Models.TokenBudget
	if b == nil {
		return []Budget{}, nil
	}
	w := windowAt(b.Window, now)
	s, ok, err := findSpend(r, t.ID, w)
	if err == nil && !ok {
		s.tokens, s.cost, err = spentSince(r, t.ID, w)
	}
	if err != nil {
		return nil, err
	}
	all := []Budget{}
	if b.MaxTokens != nil {
		all = append(all, Budget{
			Level: "tenant", Unit: "tokens", Window: w.name, ResetsAt: w.end,
			Limit: float64(*b.MaxTokens), Spent: float64(s.tokens), Reserved: float64(s.heldTokens),
		})
	}
	if b.MaxCostUSD != nil {
		all = append(all, Budget{
			Level: "tenant", Unit: "usd", Window: w.name, ResetsAt: w.end,
			Limit: *b.MaxCostUSD, Spent: USD(s.cost), Reserved: USD(s.heldCost),
		})
	}
	return all, nil
}
