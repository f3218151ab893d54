package node

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nexixai/agentos/agent/loop"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/metric"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/peer/forward"
)

// metrics are the node's figures, all under agentos_. No label holds a tenant or an id: their number would have no bound.
type metrics struct {
	registry *prometheus.Registry

	runs        *prometheus.CounterVec
	runSuccess  prometheus.Counter
	runFailure  prometheus.Counter
	runLatency  *prometheus.HistogramVec
	stepLatency *prometheus.HistogramVec
	toolLatency *prometheus.HistogramVec
	toolCalls   *prometheus.CounterVec
	modelCalls  *prometheus.CounterVec
	modelErrors *prometheus.CounterVec
	modelTime   *prometheus.HistogramVec
	tokens      *prometheus.CounterVec
	requests    *prometheus.CounterVec
	requestTime *prometheus.HistogramVec
	refusals    *prometheus.CounterVec
	routes      *prometheus.CounterVec
	forwards    *prometheus.CounterVec
	forwardTime *prometheus.HistogramVec
}

var (
	_ loop.Observer    = (*metrics)(nil)
	_ forward.Observer = (*metrics)(nil)
)

// newMetrics returns the figures in a registry of their own.
func newMetrics(build Build) *metrics {
	m := &metrics{registry: metric.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: metric.Namespace, Name: name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	latency := func(name, help string, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: metric.Namespace, Name: name, Help: help,
			Buckets: []float64{1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 180_000},
		}, labels)
		m.registry.MustRegister(h)
		return h
	}
	m.runs = counter("run_count", "Runs that this node has ended, by their final status.", "status")
	m.runSuccess = counter("run_success", "Runs that completed.").WithLabelValues()
	m.runFailure = counter("run_failure", "Runs that failed.").WithLabelValues()
	m.runLatency = latency("run_latency_ms", "Milliseconds from a run's creation to its end.", "status")
	m.stepLatency = latency("step_latency_ms", "Milliseconds of a step.", "kind", "status")
	m.toolLatency = latency("tool_latency_ms", "Milliseconds of a tool call.", "tool")
	m.toolCalls = counter("tool_call_count", "Tool calls, by how they ended.", "tool", "status")
	m.modelCalls = counter("model_request_count", "Calls of model backends, each attempt for itself.", "backend", "operation")
	m.modelErrors = counter("model_error_count", "Calls of model backends that failed, by error code.", "backend", "code")
	m.modelTime = latency("model_latency_ms", "Milliseconds of a call of a model backend.", "backend", "operation")
	m.tokens = counter("token_usage", "Tokens that backends reported.", "backend", "direction")
	m.routes = counter("route_distribution", "Calls by the backend and model that were asked.", "backend", "model")
	m.requests = counter("http_request_count", "Requests, by route template and class of status.", "method", "route", "class")
	m.requestTime = latency("http_request_latency_ms", "Milliseconds of a request; of a stream, until it ended.", "route")
	m.refusals = counter("auth_failure_count", "Requests refused as unauthorized or forbidden.", "code")
	m.forwards = counter("forward_count", "What became of runs on their way to peers: accepted, refused, unreachable, lost, disbelieved, ended.", "organization", "outcome")
	m.forwardTime = latency("forward_latency_ms", "Milliseconds until that was known; until a run was taken, or had ended, since its creation.", "outcome")
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: metric.Namespace, Name: "build_info", Help: "1, with what this binary is.",
		ConstLabels: prometheus.Labels{"version": build.Version, "git_sha": build.GitSHA},
	})
	info.Set(1)
	m.registry.MustRegister(info)
	for _, status := range []run.Status{run.Completed, run.Failed, run.Canceled} {
		m.runs.WithLabelValues(string(status)) // shown from the first scrape on, so that a rate has a start
	}
	return m
}

// gauge shows a number that is asked for at each scrape. read must return fast and must not block.
func (m *metrics) gauge(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: metric.Namespace, Name: name, Help: help}, read))
}

// total shows a count that a room keeps, like gauge.
func (m *metrics) total(name, help string, read func() int64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: metric.Namespace, Name: name, Help: help}, func() float64 { return float64(read()) }))
}

// Step implements loop.Observer.
func (m *metrics) Step(kind, status string, took time.Duration) {
	m.stepLatency.WithLabelValues(kind, status).Observe(ms(took))
}

// ToolCall implements loop.Observer. Tools that tenants have made share one label.
func (m *metrics) ToolCall(toolID, status string, took time.Duration) {
	if !builtinTools[toolID] {
		toolID = "other"
	}
	m.toolCalls.WithLabelValues(toolID, status).Inc()
	m.toolLatency.WithLabelValues(toolID).Observe(ms(took))
}

var builtinTools = map[string]bool{"tool.echo": true, "tool.kv.put": true, "tool.kv.get": true, "tool.http.fetch": true}

// Run implements loop.Observer.
func (m *metrics) Run(status run.Status, took time.Duration) {
	m.runs.WithLabelValues(string(status)).Inc()
	switch status {
	case run.Completed:
		m.runSuccess.Inc()
	case run.Failed:
		m.runFailure.Inc()
	}
	m.runLatency.WithLabelValues(string(status)).Observe(ms(took))
}

// Forwarded implements forward.Observer. The organisations are those that an operator has paired.
func (m *metrics) Forwarded(organization, outcome string, took time.Duration) {
	m.forwards.WithLabelValues(organization, outcome).Inc()
	m.forwardTime.WithLabelValues(outcome).Observe(ms(took))
}

// request takes note of an answered request.
func (m *metrics) request(o api.Observation) {
	method := o.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other" // a stranger's own words make no labels
	}
	m.requests.WithLabelValues(method, o.Template, strconv.Itoa(o.Status/100)+"xx").Inc()
	m.requestTime.WithLabelValues(o.Template).Observe(ms(o.Duration))
	if o.Code == fault.Unauthorized || o.Code == fault.Forbidden {
		m.refusals.WithLabelValues(string(o.Code)).Inc()
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// counted is a model backend whose calls are counted.
type counted struct {
	model.Provider
	m *metrics
}

var (
	_ model.Provider  = (*counted)(nil)
	_ model.Bounded   = (*counted)(nil)
	_ model.InProcess = (*counted)(nil)
)

// count wraps a backend.
func (m *metrics) count(p model.Provider) model.Provider { return &counted{Provider: p, m: m} }

// Chat implements model.Provider.
func (c *counted) Chat(ctx context.Context, name string, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
	began := time.Now()
	resp, err := c.Provider.Chat(ctx, name, req, sink)
	var usage *model.Usage
	if resp != nil {
		usage = resp.Usage
	}
	c.note(ctx, model.OpChat, name, began, usage, err)
	return resp, err
}

// Embed implements model.Provider.
func (c *counted) Embed(ctx context.Context, name string, req *model.EmbedRequest) (*model.EmbedResponse, error) {
	began := time.Now()
	resp, err := c.Provider.Embed(ctx, name, req)
	var usage *model.Usage
	if resp != nil {
		usage = resp.Usage
	}
	c.note(ctx, model.OpEmbed, name, began, usage, err)
	return resp, err
}

func (c *counted) note(ctx context.Context, operation, name string, began time.Time, usage *model.Usage, err error) {
	backend := c.Name()
	c.m.modelCalls.WithLabelValues(backend, operation).Inc()
	c.m.routes.WithLabelValues(backend, name).Inc()
	c.m.modelTime.WithLabelValues(backend, operation).Observe(ms(time.Since(began)))
	if usage != nil {
		c.m.tokens.WithLabelValues(backend, "input").Add(float64(usage.InputTokens))
		c.m.tokens.WithLabelValues(backend, "output").Add(float64(usage.OutputTokens))
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) { // a caller who left says nothing of the backend
		c.m.modelErrors.WithLabelValues(backend, string(fault.CodeOf(err))).Inc()
	}
}

// MaxOutput implements model.Bounded for backends that do, and says "no bound" for others.
func (c *counted) MaxOutput(name string, req *model.ChatRequest) int64 {
	if b, ok := c.Provider.(model.Bounded); ok {
		return b.MaxOutput(name, req)
	}
	return math.MaxInt64
}

// InProcess implements model.InProcess.
func (c *counted) InProcess() bool {
	p, ok := c.Provider.(model.InProcess)
	return ok && p.InProcess()
}
