package policy

import (
	"strings"

	"github.com/nexixai/agentos/model"
)

// contextBytes is how much of the text to the left of what is undecided is kept, for detectors that look back.
const contextBytes = 8

// scanner takes one text through a ruleset, whole or piece by piece. It belongs to one goroutine.
type scanner struct {
	rules *compiled
	kinds kind // what is looked for
	path  string

	buf  string // what is undecided, after its context
	from int    // where in buf the undecided part begins
	base int    // where in the whole text buf begins
	edge int    // where in the whole text the last match ended
	open tail   // inside a match whose end has not come

	out        strings.Builder // what is decided and not yet taken
	copied     int             // where in buf the part begins that isn't in out yet
	redactions []model.Redaction
	denied     []string // names of the deny rules that matched
}

// push appends text to what is to be decided.
func (s *scanner) push(text string) {
	if keep := max(0, s.from-contextBytes); keep > 0 {
		s.buf, s.from, s.base, s.copied = s.buf[keep:], s.from-keep, s.base+keep, s.copied-keep
	}
	s.buf += text
}

// decide goes on as far as can be known. final says that nothing comes after.
func (s *scanner) decide(final bool) {
	w := window{buf: s.buf, final: final, edge: s.edge - s.base}
	if s.open != tailNone && !s.swallow(&w) {
		return
	}
	custom := s.rules.searcher(&w, s.base)
	i := s.from
	for i < len(w.buf) {
		kinds := starts[w.buf[i]] & s.kinds
		if kinds != 0 && alnum(w.buf[i]) && i > 0 && i != w.edge && alnum(w.buf[i-1]) {
			kinds = 0 // within a word nothing begins
		}
		if kinds == 0 && custom == nil {
			i++
			continue
		}
		name, v := at(&w, i, kinds, custom)
		if v.more {
			break
		}
		if v.n == 0 {
			i++
			continue
		}
		s.emitTo(i)
		s.replace(name, i, i+v.n, v.tail)
		i += v.n
		w.edge = i
		s.edge = s.base + i
		s.copied = i
		if v.tail != tailNone {
			break
		}
	}
	s.emitTo(i)
	s.from = i
}

// swallow goes on inside a long match and reports whether its end has come.
func (s *scanner) swallow(w *window) bool {
	end, open := s.open.end(w.buf, s.from, w.final)
	s.from, s.copied = end, end
	s.edge, w.edge = s.base+end, end
	s.redactions[len(s.redactions)-1].End = s.base + end
	if open {
		return false
	}
	s.open = tailNone
	return true
}

// at asks the detectors of kinds, in order, what begins at i.
func at(w *window, i int, kinds kind, custom *searcher) (string, verdict) {
	for k := range detectors {
		d := &detectors[k]
		if kinds&d.kind == 0 {
			continue
		}
		if v := d.at(w, i); v != none {
			return d.name, v
		}
	}
	if custom == nil {
		return "", none
	}
	return custom.at(i)
}

func (s *scanner) emitTo(i int) {
	if i > s.copied {
		s.out.WriteString(s.buf[s.copied:i])
		s.copied = i
	}
}

func (s *scanner) replace(name string, from, to int, t tail) {
	if rule, ok := strings.CutPrefix(name, denyPrefix); ok {
		s.denied = append(s.denied, rule)
		s.out.WriteString(s.buf[from:to])
		return
	}
	text := replacement(name)
	s.out.WriteString(text)
	s.redactions = append(s.redactions, model.Redaction{Type: name, Path: s.path, Start: s.base + from, End: s.base + to, Replacement: text})
	s.open = t
}

// take returns what is decided since the last call.
func (s *scanner) take() string {
	text := s.out.String()
	s.out.Reset()
	return text
}

func replacement(name string) string { return "[REDACTED:" + name + "]" }

// possible returns the types that text can hold at all, at the price of one look at each of its bytes.
func possible(text string) kind {
	seen := uint8(0)
	for i := 0; i < len(text); i++ {
		seen |= hint[text[i]]
	}
	k := kind(0)
	if seen&hDigit != 0 {
		k |= kIBAN | kCard | kSSN | kPhone | kIP
	}
	if seen&hAt != 0 {
		k |= kEmail
	}
	if seen&hColon != 0 {
		k |= kIP
	}
	if seen&hSecret != 0 {
		k |= kSecret
	}
	return k
}

// What a text must hold for there to be anything to find: a digit for numbers and IPv4, '@' for addresses, ':' for IPv6,
// and for secrets a byte that each of their shapes has.
const (
	hDigit uint8 = 1 << iota
	hAt
	hColon
	hSecret
)

var hint = func() (t [256]uint8) {
	for c := '0'; c <= '9'; c++ {
		t[c] = hDigit
	}
	t['@'], t[':'] = hAt, hColon
	t['-'], t['_'], t['.'], t['A'] = hSecret, hSecret, hSecret, hSecret
	return t
}()

// starts says what may begin with a byte.
var starts = func() (t [256]kind) {
	for c := range t {
		b := byte(c)
		if is(b, cLocal) || b >= 0xc3 && b <= 0xdf {
			t[c] |= kEmail
		}
		if is(b, cLetter) {
			t[c] |= kIBAN
		}
		if is(b, cDigit) {
			t[c] |= kSSN | kPhone
		}
		if '2' <= b && b <= '6' {
			t[c] |= kCard
		}
		if is(b, cHex) || b == ':' {
			t[c] |= kIP
		}
		if b == '+' || b == '(' {
			t[c] |= kPhone
		}
		if b == '-' || b == 'e' || len(shapesBy[b]) > 0 {
			t[c] |= kSecret
		}
	}
	return t
}()
