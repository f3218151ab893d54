package policy_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nexixai/agentos/model/policy"
)

// fragments are what texts are made of: values, parts of values, and what stands around them.
var fragments = []string{
	"bob@example.com", "bob@", "@example", ".com", "a.b+c", "4111 1111 1111 1111", "4111", " 1111", "-1111", "378282246310005", "415-555-0100", "+1 ",
	"(415) ", "555-0100", "030 ", "01 23 45 67 89", "0049", "DE89 3704 0044 0532 0130 00", "DE89", " 3704", "gb82west12345698765432", "078-05-1120", "078 05",
	"192.168.1.20", "192.", "1.2.3.4.5", "2001:db8::1", "::1", "::", "fe80:", "aos_0123456789abcdefghij", "aos_", "sk-", "AKIAIOSFODNN7EXAMPLE", "AKIA",
	"ghp_0123456789abcdefghijABCDEFGHIJ012345", jwt, "eyJhbGciOi", ".eyJzdWIiOi", pemKey, "-----BEGIN ", "PRIVATE KEY-----", "-----END PRIVATE KEY-----", "-----",
	" ", "  ", "\n", ".", ",", "-", "_", ":", "(", ")", "/", "+", "x", "Z", "7", "00", "word", "Ünï", "é", "日本", "\u00a0", "EMP-", "EMP-12345", "%", "@",
}

func rulesets(tb testing.TB) []*policy.Rules {
	return []*policy.Rules{
		MustCompile(tb, policy.Default()),
		MustCompile(tb, policy.Ruleset{
			ID: "p", Redact: policy.Types(),
			Custom: []policy.Expression{{Name: "a", Pattern: `\bEMP-\d{2,5}\b`}, {Name: "b", Pattern: `(?m)^x.?Z$`}, {Name: "c", Pattern: `é{1,2}|日本?`}},
		}),
		MustCompile(tb, policy.Ruleset{ID: "p", Redact: []string{policy.Phone, policy.IP}}),
	}
}

// The heart of the matter: however a text is cut, the stream gives what the whole text gives, and nothing in between shows
// more than a prefix of it.
//
// Requirements: B4.
func TestFilter_EqualsWhole(t *testing.T) {
	t.Parallel()
	all := rulesets(t)
	rapid.Check(t, func(rt *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(fragments), 0, 12).Draw(rt, "fragments"), "")
		var pieces []string
		for rest := text; rest != ""; {
			n := min(len(rest), rapid.IntRange(1, 9).Draw(rt, "size"))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		for k, rules := range all {
			want, o := whole(t, rules, text)
			if got := stream(t, rules, pieces); got != want {
				rt.Fatalf("ruleset %d: %q in %q became %q, whole %q", k, text, pieces, got, want)
			}
			if back := undo(t, text, o.Redactions); back != want {
				rt.Fatalf("ruleset %d: %q: the offsets rebuild %q, not %q", k, text, back, want)
			}
		}
	})
}

func FuzzFilter(f *testing.F) {
	for _, s := range fragments {
		f.Add(s+" "+s, uint8(3))
	}
	rules := rulesets(f)[0]
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		want, o := whole(t, rules, text)
		if got := stream(t, rules, chunks(text, int(size)%16+1)); got != want {
			t.Fatalf("%q in pieces of %d became %q, whole %q", text, int(size)%16+1, got, want)
		}
		undo(t, text, o.Redactions)
	})
}

func BenchmarkRules_Texts(b *testing.B) {
	rules := MustCompile(b, policy.Default())
	for name, text := range map[string]string{
		"short":  "echo: hello world, please summarise this",
		"words":  strings.Repeat("the quick brown fox jumps over the lazy dog. ", 20),
		"digits": strings.Repeat("w1 w2 w3 item 42 costs 17 at 10:30 ", 20),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			in := []string{text}
			for b.Loop() {
				if _, _, err := rules.Texts(in, "t"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
