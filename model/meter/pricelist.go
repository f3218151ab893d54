package meter

import (
	"fmt"
	"math"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

// Bounds of a price list.
const (
	maxPrices   = 2000
	maxName     = 256
	maxUSD      = 1e6 // for a million tokens
	nanoDollars = 1e9
)

// PriceList is a Table as people write it: in US dollars for a million tokens.
type PriceList struct {
	AsOf   *time.Time            `json:"as_of"`
	Models map[string]ModelPrice `json:"models"`
	// Default is the price of a model that the list doesn't know; it can't be zero.
	Default *ModelPrice `json:"default"`
}

// ModelPrice is the price of one model.
type ModelPrice struct {
	Input float64 `json:"input_usd_per_million"`
	// CachedInput is Input when it's left out.
	CachedInput *float64 `json:"cached_input_usd_per_million"`
	Output      float64  `json:"output_usd_per_million"`
}

// Table is the list in the meter's terms, dated now unless it says otherwise. An error names the field at fault.
func (l *PriceList) Table(now time.Time) (Table, error) {
	t := Table{AsOf: now.UTC(), Prices: make(map[string]Price, len(l.Models))}
	if l.AsOf != nil {
		t.AsOf = l.AsOf.UTC()
	}
	if l.Default == nil {
		return t, fault.Invalid("default", "The list needs a default price, for models that it doesn't name.")
	}
	if len(l.Models) > maxPrices {
		return t, fault.Invalid("models", "The list has at most %d models.", maxPrices)
	}
	var err error
	if t.Default, err = l.Default.price("default"); err != nil {
		return t, err
	}
	for _, part := range []struct {
		name string
		zero bool
	}{{"input", t.Default.InputNUSD == 0}, {"output", t.Default.OutputNUSD == 0}} {
		if part.zero {
			return t, fault.Invalid("default."+part.name+"_usd_per_million", "The default price must be above zero, or unknown models would be free.")
		}
	}
	for name, p := range l.Models {
		if name == "" || len(name) > maxName {
			return t, fault.Invalid("models", "A model's name is backend/model, with '*' at the end for all that begin so, and has 1 to %d bytes.", maxName)
		}
		if t.Prices[name], err = p.price(fmt.Sprintf("models.%s", name)); err != nil {
			return t, err
		}
	}
	return t, t.Validate()
}

func (p *ModelPrice) price(field string) (Price, error) {
	cached := p.Input
	if p.CachedInput != nil {
		cached = *p.CachedInput
	}
	for _, part := range []struct {
		name string
		usd  float64
	}{{"input", p.Input}, {"cached_input", cached}, {"output", p.Output}} {
		if !(part.usd >= 0 && part.usd <= maxUSD) {
			return Price{}, fault.Invalid(field+"."+part.name+"_usd_per_million", "A price is 0 to %d dollars for a million tokens.", int(maxUSD))
		}
	}
	return usdPerMillion(p.Input, cached, p.Output), nil
}

// List is the table as people write it.
func (t Table) List() *PriceList {
	l := &PriceList{AsOf: &t.AsOf, Models: make(map[string]ModelPrice, len(t.Prices))}
	for name, p := range t.Prices {
		l.Models[name] = p.inUSD()
	}
	base := t.Default.inUSD()
	l.Default = &base
	return l
}

func (p Price) inUSD() ModelPrice {
	usd := func(nano int64) float64 { return math.Round(float64(nano)) / nanoDollars }
	cached := usd(p.CachedInputNUSD)
	return ModelPrice{Input: usd(p.InputNUSD), CachedInput: &cached, Output: usd(p.OutputNUSD)}
}
