// Package metric holds what every figure of a node has in common: a registry of its own, the prefix agentos_, buckets, a
// bounded label for tenants, the figures of HTTP doors, and the hook for libraries that report through go-metrics.
//
// Room: plumbing. It imports nothing of the house. Rooms take what they report to through their Options; the admin listener
// serves Handler. A label never holds what a stranger can choose freely: paths are route templates, tenants are bounded.
package metric

import (
	"net/http"
	"strings"
	"sync"
	"time"

	gometrics "github.com/hashicorp/go-metrics"
	sink "github.com/hashicorp/go-metrics/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Namespace stands before every figure's name.
const Namespace = "agentos"

// NewRegistry returns a registry with the figures of the Go runtime and of the process, and nothing else.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Handler serves what g gathers.
func Handler(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// Other is the label of whatever isn't within a bounded set.
const Other = "other"

// Tenants bounds the label of tenants: the first ones it sees keep their name, all others share one. It is safe for
// concurrent use.
type Tenants struct {
	most int
	mu   sync.RWMutex
	seen map[string]struct{}
}

// NewTenants returns a bound of most names; at most 0 there is only Other.
func NewTenants(most int) *Tenants { return &Tenants{most: most, seen: make(map[string]struct{})} }

// Label returns the label of a tenant.
func (t *Tenants) Label(tenantID string) string {
	t.mu.RLock()
	_, known := t.seen[tenantID]
	full := len(t.seen) >= t.most
	t.mu.RUnlock()
	switch {
	case known:
		return tenantID
	case full:
		return Other
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known = t.seen[tenantID]; !known && len(t.seen) >= t.most {
		return Other
	}
	t.seen[strings.Clone(tenantID)] = struct{}{}
	return tenantID
}

// NewSink makes go-metrics report to r: what raft and memberlist count appears as agentos_raft_… and agentos_memberlist_….
// go-metrics is global to the process: call it once, before either library is started. A figure that hasn't moved for keep
// is shown no more; 0 shows it for ever.
func NewSink(r prometheus.Registerer, keep time.Duration) error {
	s, err := sink.NewPrometheusSinkFrom(sink.PrometheusOpts{Registerer: r, Expiration: keep, Name: "agentos_libraries"})
	if err != nil {
		return err
	}
	c := gometrics.DefaultConfig(Namespace)
	c.EnableHostname = false
	c.EnableRuntimeMetrics = false
	_, err = gometrics.NewGlobal(c, s)
	return err
}
