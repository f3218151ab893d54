package api

import (
	"encoding/json"
	"maps"
	"net/http"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy/quota"
)

// caller is on whose behalf this request calls a model.
func (c *call) caller() (model.Caller, error) {
	t, err := c.s.o.Tenants.Tenant(c.ctx(), c.auth.TenantID)
	return model.Caller{Auth: c.auth, Tenant: t}, err
}

func (c *call) checkPolicy() error {
	var body struct {
		Check *struct {
			RequestID string `json:"request_id"`
			Content   *struct {
				Type string  `json:"type"`
				Text *string `json:"text"`
			} `json:"content"`
			Ruleset string `json:"ruleset"`
		} `json:"policy_check"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	switch b := body.Check; {
	case b == nil:
		return fault.Invalid("policy_check", "The body is {\"policy_check\": {…}}.")
	case b.Content == nil || b.Content.Text == nil:
		return fault.Invalid("policy_check.content.text", "policy_check.content.text is missing.")
	case b.Content.Type != "" && b.Content.Type != "text":
		return fault.Invalid("policy_check.content.type", "policy_check.content.type is text.")
	}
	caller, err := c.caller()
	if err != nil {
		return err
	}
	outcome, _, err := c.s.o.Models.Check(c.ctx(), caller, *body.Check.Content.Text, body.Check.Ruleset)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, member{"policy_result", struct {
		RequestID string `json:"request_id"`
		model.PolicyOutcome
	}{requestID(body.Check.RequestID), whole(outcome)}})
}

func requestID(given string) string {
	if given != "" {
		return given
	}
	return id.New(id.Request)
}

// whole gives an outcome's lists a value, so that they are never null.
func whole(o model.PolicyOutcome) model.PolicyOutcome {
	if o.Reasons == nil {
		o.Reasons = []string{}
	}
	if o.Redactions == nil {
		o.Redactions = []model.Redaction{}
	}
	return o
}

// invocation is the canonical envelope of a model call.
type invocation struct {
	Request *struct {
		RequestID    string             `json:"request_id"`
		Operation    string             `json:"operation"`
		ModelRef     string             `json:"model_ref"`
		Requirements model.Requirements `json:"requirements"`
		Input        json.RawMessage    `json:"input"`
		Generation   struct {
			Temperature     *float64 `json:"temperature"`
			TopP            *float64 `json:"top_p"`
			MaxOutputTokens *int64   `json:"max_output_tokens"`
		} `json:"generation"`
	} `json:"request"`
}

type chatInput struct {
	Messages   []model.Message `json:"messages"`
	Tools      []model.Tool    `json:"tools"`
	ToolChoice string          `json:"tool_choice"`
}

type embedInput struct {
	Texts          []string `json:"texts"`
	EncodingFormat string   `json:"encoding_format"`
}

// chat turns the envelope into a chat request.
func (v *invocation) chat() (*model.ChatRequest, error) {
	r := v.Request
	var in chatInput
	if err := strictjson.Decode(r.Input, &in); err != nil {
		return nil, strictjson.Within("request.input", err)
	}
	return &model.ChatRequest{
		RequestID: requestID(r.RequestID), ModelRef: r.ModelRef, Messages: in.Messages, Tools: in.Tools, ToolChoice: in.ToolChoice,
		Requirements: r.Requirements, Temperature: r.Generation.Temperature, TopP: r.Generation.TopP, MaxOutputTokens: r.Generation.MaxOutputTokens,
	}, nil
}

func (c *call) invocation() (*invocation, error) {
	var v invocation
	if err := c.body(&v); err != nil {
		return nil, err
	}
	switch {
	case v.Request == nil:
		return nil, fault.Invalid("request", "The body is {\"request\": {…}}.")
	case v.Request.Operation != model.OpChat && v.Request.Operation != model.OpEmbed:
		return nil, fault.Invalid("request.operation", "request.operation is chat or embed.")
	case v.Request.Input == nil:
		return nil, fault.Invalid("request.input", "request.input is missing.")
	}
	c.billOnce(&v.Request.RequestID)
	return &v, nil
}

// usd is a usage with its cost in dollars, as the wire has it.
type usd struct {
	InputTokens  int64   `json:"input_tokens"`
	OutputTokens int64   `json:"output_tokens"`
	TotalTokens  int64   `json:"total_tokens"`
	CostUSD      float64 `json:"cost_usd"`
	Estimated    bool    `json:"estimated,omitempty"`
}

func inDollars(u model.Usage) usd {
	return usd{u.InputTokens, u.OutputTokens, u.TotalTokens, quota.USD(u.CostNUSD), u.Estimated}
}

// invoked is the canonical answer of a model call.
type invoked struct {
	RequestID     string              `json:"request_id"`
	Status        string              `json:"status"`
	Output        any                 `json:"output"`
	Usage         usd                 `json:"usage"`
	LatencyMS     int64               `json:"latency_ms"`
	PolicyOutcome model.PolicyOutcome `json:"policy_outcome"`
	Route         model.RouteTaken    `json:"route"`
}

// inEnvelope gives an error of the gateway the path that its field has in the envelope.
func inEnvelope(err error) error {
	if err == nil {
		return nil
	}
	f := fault.Of(err)
	field, _ := f.Details["field"].(string)
	switch field {
	case "messages", "tools", "tool_choice":
		field = "request.input." + field
	case "temperature", "top_p", "max_output_tokens":
		field = "request.generation." + field
	case "requirements.max_latency_ms", "requirements.max_cost_usd", "requirements.min_context_tokens":
		field = "request." + field
	case "input":
		field = "request.input.texts"
	case "model":
		field = "request.model_ref"
	default:
		return err
	}
	moved := *f
	moved.Details = maps.Clone(f.Details)
	moved.Details["field"] = field
	return &moved
}

func (c *call) invokeModel() error {
	v, err := c.invocation()
	if err != nil {
		return err
	}
	caller, err := c.caller()
	if err != nil {
		return err
	}
	var out invoked
	if v.Request.Operation == model.OpEmbed {
		out, err = c.invokeEmbed(v, caller)
	} else {
		out, err = c.invokeChat(v, caller)
	}
	if err != nil {
		return inEnvelope(err)
	}
	return c.reply(http.StatusOK, member{"response", out}, member{"traceparent", c.traceparent})
}

func (c *call) invokeChat(v *invocation, caller model.Caller) (invoked, error) {
	req, err := v.chat()
	if err != nil {
		return invoked{}, err
	}
	r, err := c.s.o.Models.Chat(c.ctx(), caller, req, nil)
	if err != nil {
		return invoked{}, err
	}
	calls := r.Message.ToolCalls
	if calls == nil {
		calls = []model.ToolCall{}
	}
	return invoked{
		RequestID: req.RequestID, Status: "ok", Usage: inDollars(r.Usage), LatencyMS: r.LatencyMS, PolicyOutcome: whole(r.PolicyOutcome), Route: r.Route,
		Output: map[string]any{
			"type": "chat", "message": map[string]string{"role": r.Message.Role, "content": r.Message.Content}, "tool_calls": calls,
		},
	}, nil
}

// embed turns the envelope into an embedding request.
func (v *invocation) embed() (req *model.EmbedRequest, encoding string, err error) {
	var in embedInput
	if err := strictjson.Decode(v.Request.Input, &in); err != nil {
		return nil, "", strictjson.Within("request.input", err)
	}
	switch in.EncodingFormat {
	case "", "float", "base64":
	default:
		return nil, "", fault.Invalid("request.input.encoding_format", "request.input.encoding_format is float or base64.")
	}
	r := v.Request
	if err := model.CheckGeneration(r.Generation.Temperature, r.Generation.TopP, r.Generation.MaxOutputTokens); err != nil {
		return nil, "", err
	}
	return &model.EmbedRequest{RequestID: requestID(r.RequestID), ModelRef: r.ModelRef, Texts: in.Texts, Requirements: r.Requirements}, in.EncodingFormat, nil
}

func (c *call) invokeEmbed(v *invocation, caller model.Caller) (invoked, error) {
	req, encoding, err := v.embed()
	if err != nil {
		return invoked{}, err
	}
	r, err := c.s.o.Models.Embed(c.ctx(), caller, req)
	if err != nil {
		return invoked{}, err
	}
	type vector struct {
		Index  int `json:"index"`
		Vector any `json:"vector"`
	}
	vectors := make([]vector, len(r.Vectors))
	for i, v := range r.Vectors {
		vectors[i] = vector{Index: i, Vector: encodeVector(v, encoding)}
	}
	return invoked{
		RequestID: req.RequestID, Status: "ok", Usage: inDollars(r.Usage), LatencyMS: r.LatencyMS, PolicyOutcome: whole(r.PolicyOutcome), Route: r.Route,
		Output: map[string]any{"type": "embedding", "embeddings": vectors},
	}, nil
}

func (c *call) explainModel() error {
	v, err := c.invocation()
	if err != nil {
		return err
	}
	caller, err := c.caller()
	if err != nil {
		return err
	}
	var e *model.Explanation
	if v.Request.Operation == model.OpEmbed {
		var req *model.EmbedRequest
		if req, _, err = v.embed(); err == nil {
			e, err = c.s.o.Models.ExplainEmbed(c.ctx(), caller, req)
		}
	} else {
		var req *model.ChatRequest
		if req, err = v.chat(); err == nil {
			e, err = c.s.o.Models.Explain(c.ctx(), caller, req)
		}
	}
	if err != nil {
		return inEnvelope(err)
	}
	return c.reply(http.StatusOK, member{"explanation", e})
}
