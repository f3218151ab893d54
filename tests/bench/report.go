package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table is what the bench has found.
type table struct {
	Begun   time.Time `json:"begun"`
	CPUs    int       `json:"cpus"`
	CPU     string    `json:"cpu"`
	Kernel  string    `json:"kernel"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds_each"`
	Rows    []row     `json:"rows"`
	shown   int
}

// row is one figure.
type row struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Median  float64   `json:"median"`
	Least   float64   `json:"least"`
	Most    float64   `json:"most"`
	Beside  string    `json:"beside,omitempty"`
	Ratio   float64   `json:"ratio,omitempty"`
	RatioLo float64   `json:"ratio_least,omitempty"`
	RatioHi float64   `json:"ratio_most,omitempty"`
	Load1   string    `json:"load_average"`
	Each    []float64 `json:"each"`
}

func (t *table) begin(rounds int, seconds float64) {
	t.Begun, t.CPUs, t.Rounds, t.Seconds = time.Now().UTC(), runtime.NumCPU(), rounds, seconds
	t.Kernel = firstLine("/proc/sys/kernel/osrelease")
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.HasPrefix(name, "model name") {
			t.CPU = strings.TrimSpace(value)
			break
		}
	}
}

// add adds a figure from its rounds, with its ratio to a yardstick taken in the same rounds.
func (t *table) add(name, unit string, each, yard []float64, beside string) {
	r := row{Name: name, Unit: unit, Each: each, Beside: beside, Load1: firstLine("/proc/loadavg")}
	r.Median, r.Least, r.Most = middle(each), slices.Min(each), slices.Max(each)
	if yard != nil {
		ratios := make([]float64, len(each))
		for i := range each {
			ratios[i] = each[i] / yard[i]
		}
		r.Ratio, r.RatioLo, r.RatioHi = middle(ratios), slices.Min(ratios), slices.Max(ratios)
	}
	t.Rows = append(t.Rows, r)
}

// flush prints the rows that have not been printed.
func (t *table) flush(w io.Writer) {
	if t.shown == 0 {
		fmt.Fprintf(w, "%s · %d × %s · Linux %s · %d rounds of %.0f s\n", t.Begun.Format(time.RFC3339), t.CPUs, t.CPU, t.Kernel, t.Rounds, t.Seconds)
	}
	tw := tabwriter.NewWriter(w, 58, 0, 2, ' ', 0)
	for _, r := range t.Rows[t.shown:] {
		ratio := ""
		if r.Beside != "" {
			ratio = fmt.Sprintf("%.2f (%.2f–%.2f) × %s", r.Ratio, r.RatioLo, r.RatioHi, r.Beside)
		}
		load, _, _ := strings.Cut(r.Load1, " ")
		fmt.Fprintf(tw, "%s\t%.4g %s (%.4g–%.4g)\t%s\tload %s\n", r.Name, r.Median, r.Unit, r.Least, r.Most, ratio, load)
	}
	t.shown = len(t.Rows)
	_ = tw.Flush()
}

func middle(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func firstLine(path string) string {
	text, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
