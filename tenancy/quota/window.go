package quota

import "time"

// window is one calendar window, in UTC.
type window struct {
	name       string // minute, hour, day or month
	start, end time.Time
}

// windowAt returns the window of the given kind that t lies in. What isn't a kind counts as a day.
func windowAt(name string, t time.Time) window {
	t = t.UTC()
	y, mo, d := t.Date()
	w := window{name: name}
	switch name {
	case "minute":
		w.start = time.Date(y, mo, d, t.Hour(), t.Minute(), 0, 0, time.UTC)
		w.end = w.start.Add(time.Minute)
	case "hour":
		w.start = time.Date(y, mo, d, t.Hour(), 0, 0, 0, time.UTC)
		w.end = w.start.Add(time.Hour)
	case "month":
		w.start = time.Date(y, mo, 1, 0, 0, 0, 0, time.UTC)
		w.end = w.start.AddDate(0, 1, 0)
	default:
		w.name = "day"
		w.start = time.Date(y, mo, d, 0, 0, 0, 0, time.UTC)
		w.end = w.start.AddDate(0, 0, 1)
	}
	return w
}

// label names the window among those of its kind; labels sort by time.
func (w window) label() string {
	var b [20]byte
	layout := "2006-01-02"
	switch w.name {
	case "minute":
		layout = "2006-01-02T15:04"
	case "hour":
		layout = "2006-01-02T15"
	case "month":
		layout = "2006-01"
	}
	return string(w.start.AppendFormat(b[:0], layout))
}
