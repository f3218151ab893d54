package api

import (
	"time"

	"github.com/nexixai/agentos/model"
)

// OpenAI speaks OpenAI's wire format. Package api/openai implements it. Bodies have passed the strict reader; a field that
// can't be honoured is fault.InvalidRequest by its name.
type OpenAI interface {
	Chat(body []byte) (OpenAIChat, error)
	Embeddings(body []byte) (OpenAIEmbed, error)
}

// OpenAIAnswer is what an answer says beside what the gateway returned.
type OpenAIAnswer struct {
	ID            string
	Created       time.Time
	CorrelationID string
	TenantID      string
}

// OpenAIChat is one chat request. It serves one answer and needs no lock.
type OpenAIChat interface {
	Request() *model.ChatRequest
	// Streams reports whether the answer is to be streamed.
	Streams() bool
	// Whole is the body of an answer that isn't streamed.
	Whole(r *model.ChatResult, a OpenAIAnswer) []byte
	// First, Delta and Last are the SSE bytes of a stream: what opens it, one piece, and what ends it, with "[DONE]". The
	// first two may return nothing.
	First(a OpenAIAnswer) []byte
	Delta(d model.Delta) []byte
	Last(r *model.ChatResult, a OpenAIAnswer) []byte
}

// OpenAIEmbed is one embeddings request.
type OpenAIEmbed interface {
	Request() *model.EmbedRequest
	Whole(r *model.EmbedResult, a OpenAIAnswer) []byte
}
