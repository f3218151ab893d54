package sse_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/internal/sse"
)

// frames reads all frames of r, and the error after them.
func frames(r io.Reader, max int) ([]sse.Frame, time.Duration, error) {
	rd := sse.NewReader(r, max)
	var all []sse.Frame
	for {
		f, err := rd.Next()
		if err != nil {
			return all, rd.Retry(), err
		}
		f.Data = bytes.Clone(f.Data)
		all = append(all, f)
	}
}

func TestReader_Next(t *testing.T) {
	event := func(id, name, data string) sse.Frame {
		return sse.Frame{ID: id, HasID: id != "", Event: name, Data: []byte(data)}
	}
	for name, c := range map[string]struct {
		text string
		want []sse.Frame
		err  error
	}{
		"empty":                {"", nil, io.EOF},
		"as the contract":      {"retry: 1000\n\nid: 1\nevent: agentos.event\ndata: {\"event\":{}}\n\n", []sse.Frame{event("1", "agentos.event", `{"event":{}}`)}, io.EOF},
		"no id is no id":       {"id: 1\ndata: a\n\ndata: b\n\n", []sse.Frame{event("1", "", "a"), event("", "", "b")}, io.EOF},
		"an empty id":          {"id\ndata: a\n\n", []sse.Frame{{HasID: true, Data: []byte("a")}}, io.EOF},
		"an id with NUL":       {"id: 1\x002\ndata: a\n\n", []sse.Frame{event("", "", "a")}, io.EOF},
		"heartbeats":           {": heartbeat\n\n: heartbeat\n\ndata: a\n\n", []sse.Frame{event("", "", "a")}, io.EOF},
		"CR LF":                {"id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\n", []sse.Frame{event("1", "", "a"), event("", "", "b")}, io.EOF},
		"CR":                   {"data: a\r\rdata: b\r\r", []sse.Frame{event("", "", "a"), event("", "", "b")}, io.EOF},
		"more data":            {"data: a\ndata:b\ndata\ndata:  c\n\n", []sse.Frame{event("", "", "a\nb\n\n c")}, io.EOF},
		"verbatim":             {"data: {\"a\": 1.0,  \"b\":\"\\u003c\"} \t\n\n", []sse.Frame{event("", "", "{\"a\": 1.0,  \"b\":\"\\u003c\"} \t")}, io.EOF},
		"an event without":     {"event: x\nid: 9\n\ndata: a\n\n", []sse.Frame{event("", "", "a")}, io.EOF},
		"unknown fields":       {"color: red\ndata: a\n\n", []sse.Frame{event("", "", "a")}, io.EOF},
		"byte order mark":      {"\xef\xbb\xbfdata: a\n\n", []sse.Frame{event("", "", "a")}, io.EOF},
		"cut before its end":   {"data: a\n\nid: 2\ndata: b\n", []sse.Frame{event("", "", "a")}, io.ErrUnexpectedEOF},
		"cut within a line":    {"data: a\n\nid: 2\ndata: b", []sse.Frame{event("", "", "a")}, io.ErrUnexpectedEOF},
		"cut within a comment": {"data: a\n\n: heart", []sse.Frame{event("", "", "a")}, io.ErrUnexpectedEOF},
	} {
		for how, r := range map[string]io.Reader{
			"whole": strings.NewReader(c.text), "byte by byte": iotest.OneByteReader(strings.NewReader(c.text)),
			"with the error": iotest.DataErrReader(strings.NewReader(c.text)),
		} {
			got, _, err := frames(r, 0)
			if !errors.Is(err, c.err) {
				t.Errorf("%s, %s: error %v, want %v", name, how, err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s, %s:\n%s", name, how, diff)
			}
		}
	}
}

func TestReader_Retry(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"retry: 1500\n\n": 1500 * time.Millisecond, "retry: soon\n\n": 0, "retry: -1\n\n": 0, "retry: 99999999999999999999\n\n": 0, "": 0,
	} {
		if _, got, _ := frames(strings.NewReader(text), 0); got != want {
			t.Errorf("%q: retry %v, want %v", text, got, want)
		}
	}
}

// TestReader_bound: what is too long is refused before it's held, whether it comes as one line, as many, or never ends.
func TestReader_bound(t *testing.T) {
	for name, text := range map[string]io.Reader{
		"one line":       strings.NewReader("data: " + strings.Repeat("x", 1025) + "\n\n"),
		"many lines":     strings.NewReader(strings.Repeat("data: 0123456789\n", 100) + "\n"),
		"no line end":    io.MultiReader(strings.NewReader("data: a\n"), endless{}),
		"a long comment": strings.NewReader(": " + strings.Repeat("x", 5000) + "\n\n"),
	} {
		r := sse.NewReader(text, 1024)
		_, err := r.Next()
		if !errors.Is(err, sse.ErrTooLong) {
			t.Errorf("%s: %v", name, err)
		}
		if _, again := r.Next(); !errors.Is(again, sse.ErrTooLong) {
			t.Errorf("%s: the reader went on after it: %v", name, again)
		}
	}
	got, _, err := frames(strings.NewReader("data: "+strings.Repeat("x", 1024)+"\n\n"), 1024)
	if len(got) != 1 || !errors.Is(err, io.EOF) {
		t.Errorf("a frame as long as the bound: %d frames, %v", len(got), err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestReader_live: a frame is there as soon as its blank line is; nothing waits for bytes that may be long in coming.
func TestReader_live(t *testing.T) {
	for name, text := range map[string]string{"LF": "data: a\n\n", "CR LF": "data: a\r\n\r\n", "CR": "data: a\r\r"} {
		in, out := io.Pipe()
		go func() { _, _ = out.Write([]byte(text)) }() // and nothing more: a reader that wants another byte hangs
		f, err := sse.NewReader(in, 0).Next()
		if err != nil || string(f.Data) != "a" {
			t.Errorf("%s: %q, %v", name, f.Data, err)
		}
		_ = in.Close()
	}
}

func FuzzReader(f *testing.F) {
	for _, s := range []string{
		"", "retry: 1000\n\nid: 1\nevent: agentos.event\ndata: {}\n\n", "data: a\r\rdata: b\r\n\r\n", ":\n\n", "data\n\n", "\xef\xbb\xbfid\n\n",
		"event: agentos.gap\ndata: {\"gap\":{}}\n\ndata: x", "data: \x00\n\n", strings.Repeat("data: 0123456789\n", 20) + "\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		const max = 256
		whole, retry, err := frames(bytes.NewReader(text), max)
		parts, retryParts, errParts := frames(iotest.OneByteReader(bytes.NewReader(text)), max)
		if diff := cmp.Diff(whole, parts); diff != "" || retry != retryParts || err.Error() != errParts.Error() {
			t.Errorf("how the bytes come changes what is read:\n%s%v, %v", diff, err, errParts)
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, sse.ErrTooLong) {
			t.Errorf("unexpected error %v", err)
		}
		for _, fr := range whole {
			if len(fr.Data) > max {
				t.Errorf("%d bytes of data", len(fr.Data))
			}
			if strings.ContainsAny(fr.ID+fr.Event, "\r\n") || bytes.ContainsRune(fr.Data, '\r') {
				t.Errorf("a line end within a field: %+v", fr)
			}
		}
		if !bytes.HasSuffix(text, []byte("\n\n")) || !errors.Is(err, io.EOF) {
			return
		}
		// What was read, written anew, is read the same.
		var b bytes.Buffer
		for _, fr := range whole {
			if fr.HasID {
				b.WriteString("id: " + fr.ID + "\n")
			}
			b.WriteString("event: " + fr.Event + "\n")
			for line := range bytes.SplitSeq(fr.Data, []byte("\n")) {
				b.WriteString("data: " + string(line) + "\n")
			}
			b.WriteString("\n")
		}
		again, _, _ := frames(&b, max)
		if diff := cmp.Diff(whole, again); diff != "" {
			t.Errorf("written anew it reads otherwise:\n%s", diff)
		}
	})
}
