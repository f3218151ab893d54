package replica_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// A member process is one node of three that are killed and stopped as processes. The members meet at sockets in one
// folder: ID.raft for the log, ID.ask for commands to the leader. It does what its standard input says, one line at a time,
// and answers each with a line that begins with "="; in between it says "+key" for each key that was acknowledged.

// socketStream is a member's replica.Stream.
type socketStream struct{ net.Listener }

var _ replica.Stream = socketStream{}

func (socketStream) Dial(address string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("unix", address, timeout)
}

func listenSocket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of a process that was killed
		return nil, err
	}
	return net.Listen("unix", path)
}

// socketForward is a member's replica.Forwarder: one connection for each call, bytes behind their length.
type socketForward struct{}

func (socketForward) Forward(ctx context.Context, leader replica.Server, batch []byte) ([]byte, error) {
	c, err := net.Dial("unix", strings.TrimSuffix(leader.Address, ".raft")+".ask")
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer func() { _ = c.Close() }()
	if err := writeFrame(c, batch); err != nil {
		return nil, err
	}
	return readFrame(c)
}

func writeFrame(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(n[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func serveForwards(l net.Listener, s *replica.Store) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			batch, err := readFrame(c)
			if err != nil {
				return
			}
			if answers, err := s.HandleForward(context.Background(), batch); err == nil {
				_ = writeFrame(c, answers)
			}
		}()
	}
}

// member is a member process from within.
type member struct {
	s     *replica.Store
	count storage.Call[string, int]
	round string

	stop chan struct{}
	wg   sync.WaitGroup
}

func childMember() error {
	id, folder := os.Getenv("ID"), os.Getenv("FOLDER")
	reg := storage.NewRegistry()
	m := &member{count: counter(reg), round: id + "/" + os.Getenv("ROUND"), stop: make(chan struct{})}
	log, err := listenSocket(filepath.Join(folder, id+".raft"))
	if err != nil {
		return err
	}
	asks, err := listenSocket(filepath.Join(folder, id+".ask"))
	if err != nil {
		return err
	}
	m.s, err = replica.Open(replica.Options{
		Dir: filepath.Join(folder, id), ServerID: id, ClusterID: "test", Registry: reg, Fast: true, DiskFloorBytes: -1,
		SnapshotInterval: 80 * time.Millisecond, MemTableBytes: 64 << 10, TrailingBytes: 64 << 10,
		Bootstrap: os.Getenv("INIT") != "", Stream: socketStream{log}, Forward: socketForward{}, AskTimeout: time.Minute,
	})
	if err != nil {
		return err
	}
	if err := m.s.Start(context.Background()); err != nil {
		return err
	}
	go serveForwards(asks, m.s)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		answer, err := m.do(ctx, words[0], words[1:])
		cancel()
		if err != nil {
			answer = "error " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		if _, err := os.Stdout.WriteString("=" + answer + "\n"); err != nil {
			return err
		}
		if words[0] == "quit" {
			return nil
		}
	}
	return nil
}

// do does what one line says.
func (m *member) do(ctx context.Context, what string, args []string) (string, error) {
	switch what {
	case "ready":
		return "ready", m.s.Ready(ctx)
	case "add": // id address
		return "added", m.s.AddVoter(ctx, args[0], args[1])
	case "load":
		for w := range 6 {
			m.wg.Go(func() { m.load(fmt.Sprintf("%s/%d", m.round, w)) })
		}
		return "loading", nil
	case "stop":
		close(m.stop)
		m.wg.Wait()
		return "stopped", nil
	case "role":
		return string(m.s.Status().Role), nil
	case "view":
		hash, index, err := m.s.StateHash(ctx)
		st := m.s.Status()
		if err == nil && st.Applied != index {
			err = errors.New("still moving")
		}
		return fmt.Sprintf("%d %x %x", index, hash, st.Hash), err
	case "quit":
		return "closed", m.s.Close()
	}
	return "", fmt.Errorf("unknown: %s", what)
}

func (m *member) load(key string) {
	for i := 0; ; i++ {
		select {
		case <-m.stop:
			return
		default:
		}
		key := fmt.Sprintf("%s/%d", key, i)
		if _, _, err := m.count.Do(context.Background(), m.s, "", key); err != nil {
			continue // unknown: it may be there or not
		}
		if _, err := os.Stdout.WriteString("+" + key + "\n"); err != nil { // one system call: a kill can't lose it
			return
		}
	}
}
