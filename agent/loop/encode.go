package loop

import (
	"encoding/json"
	"strconv"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

const hexDigits = "0123456789abcdef"

func appendKey(b []byte, key string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, key...)
	return append(b, '"', ':')
}

func appendField(b []byte, key, value string) []byte {
	return event.AppendString(appendKey(b, key), value)
}

func appendInt(b []byte, key string, n int64) []byte {
	return strconv.AppendInt(appendKey(b, key), n, 10)
}

func appendBool(b []byte, key string, v bool) []byte {
	return strconv.AppendBool(appendKey(b, key), v)
}

// appendUSD appends nano-dollars as dollars, exactly, with as many decimals as it takes.
func appendUSD(b []byte, key string, nusd int64) []byte {
	b = strconv.AppendInt(appendKey(b, key), nusd/1e9, 10)
	rest := nusd % 1e9
	if rest == 0 {
		return b
	}
	b = append(b, '.')
	for unit := int64(1e8); rest > 0; unit /= 10 {
		b = append(b, byte('0'+rest/unit))
		rest %= unit
	}
	return b
}

// appendRaw appends a member that is JSON already; nil is null.
func appendRaw(b []byte, key string, raw json.RawMessage) []byte {
	b = appendKey(b, key)
	if len(raw) == 0 {
		return append(b, "null"...)
	}
	return append(b, raw...)
}

// Bounds of what stands in an event beside the output, in bytes of JSON for each member: an event takes an output of
// MaxOutput and 4 KiB around it.
const (
	maxAside = 1 << 10 // of what stands instead of an output
	maxList  = 512
)

// appendAny appends a member of some rare shape by way of encoding/json; what JSON can't say, or what is longer than
// maxAside, becomes instead.
func appendAny(b []byte, key string, v any, instead string) []byte {
	raw, err := json.Marshal(v)
	if err != nil || len(raw) > maxAside {
		raw = json.RawMessage(instead)
	}
	return appendRaw(b, key, raw)
}

// appendSome appends as many elements of a list as take at most limit bytes.
func appendSome[T any](b []byte, key string, list []T, limit int) []byte {
	b = append(appendKey(b, key), '[')
	start := len(b)
	for i := range list {
		raw, err := json.Marshal(&list[i])
		if err != nil || len(b)-start+len(raw) >= limit {
			break
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(b, raw...)
	}
	return append(b, ']')
}

func appendFailure(b []byte, key string, f *Failure) []byte {
	b = appendKey(b, key)
	if f == nil {
		return append(b, "null"...)
	}
	b = append(b, '{')
	b = appendField(b, "code", string(f.Code))
	message, _ := tool.CutText(f.Message, maxAside)
	b = appendField(b, "message", message)
	b = appendBool(b, "retryable", f.Retryable)
	if len(f.Details) == 0 {
		b = append(appendKey(b, "details"), '{', '}')
	} else {
		b = appendAny(b, "details", f.Details, "{}")
	}
	return append(b, '}')
}

func appendOutcome(b []byte, o *model.PolicyOutcome) []byte {
	b = appendKey(b, "policy_outcome")
	if o.Decision == "" {
		return append(b, "null"...)
	}
	b = append(b, '{')
	b = appendField(b, "decision", o.Decision)
	b = appendSome(b, "reasons", o.Reasons, maxList)
	b = appendSome(b, "redactions", o.Redactions, 3*maxList)
	return append(b, '}')
}

func appendRoute(b []byte, r *model.RouteTaken) []byte {
	b = appendKey(b, "route")
	if r.Backend == "" && len(r.Attempts) == 0 {
		return append(b, "null"...)
	}
	b = append(b, '{')
	b = appendField(b, "backend", r.Backend)
	b = appendField(b, "model", r.Model)
	b = appendField(b, "node", r.Node)
	b = appendBool(b, "fallback_used", r.FallbackUsed)
	if len(r.Attempts) > 0 {
		b = appendSome(b, "attempts", r.Attempts, maxList)
	}
	return append(b, '}')
}

// Failure is an error as a journal holds it.
type Failure struct {
	Code      fault.Code     `json:"code"`
	Message   string         `json:"message"`
	Retryable bool           `json:"retryable"`
	Details   map[string]any `json:"details"`
}

// unexpected is what tenants are told of a failure that has no better code.
const unexpected = "The node failed in a way it did not expect; try again, and give the correlation id to the operator if it stays."

// failureOf is err as tenants may see it.
func failureOf(err error) *Failure {
	e := fault.Of(err)
	if e.Code == fault.Internal {
		return &Failure{Code: e.Code, Message: unexpected, Retryable: true} // its own text is for logs
	}
	return &Failure{Code: e.Code, Message: e.Message, Retryable: e.Code.Retryable(), Details: e.Details}
}
