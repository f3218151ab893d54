package meter

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tiktoken-go/tokenizer"

	"github.com/nexixai/agentos/model"
)

// Tokens that a chat's framing costs an OpenAI model: for each message, and to begin the answer.
const (
	framePerMessage = 4
	frameOfAnswer   = 3
)

// wordBackend is the backend whose tokens are words.
const wordBackend = "builtin"

// maxExact is the longest text that is taken through a tokenizer, in bytes; a longer one is estimated. It bounds the time
// that counting can take.
const maxExact = 1 << 20

// Options says how to make a Meter.
type Options struct {
	// Table is the price list; the zero value means DefaultTable.
	Table Table
}

// Meter implements model.Meter. It is safe for concurrent use.
type Meter struct {
	table atomic.Pointer[Table]

	mu     sync.Mutex
	codecs map[tokenizer.Encoding]tokenizer.Codec
}

var _ model.Meter = (*Meter)(nil)

// New returns a Meter.
func New(o Options) (*Meter, error) {
	if o.Table.Prices == nil && o.Table.Default == (Price{}) {
		o.Table = DefaultTable()
	}
	m := &Meter{codecs: make(map[tokenizer.Encoding]tokenizer.Codec)}
	if err := m.Replace(o.Table); err != nil {
		return nil, err
	}
	return m, nil
}

// Replace puts another price list in place, for all calls priced from now on.
func (m *Meter) Replace(t Table) error {
	if err := t.Validate(); err != nil {
		return err
	}
	m.table.Store(&t)
	return nil
}

// Table returns the price list in force. It is shared: never change it.
func (m *Meter) Table() Table { return *m.table.Load() }

// Cost implements model.Meter.
func (m *Meter) Cost(backend, name string, u model.Usage) (int64, bool) {
	p, known := m.table.Load().price(backend + "/" + name)
	return p.cost(u), known
}

// CountRequest implements model.Meter.
func (m *Meter) CountRequest(backend, name string, req *model.ChatRequest) (int64, bool) {
	if backend == wordBackend {
		n := int64(0)
		for i := range req.Messages {
			n += WordsOf(&req.Messages[i])
		}
		return n, true
	}
	c := m.counter(name)
	n := int64(frameOfAnswer)
	for i := range req.Messages {
		n += framePerMessage + c.message(&req.Messages[i])
	}
	for i := range req.Tools {
		t := &req.Tools[i]
		n += framePerMessage + c.text(t.Name) + c.text(t.Description) + c.text(string(t.InputSchema))
	}
	n += c.text(string(req.ResponseFormat))
	// How a server frames messages and tools is its own affair, so this is exact for words only.
	return n, false
}

// CountTexts implements model.Meter.
func (m *Meter) CountTexts(backend, name string, texts []string) (int64, bool) {
	if backend == wordBackend {
		n := int64(0)
		for _, text := range texts {
			n += Words(text)
		}
		return n, true
	}
	c := m.counter(name)
	n := int64(0)
	for _, text := range texts {
		n += c.text(text)
	}
	return n, c.codec != nil && !c.cut
}

// CountMessage implements model.Meter.
func (m *Meter) CountMessage(backend, name string, msg *model.Message) (int64, bool) {
	if backend == wordBackend {
		return WordsOf(msg), true
	}
	c := m.counter(name)
	n := c.message(msg)
	return n, c.codec != nil && !c.cut && len(msg.ToolCalls) == 0
}

// counter counts texts for one model.
type counter struct {
	codec tokenizer.Codec // nil: estimate
	cut   bool            // something was too long to be counted
}

func (c *counter) text(s string) int64 {
	if s == "" {
		return 0
	}
	if c.codec == nil || len(s) > maxExact {
		c.cut = true
		return Estimate(s)
	}
	n, err := c.codec.Count(s)
	if err != nil {
		c.cut = true
		return Estimate(s)
	}
	return int64(n)
}

func (c *counter) message(m *model.Message) int64 {
	n := c.text(m.Content) + c.text(m.Name)
	for i := range m.ToolCalls {
		n += framePerMessage + c.text(m.ToolCalls[i].Name) + c.text(string(m.ToolCalls[i].Arguments))
	}
	return n
}

// Estimate guesses the tokens of s for a model whose tokenizer isn't known: one for every 3 bytes, which is more than
// nearly every tokenizer makes of text in any language.
func Estimate(s string) int64 { return int64(len(s)+2) / 3 }

// counter returns how to count for a model of some backend, loading its vocabulary if no model needed it before.
func (m *Meter) counter(name string) *counter {
	encoding, ok := encodingOf(name)
	if !ok {
		return &counter{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	codec := m.codecs[encoding]
	if codec == nil {
		var err error
		if codec, err = tokenizer.Get(encoding); err != nil {
			return &counter{}
		}
		m.codecs[encoding] = codec
	}
	return &counter{codec: codec}
}

// encodingOf knows which of OpenAI's models uses which vocabulary.
func encodingOf(name string) (tokenizer.Encoding, bool) {
	name = strings.TrimPrefix(name, "openai/")
	name = strings.TrimPrefix(name, "ft:")
	for _, p := range []struct {
		prefix   string
		encoding tokenizer.Encoding
	}{
		{"gpt-5", tokenizer.O200kBase},
		{"gpt-4.1", tokenizer.O200kBase},
		{"gpt-4o", tokenizer.O200kBase},
		{"chatgpt-4o", tokenizer.O200kBase},
		{"gpt-4.5", tokenizer.O200kBase},
		{"o1", tokenizer.O200kBase},
		{"o3", tokenizer.O200kBase},
		{"o4", tokenizer.O200kBase},
		{"gpt-4", tokenizer.Cl100kBase},
		{"gpt-3.5", tokenizer.Cl100kBase},
		{"gpt-35", tokenizer.Cl100kBase},
		{"text-embedding-3", tokenizer.Cl100kBase},
		{"text-embedding-ada", tokenizer.Cl100kBase},
	} {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok && (rest == "" || strings.ContainsRune("-.:", rune(rest[0]))) {
			return p.encoding, true
		}
	}
	return "", false
}
