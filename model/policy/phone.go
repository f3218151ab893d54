package policy

// The forms in which telephone numbers are recognised. Numbers without any mark of being one (ten bare digits) are left
// alone: they are order numbers and timestamps far more often.
//
//	+49 30 1234567, 0049…    '+' or "00", then 8 to 15 digits (ITU-T E.164), in groups or not
//	(415) 555-0100           North American, with or without 1 before it
//	415-555-0100             the same in three parted groups
//	030 1234567, 0171/123…   a zero, two digits or more, a separator, 9 to 13 digits in all
//	01 23 45 67 89           five parted pairs

const (
	minE164 = 8
	maxE164 = 15
)

// phone finds telephone numbers.
func (w *window) phone(i int) verdict {
	c := w.buf[i]
	if c != '+' && c != '(' && !is(c, cDigit) || w.after(i, cDigit|cLetter) {
		return none
	}
	if i >= 2 && separator(w.buf[i-1]) && w.buf[i-1] != ' ' && alnum(w.buf[i-2]) {
		return none // in the middle of a longer parted thing: a version, a UUID, a date
	}
	if c == '+' {
		return w.international(i, i+1)
	}
	for _, form := range [...]func(*window, int) verdict{(*window).zeroZero, (*window).pairs, (*window).trunk, (*window).northAmerican} {
		if v := form(w, i); v != none {
			return v
		}
	}
	return none
}

// phoneSeparator reports whether c may part the groups of a number; brackets may stand beside a separator.
func phoneSeparator(c byte) bool {
	return c == ' ' || c == '-' || c == '.' || c == '/' || c == '(' || c == ')'
}

// groups walks digits and separators from j and returns where each count of digits ends. At most two separators stand
// together. The walk ends behind max digits or before what belongs to no number.
func (w *window) groups(j, max int) (n, end int, v verdict) {
	seps := 0
	last := j
	for {
		if j == len(w.buf) {
			if !w.final {
				return 0, 0, more
			}
			return n, last, none
		}
		switch c := w.buf[j]; {
		case is(c, cDigit):
			if n == max {
				if seps == 0 {
					return max + 1, last, none // one digit too many in the last group
				}
				return n, last, none
			}
			n++
			j++
			last, seps = j, 0
		case phoneSeparator(c) && seps < 2 && n < max:
			seps++
			j++
		case alnum(c) && seps == 0:
			return -1, last, none // it runs into letters
		default:
			return n, last, none
		}
	}
}

// international finds what follows '+' (or "00"), whose digits begin at j.
func (w *window) international(i, j int) verdict {
	if j == len(w.buf) {
		return w.ended()
	}
	if c := w.buf[j]; c < '1' || c > '9' {
		return none
	}
	// A number written in one piece ends with it, whatever numbers come after.
	whole := j
	for whole < len(w.buf) && whole-j <= maxE164 && is(w.buf[whole], cDigit) {
		whole++
	}
	if whole == len(w.buf) && !w.final && whole-j <= maxE164 {
		return more
	}
	if size := whole - j; size >= minE164 {
		if size > maxE164 || whole < len(w.buf) && alnum(w.buf[whole]) {
			return none
		}
		return verdict{n: whole - i}
	}
	n, end, v := w.groups(j, maxE164)
	if v == more {
		return more
	}
	if n < minE164 || n > maxE164 {
		return none
	}
	return verdict{n: end - i}
}

func (w *window) zeroZero(i int) verdict {
	for k := range 2 {
		if i+k == len(w.buf) {
			return w.ended()
		}
		if w.buf[i+k] != '0' {
			return none
		}
	}
	return w.international(i, i+2)
}

// form matches text against a pattern of d (a digit), - (a separator), and literal bytes; the byte after it must not go on
// with the number.
func (w *window) form(i int, pattern string) verdict {
	rest := w.buf[i:]
	for k := range len(pattern) {
		if k == len(rest) {
			return w.ended()
		}
		switch pattern[k] {
		case 'd':
			if !is(rest[k], cDigit) {
				return none
			}
		case '-':
			if !separator(rest[k]) {
				return none
			}
		default:
			if rest[k] != pattern[k] {
				return none
			}
		}
	}
	return w.closed(i, len(pattern))
}

// closed decides a match of n bytes by what comes after it.
func (w *window) closed(i, n int) verdict {
	rest := w.buf[i+n:]
	if rest == "" {
		if w.final {
			return verdict{n: n}
		}
		return more
	}
	if alnum(rest[0]) {
		return none
	}
	if rest[0] == '-' || rest[0] == '.' {
		if len(rest) == 1 && !w.final {
			return more
		}
		if len(rest) > 1 && is(rest[1], cDigit) {
			return none
		}
	}
	return verdict{n: n}
}

// pairs finds the French form.
func (w *window) pairs(i int) verdict {
	if w.buf[i] != '0' {
		return none
	}
	return w.form(i, "0d-dd-dd-dd-dd")
}

// trunk finds a number with its national prefix 0.
func (w *window) trunk(i int) verdict {
	const minArea, minAll, maxAll = 3, 9, 13
	if w.buf[i] != '0' {
		return none
	}
	area := i
	for area < len(w.buf) && is(w.buf[area], cDigit) {
		if area-i > 5 {
			return none
		}
		area++
	}
	if area == len(w.buf) {
		return w.ended()
	}
	if area-i < minArea || !phoneSeparator(w.buf[area]) || w.buf[area] == '.' {
		return none
	}
	n, end, v := w.groups(i, maxAll)
	if v == more {
		return more
	}
	if n < minAll || n > maxAll || end <= area {
		return none
	}
	return verdict{n: end - i}
}

// northAmerican finds ten digits in their usual groups.
func (w *window) northAmerican(i int) verdict {
	for _, pattern := range [...]string{"(ddd) ddd-dddd", "(ddd)ddd-dddd", "ddd-ddd-dddd", "1-ddd-ddd-dddd", "1-(ddd) ddd-dddd", "1 (ddd)ddd-dddd"} {
		if v := w.form(i, pattern); v != none {
			return v
		}
	}
	return none
}
