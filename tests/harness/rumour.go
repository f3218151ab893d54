package harness

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Rumour speaks the nodes' gossip, with any label and key, and says what it likes. The wire is memberlist's: a label's
// header, AES-GCM over the rest with the label as additional data, and one message in msgpack.
type Rumour struct {
	Label string
	Key   []byte // nil: in the clear
}

// Kinds of messages.
const (
	gossipPing     = 0
	gossipAck      = 2
	gossipSuspect  = 3
	gossipAlive    = 4
	gossipDead     = 5
	gossipPushPull = 6
	gossipSealed   = 10
	gossipLabelled = 244
)

// Rumour reads the label and the key of a node from its disk.
func (n *Node) Rumour(tb testing.TB) Rumour {
	tb.Helper()
	keys, err := os.ReadFile(filepath.Join(n.DataDir, "trust", "gossip.key"))
	if err != nil {
		tb.Fatal(err)
	}
	first, _, _ := strings.Cut(string(keys), "\n")
	key, err := base64.StdEncoding.DecodeString(first)
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(n.DataDir, "node.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var who struct {
		ClusterID string `json:"cluster_id"`
	}
	if err := json.Unmarshal(raw, &who); err != nil || who.ClusterID == "" {
		tb.Fatalf("%s names no cluster: %v", raw, err)
	}
	return Rumour{Label: who.ClusterID, Key: key}
}

// GossipAddr is where the node gossips, UDP and TCP.
func (n *Node) GossipAddr() string { return fmt.Sprintf("%s:%d", n.Host, n.Port+3) }

func (r Rumour) header() []byte {
	return append([]byte{gossipLabelled, byte(len(r.Label))}, r.Label...)
}

// Packet is msg as a datagram.
func (r Rumour) Packet(msg []byte) []byte {
	if r.Key == nil {
		return append(r.header(), msg...)
	}
	return append(r.header(), r.seal(msg, []byte(r.Label))...)
}

// Stream is msg as the beginning of a stream.
func (r Rumour) Stream(msg []byte) []byte {
	if r.Key == nil {
		return append(r.header(), msg...)
	}
	head := binary.BigEndian.AppendUint32([]byte{gossipSealed}, uint32(1+12+len(msg)+16))
	return slices.Concat(r.header(), head, r.seal(msg, append(slices.Clone(head), r.Label...)))
}

func (r Rumour) gcm() cipher.AEAD {
	block, err := aes.NewCipher(r.Key)
	if err != nil {
		panic(err) // a key of another length is the test's own fault
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

func (r Rumour) seal(msg, data []byte) []byte {
	out := make([]byte, 13)
	out[0] = 1 // the format without padding
	_, _ = rand.Read(out[1:])
	return r.gcm().Seal(out, out[1:13], msg, data)
}

// open returns the message in a datagram; nil when it's none of this label and key.
func (r Rumour) open(packet []byte) []byte {
	body, ok := strings.CutPrefix(string(packet), string(r.header()))
	if !ok || len(body) < 13 {
		return nil
	}
	msg, err := r.gcm().Open(nil, []byte(body[1:13]), []byte(body[13:]), []byte(r.Label))
	if err != nil {
		return nil
	}
	if len(msg) > 5 && msg[0] == 12 { // a checksum goes before
		msg = msg[5:]
	}
	return msg
}

// Ping asks the node name, which answers from; the answer goes back to where the packet comes from.
func (r Rumour) Ping(name string) []byte {
	return gossipMessage(gossipPing, "SeqNo", 7, "Node", name)
}

// Answers reports whether the node name at addr answers a ping, and returns its answer as it was on the wire.
func (r Rumour) Answers(addr, name string, wait time.Duration) ([]byte, bool) {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return nil, false
	}
	defer conn.Close()
	buf := make([]byte, 64<<10)
	for range 5 { // datagrams may be lost
		if _, err := conn.Write(r.Packet(r.Ping(name))); err != nil {
			return nil, false
		}
		_ = conn.SetReadDeadline(time.Now().Add(wait / 5))
		if n, err := conn.Read(buf); err == nil {
			if r.Key == nil {
				return buf[:n], true
			}
			if msg := r.open(buf[:n]); len(msg) > 0 && msg[0] == gossipAck {
				return buf[:n], true
			}
		}
	}
	return nil, false
}

// Alive claims that a node lives at addr and says meta of itself.
func (r Rumour) Alive(name string, addr net.IP, port uint16, incarnation uint32, meta []byte) []byte {
	return gossipMessage(gossipAlive, "Incarnation", incarnation, "Node", name, "Addr", []byte(addr.To4()), "Port", port, "Meta", meta, "Vsn", []byte{1, 5, 2, 0, 0, 0})
}

// Dead claims that from has seen a node die.
func (r Rumour) Dead(name, from string, incarnation uint32) []byte {
	return gossipMessage(gossipDead, "Incarnation", incarnation, "Node", name, "From", from)
}

// Suspect claims that from does not hear a node.
func (r Rumour) Suspect(name, from string, incarnation uint32) []byte {
	return gossipMessage(gossipSuspect, "Incarnation", incarnation, "Node", name, "From", from)
}

// PushPull announces nodes entries of a whole state, and brings those of names.
func (r Rumour) PushPull(nodes int, names []string) []byte {
	out := gossipMessage(gossipPushPull, "Nodes", nodes, "UserStateLen", 0, "Join", true)
	for i, name := range names {
		out = appendMap(out, "Name", name, "Addr", []byte{127, 0, 0, 1}, "Port", 1+i%60000, "Incarnation", 1, "Meta", []byte{0}, "State", 0, "Vsn", []byte{1, 5, 2, 0, 0, 0})
	}
	return out
}

func gossipMessage(kind byte, fields ...any) []byte { return appendMap([]byte{kind}, fields...) }

// appendMap appends names and values as a map in msgpack.
func appendMap(out []byte, fields ...any) []byte {
	out = append(out, 0x80|byte(len(fields)/2))
	for _, f := range fields {
		switch v := f.(type) {
		case string:
			out = appendRaw(out, []byte(v))
		case []byte:
			out = appendRaw(out, v)
		case bool:
			out = append(out, map[bool]byte{false: 0xc2, true: 0xc3}[v])
		case int:
			out = binary.BigEndian.AppendUint64(append(out, 0xd3), uint64(v))
		case uint16:
			out = binary.BigEndian.AppendUint16(append(out, 0xcd), v)
		case uint32:
			out = binary.BigEndian.AppendUint32(append(out, 0xce), v)
		default:
			panic(fmt.Sprintf("no msgpack for %T", f))
		}
	}
	return out
}

func appendRaw(out, b []byte) []byte {
	if len(b) < 32 {
		out = append(out, 0xa0|byte(len(b)))
	} else {
		out = binary.BigEndian.AppendUint16(append(out, 0xda), uint16(len(b)))
	}
	return append(out, b...)
}
