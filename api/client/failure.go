package client

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nexixai/agentos/internal/fault"
)

// Error is what a node refused; Code says which kind of refusal it is. They are the house's own, by a name that programs
// outside this module can use.
type (
	Error = fault.Error
	Code  = fault.Code
)

// Is reports whether err is a refusal with this code, such as "not_found".
func Is(err error, code Code) bool { return fault.Is(err, code) }

// maxFailure bounds what is read of an answer that refuses, in bytes.
const maxFailure = 1 << 20

// byStatus is the code of an answer that has none of its own: whoever stands between the node and here has given it.
var byStatus = map[int]fault.Code{
	401: fault.Unauthorized, 403: fault.Forbidden, 404: fault.NotFound, 405: fault.MethodNotAllowed, 409: fault.Conflict,
	413: fault.PayloadTooLarge, 415: fault.UnsupportedMediaType, 429: fault.RateLimited, 502: fault.Unavailable,
	503: fault.Unavailable, 504: fault.Timeout, 508: fault.LoopDetected,
}

// failure rebuilds the error that an answer tells. It never returns nil.
func failure(a *Answer) *fault.Error {
	f := decodeError(a.Body)
	if f == nil {
		code, ok := byStatus[a.Status]
		switch {
		case ok:
		case a.Status >= 500:
			code = fault.Internal
		default:
			code = fault.InvalidRequest
		}
		f = fault.New(code, "What answered is perhaps no node: %d %s", a.Status, http.StatusText(a.Status))
		if text := excerpt(a.Body); text != "" {
			f.Message += ": " + text
		}
	}
	if f.CorrelationID == "" {
		f.CorrelationID = a.CorrelationID()
	}
	f.RetryAfter = retryAfter(a.Header.Get("Retry-After"))
	return f
}

// decodeError reads an error object, or returns nil when b holds none.
func decodeError(b []byte) *fault.Error {
	var body struct {
		Error *struct {
			Code    string         `json:"code"`
			Message string         `json:"message"`
			Details map[string]any `json:"details"`
		} `json:"error"`
		CorrelationID string `json:"correlation_id"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // numbers stay as they were told
	if d.Decode(&body) != nil || body.Error == nil || !codeLike(body.Error.Code) {
		return nil
	}
	f := &fault.Error{Code: fault.Code(body.Error.Code), Message: body.Error.Message, CorrelationID: body.CorrelationID}
	if len(body.Error.Details) > 0 {
		f.Details = body.Error.Details
	}
	return f
}

// codeLike reports whether s can be a code. One that isn't known here may come from a newer node and is kept.
func codeLike(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if c != '_' && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// longestWait bounds what is believed of a Retry-After. A budget's window may be as long as a month.
const longestWait = 366 * 24 * time.Hour

// retryAfter reads seconds or a date (RFC 9110, section 10.2.3); 0 for what is neither.
func retryAfter(v string) time.Duration {
	if v == "" {
		return 0
	}
	var d time.Duration
	if seconds, err := strconv.ParseUint(v, 10, 32); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		d = time.Until(at)
	}
	return min(max(d, 0), longestWait)
}

// excerpt is the beginning of a body that is no answer of a node's, fit for one line.
func excerpt(b []byte) string {
	const most = 200
	if !utf8.Valid(b[:min(len(b), most)]) && !utf8.Valid(b) {
		return ""
	}
	text := strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, string(b[:min(len(b), 4*most)]))), " ")
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return text
}
