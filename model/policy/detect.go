package policy

import (
	"net/netip"
	"strings"
)

// The types of what is detected, as the contract names them.
const (
	Email  = "email"
	Phone  = "phone"
	Card   = "card"
	IBAN   = "iban"
	SSN    = "ssn"
	IP     = "ip"
	Secret = "secret"
)

// Types are all of them, in the order in which they are tried at one place.
var typesInOrder = [...]string{Secret, Email, IBAN, Card, SSN, IP, Phone}

// Types returns the types of data that the engine detects by itself.
func Types() []string { return append([]string(nil), typesInOrder[:]...) }

// kind is one bit for each type.
type kind uint8

const (
	kSecret kind = 1 << iota
	kEmail
	kIBAN
	kCard
	kSSN
	kIP
	kPhone
	kAll kind = 1<<iota - 1
)

// kinds in the order of typesInOrder.
var detectors = [...]struct {
	kind kind
	name string
	at   func(*window, int) verdict
}{
	{kSecret, Secret, (*window).secret},
	{kEmail, Email, (*window).email},
	{kIBAN, IBAN, (*window).iban},
	{kCard, Card, (*window).card},
	{kSSN, SSN, (*window).ssn},
	{kIP, IP, (*window).ip},
	{kPhone, Phone, (*window).phone},
}

// verdict is what a detector says of one place: the length of the match there (0: none), or that it needs to see more.
type verdict struct {
	n    int
	more bool
	// tail is set when the match goes on for as long as a class of bytes does (or up to a mark), so that its end may lie
	// beyond what can be seen.
	tail tail
}

var (
	none = verdict{}
	more = verdict{more: true}
)

// window is the part of a text that can be seen. buf[0] is where the text begins, or where the context left of it does.
type window struct {
	buf   string
	final bool // nothing comes after buf
	edge  int  // where the last match ended: what comes right after it stands on its own
}

// class bits of bytes.
const (
	cDigit uint8 = 1 << iota
	cLetter
	cHex
	cLocal // may be in the local part of an address
	cToken // letters, digits, '-', '_'
	cLabel // letters, digits, '-', '.'
)

var class = func() (t [256]uint8) {
	for c := range t {
		b := byte(c)
		digit := '0' <= b && b <= '9'
		letter := 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
		if digit {
			t[c] |= cDigit
		}
		if letter {
			t[c] |= cLetter
		}
		if digit || 'a' <= b && b <= 'f' || 'A' <= b && b <= 'F' {
			t[c] |= cHex
		}
		if digit || letter || strings.IndexByte("._%+-", b) >= 0 {
			t[c] |= cLocal
		}
		if digit || letter || b == '-' || b == '_' {
			t[c] |= cToken
		}
		if digit || letter || b == '-' || b == '.' {
			t[c] |= cLabel
		}
	}
	return t
}()

func is(c byte, bits uint8) bool { return class[c]&bits != 0 }

func alnum(c byte) bool { return is(c, cDigit|cLetter) }

// after reports whether the byte before i is of one of bits.
func (w *window) after(i int, bits uint8) bool { return i > 0 && is(w.buf[i-1], bits) }

// ended says what an end of the window means for a match that hasn't been decided.
func (w *window) ended() verdict {
	if w.final {
		return none
	}
	return more
}

const (
	maxLocal  = 256
	maxDomain = 253
)

// local returns the length of the character of a local part at i; 0 when there is none. Two-byte characters count as
// letters: Latin, Greek, Cyrillic, Hebrew, Arabic.
func (w *window) local(i int) (n int, unsure bool) {
	c := w.buf[i]
	if is(c, cLocal) {
		return 1, false
	}
	if c < 0xc3 || c > 0xdf {
		return 0, false
	}
	if i+1 == len(w.buf) {
		return 0, !w.final
	}
	if w.buf[i+1]&0xc0 == 0x80 {
		return 2, false
	}
	return 0, false
}

// afterLocal reports whether the character before i may be in a local part, so that an address began earlier.
func (w *window) afterLocal(i int) bool {
	if i == 0 || i == w.edge {
		return false
	}
	if is(w.buf[i-1], cLocal) {
		return true
	}
	return i >= 2 && w.buf[i-1]&0xc0 == 0x80 && w.buf[i-2] >= 0xc3 && w.buf[i-2] <= 0xdf
}

// email finds an address: a local part, '@', and a domain of two labels or more that ends in letters.
func (w *window) email(i int) verdict {
	if w.afterLocal(i) {
		return none
	}
	j := i
	for {
		if j == len(w.buf) {
			return w.ended()
		}
		n, unsure := w.local(j)
		if unsure {
			return more
		}
		if n == 0 {
			break
		}
		if j += n; j-i > maxLocal {
			return none
		}
	}
	if j == i || w.buf[j] != '@' {
		return none
	}
	end, unsure := w.domain(j + 1)
	if unsure {
		return more
	}
	if end == 0 {
		return none
	}
	return verdict{n: end - i}
}

// domain returns where the domain that begins at i ends, 0 when there is none.
func (w *window) domain(i int) (end int, unsure bool) {
	j := i
	for ; j < len(w.buf) && j-i < maxDomain; j++ {
		if c := w.buf[j]; is(c, cLabel) {
			continue
		} else if c < 0xc3 || c > 0xdf {
			break
		}
		if j+1 == len(w.buf) {
			break // half a character
		}
		if w.buf[j+1]&0xc0 != 0x80 {
			break
		}
		j++
	}
	if !w.final && (j == len(w.buf) || j == len(w.buf)-1 && w.buf[j] >= 0xc3 && w.buf[j] <= 0xdf) && j-i < maxDomain {
		return 0, true
	}
	text := w.buf[i:min(j, len(w.buf))]
	dots, from := 0, 0
	for from < len(text) {
		label, rest, more := strings.Cut(text[from:], ".")
		if label == "" {
			break
		}
		if dots > 0 && topLevel(label) {
			end = i + from + len(strings.TrimRight(label, "-"))
		}
		if !more {
			break
		}
		dots++
		from = len(text) - len(rest)
	}
	return end, false
}

// topLevel reports whether label may be the last of a domain: two bytes or more, beginning with a letter.
func topLevel(label string) bool {
	return len(strings.TrimRight(label, "-")) >= 2 && (is(label[0], cLetter) || label[0] >= 0x80)
}

// ip finds IPv4 and IPv6 addresses.
func (w *window) ip(i int) verdict {
	if w.after(i, cHex|cLetter) || i > 0 && w.buf[i-1] == '_' {
		return none
	}
	c := w.buf[i]
	if is(c, cDigit) {
		if v := w.ipv4(i); v != none {
			return v
		}
	}
	if is(c, cHex) || c == ':' {
		return w.ipv6(i)
	}
	return none
}

func (w *window) ipv4(i int) verdict {
	if i >= 2 && w.buf[i-1] == '.' && is(w.buf[i-2], cDigit) {
		return none // in the middle of a longer dotted number
	}
	j := i
	for part := range 4 {
		n, value := 0, 0
		for ; j < len(w.buf) && is(w.buf[j], cDigit); j++ {
			value = value*10 + int(w.buf[j]-'0')
			if n++; n > 3 || value > 255 {
				return none
			}
		}
		if j == len(w.buf) && (!w.final || n == 0) {
			return w.ended()
		}
		if n == 0 {
			return none
		}
		if part == 3 {
			break
		}
		if j == len(w.buf) || w.buf[j] != '.' {
			return none
		}
		j++
	}
	// "1.2.3.4" ends here unless a letter follows, or a dot and another number do.
	if j < len(w.buf) {
		if alnum(w.buf[j]) {
			return none
		}
		if w.buf[j] == '.' {
			if j+1 == len(w.buf) && !w.final {
				return more
			}
			if j+1 < len(w.buf) && is(w.buf[j+1], cDigit) {
				return none
			}
		}
	}
	return verdict{n: j - i}
}

const maxIPv6 = 45

func (w *window) ipv6(i int) verdict {
	if w.after(i, cHex) || i > 0 && w.buf[i-1] == ':' {
		return none
	}
	j, colons := i, 0
	for ; j < len(w.buf) && j-i <= maxIPv6; j++ {
		c := w.buf[j]
		if c == ':' {
			colons++
		} else if !is(c, cHex) && c != '.' {
			break
		}
		if colons == 0 && j-i >= 4 {
			return none // the first group has four digits at most
		}
	}
	if j-i > maxIPv6 {
		return none
	}
	if j == len(w.buf) && !w.final {
		return more
	}
	if colons < 2 || j < len(w.buf) && (is(w.buf[j], cLetter) || w.buf[j] == '_') {
		return none
	}
	for text := w.buf[i:j]; len(text) > 2; text = text[:len(text)-1] {
		if a, err := netip.ParseAddr(text); err == nil && a.Is6() {
			return verdict{n: len(text)}
		}
		if last := text[len(text)-1]; last != '.' && last != ':' {
			break
		}
	}
	return none
}
