package memory

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxEmbedded bounds the text of one value that is embedded, in bytes.
const maxEmbedded = 32 << 10

// leaves calls visit with the text of each string and number in compact JSON, but not with the names of members. It stops
// when visit returns false.
func leaves(value []byte, visit func(text []byte) bool) {
	for i := 0; i < len(value); {
		switch c := value[i]; {
		case c == '"':
			end, plain := i+1, true
			for end < len(value) && value[end] != '"' {
				if value[end] == '\\' {
					plain = false
					end++
				}
				end++
			}
			if end >= len(value) {
				return
			}
			quoted := value[i : end+1]
			i = end + 1
			if i < len(value) && value[i] == ':' {
				continue
			}
			text := quoted[1 : len(quoted)-1]
			if !plain {
				var s string
				if json.Unmarshal(quoted, &s) != nil {
					continue
				}
				text = []byte(s)
			}
			if !visit(text) {
				return
			}
		case c == '-' || '0' <= c && c <= '9':
			end := i + bytes.IndexFunc(value[i:], func(r rune) bool { return !strings.ContainsRune("+-.eE0123456789", r) })
			if end < i {
				end = len(value)
			}
			if !visit(value[i:end]) {
				return
			}
			i = end
		default:
			i++
		}
	}
}

// textOf joins the texts of a value, up to limit bytes.
func textOf(value []byte, limit int) string {
	var b strings.Builder
	leaves(value, func(text []byte) bool {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if room := limit - b.Len(); len(text) > room {
			for room > 0 && !utf8.RuneStart(text[room]) {
				room--
			}
			b.Write(text[:max(room, 0)])
			return false
		}
		b.Write(text)
		return true
	})
	return strings.TrimSpace(b.String())
}

// words calls visit with each word of text in lower case: a run of letters, marks and digits, or one character of a script
// that is written without spaces. The word is valid during the call only.
func words(text, buf []byte, visit func(word []byte)) []byte {
	word := buf[:0]
	flush := func() {
		if len(word) > 0 {
			visit(word)
			word = word[:0]
		}
	}
	for i := 0; i < len(text); {
		if c := text[i]; c < utf8.RuneSelf {
			switch {
			case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
				word = append(word, c)
			case 'A' <= c && c <= 'Z':
				word = append(word, c+'a'-'A')
			default:
				flush()
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		i += n
		switch {
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai):
			flush()
			word = utf8.AppendRune(word, r)
			flush()
		case unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r):
			word = utf8.AppendRune(word, unicode.ToLower(r))
		default:
			flush()
		}
	}
	flush()
	return word
}
