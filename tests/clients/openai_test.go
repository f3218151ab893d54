package clients_test

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/nexixai/agentos/tests/harness"
)

// stock is the Go client as anybody would make it.
func stock(c *harness.Client, key string) *openai.Client {
	client := openai.NewClient(option.WithBaseURL(c.Base+"/v1/"), option.WithAPIKey(key), option.WithMaxRetries(0))
	return &client
}

func ask(text string, with ...func(*openai.ChatCompletionNewParams)) openai.ChatCompletionNewParams {
	p := openai.ChatCompletionNewParams{Model: echo, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)}}
	for _, w := range with {
		w(&p)
	}
	return p
}

// Requirements: B1.
func TestGo_Chat(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	c := stock(tn.Client, tn.Key)
	got, err := c.Chat.Completions.New(t.Context(), ask("hello", func(p *openai.ChatCompletionNewParams) {
		p.Messages = slices.Insert(p.Messages, 0, openai.DeveloperMessage("Answer."))
		p.Temperature, p.MaxCompletionTokens, p.User = openai.Float(0), openai.Int(64), openai.String("somebody")
	}))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Choices) != 1 || got.Choices[0].Message.Content != "echo: hello" || got.Choices[0].FinishReason != "stop" || got.Model != echo || got.Usage.TotalTokens == 0 || got.Created == 0 {
		t.Errorf("%s", got.RawJSON())
	}
}

// Requirements: B1.
func TestGo_ChatStream(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	c := stock(tn.Client, tn.Key)
	stream := c.Chat.Completions.NewStreaming(t.Context(), ask("/tokens 5", func(p *openai.ChatCompletionNewParams) {
		p.StreamOptions.IncludeUsage = openai.Bool(true)
	}))
	var whole openai.ChatCompletionAccumulator
	pieces := 0
	for stream.Next() {
		pieces++
		if !whole.AddChunk(stream.Current()) {
			t.Fatalf("the accumulator can't place %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if whole.Choices[0].Message.Content != "w1 w2 w3 w4 w5" || whole.Choices[0].FinishReason != "stop" || whole.Usage.CompletionTokens != 5 || pieces < 7 {
		t.Errorf("%d pieces make %+v", pieces, whole.ChatCompletion)
	}
}

// A stream that breaks off is an error, after what came.
//
// Requirements: B1.
func TestGo_ChatStreamCut(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	c := stock(tn.Client, tn.Key)
	stream := c.Chat.Completions.NewStreaming(t.Context(), ask("/cut 2"))
	text := ""
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			text += choice.Delta.Content
		}
	}
	if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "dependency_unavailable") || text != "w1 w2" {
		t.Errorf("%q, then %v", text, err)
	}
}

// A tool is called, whole and in pieces, and its output answered.
//
// Requirements: B1.
func TestGo_Tools(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	c := stock(tn.Client, tn.Key)
	params := ask(`/call lookup {"city":"Oslo"}`, func(p *openai.ChatCompletionNewParams) {
		p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
			Name: "lookup", Description: openai.String("Tells the weather."), Strict: openai.Bool(true),
			Parameters: openai.FunctionParameters{"type": "object", "properties": map[string]any{"city": map[string]string{"type": "string"}}},
		})}
		p.ParallelToolCalls = openai.Bool(false)
	})
	stream := c.Chat.Completions.NewStreaming(t.Context(), params)
	var whole openai.ChatCompletionAccumulator
	for stream.Next() {
		whole.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	plain, err := c.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range []openai.ChatCompletion{whole.ChatCompletion, *plain} {
		message := answer.Choices[0].Message
		if answer.Choices[0].FinishReason != "tool_calls" || len(message.ToolCalls) != 1 || message.ToolCalls[0].ID == "" ||
			message.ToolCalls[0].Function.Name != "lookup" || message.ToolCalls[0].Function.Arguments != `{"city":"Oslo"}` {
			t.Fatalf("%+v", answer)
		}
		next := params
		next.Messages = append(slices.Clone(params.Messages), message.ToParam(), openai.ToolMessage(`{"celsius":-3}`, message.ToolCalls[0].ID))
		if got, err := c.Chat.Completions.New(t.Context(), next); err != nil || got.Choices[0].Message.Content != `{"celsius":-3}` {
			t.Errorf("after the tool: %+v %v", got, err)
		}
	}
}

// Requirements: B1.
func TestGo_Embeddings(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	c := stock(tn.Client, tn.Key)
	params := openai.EmbeddingNewParams{Model: embed, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a parcel", "a letter"}}}
	got, err := c.Embeddings.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Data) != 2 || len(got.Data[0].Embedding) != 256 || len(got.Data[1].Embedding) != 256 || got.Data[1].Index != 1 || got.Usage.PromptTokens != 4 || got.Model != embed {
		t.Fatalf("%d vectors, %+v", len(got.Data), got.Usage)
	}
	// This client has no type for base64: its callers take it from the raw answer.
	params.EncodingFormat = openai.EmbeddingNewParamsEncodingFormatBase64
	var packed struct {
		Data []struct{ Embedding string }
	}
	if err := c.Post(t.Context(), "embeddings", params, &packed); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(packed.Data[0].Embedding)
	if err != nil || len(raw) != 4*256 {
		t.Fatalf("%d bytes: %v", len(raw), err)
	}
	for i, want := range got.Data[0].Embedding {
		if v := float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))); math.Abs(v-want) > 1e-6 {
			t.Fatalf("dimension %d: %v in base64, %v as float", i, v, want)
		}
	}
}

// Requirements: B1.
func TestGo_Models(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	c := stock(tn.Client, tn.Key)
	var ids []string
	for pages := c.Models.ListAutoPaging(t.Context()); pages.Next(); {
		ids = append(ids, pages.Current().ID)
	}
	if !slices.Contains(ids, echo) || !slices.Contains(ids, embed) {
		t.Errorf("models: %v", ids)
	}
	if m, err := c.Models.Get(t.Context(), echo); err != nil || m.ID != echo || m.OwnedBy != "agentos-builtin" || m.Created == 0 {
		t.Errorf("%+v %v", m, err)
	}
}

// Requirements: B1.
func TestGo_Errors(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	good := stock(tn.Client, tn.Key)
	chat := func(c *openai.Client, p openai.ChatCompletionNewParams) error {
		_, err := c.Chat.Completions.New(t.Context(), p)
		return err
	}
	_, unknown := good.Models.Get(t.Context(), "builtin/none")
	_, listed := stock(tn.Client, "aos_wrong").Models.List(t.Context())
	streamed := good.Chat.Completions.NewStreaming(t.Context(), ask("x", func(p *openai.ChatCompletionNewParams) { p.Model = "none" }))
	streamed.Next()
	for name, c := range map[string]struct {
		err         error
		status      int
		code, param string
		kind        string
	}{
		"a model that is none":              {chat(good, ask("x", func(p *openai.ChatCompletionNewParams) { p.Model = "none" })), 404, "not_found", "model", "invalid_request_error"},
		"a model that is none, in a stream": {streamed.Err(), 404, "not_found", "model", "invalid_request_error"},
		"a model that is none, looked up":   {unknown, 404, "not_found", "model", "invalid_request_error"},
		"a wrong key":                       {chat(stock(tn.Client, "aos_wrong"), ask("x")), 401, "unauthorized", "", "authentication_error"},
		"a wrong key, at the models":        {listed, 401, "unauthorized", "", "authentication_error"},
		"a setting that is not supported":   {chat(good, ask("x", func(p *openai.ChatCompletionNewParams) { p.N = openai.Int(2) })), 400, "invalid_request", "n", "invalid_request_error"},
		"a backend that is away":            {chat(good, ask("/error dependency_unavailable")), 503, "dependency_unavailable", "", "server_error"},
	} {
		var e *openai.Error
		if !errors.As(c.err, &e) || e.StatusCode != c.status || e.Code != c.code || e.Param != c.param || e.Type != c.kind || e.Message == "" {
			t.Errorf("%s: %v (%+v)", name, c.err, e)
		}
	}
}
