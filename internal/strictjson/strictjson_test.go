package strictjson_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/strictjson"
)

// body has one of each kind of thing that a door reads.
type body struct {
	Input struct {
		Type string `json:"type"`
		Text string `json:"text"`
	} `json:"input"`
	Steps    int               `json:"max_steps"`
	Rate     *float64          `json:"rate"`
	On       bool              `json:"on"`
	Labels   map[string]string `json:"labels"`
	Metadata map[string]any    `json:"metadata"`
	Raw      json.RawMessage   `json:"raw"`
	List     []struct {
		Role string `json:"role"`
	} `json:"list"`
	At   *time.Time     `json:"at"`
	Kept field[*int64]  `json:"kept"`
	Name field[[]inner] `json:"name"`
	Self *body          `json:"self"`
}

// field reads itself, as a member does that may be left out.
type field[T any] struct {
	Set   bool
	Value T
}

func (f *field[T]) UnmarshalJSON(b []byte) error {
	f.Set = true
	return json.Unmarshal(b, &f.Value)
}

// request reads itself too, though its fields say how they are named.
type request struct {
	body
	Options struct {
		MaxSteps int `json:"max_steps"`
	} `json:"run_options"`
	given int
}

func (r *request) UnmarshalJSON(b []byte) error {
	type plain request
	r.given++
	into := struct {
		*plain
		Options struct {
			limits
			On bool `json:"on"`
		} `json:"run_options"`
	}{plain: (*plain)(r)}
	err := json.Unmarshal(b, &into)
	r.Options.MaxSteps = into.Options.MaxSteps
	return err
}

type limits struct {
	MaxSteps int `json:"max_steps"`
}

type inner struct {
	A int `json:"a"`
}

func TestDecode(t *testing.T) {
	var b body
	text := ` {"input":{"type":"text","text":"a\u00e9\n"},"max_steps":3,"rate":-1.5e-3,"on":true,"labels":{"a":"1","A":"2"},
		"metadata":{"k":1,"K":{"Type":null}},"raw":{"X":1,"x":2},"list":[{"role":"user"},{}],"at":"2026-01-02T03:04:05Z",
		"kept":7,"name":[{"a":1}],"novel":[[],{}],"self":null} `
	if err := strictjson.Decode([]byte(text), &b); err != nil {
		t.Fatal(err)
	}
	if b.Input.Text != "aé\n" || b.Steps != 3 || *b.Rate != -1.5e-3 || !b.On || len(b.Labels) != 2 || len(b.Metadata) != 2 ||
		string(b.Raw) != `{"X":1,"x":2}` || b.List[0].Role != "user" || *b.Kept.Value != 7 || b.Name.Value[0].A != 1 || b.At.Year() != 2026 {
		t.Errorf("decoded %+v", b)
	}
}

// A name that differs by case is another name, at every depth and in types that read themselves; and in data it is kept.
func TestDecode_exactCase(t *testing.T) {
	var b body
	text := `{"Input":{"type":"x"},"input":{"type":"text","TEXT":"no","te\u0058t":"no"},"MAX_STEPS":9,"LI\u0053T":[1],"li\u017ft":4,
		"list":[{"Role":"no"}],"KEPT":1,"name":[{"A":5}],"\u212aept":8,"metadata":{"Text":"data"},"self":{"On":true,"self":{"ON":1}}}`
	if err := strictjson.Decode([]byte(text), &b); err != nil {
		t.Fatal(err)
	}
	if b.Input.Type != "text" || b.Input.Text != "" || b.Steps != 0 || b.List[0].Role != "" || b.Kept.Set || b.Name.Value[0].A != 0 ||
		b.Metadata["Text"] != "data" || b.Self.On || b.Self.Self.On {
		t.Errorf("a twin was taken for a field: %+v", b)
	}
	var r request
	if err := strictjson.Decode([]byte(`{"INPUT":{"type":"text","text":"a"},"run_options":{"Max_Steps":4},"MAX_STEPS":3}`), &r); err != nil {
		t.Fatal(err)
	}
	if r.Input.Text != "" || r.Options.MaxSteps != 0 || r.Steps != 0 || r.given != 1 {
		t.Errorf("a twin was taken for a field of a type that reads itself: %+v", r)
	}
}

func TestDecode_refuses(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for text, want := range map[string]string{
		"":                                     "body",
		"  ":                                   "body",
		"nul":                                  "body",
		"\xff":                                 "body",
		"{\"a\":\"\xc0\x80\"}":                 "body",
		"\xef\xbb\xbf{}":                       "body",
		`[1]`:                                  "body",
		`"x"`:                                  "body",
		`{}{}`:                                 "body",
		`{} x`:                                 "body",
		`{"a":1,}`:                             "body",
		`{"a"}`:                                "a",
		`{"a":01}`:                             "a",
		`{"a":+1}`:                             "a",
		`{"a":.5}`:                             "a",
		`{"a":1.}`:                             "a",
		`{"a":1e}`:                             "a",
		`{"a":NaN}`:                            "a",
		`{"a":Infinity}`:                       "a",
		`{"a":"\x"}`:                           "a",
		`{"a":"\u12g4"}`:                       "a",
		"{\"a\":\"\n\"}":                       "a",
		`{"a":"`:                               "a",
		`{"a":[1 2]}`:                          "a[0]",
		`{"a":'x'}`:                            "a",
		`{a:1}`:                                "body",
		`{"a":1,"a":2}`:                        "a",
		`{"input":{"text":"a","te\u0078t":1}}`: "input.text",
		`{"list":[{},{"z":1,"z":1}]}`:          "list[1].z",
		`{"metadata":{"k":1,"k":2}}`:           "metadata.k",
		`{"raw":{"a":{"b":1,"b":1}}}`:          "raw.a.b",
		`{"\ud800":1}`:                         "body",
		`{"a":` + deep(64) + `}`:               "body",
		`{"input":7}`:                          "input",
		`{"input":{"text":7}}`:                 "input.text",
		`{"max_steps":1.5}`:                    "max_steps",
		`{"max_steps":"1"}`:                    "max_steps",
		`{"max_steps":99999999999999999999}`:   "max_steps",
		`{"rate":1e999}`:                       "rate",
		`{"on":"true"}`:                        "on",
		`{"labels":[]}`:                        "labels",
		`{"list":{}}`:                          "list",
		`{"list":[{"role":1}]}`:                "list.role",
		`{"kept":"x"}`:                         "kept",
		`{"self":{"kept":{}}}`:                 "self.kept",
		`{"name":[{"a":"x"}]}`:                 "name.a",
	} {
		err := strictjson.Decode([]byte(text), new(body))
		if !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%.60q: %v", text, err)
			continue
		}
		if got := fault.Of(err).Details["field"]; got != want {
			t.Errorf("%.60q: field %q, want %q (%v)", text, got, want, err)
		}
	}
	if err := strictjson.Decode([]byte(`{"a":`+deep(63)+`}`), new(body)); err != nil {
		t.Errorf("depth %d: %v", strictjson.MaxDepth, err)
	}
}

// The path of a field is the text's, whatever Go types it is reached through.
func TestDecode_refusesByWirePath(t *testing.T) {
	for text, want := range map[string]string{
		`{"input":7}`:                         "input",
		`{"input":{"text":7}}`:                "input.text",
		`{"labels":[]}`:                       "labels",
		`{"labels":{"a":1}}`:                  "labels",
		`{"list":[{"role":1}]}`:               "list.role",
		`{"self":{"self":{"max_steps":"x"}}}`: "self.self.max_steps",
		`{"run_options":{"max_steps":1.5}}`:   "run_options.max_steps",
		`{"run_options":{"max_steps":1e400}}`: "run_options.max_steps",
		`{"run_options":7}`:                   "run_options",
		`{"name":[{"a":"x"}]}`:                "name.a",
		`[]`:                                  "body",
	} {
		err := strictjson.Decode([]byte(text), new(request))
		if got := fault.Of(err).Details["field"]; got != want {
			t.Errorf("%s: field %q, want %q (%v)", text, got, want, err)
		}
		if outer := fault.Of(strictjson.Within("a[1]", err)).Details["field"]; want != "body" && outer != "a[1]."+want || want == "body" && outer != "a[1]" {
			t.Errorf("%s: within a[1] field %q", text, outer)
		}
	}
}

// A bomb costs no more than its first bytes, and many members are found twice as surely as few.
// encoding/json's error of a time does not say where the time stands.
func TestDecode_times(t *testing.T) {
	type inner struct {
		At time.Time `json:"at"`
	}
	var v struct {
		Of    []inner              `json:"of"`
		Named map[string]time.Time `json:"named"`
	}
	if err := strictjson.Decode([]byte(`{"of":[{"at":"2026-11-25T08:00:00.5+01:00"},{"at":null}],"named":{"a":"2026-11-25T08:00:00Z"}}`), &v); err != nil {
		t.Error(err)
	}
	for text, field := range map[string]string{
		`{"of":[{"at":"2026-11-25T08:00:00Z"},{"at":"soon"}]}`: "of[1].at",
		`{"of":[{"at":7}]}`:       "of[0].at",
		`{"of":[{"at":{}}]}`:      "of[0].at",
		`{"of":[{"at":"2026`:      "of[0].at",
		`{"named":{"a":[]}}`:      "named.a",
		`{"named":{"a":nothing}}`: "named.a",
	} {
		err := strictjson.Decode([]byte(text), &v)
		if got := fault.Of(err).Details["field"]; !fault.Is(err, fault.InvalidRequest) || got != field {
			t.Errorf("%s: %v, names %v and not %s", text, err, got, field)
		}
	}
}

func TestDecode_bombs(t *testing.T) {
	bomb := []byte(strings.Repeat(`{"a":`, 100_000))
	allocs := testing.AllocsPerRun(10, func() {
		if strictjson.Valid(bomb) {
			t.Error("a bomb is valid")
		}
	})
	if allocs > 200 {
		t.Errorf("a bomb took %v allocations", allocs)
	}
	var b strings.Builder
	for i := range 5000 {
		b.WriteString(`"k` + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + time.Duration(i).String() + `":1,`)
	}
	if !strictjson.Valid([]byte(`{` + b.String() + `"z":1}`)) {
		t.Error("5001 different names are refused")
	}
	if strictjson.Valid([]byte(`{` + b.String() + `"z":1,"z":2}`)) {
		t.Error("a name that stands twice among 5002 is not found")
	}
	many := `{"l":[` + strings.Repeat(`{"a":1},`, strictjson.MaxMembers) + `0]}`
	if strictjson.Valid([]byte(many)) {
		t.Error("more members than allowed are taken")
	}
	// Empty objects and strings have no members, but each makes an item of a hundred times its text's size.
	for _, item := range []string{`{}`, `""`, `null`} {
		list := []byte(`{"L":[` + strings.Repeat(item+`,`, strictjson.MaxMembers) + item + `]}`)
		var typed struct{ L []*struct{ A string } }
		if err := strictjson.Decode(list, &typed); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("more items %s than allowed are decoded: %v", item, err)
		}
		var raw struct{ L json.RawMessage }
		if err := strictjson.Decode(list, &raw); err != nil {
			t.Errorf("items %s that nobody decodes are counted: %v", item, err)
		}
	}
}

func TestVisit(t *testing.T) {
	got := map[string]string{}
	err := strictjson.Visit([]byte(`{"a": {"b":[1,{"a":2}]} ,"\u0062": "x","c":null}`), new(struct{}), func(name, raw []byte) {
		got[string(name)] = string(raw)
	})
	if want := map[string]string{"a": `{"b":[1,{"a":2}]}`, "b": `"x"`, "c": "null"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("visited %v, %v", got, err)
	}
}

// What the scan takes, encoding/json takes too, and what encoding/json refuses, the scan refuses; and a text without
// capitals means the same to both.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{`{"input":{"type":"text","text":"x"}}`, `{"a":[1,-0.5e+3,true,null,"\u00e9\ud83d\ude00"]}`, `{"A":1,"a":2}`, `[[[[]]]]`, `{"list":[{"role":"\\\""}],"self":{}}`, "{\"a\":\"\x00\"}", `{"kept":null,"name":[{"A":1}]}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		ok := strictjson.Valid(text)
		if ok && !json.Valid(text) {
			t.Fatalf("%q is taken and is no JSON", text)
		}
		var ours, theirs body
		err := strictjson.Decode(text, &ours)
		if err != nil && !fault.Is(err, fault.InvalidRequest) {
			t.Fatalf("%q: %v", text, err)
		}
		if !ok && err == nil {
			t.Fatalf("%q is decoded and is not valid", text)
		}
		plain := strings.ToLower(string(text)) == string(text) && !strings.ContainsAny(string(text), "\\\u017f\u212a")
		if err == nil && plain {
			if err := json.Unmarshal(text, &theirs); err != nil || !reflect.DeepEqual(ours, theirs) {
				t.Fatalf("%q: %+v, and by encoding/json %+v, %v", text, ours, theirs, err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	text := []byte(`{"input":{"type":"text","text":"hello"},"context":{"labels":{"a":"b"}},"run_options":{"timeout_ms":30000},"idempotency_key":"k"}`)
	b.ReportAllocs()
	for b.Loop() {
		var r request
		if err := strictjson.Decode(text, &r); err != nil {
			b.Fatal(err)
		}
	}
}
