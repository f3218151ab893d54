package tool

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/nexixai/agentos/agent/event"
)

// MaxOutput is the most that a tool's output takes, in bytes of JSON; what is longer is cut.
const MaxOutput = 256 << 10

// encodedLen is how many bytes event.AppendString writes for the head of s, and how many of s that head is.
func encodedLen(s string) (encoded, size int) {
	c := s[0]
	switch {
	case c >= utf8.RuneSelf:
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 {
			return 6, 1
		}
		return size, size
	case c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t':
		return 2, 1
	case c < ' ':
		return 6, 1
	}
	return 1, 1
}

// CutText returns the longest head of s that takes at most limit bytes as a JSON string, and whether that is less than s.
func CutText(s string, limit int) (string, bool) {
	if 6*len(s)+2 <= limit {
		return s, false
	}
	total := 2
	for i := 0; i < len(s); {
		encoded, size := encodedLen(s[i:])
		if total += encoded; total > limit {
			return s[:i], true
		}
		i += size
	}
	return s, false
}

// EncodedLen is how many bytes s takes as a JSON string.
func EncodedLen(s string) int {
	total := 2
	for i := 0; i < len(s); {
		encoded, size := encodedLen(s[i:])
		total += encoded
		i += size
	}
	return total
}

// maxNesting bounds how deep a tool's output or input may be nested: what goes into a journal, around which there is an
// event, has to pass the doors of other clusters, which take a depth of 64.
const maxNesting = 48

// Line brings valid JSON into the form a journal takes: one line, in UTF-8. It reports false when raw is nested too deep.
func Line(raw json.RawMessage) (json.RawMessage, bool) {
	if bytes.ContainsAny(raw, "\r\n") {
		var line bytes.Buffer
		line.Grow(len(raw))
		if json.Compact(&line, raw) == nil {
			raw = line.Bytes()
		}
	}
	if !utf8.Valid(raw) { // encoding/json takes any byte within a string for valid
		raw = bytes.ToValidUTF8(raw, []byte("\ufffd"))
	}
	return raw, nesting(raw) <= maxNesting
}

// nesting is how deep the objects and arrays of valid JSON are nested.
func nesting(raw []byte) int {
	depth, most, quoted := 0, 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			most = max(most, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return most
}

// Cut returns raw as a journal takes it when that's at most MaxOutput bytes; else the head of its text, as a JSON string,
// and true. What is nested too deep becomes a string, too. raw must be valid JSON.
func Cut(raw json.RawMessage) (json.RawMessage, bool) {
	raw, shallow := Line(raw)
	if len(raw) <= MaxOutput && shallow {
		return raw, false
	}
	head, cut := CutText(string(raw), MaxOutput)
	return event.AppendString(nil, head), cut
}
