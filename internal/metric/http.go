package metric

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// HTTP counts the requests of a door. It is safe for concurrent use; a nil *HTTP counts nothing.
type HTTP struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	refused  *prometheus.CounterVec
	failures prometheus.Counter
	panics   prometheus.Counter
	open     prometheus.Gauge
	streams  prometheus.Gauge
	ended    *prometheus.CounterVec

	routes sync.Map // routeKey → *routeFigures: looking labels up costs more than counting
}

type routeKey struct{ method, route string }

type routeFigures struct {
	classes [6]prometheus.Counter // by status/100; 0 for anything odd
	latency prometheus.Observer
}

// NewHTTP registers the figures of a door.
func NewHTTP(r prometheus.Registerer) *HTTP {
	h := &HTTP{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: Namespace, Name: "http_requests_total", Help: "Requests, by route template and class of status.",
		}, []string{"method", "route", "class"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: Namespace, Name: "http_request_duration_ms", Help: "Milliseconds from a request's head to the end of its answer; streams not counted.",
			Buckets: []float64{0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 60_000},
		}, []string{"method", "route"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: Namespace, Name: "refusals_total", Help: "Requests that were refused, by error code.",
		}, []string{"code"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: Namespace, Name: "auth_failures_total", Help: "Requests without a good credential.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: Namespace, Name: "http_panics_total", Help: "Requests whose handler panicked.",
		}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: Namespace, Name: "http_requests_open", Help: "Requests being answered now; streams not counted.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: Namespace, Name: "event_streams_open", Help: "Event streams open now.",
		}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: Namespace, Name: "event_streams_ended_total", Help: "Event streams that have ended, by why.",
		}, []string{"reason"}),
	}
	r.MustRegister(h.requests, h.latency, h.refused, h.failures, h.panics, h.open, h.streams, h.ended)
	return h
}

// Begin counts a request that has begun.
func (h *HTTP) Begin() {
	if h != nil {
		h.open.Inc()
	}
}

// End counts a request that was answered. route is a template, "" for a path that there isn't.
func (h *HTTP) End(method, route string, status int, took time.Duration) {
	if h == nil {
		return
	}
	h.open.Dec()
	f := h.figures(method, route)
	class := status / 100
	if class < 1 || class > 5 {
		class = 0
	}
	f.classes[class].Inc()
	f.latency.Observe(float64(took) / float64(time.Millisecond))
}

func (h *HTTP) figures(method, route string) *routeFigures {
	if route == "" {
		method, route = Other, Other
	}
	key := routeKey{method, route}
	if f, ok := h.routes.Load(key); ok {
		return f.(*routeFigures)
	}
	f := &routeFigures{latency: h.latency.WithLabelValues(method, route)}
	for i := range f.classes {
		class := Other
		if i > 0 {
			class = strconv.Itoa(i) + "xx"
		}
		f.classes[i] = h.requests.WithLabelValues(method, route, class)
	}
	actual, _ := h.routes.LoadOrStore(key, f)
	return actual.(*routeFigures)
}

// Refused counts a refusal. code is one of the contract's.
func (h *HTTP) Refused(code string) {
	if h == nil {
		return
	}
	h.refused.WithLabelValues(code).Inc()
	if code == "unauthorized" {
		h.failures.Inc()
	}
}

// Panicked counts a panic.
func (h *HTTP) Panicked() {
	if h != nil {
		h.panics.Inc()
	}
}

// StreamOpened and StreamEnded count event streams. reason is one of a fixed few words.
func (h *HTTP) StreamOpened() {
	if h != nil {
		h.streams.Inc()
	}
}

// StreamEnded is the end of what StreamOpened began.
func (h *HTTP) StreamEnded(reason string) {
	if h != nil {
		h.streams.Dec()
		h.ended.WithLabelValues(reason).Inc()
	}
}
