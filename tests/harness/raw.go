package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Raw sends exactly these bytes on a connection of their own and reads one answer. A server that closes the connection
// while the bytes are still being written has answered all the same, when it has.
func Raw(addr string, bound time.Duration, request io.Reader) (Answer, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(bound)); err != nil {
		return Answer{}, err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, request)
		sent <- err
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return Answer{}, fmt.Errorf("read the answer: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	_ = conn.Close()
	<-sent
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: text}, err
}

// Addr returns host:port of a client's base.
func (c *Client) Addr() string { return strings.TrimPrefix(c.Base, "http://") }

// Frame is one event of a stream, as it came.
type Frame struct {
	ID    string // "" without an id line
	HasID bool
	Event string
	Data  string
	At    time.Time
}

// End says how a stream ended.
type End string

// How a stream may end: with the last chunk of its body, by a connection that broke before it, or not yet.
const (
	Open  End = "open"
	Whole End = "whole"
	Cut   End = "cut"
)

// Stream is an SSE stream read from a bare connection, so that nothing between hides how it ended.
type Stream struct {
	Status   int
	Header   http.Header
	Body     []byte // of an answer that is no stream
	Retry    string // value of the retry field
	Comments int    // heartbeats so far
	conn     net.Conn
	body     *chunked
	lines    *bufio.Reader
	end      End
}

// Follow opens a run's event stream. query is without its '?'; headers are name, value pairs.
func (c *Client) Follow(tb testing.TB, runID, query string, headers ...string) *Stream {
	tb.Helper()
	s, err := c.TryFollow(runID, query, headers...)
	if err != nil {
		tb.Fatalf("follow %s: %v", runID, err)
	}
	tb.Cleanup(s.Close)
	return s
}

// TryFollow is Follow for goroutines and programs.
func (c *Client) TryFollow(runID, query string, headers ...string) (*Stream, error) {
	path := "/v1/runs/" + runID + "/events"
	if query != "" {
		path += "?" + query
	}
	return c.TryStream("GET", path, "", append(headers, "Accept", "text/event-stream")...)
}

// TryStream sends a request and reads the head of the answer; the rest is read by Next.
func (c *Client) TryStream(method, path, body string, headers ...string) (*Stream, error) {
	conn, err := c.dial(context.Background(), "tcp", c.Addr())
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, c.Addr())
	if c.Key != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", c.Key)
	}
	if body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	for i := 0; i+1 < len(headers); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", headers[i], headers[i+1])
	}
	b.WriteString("\r\n")
	b.WriteString(body)
	s, err := openStream(conn, b.String())
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

func openStream(conn net.Conn, request string) (*Stream, error) {
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, fmt.Errorf("read the head: %w", err)
	}
	s := &Stream{Status: resp.StatusCode, Header: resp.Header, conn: conn, end: Open}
	if len(resp.TransferEncoding) == 1 && resp.TransferEncoding[0] == "chunked" {
		s.body = &chunked{r: r}
		s.lines = bufio.NewReader(s.body)
	}
	if s.Status != http.StatusOK {
		switch {
		case s.lines != nil:
			s.Body, err = io.ReadAll(s.lines)
		case resp.ContentLength > 0:
			s.Body = make([]byte, resp.ContentLength)
			_, err = io.ReadFull(r, s.Body)
		}
		s.end = Whole
		return s, err
	}
	if s.lines == nil { // an HTTP/1.0 style body: it ends when the connection does, and none can say whether it is whole
		s.lines = bufio.NewReader(r)
	}
	return s, nil
}

// Next returns the next frame. It waits at most bound; io.EOF means that the stream ended (End says how).
func (s *Stream) Next(bound time.Duration) (Frame, error) {
	if s.end != Open {
		return Frame{}, io.EOF
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(bound)); err != nil {
		return Frame{}, err
	}
	var f Frame
	started := false
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return Frame{}, s.ended(err)
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			if started {
				f.At = time.Now()
				return f, nil
			}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
			s.Comments++
		case "retry":
			s.Retry = value
		case "id":
			f.ID, f.HasID, started = value, true, true
		case "event":
			f.Event, started = value, true
		case "data":
			if f.Data != "" {
				f.Data += "\n"
			}
			f.Data, started = f.Data+value, true
		}
	}
}

func (s *Stream) ended(err error) error {
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return err
	}
	s.end = Cut
	if s.body != nil && s.body.whole {
		s.end = Whole
	}
	return io.EOF
}

// Rest reads frames until the stream ends and returns them, waiting at most bound for each.
func (s *Stream) Rest(bound time.Duration) ([]Frame, error) {
	var frames []Frame
	for {
		f, err := s.Next(bound)
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return frames, err
		}
		frames = append(frames, f)
	}
}

// End says how the stream ended.
func (s *Stream) End() End { return s.end }

// Close leaves the stream.
func (s *Stream) Close() { _ = s.conn.Close() }

// chunked reads a chunked body and tells an end from a break, which net/http's reader also does, but without showing it
// to those above.
type chunked struct {
	r     *bufio.Reader
	left  int64
	whole bool
}

func (c *chunked) Read(p []byte) (int, error) {
	if c.whole {
		return 0, io.EOF
	}
	if c.left == 0 {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return 0, unexpected(err)
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseInt(size, 16, 64)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("chunk size %q", line)
		}
		if n == 0 {
			for { // trailers, then the empty line
				line, err := c.r.ReadString('\n')
				if err != nil {
					return 0, unexpected(err)
				}
				if strings.TrimSpace(line) == "" {
					c.whole = true
					return 0, io.EOF
				}
			}
		}
		c.left = n
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if err == nil && c.left == 0 {
		var crlf [2]byte
		if _, err = io.ReadFull(c.r, crlf[:]); err == nil && crlf != [2]byte{'\r', '\n'} {
			err = errors.New("chunk without its CRLF")
		}
	}
	return n, unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
