// Package negotiation computes what two nodes can do together: from what each offers to the version, the features and
// the limits they share, or to the reasons why there is nothing to share. It is pure: no clock, no network, no store.
//
// Room: pure. It imports nothing of the house.
//
// The rule of skew: what one side does not know is absent, never an error. A newer minor version is fine, for minors only
// add. A newer major is refused, with a reason. Neither side can be talked below its own minimum.
package negotiation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Version is a contract's version. Minors only add.
type Version struct{ Major, Minor int }

// ParseVersion reads "1.2"; a leading zero of the minor ("1.02") means the same.
func ParseVersion(s string) (Version, error) {
	major, minor, ok := strings.Cut(s, ".")
	a, errA := strconv.ParseUint(major, 10, 16)
	b, errB := strconv.ParseUint(minor, 10, 16)
	if !ok || errA != nil || errB != nil {
		return Version{}, fmt.Errorf("negotiation: %.32q is not a version of the form 1.2", s)
	}
	return Version{Major: int(a), Minor: int(b)}, nil
}

// String returns the form that ParseVersion reads.
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Compare is negative when v is older than w, positive when it's newer.
func (v Version) Compare(w Version) int {
	if v.Major != w.Major {
		return v.Major - w.Major
	}
	return v.Minor - w.Minor
}

// MarshalText and UnmarshalText make a Version a string on the wire.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Version) UnmarshalText(b []byte) (err error) {
	*v, err = ParseVersion(string(b))
	return err
}

// Range is the span of versions a side speaks.
type Range struct {
	Min Version `json:"min"`
	Max Version `json:"max"`
}

// Offer is what one side says it can do.
type Offer struct {
	APIVersions []string        `json:"api_versions"`
	Contract    Range           `json:"contract"`
	Supports    map[string]bool `json:"supports"`
	// Limits are upper bounds by name; a name that is missing sets none.
	Limits map[string]int64 `json:"limits"`
}

// Need is what one side must have of the other, or would like to have.
type Need struct {
	Required []string
	Optional []string
	// AtLeast are limits that must not be lower than this.
	AtLeast map[string]int64
}

// Missing is one thing that is not to be had, and why.
type Missing struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Agreement is the result: usable or not, and what is shared. Its lists are ordered, so that equal offers give equal
// bytes.
type Agreement struct {
	Usable     bool             `json:"usable"`
	APIVersion string           `json:"api_version,omitempty"`
	Contract   string           `json:"contract"`
	Features   []string         `json:"features"`
	Limits     map[string]int64 `json:"limits,omitempty"`
	Missing    []Missing        `json:"missing"`
}

// Canonical is the one spelling of a feature's name: lower case, '_' for '.' and '-'.
func Canonical(feature string) string {
	return strings.NewReplacer(".", "_", "-", "_").Replace(strings.ToLower(feature))
}

// Negotiate computes what ours and theirs can do together when we need need.
func Negotiate(ours, theirs Offer, need Need) Agreement {
	a := Agreement{Usable: true, Features: []string{}, Missing: []Missing{}}
	a.api(ours, theirs)
	a.contract(ours.Contract, theirs.Contract)
	mine, other := features(ours), features(theirs)
	for name := range mine {
		if other[name] {
			a.Features = append(a.Features, name)
		}
	}
	slices.Sort(a.Features)
	a.demand(need.Required, true, mine, other)
	a.demand(need.Optional, false, mine, other)
	a.limits(ours.Limits, theirs.Limits, need.AtLeast)
	slices.SortStableFunc(a.Missing, func(x, y Missing) int { return strings.Compare(x.Name, y.Name) })
	if !a.Usable {
		a.Features, a.Limits = []string{}, nil
	}
	return a
}

func (a *Agreement) refuse(name, reason string) {
	a.Usable = false
	a.Missing = append(a.Missing, Missing{Name: name, Reason: reason})
}

// api takes the newest API version that both name.
func (a *Agreement) api(ours, theirs Offer) {
	best := -1
	for _, v := range ours.APIVersions {
		n, err := strconv.Atoi(strings.TrimPrefix(v, "v"))
		if err == nil && n > best && slices.Contains(theirs.APIVersions, v) {
			best, a.APIVersion = n, v
		}
	}
	if best < 0 {
		a.refuse("api_versions", fmt.Sprintf("we serve %s, they serve %s", names(ours.APIVersions), names(theirs.APIVersions)))
	}
}

func (a *Agreement) contract(ours, theirs Range) {
	if ours.Min.Compare(ours.Max) > 0 || theirs.Min.Compare(theirs.Max) > 0 {
		a.refuse("contract", fmt.Sprintf("a range is upside down: ours %s to %s, theirs %s to %s", ours.Min, ours.Max, theirs.Min, theirs.Max))
		return
	}
	low, high := newer(ours.Min, theirs.Min), older(ours.Max, theirs.Max)
	switch {
	case low.Compare(high) <= 0:
		a.Contract = high.String()
	case theirs.Min.Compare(ours.Max) > 0:
		a.refuse("contract", fmt.Sprintf("they need at least %s, we speak up to %s: upgrade this side", theirs.Min, ours.Max))
	default:
		a.refuse("contract", fmt.Sprintf("they speak up to %s, we need at least %s: they have to upgrade", theirs.Max, ours.Min))
	}
}

func (a *Agreement) demand(list []string, required bool, mine, other map[string]bool) {
	for _, raw := range list {
		name := Canonical(raw)
		var reason string
		switch {
		case mine[name] && other[name]:
			continue
		case !other[name]:
			reason = "they do not support it"
		default:
			reason = "we do not support it"
		}
		if slices.ContainsFunc(a.Missing, func(m Missing) bool { return m.Name == name }) {
			continue
		}
		a.Missing = append(a.Missing, Missing{Name: name, Reason: reason})
		a.Usable = a.Usable && !required
	}
}

func (a *Agreement) limits(ours, theirs, atLeast map[string]int64) {
	shared := make(map[string]int64)
	for _, side := range []map[string]int64{ours, theirs} {
		for name, n := range side {
			if have, ok := shared[name]; !ok || n < have {
				shared[name] = n
			}
		}
	}
	for name, want := range atLeast {
		if have, ok := shared[name]; ok && have < want {
			a.refuse(name, fmt.Sprintf("the limit is %d, at least %d is needed", have, want))
		}
	}
	if len(shared) > 0 {
		a.Limits = shared
	}
}

func features(o Offer) map[string]bool {
	out := make(map[string]bool, len(o.Supports))
	for name, yes := range o.Supports {
		if yes {
			out[Canonical(name)] = true
		}
	}
	return out
}

func names(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

func newer(v, w Version) Version {
	if v.Compare(w) > 0 {
		return v
	}
	return w
}

func older(v, w Version) Version {
	if v.Compare(w) < 0 {
		return v
	}
	return w
}
