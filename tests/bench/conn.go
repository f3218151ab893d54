package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// conn is a keep-alive HTTP/1.1 connection that does only what a load needs, so that the client costs little beside the
// server it shares the machine with.
type conn struct {
	addr  string
	proof *proof // nil: no TLS
	c     net.Conn
	r     *bufio.Reader
	out   []byte
	body  []byte
	last  bool // the server will close after this answer
}

func (c *conn) dial() error {
	if c.c != nil {
		return nil
	}
	raw, err := net.DialTimeout("tcp", c.addr, 5*time.Second)
	if err != nil {
		return err
	}
	if c.proof != nil {
		conf, err := c.proof.client()
		if err != nil {
			return errors.Join(err, raw.Close())
		}
		raw = tls.Client(raw, conf)
	}
	c.c = raw
	if c.r == nil {
		c.r = bufio.NewReaderSize(raw, 8<<10)
	} else {
		c.r.Reset(raw)
	}
	return nil
}

func (c *conn) close() {
	if c.c != nil {
		_ = c.c.Close()
		c.c = nil
	}
}

// send writes one request.
func (c *conn) send(method, path, key string, body []byte) error {
	if err := c.dial(); err != nil {
		return err
	}
	if err := c.c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil { // nothing here takes so long
		return err
	}
	b := c.out[:0]
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.addr...)
	if key != "" {
		b = append(b, "\r\nAuthorization: Bearer "...)
		b = append(b, key...)
	}
	if body != nil {
		b = append(b, "\r\nContent-Type: application/json\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
	}
	b = append(b, "\r\n\r\n"...)
	b = append(b, body...)
	c.out = b
	_, err := c.c.Write(b)
	return err
}

// head reads the status line and the headers. length is -1 without a Content-Length.
func (c *conn) head() (status int, length int64, chunked bool, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, 0, false, err
	}
	if len(line) < 12 {
		return 0, 0, false, fmt.Errorf("status line %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, false, err
	}
	length, c.last = -1, false
	for {
		line, err = c.r.ReadSlice('\n')
		if err != nil {
			return 0, 0, false, err
		}
		if len(line) <= 2 {
			return status, length, chunked, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return 0, 0, false, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Connection")):
			c.last = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// do sends a request and reads the whole answer. The body is valid until the next call.
func (c *conn) do(method, path, key string, body []byte) (int, []byte, error) {
	if err := c.send(method, path, key, body); err != nil {
		c.close()
		return 0, nil, err
	}
	status, length, chunked, err := c.head()
	if err == nil {
		switch {
		case chunked:
			c.body = c.body[:0]
			err = c.chunks(func(p []byte) bool {
				c.body = append(c.body, p...)
				return true
			})
		case length >= 0:
			if int64(cap(c.body)) < length {
				c.body = make([]byte, length)
			}
			c.body = c.body[:length]
			_, err = io.ReadFull(c.r, c.body)
		case status == 204:
			c.body = c.body[:0]
		default:
			err = errors.New("an answer without a length")
		}
	}
	if err != nil {
		c.close()
	}
	return status, c.body, err
}

// chunks passes each chunk to f until the last one, or until f says false. The bytes are valid during the call.
func (c *conn) chunks(f func([]byte) bool) error {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return err
		}
		if n == 0 {
			_, err = c.r.ReadSlice('\n')
			return err
		}
		for n > 0 {
			if _, err := c.r.Peek(1); err != nil { // wait for something, then take all of it that is there
				return err
			}
			p, err := c.r.Peek(int(min(n, int64(c.r.Buffered()))))
			if err != nil {
				return err
			}
			more := f(p)
			n -= int64(len(p))
			if _, err := c.r.Discard(len(p)); err != nil || !more {
				return err
			}
		}
		if _, err := c.r.Discard(2); err != nil {
			return err
		}
	}
}

// follow opens an event stream and counts its stored frames until the final one has arrived whole; it reports an end
// without that as an error. seen, unless nil, is called after each piece with the number of frames so far.
func (c *conn) follow(path, key string, seen func(frames int)) (frames int, err error) {
	if err := c.send("GET", path, key, nil); err != nil {
		c.close()
		return 0, err
	}
	status, _, chunked, err := c.head()
	if err != nil || status != 200 || !chunked {
		c.close()
		return 0, fmt.Errorf("follow: status %d, chunked %v: %w", status, chunked, err)
	}
	var m marks
	err = c.chunks(func(p []byte) bool {
		m.feed(p)
		if seen != nil {
			seen(m.frames)
		}
		return true
	})
	if err != nil || c.last {
		c.close()
	}
	if err == nil && !m.final {
		err = errors.New("the stream ended without the final event")
	}
	return m.frames, err
}

// marks counts the id lines of a byte stream that may be cut anywhere, and notices a final event in it.
type marks struct {
	frames int
	final  bool
	column int  // place in the line, up to 3
	id     bool // the line began like an id so far
	tail   []byte
}

var finals = [...]string{`"agentos.run.completed"`, `"agentos.run.failed"`, `"agentos.run.canceled"`}

func (m *marks) feed(p []byte) {
	m.tail = append(m.tail, p...)
	for _, f := range finals {
		m.final = m.final || bytes.Contains(m.tail, []byte(f))
	}
	m.tail = append(m.tail[:0], m.tail[max(0, len(m.tail)-len(finals[0])):]...)
	for len(p) > 0 {
		if m.column >= 3 {
			i := bytes.IndexByte(p, '\n')
			if i < 0 {
				return
			}
			p, m.column = p[i+1:], 0
			continue
		}
		b := p[0]
		p = p[1:]
		if b == '\n' {
			m.column = 0
			continue
		}
		m.id = (m.column == 0 || m.id) && b == "id:"[m.column]
		m.column++
		if m.column == 3 && m.id {
			m.frames++
		}
	}
}
