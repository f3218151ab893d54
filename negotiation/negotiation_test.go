package negotiation_test

import (
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/nexixai/agentos/negotiation"
)

func v(major, minor int) negotiation.Version { return negotiation.Version{Major: major, Minor: minor} }

func offer(low, high negotiation.Version, features ...string) negotiation.Offer {
	o := negotiation.Offer{APIVersions: []string{"v1"}, Contract: negotiation.Range{Min: low, Max: high}, Supports: map[string]bool{}}
	for _, f := range features {
		o.Supports[f] = true
	}
	return o
}

// Requirements: P2.
func TestNegotiate_Skew(t *testing.T) {
	ours := offer(v(1, 1), v(1, 2), "runs_forward", "events_stream")
	for _, c := range []struct {
		name     string
		theirs   negotiation.Offer
		need     negotiation.Need
		usable   bool
		contract string
		features []string
		missing  []string
	}{
		{"the same", ours, negotiation.Need{}, true, "1.2", []string{"events_stream", "runs_forward"}, nil},
		{"one minor up", offer(v(1, 1), v(1, 3), "runs_forward", "events_stream", "novelty"), negotiation.Need{}, true, "1.2", []string{"events_stream", "runs_forward"}, nil},
		{"one minor down", offer(v(1, 0), v(1, 1), "runs_forward"), negotiation.Need{}, true, "1.1", []string{"runs_forward"}, nil},
		{"one major up", offer(v(2, 0), v(2, 0), "runs_forward"), negotiation.Need{}, false, "", nil, []string{"contract"}},
		{"below our minimum", offer(v(1, 0), v(1, 0), "runs_forward"), negotiation.Need{}, false, "", nil, []string{"contract"}},
		{"a required feature down", offer(v(1, 1), v(1, 2), "events_stream"), negotiation.Need{Required: []string{"runs.forward"}}, false, "1.2", nil, []string{"runs_forward"}},
		{"an optional feature down", offer(v(1, 1), v(1, 2), "runs_forward"), negotiation.Need{Optional: []string{"events.stream"}}, true, "1.2", []string{"runs_forward"}, []string{"events_stream"}},
		{"the other spelling", offer(v(1, 1), v(1, 2), "runs.forward", "events.stream"), negotiation.Need{Required: []string{"runs_forward"}}, true, "1.2", []string{"events_stream", "runs_forward"}, nil},
		{"nothing said at all", negotiation.Offer{}, negotiation.Need{}, false, "", nil, []string{"api_versions", "contract"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := negotiation.Negotiate(ours, c.theirs, c.need)
			var missing []string
			for _, m := range a.Missing {
				if missing = append(missing, m.Name); m.Reason == "" {
					t.Errorf("%s is missing without a reason", m.Name)
				}
			}
			if a.Usable != c.usable || a.Contract != c.contract || !slices.Equal(a.Features, c.features) || !slices.Equal(missing, c.missing) {
				t.Fatalf("%+v", a)
			}
		})
	}
}

func TestNegotiate_Limits(t *testing.T) {
	ours, theirs := offer(v(1, 0), v(1, 0)), offer(v(1, 0), v(1, 0))
	ours.Limits = map[string]int64{"max_concurrent_runs": 50, "max_event_streams": 10}
	theirs.Limits = map[string]int64{"max_concurrent_runs": 20}
	a := negotiation.Negotiate(ours, theirs, negotiation.Need{AtLeast: map[string]int64{"max_concurrent_runs": 20}})
	if !a.Usable || !reflect.DeepEqual(a.Limits, map[string]int64{"max_concurrent_runs": 20, "max_event_streams": 10}) {
		t.Fatalf("%+v", a)
	}
	if a := negotiation.Negotiate(ours, theirs, negotiation.Need{AtLeast: map[string]int64{"max_concurrent_runs": 21}}); a.Usable {
		t.Fatalf("a limit too low was agreed to: %+v", a)
	}
}

// What must hold for any two offers: both sides compute the same shared part, neither is talked below its own minimum,
// and nothing is agreed that one side lacks.
//
// Requirements: P2.
func TestNegotiate_Properties(t *testing.T) {
	version := rapid.Custom(func(t *rapid.T) negotiation.Version {
		return v(rapid.IntRange(1, 2).Draw(t, "major"), rapid.IntRange(0, 3).Draw(t, "minor"))
	})
	side := rapid.Custom(func(t *rapid.T) negotiation.Offer {
		o := offer(version.Draw(t, "min"), version.Draw(t, "max"))
		for _, f := range rapid.SliceOf(rapid.SampledFrom([]string{"a", "b", "c.d", "c_d"})).Draw(t, "features") {
			o.Supports[f] = rapid.Bool().Draw(t, "supported")
		}
		return o
	})
	rapid.Check(t, func(t *rapid.T) {
		x, y := side.Draw(t, "x"), side.Draw(t, "y")
		a, b := negotiation.Negotiate(x, y, negotiation.Need{}), negotiation.Negotiate(y, x, negotiation.Need{})
		if a.Usable != b.Usable || a.Contract != b.Contract || !slices.Equal(a.Features, b.Features) {
			t.Fatalf("the sides disagree: %+v and %+v", a, b)
		}
		if !a.Usable {
			if len(a.Missing) == 0 {
				t.Fatal("refused without a reason")
			}
			return
		}
		got, err := negotiation.ParseVersion(a.Contract)
		if err != nil || got.Compare(x.Contract.Min) < 0 || got.Compare(y.Contract.Min) < 0 || got.Compare(x.Contract.Max) > 0 || got.Compare(y.Contract.Max) > 0 {
			t.Fatalf("agreed on %s outside a side's range", a.Contract)
		}
		for _, f := range a.Features {
			has := func(o negotiation.Offer) bool {
				return slices.ContainsFunc([]string{f, "c.d"}, func(s string) bool { return o.Supports[s] && negotiation.Canonical(s) == f })
			}
			if !has(x) || !has(y) {
				t.Fatalf("agreed on %s, which one side lacks", f)
			}
		}
	})
}

func TestParseVersion(t *testing.T) {
	if got, err := negotiation.ParseVersion("1.02"); err != nil || got != v(1, 2) {
		t.Fatal(got, err)
	}
	for _, bad := range []string{"", "1", "1.", ".1", "1.2.3", "-1.0", "v1.0", "99999999999.1", " 1.2"} {
		if _, err := negotiation.ParseVersion(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
