package policy

// digits collects a run of digits in groups that single separators part, as people write numbers.
type digits struct {
	value [19]byte
	n     int
	// ends[k] is where the text of the first k digits ends, when a group ends there; else 0.
	ends [20]int
}

// separator reports whether c may stand between two groups of one number.
func separator(c byte) bool { return c == ' ' || c == '-' || c == '.' }

const (
	minCard = 13
	maxCard = 19
)

// card finds payment card numbers: 13 to 19 digits, in groups or not, that begin with 2 to 6 and pass the check of Luhn
// (ISO/IEC 7812-1, annex B).
func (w *window) card(i int) verdict {
	if c := w.buf[i]; c < '2' || c > '6' || w.after(i, cDigit|cLetter) {
		return none
	}
	var d digits
	j, sep := i, byte(0) // people part a card's groups by one separator throughout
	for {
		for j < len(w.buf) && is(w.buf[j], cDigit) {
			if d.n == maxCard {
				d.n++ // too long for a card from here; shorter ones before it stand
				break
			}
			d.value[d.n] = w.buf[j] - '0'
			d.n++
			j++
		}
		if d.n > maxCard {
			break
		}
		if j == len(w.buf) {
			if !w.final {
				return more
			}
			d.ends[d.n] = j
			break
		}
		if alnum(w.buf[j]) {
			break // the group runs into letters: it ends no number
		}
		d.ends[d.n] = j
		if !separator(w.buf[j]) || d.n == maxCard || sep != 0 && w.buf[j] != sep {
			break
		}
		sep = w.buf[j]
		if j+1 == len(w.buf) {
			if !w.final {
				return more
			}
			break
		}
		if !is(w.buf[j+1], cDigit) {
			break
		}
		j++
	}
	for n := min(d.n, maxCard); n >= minCard; n-- {
		if d.ends[n] > 0 && luhn(d.value[:n]) {
			return verdict{n: d.ends[n] - i}
		}
	}
	return none
}

func luhn(d []byte) bool {
	sum := 0
	for i := range d {
		v := int(d[len(d)-1-i])
		if i%2 == 1 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}

// ssn finds US social security numbers, written in groups of three, two and four with the same separator.
func (w *window) ssn(i int) verdict {
	if w.after(i, cDigit|cLetter) || i >= 2 && w.buf[i-1] == '-' && is(w.buf[i-2], cDigit) {
		return none
	}
	const form = "ddd-dd-dddd"
	rest := w.buf[i:]
	for k := range len(form) {
		if k == len(rest) {
			return w.ended()
		}
		switch {
		case form[k] == 'd':
			if !is(rest[k], cDigit) {
				return none
			}
		case k == 3 && rest[k] != '-' && rest[k] != ' ', k == 6 && rest[k] != rest[3]:
			return none
		}
	}
	area := rest[:3]
	if area == "000" || area == "666" || area[0] == '9' || rest[4:6] == "00" || rest[7:11] == "0000" {
		return none
	}
	if len(rest) == len(form) {
		if !w.final {
			return more
		}
	} else if alnum(rest[len(form)]) {
		return none
	} else if rest[len(form)] == '-' {
		if len(rest) == len(form)+1 && !w.final {
			return more
		}
		if len(rest) > len(form)+1 && is(rest[len(form)+1], cDigit) {
			return none
		}
	}
	return verdict{n: len(form)}
}

const maxIBAN = 34

// iban finds international bank account numbers (ISO 13616): a country, two check digits, and as many letters and digits as
// the country's have, in groups or not, whose checksum is right.
func (w *window) iban(i int) verdict {
	if !is(w.buf[i], cLetter) || w.after(i, cDigit|cLetter) {
		return none
	}
	if i+2 < len(w.buf) && !is(w.buf[i+2], cDigit) {
		return none // the quick answer for nearly every word
	}
	var text [maxIBAN]byte
	n, length := 0, 4
	j := i
	for n < length {
		if j == len(w.buf) {
			return w.ended()
		}
		c := w.buf[j]
		switch {
		case alnum(c):
			if (n < 2) != is(c, cLetter) && n < 4 {
				return none
			}
			if 'a' <= c && c <= 'z' {
				c -= 'a' - 'A'
			}
			text[n] = c
			n++
			if n == 2 {
				if length = ibanLength(text[0], text[1]); length == 0 {
					return none
				}
			}
		case (c == ' ' || c == '-') && n >= 4 && alnum(w.buf[j-1]):
		default:
			return none
		}
		j++
	}
	if j == len(w.buf) {
		if !w.final {
			return more
		}
	} else if alnum(w.buf[j]) {
		return none
	}
	if mod97(text[:n]) != 1 {
		return none
	}
	return verdict{n: j - i}
}

// mod97 is the check of ISO 7064, MOD 97-10, over an IBAN whose first four characters count last.
func mod97(text []byte) int {
	r := 0
	step := func(c byte) {
		if is(c, cDigit) {
			r = (r*10 + int(c-'0')) % 97
		} else {
			r = (r*100 + int(c-'A') + 10) % 97
		}
	}
	for _, c := range text[4:] {
		step(c)
	}
	for _, c := range text[:4] {
		step(c)
	}
	return r
}

// ibanLengths has the lengths of the countries' numbers, as the registry of ISO 13616 lists them.
var ibanLengths = map[[2]byte]int{
	{'A', 'D'}: 24, {'A', 'E'}: 23, {'A', 'L'}: 28, {'A', 'T'}: 20, {'A', 'Z'}: 28, {'B', 'A'}: 20, {'B', 'E'}: 16, {'B', 'G'}: 22,
	{'B', 'H'}: 22, {'B', 'I'}: 27, {'B', 'R'}: 29, {'B', 'Y'}: 28, {'C', 'H'}: 21, {'C', 'R'}: 22, {'C', 'Y'}: 28, {'C', 'Z'}: 24,
	{'D', 'E'}: 22, {'D', 'J'}: 27, {'D', 'K'}: 18, {'D', 'O'}: 28, {'E', 'E'}: 20, {'E', 'G'}: 29, {'E', 'S'}: 24, {'F', 'I'}: 18,
	{'F', 'K'}: 18, {'F', 'O'}: 18, {'F', 'R'}: 27, {'G', 'B'}: 22, {'G', 'E'}: 22, {'G', 'I'}: 23, {'G', 'L'}: 18, {'G', 'R'}: 27,
	{'G', 'T'}: 28, {'H', 'R'}: 21, {'H', 'U'}: 28, {'I', 'E'}: 22, {'I', 'L'}: 23, {'I', 'Q'}: 23, {'I', 'S'}: 26, {'I', 'T'}: 27,
	{'J', 'O'}: 30, {'K', 'W'}: 30, {'K', 'Z'}: 20, {'L', 'B'}: 28, {'L', 'C'}: 32, {'L', 'I'}: 21, {'L', 'T'}: 20, {'L', 'U'}: 20,
	{'L', 'V'}: 21, {'L', 'Y'}: 25, {'M', 'C'}: 27, {'M', 'D'}: 24, {'M', 'E'}: 22, {'M', 'K'}: 19, {'M', 'N'}: 20, {'M', 'R'}: 27,
	{'M', 'T'}: 31, {'M', 'U'}: 30, {'N', 'I'}: 28, {'N', 'L'}: 18, {'N', 'O'}: 15, {'O', 'M'}: 23, {'P', 'K'}: 24, {'P', 'L'}: 28,
	{'P', 'S'}: 29, {'P', 'T'}: 25, {'Q', 'A'}: 29, {'R', 'O'}: 24, {'R', 'S'}: 22, {'R', 'U'}: 33, {'S', 'A'}: 24, {'S', 'C'}: 31,
	{'S', 'D'}: 18, {'S', 'E'}: 24, {'S', 'I'}: 19, {'S', 'K'}: 24, {'S', 'M'}: 27, {'S', 'O'}: 23, {'S', 'T'}: 25, {'S', 'V'}: 28,
	{'T', 'L'}: 23, {'T', 'N'}: 24, {'T', 'R'}: 26, {'U', 'A'}: 29, {'V', 'A'}: 22, {'V', 'G'}: 24, {'X', 'K'}: 20, {'Y', 'E'}: 30,
}

func ibanLength(a, b byte) int { return ibanLengths[[2]byte{a, b}] }
