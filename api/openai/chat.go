package openai

import (
	"encoding/json"
	"fmt"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

const (
	maxStops       = 4
	maxTools       = 128
	maxTemperature = 2
)

// Chat is a chat request, decoded, and the encoder of its answer.
type Chat struct {
	req          model.ChatRequest
	model        string
	stream       bool
	includeUsage bool
	head         chunkHead
}

// Request is the request in the gateway's terms.
func (c *Chat) Request() *model.ChatRequest { return &c.req }

// Streams reports whether the answer is to be streamed.
func (c *Chat) Streams() bool { return c.stream }

// DecodeChat reads the body of POST /v1/chat/completions.
func DecodeChat(body []byte) (*Chat, error) {
	o, err := read(body, "")
	if err != nil {
		return nil, err
	}
	c := &Chat{}
	for _, step := range [...]func(*object) error{c.decodeModel, c.decodeMessages, c.decodeTools, c.decodeSampling, c.decodeBound, c.decodeFormat, c.decodeStream, refuseOthers} {
		if err := step(o); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Chat) decodeModel(o *object) error {
	given, err := o.into("model", &c.model)
	if err != nil {
		return err
	}
	if !given || c.model == "" {
		return fault.Invalid("model", "Name the model; GET /v1/models lists those there are.")
	}
	c.req.ModelRef = c.model
	_, err = o.into("request_id", &c.req.RequestID)
	return err
}

func (c *Chat) decodeMessages(o *object) error {
	var list []json.RawMessage
	given, err := o.into("messages", &list)
	if err != nil {
		return err
	}
	if !given || len(list) == 0 {
		return fault.Invalid("messages", "A chat needs at least one message.")
	}
	c.req.Messages = make([]model.Message, len(list))
	for i, raw := range list {
		if c.req.Messages[i], err = decodeMessage(raw, fmt.Sprintf("messages[%d]", i)); err != nil {
			return err
		}
	}
	return nil
}

func decodeMessage(raw json.RawMessage, path string) (model.Message, error) {
	var m model.Message
	o, err := read(raw, path)
	if err != nil {
		return m, err
	}
	if _, err := o.into("role", &m.Role); err != nil {
		return m, err
	}
	switch m.Role {
	case "developer":
		m.Role = "system"
	case "system", "user", "assistant", "tool":
	default:
		return m, fault.Invalid(o.name("role"), "%s is system, developer, user, assistant or tool.", o.name("role"))
	}
	text, hasContent := o.take("content")
	if hasContent {
		if m.Content, err = decodeContent(text, o.name("content")); err != nil {
			return m, err
		}
	}
	if _, err := o.into("name", &m.Name); err != nil {
		return m, err
	}
	if m.Role == "assistant" {
		if err := decodeAssistant(o, &m); err != nil {
			return m, err
		}
	} else if !hasContent {
		return m, fault.Invalid(o.name("content"), "A message of the %s needs content.", m.Role)
	}
	if m.Role == "tool" {
		if _, err := o.into("tool_call_id", &m.ToolCallID); err != nil {
			return m, err
		}
		if m.ToolCallID == "" {
			return m, fault.Invalid(o.name("tool_call_id"), "A tool's message says which call it answers.")
		}
	}
	return m, o.refuse("tool_calls", "tool_call_id", "function_call", "audio")
}

// decodeAssistant reads what only an answer of the model has. Clients send their answers back as they got them.
func decodeAssistant(o *object, m *model.Message) error {
	var refusal string
	if _, err := o.into("refusal", &refusal); err != nil {
		return err
	}
	if m.Content == "" {
		m.Content = refusal
	}
	var calls []json.RawMessage
	if _, err := o.into("tool_calls", &calls); err != nil {
		return err
	}
	for i, raw := range calls {
		call, err := decodeCall(raw, fmt.Sprintf("%s[%d]", o.name("tool_calls"), i))
		if err != nil {
			return err
		}
		m.ToolCalls = append(m.ToolCalls, call)
	}
	return nil
}

func decodeCall(raw json.RawMessage, path string) (model.ToolCall, error) {
	var call model.ToolCall
	o, err := read(raw, path)
	if err != nil {
		return call, err
	}
	if _, err := o.into("id", &call.ID); err != nil {
		return call, err
	}
	if err := o.only("type", `"function"`); err != nil {
		return call, err
	}
	inner, ok := o.take("function")
	if !ok || call.ID == "" {
		return call, fault.Invalid(path, "A tool call has an id and a function.")
	}
	f, err := read(inner, o.name("function"))
	if err != nil {
		return call, err
	}
	var arguments string
	if _, err := f.into("name", &call.Name); err != nil {
		return call, err
	}
	if _, err := f.into("arguments", &arguments); err != nil {
		return call, err
	}
	if call.Name == "" {
		return call, fault.Invalid(f.name("name"), "%s is missing.", f.name("name"))
	}
	if arguments == "" {
		arguments = "{}"
	}
	if !json.Valid([]byte(arguments)) {
		return call, fault.Invalid(f.name("arguments"), "%s is JSON in a string.", f.name("arguments"))
	}
	call.Arguments = json.RawMessage(arguments)
	return call, nil
}

// decodeContent reads a text, or a list of parts that are texts.
func decodeContent(raw json.RawMessage, path string) (string, error) {
	if len(raw) == 0 || raw[0] != '[' {
		var text string
		err := decode(raw, path, &text)
		return text, err
	}
	var parts []json.RawMessage
	if err := decode(raw, path, &parts); err != nil {
		return "", err
	}
	text := ""
	for i, raw := range parts {
		o, err := read(raw, fmt.Sprintf("%s[%d]", path, i))
		if err != nil {
			return "", err
		}
		var kind, part string
		if _, err := o.into("type", &kind); err != nil {
			return "", err
		}
		if kind != "text" {
			return "", fault.Invalid(o.name("type"), "Parts of a message can only be text; %q is not supported.", kind)
		}
		if given, err := o.into("text", &part); err != nil {
			return "", err
		} else if !given {
			return "", fault.Invalid(o.name("text"), "%s is missing.", o.name("text"))
		}
		text += part
	}
	return text, nil
}

func (c *Chat) decodeSampling(o *object) error {
	for _, f := range []struct {
		member string
		to     **float64
		most   float64
	}{{"temperature", &c.req.Temperature, maxTemperature}, {"top_p", &c.req.TopP, 1}} {
		var v float64
		given, err := o.into(f.member, &v)
		if err != nil {
			return err
		}
		if given && (v < 0 || v > f.most) {
			return fault.Invalid(f.member, "%s is a number from 0 to %v.", f.member, f.most)
		}
		if given {
			*f.to = &v
		}
	}
	var seed int64
	if given, err := o.into("seed", &seed); err != nil {
		return err
	} else if given {
		c.req.Seed = &seed
	}
	return c.decodeStop(o)
}

func (c *Chat) decodeStop(o *object) error {
	raw, given := o.take("stop")
	if !given {
		return nil
	}
	if raw[0] == '"' {
		c.req.Stop = make([]string, 1)
		if err := decode(raw, "stop", &c.req.Stop[0]); err != nil {
			return err
		}
	} else if err := decode(raw, "stop", &c.req.Stop); err != nil {
		return err
	}
	if len(c.req.Stop) > maxStops {
		return fault.Invalid("stop", "There can be %d stop sequences.", maxStops)
	}
	for _, s := range c.req.Stop {
		if s == "" {
			return fault.Invalid("stop", "A stop sequence can't be empty.")
		}
	}
	return nil
}

// decodeBound reads the bound of the answer under its old and its new name.
func (c *Chat) decodeBound(o *object) error {
	for _, member := range []string{"max_completion_tokens", "max_tokens"} {
		var n int64
		given, err := o.into(member, &n)
		if err != nil {
			return err
		}
		if !given {
			continue
		}
		if n < 1 {
			return fault.Invalid(member, "%s is at least 1; leave it out for the model's own bound.", member)
		}
		if c.req.MaxOutputTokens != nil && *c.req.MaxOutputTokens != n {
			return fault.Invalid(member, "max_tokens is the old name of max_completion_tokens; they can't differ.")
		}
		c.req.MaxOutputTokens = &n
	}
	return nil
}

func (c *Chat) decodeFormat(o *object) error {
	raw, given := o.take("response_format")
	if !given {
		return nil
	}
	var format struct {
		Type string `json:"type"`
	}
	if err := decode(raw, "response_format", &format); err != nil {
		return err
	}
	switch format.Type {
	case "text":
	case "json_object", "json_schema":
		c.req.ResponseFormat = raw
	default:
		return fault.Invalid("response_format.type", "response_format.type is text, json_object or json_schema.")
	}
	return nil
}

func (c *Chat) decodeStream(o *object) error {
	if _, err := o.into("stream", &c.stream); err != nil {
		return err
	}
	raw, given := o.take("stream_options")
	if !given {
		return nil
	}
	if !c.stream {
		return fault.Invalid("stream_options", "stream_options needs stream: true.")
	}
	options, err := read(raw, "stream_options")
	if err != nil {
		return err
	}
	if _, err := options.into("include_usage", &c.includeUsage); err != nil {
		return err
	}
	return options.only("include_obfuscation", "false")
}

// refuseOthers says no to fields that mean something and for which the gateway has nothing. Marks for a vendor's own
// bookkeeping (user, safety_identifier, prompt_cache_key …), on which no answer depends, are ignored, as unknown fields are.
func refuseOthers(o *object) error {
	for _, f := range []struct {
		member   string
		harmless []string
	}{
		{"n", []string{"1"}},
		{"logprobs", []string{"false"}},
		{"top_logprobs", []string{"0"}},
		{"logit_bias", []string{"{}"}},
		{"presence_penalty", []string{"0", "0.0"}},
		{"frequency_penalty", []string{"0", "0.0"}},
		{"store", []string{"false"}},
		{"metadata", []string{"{}"}},
		{"modalities", []string{`["text"]`}},
		{"service_tier", []string{`"auto"`, `"default"`}},
	} {
		if err := o.only(f.member, f.harmless...); err != nil {
			return err
		}
	}
	return o.refuse(
		"functions", "function_call", "audio", "prediction", "web_search_options", "reasoning_effort", "verbosity",
		"top_k", "top_a", "min_p", "repetition_penalty", // of other vendors that speak the dialect
	)
}
