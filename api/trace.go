package api

import (
	"crypto/rand"
	"encoding/hex"
)

// nextTraceparent keeps the trace of a valid traceparent and mints a span of our own; an invalid one is replaced (W3C
// Trace Context, section 3.2).
func nextTraceparent(in string) string {
	var span [8]byte
	_, _ = rand.Read(span[:])
	span[0] |= 1 // never all zero
	if validTraceparent(in) {
		return in[:36] + hex.EncodeToString(span[:]) + in[52:55]
	}
	var trace [16]byte
	_, _ = rand.Read(trace[:])
	trace[0] |= 1
	return "00-" + hex.EncodeToString(trace[:]) + "-" + hex.EncodeToString(span[:]) + "-01"
}

func validTraceparent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	return hexSpan(s[3:35], true) && hexSpan(s[36:52], true) && hexSpan(s[53:55], false)
}

// hexSpan reports whether s is lower-case hex, and, when nonZero, not all zero.
func hexSpan(s string, nonZero bool) bool {
	zero := true
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
		zero = zero && c == '0'
	}
	return !(nonZero && zero)
}

// wellFormed reports whether a correlation id may be kept: 1 to 128 visible ASCII characters that need no escape.
func wellFormed(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' {
			return false
		}
	}
	return true
}
