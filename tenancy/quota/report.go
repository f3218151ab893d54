package quota

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// UsageRow is a line of a usage report.
type UsageRow struct {
	Group        map[string]string
	Requests     int64
	InputTokens  int64
	OutputTokens int64
	CostNUSD     int64
	Estimated    bool // some of it was estimated
}

// MarshalJSON implements json.Marshaler, in the shape of the contract.
func (r UsageRow) MarshalJSON() ([]byte, error) {
	group := r.Group
	if group == nil {
		group = map[string]string{}
	}
	return json.Marshal(struct {
		Group        map[string]string `json:"group"`
		Requests     int64             `json:"requests"`
		InputTokens  int64             `json:"input_tokens"`
		OutputTokens int64             `json:"output_tokens"`
		TotalTokens  int64             `json:"total_tokens"`
		CostUSD      float64           `json:"cost_usd"`
		Estimated    bool              `json:"estimated"`
	}{group, r.Requests, r.InputTokens, r.OutputTokens, add(r.InputTokens, r.OutputTokens), USD(r.CostNUSD), r.Estimated})
}

// GroupNames are what a usage report may be grouped by. "window" is the day or month.
var GroupNames = [...]string{"window", "principal", "agent", "model", "operation"}

// maxReport bounds how many days one report may span.
const maxReport = 400

// UsageRows sums up the tenant's books from the window that holds from to the one that holds to, both inclusive. The books
// are kept by day, so window is day or month. groupBy names what tells rows apart (GroupNames); rows come sorted by it.
func UsageRows(r storage.Reader, tenantID string, from, to time.Time, window string, groupBy []string) ([]UsageRow, error) {
	if window != "day" && window != "month" {
		return nil, fault.Invalid("window", "Usage is kept by day; ask for the window day or month.")
	}
	for _, name := range groupBy {
		if !slices.Contains(GroupNames[:], name) {
			return nil, fault.Invalid("group_by", "Usage can be grouped by window, principal, agent, model and operation.")
		}
	}
	first, end := windowAt(window, from).start, windowAt(window, to).end
	if end.Before(first) {
		return nil, fault.Invalid("from", "The report would end before it begins.")
	}
	if end.Sub(first) > maxReport*24*time.Hour {
		return nil, fault.Invalid("from", "A report spans %d days at most; ask for less at once.", maxReport)
	}
	prefix := len(tenancy.Place(tenantID, "usage", "day", ""))
	sums := make(map[string]*UsageRow)
	var failed error
	err := r.Scan(rows(tenantID, first, end), func(key string, value []byte) bool {
		parts := strings.Split(key[prefix:], "/")
		if len(parts) != len(GroupNames) {
			failed = fmt.Errorf("quota: %s isn't the key of a row", key)
			return false
		}
		t, err := parseTally(value)
		if err != nil {
			failed = err
			return false
		}
		addRow(sums, groupOf(parts, window, groupBy), groupBy, t)
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	return sorted(sums), nil
}

// groupOf picks the values that tell a row apart, in the order of groupBy.
func groupOf(parts []string, window string, groupBy []string) []string {
	values := make([]string, len(groupBy))
	for i, name := range groupBy {
		n := slices.Index(GroupNames[:], name)
		values[i] = nameOf(parts[n])
		if n == 0 && window == "month" {
			values[i] = values[i][:len("2006-01")]
		}
	}
	return values
}

func addRow(sums map[string]*UsageRow, values, groupBy []string, t tally) {
	key := strings.Join(values, "\x00")
	row := sums[key]
	if row == nil {
		row = &UsageRow{Group: make(map[string]string, len(values))}
		for i, v := range values {
			row.Group[groupBy[i]] = v
		}
		sums[key] = row
	}
	row.Requests = add(row.Requests, t.requests)
	row.InputTokens = add(row.InputTokens, t.input)
	row.OutputTokens = add(row.OutputTokens, t.output)
	row.CostNUSD = add(row.CostNUSD, t.cost)
	row.Estimated = row.Estimated || t.estimated > 0
}

func sorted(sums map[string]*UsageRow) []UsageRow {
	keys := make([]string, 0, len(sums))
	for key := range sums {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	rows := make([]UsageRow, 0, len(keys))
	for _, key := range keys {
		rows = append(rows, *sums[key])
	}
	return rows
}
