package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// maxFrame bounds one batch of commands or answers, in bytes: some thousands of commands, none above the store's own
	// limit for one.
	maxFrame = 16 << 20
	// idleConns is how many connections to one member are kept open for the next batch.
	idleConns = 4
	// firstRead is how much of a frame is taken in before more memory is given to it: a length alone costs nothing.
	firstRead = 64 << 10
)

// ErrFrame is returned for a frame that is longer than any honest one.
var ErrFrame = errors.New("cluster: a frame is too long")

// A frame is a length of four bytes, big-endian, and so many bytes. On one connection an answer follows each question
// before the next is asked.

func writeFrame(w io.Writer, b []byte) error {
	if len(b) > maxFrame {
		return ErrFrame
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	bufs := net.Buffers{head, b}
	_, err := bufs.WriteTo(w)
	return err
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(head[:]))
	if size > maxFrame {
		return nil, ErrFrame
	}
	b := make([]byte, min(size, firstRead))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if size <= firstRead {
		return b, nil
	}
	rest := make([]byte, size)
	copy(rest, b)
	_, err := io.ReadFull(r, rest[firstRead:])
	return rest, err
}

// Commander sends batches of commands to whichever member leads, over connections that it keeps. Safe for concurrent use.
type Commander struct {
	door *Door

	mu     sync.Mutex
	idle   map[string][]net.Conn // by address
	closed bool
}

// NewCommander returns a Commander that dials through d.
func NewCommander(d *Door) *Commander { return &Commander{door: d, idle: make(map[string][]net.Conn)} }

// Forward sends batch to the node stackID at address and returns its answer. Any error means that the outcome is unknown:
// the batch may have arrived.
func (c *Commander) Forward(ctx context.Context, stackID, address string, batch []byte) ([]byte, error) {
	conn, err := c.take(ctx, stackID, address)
	if err != nil {
		return nil, err
	}
	answer, err := exchange(ctx, conn, batch)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("cluster: commands to %s at TCP %s: %w", stackID, address, err)
	}
	c.give(address, conn)
	return answer, nil
}

func exchange(ctx context.Context, conn net.Conn, batch []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeFrame(conn, batch); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	answer, err := readFrame(conn)
	if err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	if !stop() {
		// The deadline may be about to be set on a connection that the next caller would get.
		return nil, ctx.Err()
	}
	return answer, nil
}

func (c *Commander) take(ctx context.Context, stackID, address string) (net.Conn, error) {
	c.mu.Lock()
	if n := len(c.idle[address]); n > 0 {
		conn := c.idle[address][n-1]
		c.idle[address] = c.idle[address][:n-1]
		c.mu.Unlock()
		return conn, nil
	}
	c.mu.Unlock()
	return c.door.Dial(ctx, address, stackID, Commands)
}

func (c *Commander) give(address string, conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle[address]) >= idleConns {
		_ = conn.Close()
		return
	}
	c.idle[address] = append(c.idle[address], conn)
}

// Close closes the connections that are kept.
func (c *Commander) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, conns := range c.idle {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
	clear(c.idle)
}

// ServeCommands answers batches that other members send until the door closes; it returns when every connection has
// ended. handle is called from many goroutines.
func (d *Door) ServeCommands(handle func(ctx context.Context, batch []byte) []byte) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for {
		conn, err := d.Listener(Commands).Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer conn.Close()
			for {
				batch, err := readFrame(conn)
				if err != nil {
					if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
						d.log.Info("a member's command connection ended", zap.String("remote", conn.RemoteAddr().String()), zap.Error(err))
					}
					return
				}
				if err := writeFrame(conn, handle(ctx, batch)); err != nil {
					return
				}
			}
		})
	}
}
