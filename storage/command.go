package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

// AnswerTTL is how long the answer of a command that has an ID is kept, so that asking again gets the same answer.
const AnswerTTL = 10 * time.Minute

// Command asks the store's writer for one change.
type Command struct {
	// Kind names the evaluation, as it was given to Define.
	Kind string
	// ID, when set, makes the command harmless twice: a second evaluation within AnswerTTL returns the first one's
	// answer. A command whose evaluation is idempotent by itself leaves it empty.
	ID string
	// Args is the value the evaluation takes; Encode turns it into bytes when the leader is another node.
	Args any
}

// Registry knows how to evaluate each kind of command. It is filled while a node is wired and is read-only afterwards.
type Registry struct {
	kinds map[string]definition
}

type definition struct {
	eval         func(Tx, any) (any, error)
	decodeArgs   func([]byte) (any, error)
	decodeResult func([]byte) (any, error)
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{kinds: make(map[string]definition)} }

// Call asks for one kind of command with typed arguments and a typed answer.
type Call[A, R any] struct{ kind string }

// Define adds a kind of command to reg. eval must depend on nothing but tx and args, must not keep either, and must not
// block; what it returns may be shared between callers and is never changed. A and R must survive encoding/json. Define
// panics when kind is defined twice: that's a fault in the wiring.
func Define[A, R any](reg *Registry, kind string, eval func(tx Tx, args A) (R, error)) Call[A, R] {
	if _, twice := reg.kinds[kind]; twice {
		panic("storage: command defined twice: " + kind)
	}
	reg.kinds[kind] = definition{
		eval:         func(tx Tx, args any) (any, error) { return eval(tx, args.(A)) },
		decodeArgs:   decode[A],
		decodeResult: decode[R],
	}
	return Call[A, R]{kind: kind}
}

func decode[T any](b []byte) (any, error) {
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	return v, nil
}

// Do runs the command at s; see Store.Do. id is Command.ID.
func (c Call[A, R]) Do(ctx context.Context, s Store, id string, args A) (R, uint64, error) {
	v, index, err := s.Do(ctx, Command{Kind: c.kind, ID: id, Args: args})
	if err != nil {
		var none R
		return none, index, err
	}
	return v.(R), index, nil
}

// Encode turns the arguments or the answer of a command into JSON. Nothing in it is escaped for HTML, as json.Marshal would
// do also within a json.RawMessage: what travels to the leader must be evaluated as if it had been asked there.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// DecodeArgs rebuilds the arguments of a command that came as bytes from another node.
func (reg *Registry) DecodeArgs(kind string, b []byte) (any, error) {
	def, ok := reg.kinds[kind]
	if !ok {
		return nil, fault.New(fault.Unavailable, "This node is of a version that does not know the command %q.", kind).With("service", "version")
	}
	return def.decodeArgs(b)
}

// DecodeResult rebuilds an answer that came as bytes from the leader.
func (reg *Registry) DecodeResult(kind string, b []byte) (any, error) {
	def, ok := reg.kinds[kind]
	if !ok {
		return nil, fmt.Errorf("storage: no command %q", kind)
	}
	return def.decodeResult(b)
}

// answer is a kept answer: of a command with an ID, for AnswerTTL.
type answer struct {
	Result  json.RawMessage `json:"result"`
	Expires int64           `json:"expires"` // Unix seconds
}

// Keys of the kept answers: by id, and by the second in which they expire.
const (
	answerKeys  = "cmd/id/"
	answerOrder = "cmd/exp/"
)

// Evaluate runs cmd on g. On an error, or a panic, g is as it was before. It is called by the writer of an engine, one
// command at a time.
func (reg *Registry) Evaluate(g *Group, cmd Command) (result any, err error) {
	def, ok := reg.kinds[cmd.Kind]
	if !ok {
		return nil, fault.New(fault.Unavailable, "The leader is of a version that does not know the command %q.", cmd.Kind).With("service", "version")
	}
	mark := g.mark()
	defer func() {
		if p := recover(); p != nil {
			g.rollback(mark)
			result, err = nil, fmt.Errorf("storage: command %s panicked: %v\n%s", cmd.Kind, p, debug.Stack())
		}
	}()
	if cmd.ID != "" {
		if kept, err := g.Get(answerKeys + cmd.ID); err != nil {
			return nil, err
		} else if kept != nil {
			var a answer
			if err := json.Unmarshal(kept, &a); err != nil {
				return nil, fmt.Errorf("storage: kept answer of %s: %w", cmd.ID, err)
			}
			return def.decodeResult(a.Result)
		}
	}
	result, err = def.eval(g, cmd.Args)
	if err == nil && cmd.ID != "" {
		err = keepAnswer(g, cmd.ID, result)
	}
	if err == nil {
		err = g.fault()
	}
	if err != nil {
		g.rollback(mark)
		return nil, err
	}
	return result, nil
}

func keepAnswer(g *Group, id string, result any) error {
	raw, err := Encode(result)
	if err != nil {
		return fmt.Errorf("storage: answer of %s: %w", id, err)
	}
	expires := g.Now().Add(AnswerTTL).Unix()
	kept, err := Encode(answer{Result: raw, Expires: expires})
	if err != nil {
		return err
	}
	g.Set(answerKeys+id, kept)
	g.Set(fmt.Sprintf("%s%012d/%s", answerOrder, expires, id), nil)
	return nil
}

// SweepAnswers is the evaluation of a command that removes kept answers which have expired, at most limit of them. It
// returns how many it removed.
func SweepAnswers(tx Tx, limit int) (int, error) {
	var ids, keys []string
	end := fmt.Sprintf("%s%012d/", answerOrder, tx.Now().Unix())
	err := tx.Scan(Range{From: answerOrder, To: end}, func(key string, _ []byte) bool {
		keys = append(keys, key)
		ids = append(ids, key[len(answerOrder)+13:])
		return len(keys) < limit
	})
	if err != nil {
		return 0, err
	}
	for i := range keys {
		tx.Delete(keys[i])
		tx.Delete(answerKeys + ids[i])
	}
	return len(keys), nil
}
