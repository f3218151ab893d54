package openai

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

// Embed is an embeddings request, decoded, and the encoder of its answer.
type Embed struct {
	req    model.EmbedRequest
	base64 bool
}

var _ api.OpenAIEmbed = (*Embed)(nil)

// Request is the request in the gateway's terms.
func (e *Embed) Request() *model.EmbedRequest { return &e.req }

// DecodeEmbed reads the body of POST /v1/embeddings.
func DecodeEmbed(body []byte) (*Embed, error) {
	o, err := read(body, "")
	if err != nil {
		return nil, err
	}
	e := &Embed{}
	if given, err := o.into("model", &e.req.ModelRef); err != nil {
		return nil, err
	} else if !given || e.req.ModelRef == "" {
		return nil, fault.Invalid("model", "Name the model; GET /v1/models lists those there are.")
	}
	raw, given := o.take("input")
	if !given {
		return nil, fault.Invalid("input", "input is a text, or a list of texts.")
	}
	if e.req.Texts, err = decodeInput(raw); err != nil {
		return nil, err
	}
	format := "float"
	if _, err := o.into("encoding_format", &format); err != nil {
		return nil, err
	}
	if format != "float" && format != "base64" {
		return nil, fault.Invalid("encoding_format", "encoding_format is float or base64.")
	}
	e.base64 = format == "base64"
	if given, err := o.into("dimensions", &e.req.Dimensions); err != nil {
		return nil, err
	} else if given && e.req.Dimensions < 1 {
		return nil, fault.Invalid("dimensions", "dimensions is at least 1.")
	}
	_, err = o.into("request_id", &e.req.RequestID)
	return e, err
}

func decodeInput(raw json.RawMessage) ([]string, error) {
	switch {
	case raw[0] == '"':
		text := make([]string, 1)
		err := decode(raw, "input", &text[0])
		return text, err
	case raw[0] != '[':
		return nil, fault.Invalid("input", "input is a text, or a list of texts.")
	}
	var list []json.RawMessage
	if err := decode(raw, "input", &list); err != nil {
		return nil, err
	}
	if len(list) == 0 || len(list) > model.MaxEmbedTexts {
		return nil, fault.Invalid("input", "input has 1 to %d texts; these are %d.", model.MaxEmbedTexts, len(list))
	}
	texts := make([]string, len(list))
	for i, item := range list {
		if item[0] != '"' {
			return nil, fault.Invalid("input", "input is a text, or a list of texts; tokens are not taken, since they mean other things to other models.")
		}
		if err := decode(item, "input", &texts[i]); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

type embedding struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"`
}

type embedUsage struct {
	PromptTokens int64 `json:"prompt_tokens"`
	TotalTokens  int64 `json:"total_tokens"`
}

// Whole implements api.OpenAIEmbed.
func (e *Embed) Whole(r *model.EmbedResult, a api.OpenAIAnswer) []byte {
	data := make([]embedding, len(r.Vectors))
	for i, v := range r.Vectors {
		data[i] = embedding{Object: "embedding", Index: i, Embedding: v}
		if e.base64 {
			data[i].Embedding = pack(v)
		}
	}
	return encode(struct {
		Object string      `json:"object"`
		Data   []embedding `json:"data"`
		Model  string      `json:"model"`
		Usage  embedUsage  `json:"usage"`
		extras
	}{
		"list", data, r.Route.Backend + "/" + r.Route.Model,
		embedUsage{r.Usage.InputTokens, r.Usage.InputTokens},
		newExtras(r.PolicyOutcome, r.Route, r.LatencyMS, a),
	})
}

// pack is a vector as little-endian float32 in base64.
func pack(v []float32) string {
	b := make([]byte, 0, 4*len(v))
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(b)
}
