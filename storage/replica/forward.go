package replica

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// courier takes asks to the leader at another node. One call is under way at a time; what comes meanwhile goes together
// with the next, so that it batches by itself without ever waiting to gather.
type courier struct {
	mu      sync.Mutex
	waiting []*parcel
	running bool
	closed  bool
}

// parcel is one ask, packed.
type parcel struct {
	*ask
	args []byte
}

// A batch is packed from at most these many asks and about as many bytes.
const (
	batchAsks  = 1024
	batchBytes = 1 << 20
)

func (c *courier) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
}

func (c *courier) ask(ctx context.Context, s *Store, cmd storage.Command, look bool) (outcome, error) {
	p := &parcel{ask: newAsk(ctx, cmd, look)}
	if !look {
		var err error
		if p.args, err = storage.Encode(cmd.Args); err != nil {
			return outcome{}, err
		}
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return outcome{}, storage.Closed()
	}
	c.waiting = append(c.waiting, p)
	if !c.running {
		c.running = true
		s.background.Go(func() { c.run(s) })
	}
	c.mu.Unlock()
	select {
	case <-p.done:
		o := p.out
		p.recycle()
		return o, nil
	case <-ctx.Done():
		return outcome{}, ended(ctx.Err())
	}
}

func (c *courier) run(s *Store) {
	for {
		batch := c.take()
		if batch == nil {
			return
		}
		c.send(s, batch)
	}
}

// take returns what goes into the next call; nil ends the run.
func (c *courier) take() []*parcel {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, size := 0, 0
	for n < len(c.waiting) && n < batchAsks && size < batchBytes {
		size += len(c.waiting[n].args)
		n++
	}
	if n == 0 {
		c.running, c.waiting = false, nil
		return nil
	}
	batch := c.waiting[:n:n]
	c.waiting = c.waiting[n:]
	return batch
}

// send makes one call. Whatever it ends with other than answers leaves the outcomes unknown.
func (c *courier) send(s *Store, batch []*parcel) {
	live := batch[:0]
	for _, p := range batch {
		if p.ctx.Err() == nil {
			live = append(live, p)
		}
	}
	fail := func() {
		for _, p := range live {
			p.answer(outcome{again: true})
		}
	}
	address, id := s.raft.LeaderWithID()
	if len(live) == 0 || address == "" || string(id) == s.o.ServerID {
		fail()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.o.AskTimeout)
	defer cancel()
	ctx, release := either(ctx, s.stop)
	defer release()
	defer s.whileLeads(raft.ServerID(id), cancel)()
	reply, err := s.o.Forward.Forward(ctx, Server{ID: string(id), Address: string(address), Voter: true}, packBatch(live))
	if err != nil {
		fail()
		return
	}
	outs, err := unpackAnswers(s.o.Registry, live, reply)
	if err != nil {
		fail()
		return
	}
	for i, p := range live {
		p.answer(outs[i])
	}
}

// whileLeads calls cancel when another server leads than id, until stop: what was sent to a leader that has lost its office,
// or the way to us, is answered late or never, and its successor could have it by now.
func (s *Store) whileLeads(id raft.ServerID, cancel func()) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			news := s.changed.listen()
			if _, leader := s.raft.LeaderWithID(); leader != "" && leader != id {
				cancel()
				return
			}
			select {
			case <-news:
			case <-done:
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// HandleForward answers a batch that another member's Forwarder has brought. Only the leader's answers decide anything;
// any other node answers "ask again". An error means that the batch could not be read.
func (s *Store) HandleForward(ctx context.Context, batch []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.AskTimeout)
	defer cancel()
	asks, err := unpackBatch(ctx, s.o.Registry, batch)
	if err != nil {
		return nil, err
	}
	entered := make([]bool, len(asks))
	for i, a := range asks {
		if a.out.err != nil {
			continue
		}
		ok, err := s.enter(a)
		entered[i] = ok
		if !ok {
			a.out = outcome{err: err, again: err == nil}
		}
	}
	outs := make([]outcome, len(asks))
	for i, a := range asks {
		if !entered[i] {
			outs[i] = a.out
			continue
		}
		select {
		case <-a.done:
			outs[i] = a.out
		case <-ctx.Done():
			outs[i] = outcome{again: true}
		case <-s.stop:
			outs[i] = outcome{again: true}
		}
	}
	return packAnswers(outs)
}

// A batch: count, then for each ask a byte (1 for a look), kind, id and arguments. Answers: count, then for each a byte
// (what follows), the index, and a body. Numbers are uvarints; kind, id, arguments and body begin with their length.
const (
	answerResult = 0
	answerError  = 1
	answerAgain  = 2
)

var errBatch = errors.New("storage: a forwarded batch can't be read")

func appendBytes[T string | []byte](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func packBatch(batch []*parcel) []byte {
	b := binary.AppendUvarint(nil, uint64(len(batch)))
	for _, p := range batch {
		if p.look {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		b = appendBytes(b, p.cmd.Kind)
		b = appendBytes(b, p.cmd.ID)
		b = appendBytes(b, p.args)
	}
	return b
}

// cursor reads what was packed; its err stays at the first thing that didn't fit.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) number() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.b, c.err = nil, errBatch
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) bytes() []byte {
	n := c.number()
	if n > uint64(len(c.b)) {
		c.b, c.err = nil, errBatch
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) byte() byte {
	if len(c.b) == 0 {
		c.err = errBatch
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func unpackBatch(ctx context.Context, reg *storage.Registry, b []byte) ([]*ask, error) {
	c := cursor{b: b}
	n := c.number()
	if n > batchAsks {
		return nil, errBatch
	}
	asks := make([]*ask, 0, n)
	for range n {
		look := c.byte() == 1
		cmd := storage.Command{Kind: string(c.bytes()), ID: string(c.bytes())}
		args := c.bytes()
		if c.err != nil {
			return nil, c.err
		}
		a := newAsk(ctx, cmd, look)
		if !look {
			a.cmd.Args, a.out.err = reg.DecodeArgs(cmd.Kind, args)
		}
		asks = append(asks, a)
	}
	if len(c.b) != 0 {
		return nil, errBatch
	}
	return asks, nil
}

// wireFault is an error on its way between two nodes of one cluster.
type wireFault struct {
	Code         fault.Code     `json:"code"`
	Message      string         `json:"message"`
	Details      map[string]any `json:"details,omitempty"`
	RetryAfterMS int64          `json:"retry_after_ms,omitempty"`
	Cause        string         `json:"cause,omitempty"`
}

func packAnswers(outs []outcome) ([]byte, error) {
	b := binary.AppendUvarint(nil, uint64(len(outs)))
	for _, o := range outs {
		what, body := byte(answerResult), []byte(nil)
		var err error
		switch {
		case o.again:
			what = answerAgain
		case o.err != nil:
			what = answerError
			f := fault.Of(o.err)
			w := wireFault{Code: f.Code, Message: f.Message, Details: f.Details, RetryAfterMS: f.RetryAfter.Milliseconds()}
			if f.Err != nil {
				w.Cause = f.Err.Error()
			}
			body, err = json.Marshal(w)
		default:
			body, err = storage.Encode(o.result)
		}
		if err != nil {
			return nil, err
		}
		b = append(b, what)
		b = binary.AppendUvarint(b, o.index)
		b = appendBytes(b, body)
	}
	return b, nil
}

func unpackAnswers(reg *storage.Registry, batch []*parcel, b []byte) ([]outcome, error) {
	c := cursor{b: b}
	if c.number() != uint64(len(batch)) {
		return nil, errBatch
	}
	outs := make([]outcome, len(batch))
	for i, p := range batch {
		what, index, body := c.byte(), c.number(), c.bytes()
		if c.err != nil {
			return nil, c.err
		}
		o := outcome{index: index}
		switch what {
		case answerAgain:
			o.again = true
		case answerError:
			var w wireFault
			if err := json.Unmarshal(body, &w); err != nil {
				return nil, err
			}
			f := &fault.Error{Code: w.Code, Message: w.Message, Details: w.Details, RetryAfter: time.Duration(w.RetryAfterMS) * time.Millisecond}
			if w.Cause != "" {
				f.Err = errors.New(w.Cause)
			}
			o.err = f
		case answerResult:
			if p.look {
				break
			}
			var err error
			if o.result, err = reg.DecodeResult(p.cmd.Kind, body); err != nil {
				return nil, err
			}
		default:
			return nil, errBatch
		}
		outs[i] = o
	}
	return outs, nil
}
