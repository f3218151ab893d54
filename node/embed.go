package node

import (
	"context"

	"github.com/nexixai/agentos/agent/memory"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/provider/builtin"
	"github.com/nexixai/agentos/tenancy"
)

// memoryModel makes the vectors by which memory is searched.
const memoryModel = "hash-embed-1"

// embedder makes memory's vectors with the builtin model, in this process. It goes past the gateway on purpose: like an
// index of words, it is a function of a value that the node has anyway, it leaves for nowhere and costs nothing, and a
// memory that can't be searched once a token budget is spent would help nobody.
type embedder struct{ provider model.Provider }

var _ memory.Embedder = (*embedder)(nil)

func newEmbedder() *embedder { return &embedder{provider: builtin.New()} }

// Embed implements memory.Embedder.
func (e *embedder) Embed(ctx context.Context, _ *tenancy.Auth, text string) (vector []float32, name string, err error) {
	r, err := e.provider.Embed(ctx, memoryModel, &model.EmbedRequest{Texts: []string{text}})
	if err != nil {
		return nil, "", err
	}
	return r.Vectors[0], e.provider.Name() + "/" + memoryModel, nil
}
