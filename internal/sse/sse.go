package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// DefaultMaxFrame is the most bytes of one frame, and of one line, when NewReader is told none.
const DefaultMaxFrame = 1 << 20

// ErrTooLong says that a frame, or one of its lines, is longer than the reader takes. The stream can't be read on.
var ErrTooLong = errors.New("sse: a frame is longer than this reader takes")

// Frame is one event of a stream.
type Frame struct {
	// ID is the frame's own; HasID tells an empty one from none.
	ID    string
	HasID bool
	// Event is its type, "" for the default.
	Event string
	// Data is what its data lines held, joined by line feeds. It is valid until the next call of Next.
	Data []byte
}

// Reader reads frames. It is for one goroutine.
type Reader struct {
	r   io.Reader
	max int

	buf     []byte // what was read and not used yet lies in buf[from:]
	from    int
	data    []byte
	skipLF  bool // the last line ended in CR: an LF that follows belongs to it
	started bool
	err     error // of r, once it's spent
	retry   time.Duration
}

// NewReader returns a Reader of r. max bounds a frame's data and each line, in bytes; 0 means DefaultMaxFrame.
func NewReader(r io.Reader, max int) *Reader {
	if max <= 0 {
		max = DefaultMaxFrame
	}
	return &Reader{r: r, max: max}
}

// Retry is what the stream said last of how long to wait before coming back; 0 when it said nothing.
func (r *Reader) Retry() time.Duration { return r.retry }

// Next returns the next frame that has data. At the end of the stream it returns io.EOF, or io.ErrUnexpectedEOF when the
// stream broke off within a frame: that frame is not returned.
func (r *Reader) Next() (Frame, error) {
	var f Frame
	r.data = r.data[:0]
	hasData, within := false, false
	for {
		line, err := r.line()
		if errors.Is(err, io.EOF) && (within || len(line) > 0) {
			return Frame{}, io.ErrUnexpectedEOF
		}
		if err != nil {
			return Frame{}, err
		}
		if len(line) == 0 {
			if hasData {
				f.Data = r.data
				return f, nil
			}
			f, within = Frame{}, false
			continue
		}
		within = true
		name, value, _ := bytes.Cut(line, colon)
		value = bytes.TrimPrefix(value, space)
		switch string(name) {
		case "data":
			if hasData {
				r.data = append(r.data, '\n')
			}
			if hasData = true; len(r.data)+len(value) > r.max {
				return Frame{}, r.tooLong()
			}
			r.data = append(r.data, value...)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				f.ID, f.HasID = string(value), true
			}
		case "event":
			f.Event = string(value)
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				r.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

var (
	colon = []byte(":")
	space = []byte(" ")
	bom   = []byte("\xef\xbb\xbf")
)

// line returns one line without its end (LF, CR LF or CR), valid until the next call. At the end of the stream it returns
// what stands there without a line end, beside the error.
func (r *Reader) line() ([]byte, error) {
	looked := 0 // bytes of buf[from:] without a line end
	for {
		if r.skipLF && r.from < len(r.buf) {
			if r.buf[r.from] == '\n' {
				r.from++
			}
			r.skipLF = false
		}
		rest := r.buf[r.from:]
		if i := bytes.IndexAny(rest[looked:], "\r\n"); i >= 0 {
			i += looked
			r.skipLF = rest[i] == '\r'
			r.from += i + 1
			if i > r.max+fieldName {
				return nil, r.tooLong()
			}
			return r.mark(rest[:i]), nil
		}
		if looked = len(rest); looked > r.max+fieldName {
			return nil, r.tooLong()
		}
		if r.err != nil {
			r.from = len(r.buf)
			return rest, r.err
		}
		r.fill()
	}
}

// fieldName is what may stand before a line's value without counting against the bound.
const fieldName = len("event: ")

// mark takes a byte order mark off the first line.
func (r *Reader) mark(line []byte) []byte {
	if !r.started {
		r.started = true
		line = bytes.TrimPrefix(line, bom)
	}
	return line
}

// fill reads once more, behind what is there.
func (r *Reader) fill() {
	const least = 4 << 10
	if r.from > 0 {
		r.buf = r.buf[:copy(r.buf, r.buf[r.from:])]
		r.from = 0
	}
	if cap(r.buf)-len(r.buf) < least {
		bigger := make([]byte, len(r.buf), 2*cap(r.buf)+least)
		copy(bigger, r.buf)
		r.buf = bigger
	}
	for range 100 { // as bufio does: a reader that gives nothing and no error is broken
		n, err := r.r.Read(r.buf[len(r.buf):cap(r.buf)])
		r.buf = r.buf[:len(r.buf)+n]
		if err != nil {
			r.err = err
			return
		}
		if n > 0 {
			return
		}
	}
	r.err = io.ErrNoProgress
}

func (r *Reader) tooLong() error {
	r.err = fmt.Errorf("%w: more than %d bytes", ErrTooLong, r.max)
	r.buf, r.from = nil, 0
	return r.err
}
