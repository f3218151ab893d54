package tool

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/strictjson"
)

// Headers of a webhook call. The signature is "v1=" and the hexadecimal HMAC-SHA256 of the timestamp, a dot and the body,
// under the tool's signing secret; a receiver refuses timestamps that are minutes old, and keeps idempotency keys.
const (
	HeaderTimestamp = "X-AgentOS-Timestamp"
	HeaderSignature = "X-AgentOS-Signature"
	HeaderEffect    = "Idempotency-Key"
)

// WebhookConfig is the config of a tool of kind http.
type WebhookConfig struct {
	URL string `json:"url"`
	// SigningSecret signs the calls; "" leaves them unsigned.
	SigningSecret string            `json:"signing_secret,omitempty"`
	Headers       map[string]string `json:"headers,omitempty"`
	TimeoutMS     int64             `json:"timeout_ms,omitempty"`
}

// Webhook is the kind of tools that are an HTTP endpoint: each call is one signed POST.
type Webhook struct {
	client Doer
	now    func() time.Time
}

var _ Kind = (*Webhook)(nil)

// NewWebhook returns the kind http. client is as for NewBuiltin.
func NewWebhook(client Doer) *Webhook { return &Webhook{client: client, now: time.Now} }

type webhookBody struct {
	TenantID string          `json:"tenant_id"`
	RunID    string          `json:"run_id"`
	ToolID   string          `json:"tool_id"`
	CallID   string          `json:"tool_call_id"`
	Input    json.RawMessage `json:"input"`
}

// Invoke implements Kind. The answer's body is the output: as it is when it's JSON, else as a string.
func (w *Webhook) Invoke(ctx context.Context, in *Invocation) (json.RawMessage, error) {
	var config WebhookConfig
	if err := strictjson.Decode(in.Tool.Config, &config); err != nil {
		return nil, fault.New(fault.Internal, "config of %s", in.Tool.ID).Because(err)
	}
	body, err := json.Marshal(webhookBody{
		TenantID: in.Auth.TenantID, RunID: in.RunID, ToolID: in.Tool.ID, CallID: in.EffectID, Input: in.Input,
	})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, config.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range config.Headers {
		request.Header.Set(name, value)
	}
	request.GetBody = nil // so that the transport never sends a call twice by itself
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "agentos-webhook")
	request.Header.Set(HeaderEffect, in.EffectID)
	if in.CorrelationID != "" {
		request.Header.Set("X-Correlation-Id", in.CorrelationID)
	}
	if in.Traceparent != "" {
		request.Header.Set("Traceparent", in.Traceparent)
	}
	timestamp := strconv.FormatInt(w.now().Unix(), 10)
	request.Header.Set(HeaderTimestamp, timestamp)
	if config.SigningSecret != "" {
		request.Header.Set(HeaderSignature, Sign(config.SigningSecret, timestamp, body))
	}
	response, err := w.client.Do(request)
	if err != nil {
		return nil, unreachable(ctx, request.URL.Host, err)
	}
	defer response.Body.Close()
	return webhookOutput(ctx, request.URL.Host, response)
}

// Sign returns the signature of a webhook call.
func Sign(secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(timestamp))
	mac.Write([]byte{'.'})
	mac.Write(body)
	return "v1=" + hex.EncodeToString(mac.Sum(nil))
}

func webhookOutput(ctx context.Context, host string, response *http.Response) (json.RawMessage, error) {
	const most = 4 * MaxOutput
	body, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return nil, unreachable(ctx, host, err)
	}
	status := response.StatusCode
	switch {
	case status == http.StatusTooManyRequests:
		after, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return nil, fault.New(fault.RateLimited, "%.200s asks for fewer calls.", host).After(time.Duration(max(after, 0)) * time.Second)
	case status == http.StatusRequestTimeout || status == http.StatusGatewayTimeout:
		return nil, fault.New(fault.Timeout, "%.200s timed out by itself.", host).With("status", status)
	case status >= 500:
		return nil, fault.New(fault.Unavailable, "%.200s failed with status %d.", host, status).With("service", host).With("status", status)
	case status < 200 || status >= 300:
		return nil, fault.New(fault.InvalidRequest, "%.200s refused the call with status %d.", host, status).With("status", status)
	case len(bytes.TrimSpace(body)) == 0:
		return json.RawMessage("null"), nil
	case json.Valid(body):
		return body, nil
	}
	return event.AppendString(nil, string(body)), nil
}

// Check implements Kind.
func (w *Webhook) Check(t *agent.Tool) error {
	var config WebhookConfig
	if len(t.Config) == 0 {
		return fault.Invalid("tool.config", "A tool of kind http needs a config with at least a url.")
	}
	if err := strictjson.Decode(t.Config, &config); err != nil {
		return strictjson.Within("tool.config", err)
	}
	target, err := url.Parse(config.URL)
	if err != nil || target.Host == "" || target.User != nil || target.Scheme != "http" && target.Scheme != "https" {
		return fault.Invalid("tool.config.url", "The url must be an absolute http or https address without user and password.")
	}
	if config.SigningSecret == shownSecret {
		return fault.Invalid("tool.config.signing_secret", "This is how a secret is shown; send the secret itself, or leave it out.")
	}
	for name, value := range config.Headers {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) || refusedHeader(name) {
			return fault.Invalid("tool.config.headers", "The header %.64q can't be sent.", name)
		}
	}
	if config.TimeoutMS < 0 || config.TimeoutMS > maxTimeout.Milliseconds() {
		return fault.Invalid("tool.config.timeout_ms", "The timeout must be between 0 and %d ms.", maxTimeout.Milliseconds())
	}
	return nil
}

// Repeatable implements Kind: the tool's owner says whether it keeps idempotency keys.
func (w *Webhook) Repeatable(t *agent.Tool, _ json.RawMessage) bool { return t.Idempotent }

// shownSecret stands where a secret would be.
const shownSecret = "********"

// Redact returns a tool's config with its secret blanked, as it may be shown.
func Redact(config json.RawMessage) json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(config, &members) != nil {
		return config
	}
	if _, has := members["signing_secret"]; !has {
		return config
	}
	members["signing_secret"] = json.RawMessage(`"` + shownSecret + `"`)
	out, err := json.Marshal(members)
	if err != nil {
		return nil
	}
	return out
}
