package memory

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// The ways to search.
const (
	Keyword = "keyword"
	Vector  = "vector"
	Hybrid  = "hybrid"
)

// Bounds of a search.
const (
	DefaultLimit = 50
	MaxLimit     = 500
	maxQuery     = 8 << 10
	maxTerms     = 64
	maxAnswer    = 8 << 20 // bytes of values in one answer; beyond, it has fewer results than there are
	rankPool     = 200     // how deep each list is merged by Hybrid, at least
	rankConstant = 60      // of reciprocal rank fusion (Cormack, Clarke, Buettcher 2009)
)

// Query is what to look for.
type Query struct {
	Query string `json:"query"`
	// Limit is 1 to MaxLimit; 0 means DefaultLimit.
	Limit int `json:"limit"`
	// Filters are members that an item's metadata must have, with equal values.
	Filters map[string]any `json:"filters"`
	// Mode is Keyword when left out.
	Mode string `json:"mode"`
}

// Result is one item found. Scores compare only within one answer.
type Result struct {
	Key      string          `json:"key"`
	Value    json.RawMessage `json:"value"`
	Metadata json.RawMessage `json:"metadata"`
	Score    float64         `json:"score"`
}

func (q *Query) tidy() error {
	switch {
	case strings.TrimSpace(q.Query) == "":
		return fault.Invalid("query", "Say what to look for.")
	case len(q.Query) > maxQuery:
		return fault.Invalid("query", "A query has at most %d bytes.", maxQuery)
	case q.Limit < 0 || q.Limit > MaxLimit:
		return fault.Invalid("limit", "The limit is between 1 and %d.", MaxLimit)
	}
	if q.Limit == 0 {
		q.Limit = DefaultLimit
	}
	switch q.Mode {
	case "":
		q.Mode = Keyword
	case Keyword, Vector, Hybrid:
	default:
		return fault.Invalid("mode", "The mode is keyword, vector or hybrid.")
	}
	return nil
}

// Search finds items of a namespace of by's tenant, best first. fault.UnsupportedCapability: this node has no embeddings.
func (s *Store) Search(ctx context.Context, r storage.Read, by *tenancy.Auth, namespace string, q Query) (results []Result, index uint64, err error) {
	if !ValidName(namespace) {
		return nil, 0, checkNames(namespace, "x")
	}
	if err := q.tidy(); err != nil {
		return nil, 0, err
	}
	var vector []float32
	var model string
	if q.Mode != Keyword {
		if s.embedder == nil {
			return nil, 0, fault.New(fault.UnsupportedCapability, "This node has no embeddings; search with mode keyword.").With("missing", []string{"embeddings"})
		}
		if vector, model, err = s.embedder.Embed(ctx, by, q.Query); err != nil {
			return nil, 0, err
		}
		unit(vector)
	}
	err = s.store.View(ctx, r, func(v storage.Snapshot) error {
		index = v.Index()
		f := finder{ctx: ctx, r: v, tenantID: by.TenantID, namespace: namespace, q: &q}
		hits, err := f.find(vector, model)
		if err != nil {
			return err
		}
		results, err = f.fetch(hits)
		return err
	})
	if err != nil {
		return nil, index, err
	}
	return results, index, nil
}

// finder is one search over one state.
type finder struct {
	ctx                 context.Context
	r                   storage.Reader
	tenantID, namespace string
	q                   *Query
}

type hit struct {
	key   string
	score float64
}

// better orders hits: higher scores first, then by key, so that equal searches answer equally.
func better(a, b hit) int {
	if c := cmp.Compare(b.score, a.score); c != 0 {
		return c
	}
	return strings.Compare(a.key, b.key)
}

func (f *finder) find(vector []float32, model string) ([]hit, error) {
	switch f.q.Mode {
	case Keyword:
		return f.byWords(f.q.Limit)
	case Vector:
		return f.byVector(vector, model, f.q.Limit)
	}
	pool := max(rankPool, 4*f.q.Limit)
	words, err := f.byWords(pool)
	if err != nil {
		return nil, err
	}
	near, err := f.byVector(vector, model, pool)
	if err != nil {
		return nil, err
	}
	return best(fuse(words, near), f.q.Limit), nil
}

// fuse merges ranked lists by reciprocal rank.
func fuse(lists ...[]hit) []hit {
	score := make(map[string]float64)
	for _, list := range lists {
		for rank, h := range list {
			score[h.key] += 1 / float64(rankConstant+rank+1)
		}
	}
	out := make([]hit, 0, len(score))
	for key, s := range score {
		out = append(out, hit{key, s})
	}
	return out
}

// best returns the n best of hits, in order.
func best(hits []hit, n int) []hit {
	slices.SortFunc(hits, better)
	return hits[:min(n, len(hits))]
}

// scan visits a span until the context ends.
func (f *finder) scan(prefix string, visit func(key string, value []byte) error) error {
	n := 0
	var broken error
	err := f.r.Scan(storage.Prefix(prefix), func(key string, value []byte) bool {
		if n++; n%256 == 0 && f.ctx.Err() != nil {
			broken = f.ctx.Err()
			return false
		}
		broken = visit(key[len(prefix):], value)
		return broken == nil
	})
	if err == nil {
		err = broken
	}
	return err
}

// Parameters of BM25, as Lucene has them.
const (
	bm25K1 = 1.2
	bm25B  = 0.75
)

type match struct {
	key    string
	length int
	counts []int
}

// byWords ranks by BM25 over all items of the namespace; the filters choose among the items that hold a word of the query.
func (f *finder) byWords(limit int) ([]hit, error) {
	terms := make(map[string]int)
	var first [256]bool // bytes that a term begins with: most words need no look into the map
	words([]byte(f.q.Query), nil, func(word []byte) {
		if _, known := terms[string(word)]; !known && len(terms) < maxTerms {
			terms[string(word)] = len(terms)
			first[word[0]] = true
		}
	})
	var matches []match
	documents, total := 0, 0
	holding := make([]int, len(terms)) // in how many items each term is
	counts := make([]int, len(terms))
	var buf []byte
	err := f.scan(itemKey(f.tenantID, f.namespace, ""), func(key string, raw []byte) error {
		r, err := decode(raw)
		if err != nil {
			return err
		}
		clear(counts)
		length, found := 0, false
		leaves(r.value, func(text []byte) bool {
			buf = words(text, buf, func(word []byte) {
				length++
				if !first[word[0]] {
					return
				}
				if i, ok := terms[string(word)]; ok {
					counts[i]++
					found = true
				}
			})
			return true
		})
		documents++
		total += length
		if !found {
			return nil
		}
		for i, n := range counts {
			if n > 0 {
				holding[i]++
			}
		}
		if f.passes(r.metadata) {
			matches = append(matches, match{strings.Clone(key), length, slices.Clone(counts)})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	hits := make([]hit, 0, len(matches))
	mean := float64(total) / float64(max(documents, 1))
	for _, m := range matches {
		score := 0.0
		for i, n := range m.counts {
			if n > 0 {
				idf := math.Log(1 + (float64(documents-holding[i])+0.5)/(float64(holding[i])+0.5))
				score += idf * float64(n) * (bm25K1 + 1) / (float64(n) + bm25K1*(1-bm25B+bm25B*float64(m.length)/mean))
			}
		}
		hits = append(hits, hit{m.key, score})
	}
	return best(hits, limit), nil
}

// passes reports whether metadata has every member that the filters ask for.
func (f *finder) passes(metadata []byte) bool {
	if len(f.q.Filters) == 0 {
		return true
	}
	var members map[string]any
	if json.Unmarshal(metadata, &members) != nil {
		return false
	}
	for name, want := range f.q.Filters {
		if got, has := members[name]; !has || !reflect.DeepEqual(got, want) {
			return false
		}
	}
	return true
}

// byVector ranks by the cosine between the query's vector and each item's, exactly.
func (f *finder) byVector(vector []float32, model string, limit int) ([]hit, error) {
	var hits []hit // at most 2·limit: cut back to the best whenever it's full
	worst := math.Inf(-1)
	err := f.scan(vectorKey(f.tenantID, f.namespace, ""), func(key string, raw []byte) error {
		score, ok := cosine(vector, model, raw)
		if !ok || score <= worst {
			return nil
		}
		if len(f.q.Filters) > 0 {
			item, err := f.r.Get(itemKey(f.tenantID, f.namespace, key))
			if err != nil || item == nil {
				return err
			}
			r, err := decode(item)
			if err != nil {
				return err
			}
			if !f.passes(r.metadata) {
				return nil
			}
		}
		hits = append(hits, hit{strings.Clone(key), score})
		if len(hits) >= 2*limit {
			hits = best(hits, limit)
			worst = hits[len(hits)-1].score
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return best(hits, limit), nil
}

// fetch reads what was found.
func (f *finder) fetch(hits []hit) ([]Result, error) {
	results, size := make([]Result, 0, len(hits)), 0
	for _, h := range hits {
		raw, err := f.r.Get(itemKey(f.tenantID, f.namespace, h.key))
		if err != nil {
			return nil, err
		}
		if raw == nil {
			continue
		}
		r, err := decode(bytes.Clone(raw))
		if err != nil {
			return nil, err
		}
		if size += len(raw); size > maxAnswer && len(results) > 0 {
			break // the best are there
		}
		results = append(results, Result{Key: h.key, Value: r.value, Metadata: r.metadata, Score: h.score})
	}
	return results, nil
}

// maxDimensions bounds a vector.
const maxDimensions = 8192

// unit scales v to length one; a zero vector stays.
func unit(v []float32) {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	if sum == 0 || math.IsInf(sum, 0) || math.IsNaN(sum) {
		return
	}
	scale := float32(1 / math.Sqrt(sum))
	for i := range v {
		v[i] *= scale
	}
}

// encodeVector stores a vector at unit length behind its model's name; nil when it can't be compared with anything.
func encodeVector(v []float32, model string) []byte {
	if len(v) == 0 || len(v) > maxDimensions || len(model) > 255 {
		return nil
	}
	v = slices.Clone(v)
	unit(v)
	b := make([]byte, 0, 1+len(model)+4*len(v))
	b = append(append(b, byte(len(model))), model...)
	for _, x := range v {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return nil
		}
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// cosine compares a unit vector with a stored one; ok is false when they're of different models or sizes.
func cosine(v []float32, model string, raw []byte) (score float64, ok bool) {
	if len(raw) == 0 || len(raw) != 1+int(raw[0])+4*len(v) || string(raw[1:1+int(raw[0])]) != model {
		return 0, false
	}
	raw = raw[1+len(model):]
	var sum float32
	for i, x := range v {
		sum += x * math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return float64(sum), true
}
