package builtin

import (
	"context"
	"hash/fnv"
	"math"
	"strings"
	"unicode"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/meter"
)

// Dimensions is the size of hash-embed-1's vectors.
const Dimensions = 256

// Embed implements model.Provider.
func (*Provider) Embed(ctx context.Context, name string, req *model.EmbedRequest) (*model.EmbedResponse, error) {
	if name != Embed {
		return nil, unknown(name)
	}
	size := req.Dimensions
	if size == 0 {
		size = Dimensions
	}
	if size < 1 || size > Dimensions {
		return nil, fault.Invalid("dimensions", "%s has %d dimensions; ask for as many or fewer.", Embed, Dimensions)
	}
	resp := &model.EmbedResponse{Vectors: make([][]float32, len(req.Texts)), Usage: &model.Usage{}}
	for i, text := range req.Texts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		resp.Vectors[i] = vector(text, size)
		resp.Usage.InputTokens += meter.Words(text)
	}
	resp.Usage.TotalTokens = resp.Usage.InputTokens
	return resp, nil
}

// vector hashes text's words, and the n-grams of three to five characters within them, each to one signed dimension, and
// scales the sum to unit length. Shorter vectors are the beginning of longer ones, scaled anew.
func vector(text string, size int) []float32 {
	var sum [Dimensions]float64
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	if len(words) == 0 && text != "" {
		words = []string{text}
	}
	for _, w := range words {
		add(&sum, "w"+w, 1)
		runes := []rune("^" + w + "$")
		for n := 3; n <= 5; n++ {
			for i := 0; i+n <= len(runes); i++ {
				add(&sum, string(runes[i:i+n]), 0.35)
			}
		}
	}
	norm := 0.0
	for _, x := range sum[:size] {
		norm += x * x
	}
	v := make([]float32, size)
	if norm == 0 { // nothing to hash, or all of it cancelled out
		v[0] = 1
		return v
	}
	norm = math.Sqrt(norm)
	for i := range v {
		v[i] = float32(sum[i] / norm)
	}
	return v
}

func add(sum *[Dimensions]float64, feature string, weight float64) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(feature))
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd // the finalizer of MurmurHash3: FNV's high bits alone are too alike
	x ^= x >> 33
	if x>>63 == 1 {
		weight = -weight
	}
	sum[x%Dimensions] += weight
}
