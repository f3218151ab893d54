package openai

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

// errSink marks an error of the caller's sink, which is returned as it is.
type errSink struct{ error }

func (e errSink) Unwrap() error { return e.error }

// stream asks for an answer in pieces and passes them on.
func (p *Provider) stream(ctx context.Context, body *chatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
	callCtx, stop := p.patience(ctx, p.o.HeaderTimeout)
	defer stop.end()
	resp, err := p.send(callCtx, http.MethodPost, "/chat/completions", body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	stop.reset(p.o.IdleTimeout)
	var b builder
	events := &eventReader{r: bufio.NewReaderSize(io.LimitReader(resp.Body, maxAnswer), 16<<10), alive: func() { stop.reset(p.o.IdleTimeout) }}
	if err := p.read(events, &b, sink); err != nil {
		var own errSink
		if errors.As(err, &own) {
			return b.partial(), own.error
		}
		return b.partial(), p.broken(callCtx, err)
	}
	return b.response(p)
}

// read takes the events of a stream up to its end.
func (p *Provider) read(events *eventReader, b *builder, sink func(model.Delta) error) error {
	for {
		data, err := events.next()
		if errors.Is(err, io.EOF) {
			if b.finish == "" {
				return p.odd("an answer that broke off")
			}
			return nil // some servers leave [DONE] out
		}
		if err != nil {
			return err
		}
		if bytes.Equal(data, []byte("[DONE]")) {
			return nil
		}
		var chunk chatAnswer
		if err := json.Unmarshal(data, &chunk); err != nil {
			return p.odd("a piece of an answer that is not JSON").Because(err)
		}
		if chunk.Error != nil {
			return p.inStream(chunk.Error)
		}
		if chunk.Usage != nil {
			b.usage = chunk.Usage
		}
		for i := range chunk.Choices {
			c := &chunk.Choices[i]
			if c.Index != 0 {
				continue
			}
			if err := pass(b, &c.Delta, sink); err != nil {
				return errSink{err}
			}
			if c.FinishReason != "" {
				b.finish = c.FinishReason
			}
		}
	}
}

func pass(b *builder, m *message, sink func(model.Delta) error) error {
	pieces := b.add(m, false)
	if text := string(m.Content) + string(m.Refusal); text != "" {
		if err := sink(model.Delta{Text: text}); err != nil {
			return err
		}
	}
	for i := range pieces {
		if err := sink(model.Delta{ToolCall: &pieces[i]}); err != nil {
			return err
		}
	}
	return nil
}

// eventReader reads the data of server-sent events. Lines end in LF or CRLF; comments and other fields are passed over.
type eventReader struct {
	r     *bufio.Reader
	alive func() // called whenever something has come
}

// next returns the data of the next event that has some. The end of the stream ends an event too.
func (e *eventReader) next() ([]byte, error) {
	var data []byte
	some := false
	for {
		line, err := e.line()
		if err != nil && !(errors.Is(err, io.EOF) && (some || len(line) > 0)) {
			return nil, err
		}
		if value, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			if some {
				data = append(data, '\n')
			}
			data, some = append(data, bytes.TrimPrefix(value, []byte(" "))...), true
			if len(data) > maxLine {
				return nil, tooLong()
			}
		}
		if (len(line) == 0 || err != nil) && some {
			return bytes.TrimSpace(data), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// line reads one line without its end. It is valid until the next call.
func (e *eventReader) line() ([]byte, error) {
	var long []byte
	for {
		piece, err := e.r.ReadSlice('\n')
		e.alive()
		if err == nil && long == nil {
			return trimEnd(piece), nil
		}
		long = append(long, piece...)
		if len(long) > maxLine {
			return nil, tooLong()
		}
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return trimEnd(long), err
		}
	}
}

func trimEnd(line []byte) []byte { return bytes.TrimRight(line, "\r\n") }

func tooLong() error {
	return fault.New(fault.Unavailable, "A model backend sent a piece larger than the node takes; try again or name another model.")
}
