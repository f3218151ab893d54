package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// json writes v as indented JSON.
func (a *app) json(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table collects rows and writes them in columns.
type table struct {
	w *tabwriter.Writer
}

func newTable(w io.Writer, heads ...string) *table {
	t := &table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	if len(heads) > 0 {
		for i, h := range heads {
			heads[i] = strings.ToUpper(h)
		}
		fmt.Fprintln(t.w, strings.Join(heads, "\t"))
	}
	return t
}

func (t *table) row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = cell(c)
	}
	fmt.Fprintln(t.w, strings.Join(text, "\t"))
}

func (t *table) flush() error { return t.w.Flush() }

func cell(c any) string {
	var s string
	switch v := c.(type) {
	case nil:
		return "-"
	case time.Time:
		if v.IsZero() {
			return "-"
		}
		return v.UTC().Format("2006-01-02T15:04:05Z")
	case *time.Time:
		if v == nil {
			return "-"
		}
		return cell(*v)
	case []string:
		s = strings.Join(v, ",")
	default:
		s = fmt.Sprint(v)
	}
	if s == "" {
		return "-"
	}
	return plain(s)
}

// plain makes text from elsewhere harmless for a terminal: control characters are shown, not obeyed.
func plain(s string) string {
	clean := func(r rune) bool {
		return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Cf, r)
	}
	if strings.IndexFunc(s, clean) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case clean(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// lines is plain for text that keeps its line breaks and tabs.
func lines(s string) string {
	parts := strings.Split(s, "\n")
	for i, p := range parts {
		inner := strings.Split(strings.TrimSuffix(p, "\r"), "\t")
		for j := range inner {
			inner[j] = plain(inner[j])
		}
		parts[i] = strings.Join(inner, "\t")
	}
	return strings.Join(parts, "\n")
}

// cut shortens s for one line.
func cut(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most-1]) + "…"
}
