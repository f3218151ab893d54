package policy

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// maxDepth bounds the nesting that is walked; what lies deeper is taken as plain text.
const maxDepth = 128

// json returns raw with its strings, names and numbers replaced where they have to be. It looks at what the strings mean,
// not at how they're written: an escape hides nothing. What isn't JSON is taken as text. The bytes of raw are untouched,
// and returned as they are when nothing is replaced.
func (p *pass) json(raw json.RawMessage, path func() string) json.RawMessage {
	if len(raw) == 0 {
		return raw
	}
	text := string(raw)
	if len(p.rules.custom) == 0 && strings.IndexByte(text, '\\') < 0 {
		// Without escapes its strings stand in it as they are, between marks that are part of nothing. So where nothing is
		// found in all of it, nothing is in them.
		kinds := p.rules.kinds & possible(text)
		if kinds == 0 {
			return raw
		}
		scan := scanner{rules: p.rules, kinds: kinds, buf: text}
		if scan.decide(true); len(scan.redactions) == 0 {
			return raw
		}
	}
	if !json.Valid(raw) {
		if got := p.text(text, path); got != text {
			return json.RawMessage(got)
		}
		return raw
	}
	w := jsonWalk{pass: p, in: text, root: path}
	w.value(nil)
	if !w.changed {
		return raw
	}
	w.out.WriteString(w.in[w.copied:])
	return w.out.Bytes()
}

// jsonWalk goes once through valid JSON and copies it, except for what is replaced.
type jsonWalk struct {
	pass    *pass
	in      string
	i       int
	copied  int
	out     bytes.Buffer
	changed bool
	root    func() string
}

// step is one member or element on the way to a value.
type step struct {
	up    *step
	name  string
	index int
	depth int
}

func (s *step) level() int {
	if s == nil {
		return 0
	}
	return s.depth
}

func (s *step) path(root string) string {
	if s == nil {
		return root
	}
	if s.index >= 0 {
		return s.up.path(root) + "[" + strconv.Itoa(s.index) + "]"
	}
	return s.up.path(root) + "." + s.name
}

func (w *jsonWalk) space() {
	for w.i < len(w.in) && (w.in[w.i] == ' ' || w.in[w.i] == '\n' || w.in[w.i] == '\t' || w.in[w.i] == '\r') {
		w.i++
	}
}

func (w *jsonWalk) value(at *step) {
	w.space()
	if at.level() > maxDepth {
		w.deep(at)
		return
	}
	switch w.in[w.i] {
	case '{':
		w.members(at)
	case '[':
		w.elements(at)
	case '"':
		w.text(at)
	default:
		from := w.i
		for w.i < len(w.in) && !strings.ContainsRune(",]} \n\t\r", rune(w.in[w.i])) {
			w.i++
		}
		if token := w.in[from:w.i]; token != "true" && token != "false" && token != "null" {
			w.check(token, from, at)
		}
	}
}

func (w *jsonWalk) members(at *step) {
	w.i++
	here := &step{up: at, index: -1, depth: at.level() + 1}
	for w.space(); w.in[w.i] != '}'; w.space() {
		if w.in[w.i] == ',' {
			w.i++
			w.space()
		}
		here.name = w.text(at)
		w.space()
		w.i++ // the colon
		w.value(here)
	}
	w.i++
}

func (w *jsonWalk) elements(at *step) {
	w.i++
	here := &step{up: at, index: 0, depth: at.level() + 1}
	for w.space(); w.in[w.i] != ']'; w.space() {
		if w.in[w.i] == ',' {
			w.i++
			here.index++
		}
		w.value(here)
	}
	w.i++
}

// text takes the string at w.i and returns what it means.
func (w *jsonWalk) text(at *step) string {
	from := w.i
	for w.i++; w.in[w.i] != '"'; w.i++ {
		if w.in[w.i] == '\\' {
			w.i++
		}
	}
	w.i++
	literal := w.in[from:w.i]
	means := literal[1 : len(literal)-1]
	if strings.IndexByte(means, '\\') >= 0 {
		_ = json.Unmarshal([]byte(literal), &means) // it is valid
	}
	w.check(means, from, at)
	return means
}

// check replaces the value from `from` to w.i, whose text is means, by a string if it has to be.
func (w *jsonWalk) check(means string, from int, at *step) {
	got := w.pass.text(means, func() string { return at.path(w.root()) })
	if got == means {
		return
	}
	w.out.WriteString(w.in[w.copied:from])
	w.out.Write(quote(got))
	w.copied, w.changed = w.i, true
}

// deep takes a value that lies too deep as one text.
func (w *jsonWalk) deep(at *step) {
	from := w.i
	dec := json.NewDecoder(strings.NewReader(w.in[from:]))
	var raw json.RawMessage
	_ = dec.Decode(&raw) // it is valid
	w.i = from + int(dec.InputOffset())
	w.check(w.in[from:w.i], from, at)
}

func quote(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always can be
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
