package builtin

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/model"
)

// maxWait bounds /wait.
const maxWait = time.Hour

// turn is what one turn of the model does: wait, then one thing.
type turn struct {
	waits []time.Duration
	kind  string // call, tokens, error, cut, or say
	line  string // of the directive, for messages
	text  string // what say answers
	n     int64
	code  fault.Code
	tool  string
	args  json.RawMessage
}

// next finds what the model does in this turn.
func next(req *model.ChatRequest) (turn, error) {
	text, after := lastUser(req.Messages)
	done := 0
	for i := range after {
		if after[i].Role == "assistant" {
			done++
		}
	}
	var t turn
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		d, known, err := parse(line)
		if !known {
			continue
		}
		if d.kind == "wait" {
			if err != nil && done == 0 {
				return t, err
			}
			t.waits = append(t.waits, d.waits...)
			continue
		}
		if done > 0 {
			done--
			t.waits = nil // they belonged to the turn that is over
			continue
		}
		d.waits = t.waits
		return d, err
	}
	t.kind, t.text = "say", "echo: "+text
	if out, ok := lastOutput(after); ok {
		t.text = out
	}
	return t, nil
}

// lastOutput returns the last tool output as JSON.
func lastOutput(after []model.Message) (string, bool) {
	for i := len(after) - 1; i >= 0; i-- {
		if after[i].Role != "tool" {
			continue
		}
		if json.Valid([]byte(after[i].Content)) {
			return after[i].Content, true
		}
		quoted, err := json.Marshal(after[i].Content)
		return string(quoted), err == nil
	}
	return "", false
}

// parse reads one line. known is false for plain text.
func parse(line string) (t turn, known bool, err error) {
	if !strings.HasPrefix(line, "/") {
		return t, false, nil
	}
	word, rest := line[1:], ""
	if i := strings.IndexAny(word, " \t"); i >= 0 {
		word, rest = word[:i], word[i+1:]
	}
	t.kind, t.line = word, line
	arg := strings.TrimSpace(rest)
	switch word {
	case "say":
		t.text = rest
	case "tokens", "cut":
		t.n, err = strconv.ParseInt(arg, 10, 64)
		if err != nil || t.n < 0 || t.n > maxOutputTokens {
			err = misread(line, "a number from 0 to %d", maxOutputTokens)
		}
	case "wait":
		d, bad := time.ParseDuration(arg)
		if bad != nil || d < 0 || d > maxWait {
			return t, true, misread(line, "a duration such as 250ms or 5s, at most %s", maxWait)
		}
		t.waits = []time.Duration{d}
	case "error":
		t.code = fault.Code(arg)
		if !t.code.Known() || t.code == fault.StepLimit {
			err = misread(line, "an error code of the contract that a backend can answer; %q is none", arg)
		}
	case "call":
		tool, args, _ := strings.Cut(arg, " ")
		t.tool, t.args = tool, json.RawMessage(strings.TrimSpace(args))
		if len(t.args) == 0 {
			t.args = json.RawMessage("{}")
		}
		if tool == "" || !json.Valid(t.args) {
			err = misread(line, "a tool id and then JSON")
		}
	default:
		return turn{}, false, nil
	}
	return t, true, err
}

func misread(line, wants string, args ...any) error {
	if len(line) > 80 {
		line = strings.ToValidUTF8(line[:80], "") + "…"
	}
	return fault.Invalid("messages", "The builtin model can't read the directive %q: after its name comes %s.", line, fmt.Sprintf(wants, args...))
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *turn) act(ctx context.Context, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
	switch t.kind {
	case "call":
		return t.callTool(ctx, req, sink)
	case "tokens":
		return answer(ctx, wordsUpTo(t.n), req, sink)
	case "cut":
		broken := fault.New(fault.Unavailable, "The builtin model broke its answer off, as it was told to.").With("service", Name)
		if sink == nil || t.n == 0 {
			return nil, broken
		}
		resp, err := answer(ctx, wordsUpTo(t.n), req, sink)
		if err == nil {
			err = broken
		}
		return resp, err
	case "error":
		return nil, t.failure()
	}
	return answer(ctx, t.text, req, sink)
}

func (t *turn) failure() error {
	err := fault.New(t.code, "The builtin model fails, as it was told to (%s).", t.line)
	switch t.code {
	case fault.RateLimited:
		err.RetryAfter = time.Second
	case fault.Unavailable:
		return err.With("service", Name)
	case fault.InvalidRequest:
		return err.With("field", "messages")
	}
	return err
}

// crockford is the alphabet of ULIDs.
var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// wordsUpTo returns "w1 w2 … wn".
func wordsUpTo(n int64) string {
	b := make([]byte, 0, 7*n)
	for i := int64(1); i <= n; i++ {
		if i > 1 {
			b = append(b, ' ')
		}
		b = strconv.AppendInt(append(b, 'w'), i, 10)
	}
	return string(b)
}

func (t *turn) callTool(ctx context.Context, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
	if req.ToolChoice == "none" {
		return nil, fault.Invalid("tool_choice", "The directive %q asks for a tool, and tool_choice none forbids it.", t.line)
	}
	call := model.ToolCall{ID: t.callID(req), Arguments: t.args}
	call.ToolID, call.Name = t.offered(req)
	resp := &model.ChatResponse{Message: model.Message{Role: "assistant", ToolCalls: []model.ToolCall{call}}, FinishReason: "tool_calls"}
	resp.Usage = usage(req, &resp.Message)
	if sink == nil {
		return resp, nil
	}
	for _, d := range []model.ToolCallDelta{{ID: call.ID, Name: call.Name}, {Arguments: string(call.Arguments)}} {
		if err := deliver(ctx, sink, model.Delta{ToolCall: &d}); err != nil {
			return resp, err
		}
	}
	return resp, nil
}

// offered finds the offered tool that the directive means: by its id, its name, or the name that belongs to the id. One that
// isn't offered is asked for all the same, by the name given, so that the refusal of it can be seen.
func (t *turn) offered(req *model.ChatRequest) (toolID, name string) {
	derived := strings.ReplaceAll(strings.TrimPrefix(t.tool, "tool."), ".", "_")
	for _, match := range [...]func(*model.Tool) bool{
		func(o *model.Tool) bool { return o.ID == t.tool },
		func(o *model.Tool) bool { return o.Name == t.tool },
		func(o *model.Tool) bool { return strings.HasPrefix(t.tool, "tool.") && o.Name == derived },
	} {
		for i := range req.Tools {
			if match(&req.Tools[i]) {
				return req.Tools[i].ID, req.Tools[i].Name
			}
		}
	}
	return "", t.tool
}

// callID names the call: the same request under the same id always gets the same one.
func (t *turn) callID(req *model.ChatRequest) string {
	b := make([]byte, 0, 256)
	b = strconv.AppendInt(append(append(b, req.RequestID...), '\n'), int64(len(req.Messages)), 10)
	sum := sha256.Sum256(append(append(b, '\n'), t.line...))
	return string(id.ToolCall) + crockford.EncodeToString(sum[:])[:26]
}
