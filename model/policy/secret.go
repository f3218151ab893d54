package policy

import "strings"

// tail says how a match of no fixed length goes on.
type tail uint8

const (
	tailNone  tail = iota
	tailToken      // letters, digits, '-' and '_'
	tailJWT        // the same and '.', but not at the end
	tailPEM        // up to the END line of a private key
)

// secret finds credentials by their shapes.
func (w *window) secret(i int) verdict {
	if w.after(i, cDigit|cLetter) {
		return none
	}
	switch w.buf[i] {
	case '-':
		return w.pem(i)
	case 'e':
		if v := w.jwt(i); v != none {
			return v
		}
	}
	list := shapesBy[w.buf[i]]
	for k := range list {
		if v := w.shaped(i, &list[k]); v != none {
			return v
		}
	}
	return none
}

// shape is a prefix, and then at least `least` bytes of letters, digits, '-' and '_'.
type shape struct {
	prefix string
	least  int
	// exact: just so many capitals and digits follow.
	exact bool
}

var shapes = [...]shape{
	{prefix: "aos_", least: 16},
	{prefix: "sk-", least: 16},
	{prefix: "sk_live_", least: 10},
	{prefix: "sk_test_", least: 10},
	{prefix: "rk_live_", least: 10},
	{prefix: "rk_test_", least: 10},
	{prefix: "AKIA", least: 16, exact: true},
	{prefix: "ASIA", least: 16, exact: true},
	{prefix: "ghp_", least: 20},
	{prefix: "gho_", least: 20},
	{prefix: "ghu_", least: 20},
	{prefix: "ghs_", least: 20},
	{prefix: "ghr_", least: 20},
	{prefix: "github_pat_", least: 22},
	{prefix: "glpat-", least: 20},
	{prefix: "xoxa-", least: 10},
	{prefix: "xoxb-", least: 10},
	{prefix: "xoxp-", least: 10},
	{prefix: "xoxr-", least: 10},
	{prefix: "xoxs-", least: 10},
	{prefix: "AIza", least: 35},
	{prefix: "npm_", least: 30},
	{prefix: "hf_", least: 30},
}

// shapesBy has the shapes by their first byte.
var shapesBy = func() (t [256][]shape) {
	for _, s := range shapes {
		t[s.prefix[0]] = append(t[s.prefix[0]], s)
	}
	return t
}()

func (w *window) shaped(i int, s *shape) verdict {
	rest := w.buf[i:]
	if len(rest) < len(s.prefix) {
		if strings.HasPrefix(s.prefix, rest) {
			return w.ended()
		}
		return none
	}
	if !strings.HasPrefix(rest, s.prefix) {
		return none
	}
	body := rest[len(s.prefix):]
	n := 0
	for n < len(body) && n < s.least {
		c := body[n]
		if !is(c, cToken) || s.exact && !('A' <= c && c <= 'Z' || is(c, cDigit)) {
			return none
		}
		n++
	}
	if n < s.least {
		return w.ended()
	}
	if !s.exact {
		return w.token(i, len(s.prefix)+n, tailToken)
	}
	if n == len(body) && !w.final {
		return more
	}
	if n < len(body) && alnum(body[n]) {
		return none
	}
	return verdict{n: len(s.prefix) + n}
}

// token makes the verdict of a match at i that has n bytes for sure and goes on as t says.
func (w *window) token(i, n int, t tail) verdict {
	v := verdict{n: n, tail: t}
	end, open := t.end(w.buf, i+n, w.final)
	v.n = end - i
	if !open {
		v.tail = tailNone
	}
	return v
}

// end returns where a match that has reached from ends, and whether more of it may come.
func (t tail) end(buf string, from int, final bool) (end int, open bool) {
	switch t {
	case tailPEM:
		if at, n := pemEnd(buf[from:]); at >= 0 {
			return from + at + n, false
		}
		if final {
			return len(buf), false
		}
		// What may be the beginning of the END line stays to be seen again.
		return max(from, len(buf)-maxPEMEnd), true
	case tailJWT:
		for i := from; i < len(buf); i++ {
			if is(buf[i], cToken) {
				continue
			}
			if buf[i] != '.' {
				return i, false
			}
			if i+1 == len(buf) {
				return i, !final
			}
			if !is(buf[i+1], cToken) {
				return i, false
			}
		}
	default:
		for i := from; i < len(buf); i++ {
			if !is(buf[i], cToken) {
				return i, false
			}
		}
	}
	return len(buf), !final
}

const (
	maxJWTHeader = 2048
	minJWTPart   = 8
)

// jwt finds a JSON web token by its beginning: a header that is a JSON object in base64url, a dot, and some of the payload.
func (w *window) jwt(i int) verdict {
	const prefix = "eyJ"
	rest := w.buf[i:]
	if len(rest) < len(prefix) {
		if strings.HasPrefix(prefix, rest) {
			return w.ended()
		}
		return none
	}
	if !strings.HasPrefix(rest, prefix) {
		return none
	}
	dot := len(prefix)
	for ; dot < len(rest) && is(rest[dot], cToken); dot++ {
		if dot > maxJWTHeader {
			return none
		}
	}
	if dot == len(rest) {
		return w.ended()
	}
	if rest[dot] != '.' || dot < minJWTPart {
		return none
	}
	for n := 1; n <= minJWTPart; n++ {
		if dot+n == len(rest) {
			return w.ended()
		}
		if !is(rest[dot+n], cToken) {
			return none
		}
	}
	return w.token(i, dot+1+minJWTPart, tailJWT)
}

const (
	pemBegin  = "-----BEGIN "
	pemKey    = "PRIVATE KEY"
	maxPEMTag = 40
	// maxPEMEnd is the longest END line.
	maxPEMEnd = len("-----END ") + maxPEMTag + len(pemKey) + len(" BLOCK-----")
)

// pem finds a private key in PEM form, up to its END line, or, without one, to the end of the text.
func (w *window) pem(i int) verdict {
	rest := w.buf[i:]
	if len(rest) < len(pemBegin) {
		if strings.HasPrefix(pemBegin, rest) {
			return w.ended()
		}
		return none
	}
	if !strings.HasPrefix(rest, pemBegin) {
		return none
	}
	n, unsure := pemTag(rest[len(pemBegin):], w.final)
	if unsure {
		return more
	}
	if n == 0 {
		return none
	}
	return w.token(i, len(pemBegin)+n, tailPEM)
}

// pemTag returns the length of "RSA PRIVATE KEY-----" at the beginning of s.
func pemTag(s string, final bool) (n int, unsure bool) {
	const longest = maxPEMTag + len(pemKey) + len(" BLOCK")
	for n < len(s) && n <= longest && (s[n] == ' ' || is(s[n], cDigit) || 'A' <= s[n] && s[n] <= 'Z') {
		n++
	}
	const dashes = "-----"
	if n > longest {
		return 0, false
	}
	if !strings.HasPrefix(s[n:], dashes) {
		return 0, !final && strings.HasPrefix(dashes, s[n:])
	}
	tag := strings.TrimSuffix(s[:n], " BLOCK")
	if !strings.HasSuffix(tag, pemKey) {
		return 0, false
	}
	return n + len(dashes), false
}

// pemEnd finds an END line of a private key in s.
func pemEnd(s string) (at, n int) {
	const end = "-----END "
	for from := 0; ; {
		i := strings.Index(s[from:], end)
		if i < 0 {
			return -1, 0
		}
		if n, _ := pemTag(s[from+i+len(end):], true); n > 0 {
			return from + i, len(end) + n
		}
		from += i + len(end)
	}
}
