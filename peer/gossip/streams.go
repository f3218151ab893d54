package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/memberlist"
)

const (
	// maxStreams is how many streams are heard at once: memberlist has no bound for those of which it does not know yet
	// whether they hold the key.
	maxStreams = 16
	// maxStreamBytes bounds what one stream may bring, in bytes: memberlist would gather 20 MiB before it looks at the
	// key. A member takes less than 1 KiB.
	maxStreamBytes = 1 << 20
	// sealVersion is the format that members encrypt in. The byte that names it is not authenticated, and memberlist 0.7.0
	// panics when a packet of this format comes again as one of the older format 0, with padding: whoever has seen one
	// packet could end every node. So nothing else is passed on.
	sealVersion = 1
	// labelHeader is what stands before the label on the wire: a mark and the label's length.
	labelHeader = 2
	// sealHeader is what stands before the version in an encrypted stream: its type and length.
	sealHeader = 5
	// minSealed is the least that an encrypted message can be: version, nonce, one byte, tag. memberlist takes the first
	// byte of an empty one, which is not there.
	minSealed = 1 + 12 + 1 + 16
	// bindTries is how often a port that the system chose may turn out to be taken for the other of UDP and TCP.
	bindTries = 10
)

// transport is memberlist's own, with bounds for the streams that others open.
type transport struct {
	memberlist.NodeAwareTransport
	label   string
	heard   chan net.Conn
	packets chan *memberlist.Packet
	slots   chan struct{}
	dropped *atomic.Int64
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// bind listens as c says, sends through network when there is one, and puts the port into c when the system chose it.
func bind(c *memberlist.Config, network Network, dropped *atomic.Int64) (*transport, error) {
	conf := &memberlist.NetTransportConfig{BindAddrs: []string{c.BindAddr}, BindPort: c.BindPort, Logger: c.Logger}
	nt, err := memberlist.NewNetTransport(conf)
	for try := 1; err != nil && c.BindPort == 0 && try < bindTries && strings.Contains(err.Error(), "address already in use"); try++ {
		nt, err = memberlist.NewNetTransport(conf)
	}
	if err != nil {
		return nil, err
	}
	if c.BindPort == 0 {
		c.BindPort = nt.GetAutoBindPort()
		c.AdvertisePort = c.BindPort
	}
	var wire memberlist.NodeAwareTransport = nt
	if network != nil {
		wire = &carried{nt, network}
	}
	return &transport{NodeAwareTransport: wire, label: c.Label, heard: make(chan net.Conn), packets: make(chan *memberlist.Packet), slots: make(chan struct{}, maxStreams), dropped: dropped}, nil
}

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.heard }

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// sift passes packets on until ctx ends, but for those that memberlist must not see.
func (t *transport) sift(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case packet := <-t.NodeAwareTransport.PacketCh():
			at := labelHeader + len(t.label)
			if len(packet.Buf) > at && string(packet.Buf[labelHeader:at]) == t.label && packet.Buf[at] != sealVersion {
				t.dropped.Add(1)
				continue
			}
			select {
			case t.packets <- packet:
			case <-ctx.Done():
				return
			}
		}
	}
}

// hear passes streams on until ctx ends, and closes those that are too many.
func (t *transport) hear(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case conn := <-t.NodeAwareTransport.StreamCh():
			select {
			case t.slots <- struct{}{}:
			default:
				t.dropped.Add(1)
				_ = conn.Close()
				continue
			}
			s := &stream{Conn: conn, left: maxStreamBytes, start: labelHeader + len(t.label), done: func() { <-t.slots }}
			select {
			case t.heard <- s:
			case <-ctx.Done():
				_ = s.Close()
				return
			}
		}
	}
}

// stream is one that somebody else opened. memberlist reads it from one goroutine.
type stream struct {
	net.Conn
	left   int
	start  int    // where the encrypted message starts
	head   []byte // what has come until the byte that names the format
	closed atomic.Bool
	done   func()
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := s.Conn.Read(p[:min(len(p), s.left)])
	s.left -= n
	if want := s.start + sealHeader + 1 - len(s.head); want > 0 {
		s.head = append(s.head, p[:min(n, want)]...)
		if n >= want && !s.sound() {
			s.left = 0
			return 0, errFormat
		}
	}
	return n, err
}

var errFormat = errors.New("a format that no member uses")

// sound looks at the head of the stream, as sift does at packets.
func (s *stream) sound() bool {
	message := s.head[s.start:]
	return binary.BigEndian.Uint32(message[1:sealHeader]) >= minSealed && message[sealHeader] == sealVersion
}

// Close implements io.Closer.
func (s *stream) Close() error {
	if !s.closed.Swap(true) {
		s.done()
	}
	return s.Conn.Close()
}
