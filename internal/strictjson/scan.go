package strictjson

import (
	"bytes"
	"encoding/json"
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/nexixai/agentos/internal/fault"
)

// few is how many members an object may have before its names are looked up by hash.
const few = 16

var (
	scanners = sync.Pool{New: func() any { return new(scanner) }}
	seed     = maphash.MakeSeed()
)

type span struct{ from, to int }

// step is one level of the path to where the scan is: a member's name, or an index.
type step struct {
	name  []byte
	index int
}

// scanner walks a text once. Its slices are stacks: each object puts its names on top and takes them off at its end.
type scanner struct {
	b       []byte
	i       int
	members int
	names   [][]byte
	path    []step
	twins   []span
	visit   func(name, raw []byte)
}

// release gives s back, unless it has grown large.
func (s *scanner) release() {
	if cap(s.names) > 1024 || cap(s.twins) > 1024 {
		return
	}
	clear(s.names[:cap(s.names)])
	clear(s.path[:cap(s.path)])
	*s = scanner{names: s.names[:0], path: s.path[:0], twins: s.twins[:0]}
	scanners.Put(s)
}

// fail refuses the text at the place where the scan is.
func (s *scanner) fail(format string, args ...any) error {
	return fault.Invalid(s.place(), format, args...)
}

func (s *scanner) broken() error {
	return s.fail("The body isn't JSON: it breaks at byte %d.", s.i)
}

// place is the path as people write it: a.b[2].c
func (s *scanner) place() string {
	if len(s.path) == 0 {
		return whole
	}
	var b strings.Builder
	for _, p := range s.path {
		if p.name == nil {
			b.WriteString("[" + strconv.Itoa(p.index) + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		name := p.name
		if len(name) > 64 {
			name = name[:64]
		}
		b.WriteString(strings.ToValidUTF8(string(name), "\uFFFD"))
	}
	return b.String()
}

// scan checks the whole text.
func (s *scanner) scan(target *shape) error {
	if !utf8.Valid(s.b) {
		return s.fail("The body isn't UTF-8.")
	}
	s.space()
	if s.i == len(s.b) {
		return s.fail("The body is empty; send a JSON object.")
	}
	if err := s.value(target, 1); err != nil {
		return err
	}
	s.space()
	if s.i != len(s.b) {
		s.path = s.path[:0]
		return s.fail("The body goes on after the JSON value, at byte %d.", s.i)
	}
	return nil
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek is the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// value passes over one value. depth is how deep an object or array would lie if it begins here.
func (s *scanner) value(t *shape, depth int) error {
	if t != nil && t.time {
		return s.time()
	}
	switch c := s.peek(); c {
	case '{', '[':
		if depth > MaxDepth {
			s.path = s.path[:0]
			return s.fail("The body is nested more than %d deep.", MaxDepth)
		}
		if c == '{' {
			return s.object(t, depth)
		}
		return s.array(t, depth)
	case '"':
		_, _, err := s.text()
		return err
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

// time passes over a time, or null.
func (s *scanner) time() error {
	if s.peek() == 'n' {
		return s.word("null")
	}
	wrong := s.fail("Here a time is needed, such as 2006-01-02T15:04:05Z.")
	if s.peek() != '"' {
		return wrong
	}
	from := s.i
	if _, _, err := s.text(); err != nil {
		return err
	}
	if json.Unmarshal(s.b[from:s.i], new(time.Time)) != nil {
		return wrong
	}
	return nil
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.b[s.i:], []byte(w)) {
		return s.broken()
	}
	s.i += len(w)
	return nil
}

// number passes over a number (RFC 8259, section 6).
func (s *scanner) number() error {
	if s.peek() == '-' {
		s.i++
	}
	if s.peek() == '0' {
		s.i++
	} else if !s.digits() {
		return s.broken()
	}
	if s.peek() == '.' {
		s.i++
		if !s.digits() {
			return s.broken()
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		if !s.digits() {
			return s.broken()
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	from := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' < 10 {
		s.i++
	}
	return s.i > from
}

// text passes over a string and returns what stands between its quotes. escaped tells whether that has to be unescaped.
func (s *scanner) text() (inside []byte, escaped bool, err error) {
	s.i++
	from := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			inside = s.b[from:s.i]
			s.i++
			return inside, escaped, nil
		case c < ' ':
			return nil, false, s.broken()
		case c != '\\':
			s.i++
		default:
			escaped = true
			if !s.escape() {
				return nil, false, s.broken()
			}
		}
	}
	return nil, false, s.broken()
}

func (s *scanner) escape() bool {
	s.i++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i++
		return true
	case 'u':
		for range 4 {
			s.i++
			if c := s.peek(); c-'0' > 9 && (c|0x20)-'a' > 5 {
				return false
			}
		}
		s.i++
		return true
	}
	return false
}

func (s *scanner) array(t *shape, depth int) error {
	s.i++
	s.space()
	if s.peek() == ']' {
		s.i++
		return nil
	}
	at := len(s.path)
	s.path = append(s.path, step{})
	for n := 0; ; n++ {
		s.path[at].index = n
		if t != nil { // each item becomes a Go value, a hundred times the size of its text for an empty object
			if err := s.count(); err != nil {
				return err
			}
		}
		s.space()
		if err := s.value(t.item(), depth+1); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
		case ']':
			s.i++
			s.path = s.path[:at]
			return nil
		default:
			return s.broken()
		}
	}
}

func (s *scanner) object(t *shape, depth int) error {
	s.i++
	s.space()
	if s.peek() == '}' {
		s.i++
		return nil
	}
	at, first := len(s.path), len(s.names)
	var seen map[uint64]struct{}
	for {
		s.path = s.path[:at]
		s.space()
		if s.peek() != '"' {
			return s.broken()
		}
		from := s.i + 1
		name, err := s.name()
		if err != nil {
			return err
		}
		to := s.i - 1
		s.path = append(s.path, step{name: name})
		if seen, err = s.once(name, first, seen); err != nil {
			return err
		}
		s.space()
		if s.peek() != ':' {
			return s.broken()
		}
		s.i++
		s.space()
		field, twin := t.field(name)
		if twin {
			s.twins = append(s.twins, span{from, to})
		}
		begin := s.i
		if err := s.value(field, depth+1); err != nil {
			return err
		}
		if depth == 1 && s.visit != nil {
			s.visit(name, s.b[begin:s.i])
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
		case '}':
			s.i++
			s.path, s.names = s.path[:at], s.names[:first]
			return nil
		default:
			return s.broken()
		}
	}
}

// name passes over a member's name and returns it unescaped, never nil.
func (s *scanner) name() ([]byte, error) {
	raw, escaped, err := s.text()
	if err != nil {
		return nil, err
	}
	if !escaped {
		return raw[:len(raw):len(raw)], nil
	}
	var name string
	if err := json.Unmarshal(s.b[s.i-len(raw)-2:s.i], &name); err != nil {
		return nil, s.broken()
	}
	if strings.ContainsRune(name, utf8.RuneError) { // half a surrogate pair: names that differ would become one
		return nil, s.fail("A name in the body holds a character that is none.")
	}
	return append(make([]byte, 0, len(name)), name...), nil
}

// count takes one of MaxMembers.
func (s *scanner) count() error {
	if s.members++; s.members > MaxMembers {
		s.path = s.path[:0]
		return s.fail("The body has more than %d members.", MaxMembers)
	}
	return nil
}

// once notes a name of the object whose names begin at first, and refuses it when it has stood there before.
func (s *scanner) once(name []byte, first int, seen map[uint64]struct{}) (map[uint64]struct{}, error) {
	if err := s.count(); err != nil {
		return seen, err
	}
	known := s.names[first:]
	twice := false
	switch {
	case len(known) < few:
		twice = holds(known, name)
	case seen == nil:
		seen = make(map[uint64]struct{}, 4*few)
		for _, k := range known {
			seen[maphash.Bytes(seed, k)] = struct{}{}
		}
		fallthrough
	default:
		h := maphash.Bytes(seed, name)
		if _, hit := seen[h]; hit {
			twice = holds(known, name)
		}
		seen[h] = struct{}{}
	}
	if twice {
		return seen, s.fail("This name stands twice in one object.")
	}
	s.names = append(s.names, name)
	return seen, nil
}

func holds(names [][]byte, name []byte) bool {
	for _, k := range names {
		if bytes.Equal(k, name) {
			return true
		}
	}
	return false
}
