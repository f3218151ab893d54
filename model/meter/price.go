package meter

import (
	"fmt"
	"math"
	"math/bits"
	"strings"
	"time"

	"github.com/nexixai/agentos/model"
)

// Price is what a million tokens cost, in nano-dollars.
type Price struct {
	InputNUSD       int64 `json:"input_nusd_per_million"`
	CachedInputNUSD int64 `json:"cached_input_nusd_per_million"`
	OutputNUSD      int64 `json:"output_nusd_per_million"`
}

// Table is a dated list of prices, by "backend/model". A name that ends in '*' is a prefix; the longest match wins.
type Table struct {
	AsOf   time.Time        `json:"as_of"`
	Prices map[string]Price `json:"prices"`
	// Default is the price of a model that the table doesn't know. It must not be zero.
	Default Price `json:"default"`
}

// usdPerMillion makes a price from US dollars a million tokens, as price lists give it.
func usdPerMillion(input, cached, output float64) Price {
	nano := func(usd float64) int64 { return int64(math.Round(usd * 1e9)) }
	return Price{InputNUSD: nano(input), CachedInputNUSD: nano(cached), OutputNUSD: nano(output)}
}

// DefaultTable returns the prices that the product comes with. They are public list prices of a day, meant to be replaced
// by the operator's own. A model without one is taken to cost 10 USD a million tokens in and 30 out.
func DefaultTable() Table {
	return Table{
		AsOf: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Prices: map[string]Price{
			"builtin/echo-1":                usdPerMillion(1, 1, 1),
			"builtin/hash-embed-1":          usdPerMillion(1, 1, 1),
			"builtin/*":                     usdPerMillion(1, 1, 1),
			"openai/gpt-5":                  usdPerMillion(1.25, 0.125, 10),
			"openai/gpt-5-mini":             usdPerMillion(0.25, 0.025, 2),
			"openai/gpt-5-nano":             usdPerMillion(0.05, 0.005, 0.4),
			"openai/gpt-4.1":                usdPerMillion(2, 0.5, 8),
			"openai/gpt-4.1-mini":           usdPerMillion(0.4, 0.1, 1.6),
			"openai/gpt-4.1-nano":           usdPerMillion(0.1, 0.025, 0.4),
			"openai/gpt-4o":                 usdPerMillion(2.5, 1.25, 10),
			"openai/gpt-4o-mini":            usdPerMillion(0.15, 0.075, 0.6),
			"openai/o3":                     usdPerMillion(2, 0.5, 8),
			"openai/o4-mini":                usdPerMillion(1.1, 0.275, 4.4),
			"openai/text-embedding-3-small": usdPerMillion(0.02, 0.02, 0),
			"openai/text-embedding-3-large": usdPerMillion(0.13, 0.13, 0),
			"openai/text-embedding-ada-002": usdPerMillion(0.1, 0.1, 0),
		},
		Default: usdPerMillion(10, 10, 30),
	}
}

// Validate names what is wrong with t: negative prices, and a default that costs nothing.
func (t Table) Validate() error {
	for name, p := range t.Prices {
		if p.InputNUSD < 0 || p.CachedInputNUSD < 0 || p.OutputNUSD < 0 {
			return fmt.Errorf("meter: the price of %q is negative", name)
		}
	}
	if t.Default.InputNUSD <= 0 || t.Default.OutputNUSD <= 0 || t.Default.CachedInputNUSD < 0 {
		return fmt.Errorf("meter: the default price must be above zero, or unknown models would be free")
	}
	return nil
}

// price finds the price of "backend/model". A dated name ("gpt-4o-2024-08-06") has the price of its plain one.
func (t Table) price(id string) (Price, bool) {
	if p, ok := t.Prices[id]; ok {
		return p, true
	}
	if plain := undated(id); plain != id {
		if p, ok := t.Prices[plain]; ok {
			return p, true
		}
	}
	best := ""
	for name := range t.Prices {
		if prefix, ok := strings.CutSuffix(name, "*"); ok && strings.HasPrefix(id, prefix) && len(name) > len(best) {
			best = name
		}
	}
	if best == "" {
		return t.Default, false
	}
	return t.Prices[best], true
}

// undated cuts "-YYYY-MM-DD" off the end of a model's name.
func undated(id string) string {
	const layout = "-2006-01-02"
	if len(id) <= len(layout) {
		return id
	}
	if _, err := time.Parse(layout, id[len(id)-len(layout):]); err != nil {
		return id
	}
	return id[:len(id)-len(layout)]
}

// cost prices u, rounded up to a whole nano-dollar. A cost too large for the type is the largest there is, never a small
// one.
func (p Price) cost(u model.Usage) int64 {
	cached := min(max(u.CachedInputTokens, 0), max(u.InputTokens, 0))
	sum := int64(0)
	for _, part := range []struct{ tokens, price int64 }{
		{u.InputTokens - cached, p.InputNUSD}, {cached, p.CachedInputNUSD}, {u.OutputTokens, p.OutputNUSD},
	} {
		c := perMillion(part.tokens, part.price)
		if sum > math.MaxInt64-c {
			return math.MaxInt64
		}
		sum += c
	}
	return sum
}

func perMillion(tokens, price int64) int64 {
	if tokens <= 0 || price <= 0 {
		return 0
	}
	const million = 1_000_000
	hi, lo := bits.Mul64(uint64(tokens), uint64(price))
	if hi >= million {
		return math.MaxInt64
	}
	q, rem := bits.Div64(hi, lo, million)
	if rem > 0 {
		q++
	}
	if q > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(q)
}
