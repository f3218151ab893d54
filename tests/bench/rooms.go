package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// Two measures look at a room of the house by itself, beside the bare library on which it's built. Only the room may import
// that library, so room and yardstick are both played by the room's own test binary, in processes that this bench starts.

// room builds the test binary of a package and returns its path.
func (b *bench) room(pkg string) (string, error) {
	root, err := harness.Root()
	if err != nil {
		return "", err
	}
	out := filepath.Join(b.stage.TempDir(), filepath.Base(pkg)+".test")
	cmd := exec.Command("go", "test", "-c", "-o", out, "./"+pkg)
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go test -c ./%s: %w\n%s", pkg, err, text)
	}
	return out, nil
}

// actor starts a room's test binary in a part of it.
func actor(binary string, env ...string) *exec.Cmd {
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// What a member of a log, ours or bare raft's, is told, a line each, and answers.
type (
	logOrder struct {
		Open *logOpen `json:",omitempty"`
		Add  *logAdd  `json:",omitempty"`
		Load *logLoad `json:",omitempty"`
	}
	logOpen struct {
		Bare, Bootstrap bool
		Dir, ID         string
		Cert, Key       []byte
	}
	logAdd  struct{ ID, Address string }
	logLoad struct {
		Callers int
		Seconds float64
	}
	logAnswer struct {
		Address      string
		Count        int
		Elapsed, P50 time.Duration
		Error        string
	}
)

// logMember is a process that holds one member of a log.
type logMember struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func (m *logMember) ask(o logOrder) (a logAnswer, err error) {
	if err := json.NewEncoder(m.in).Encode(o); err != nil {
		return a, err
	}
	line, err := m.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

// logCluster starts a log of so many members and returns the one that leads it.
func (b *bench) logCluster(binary string, bare bool, members int) (first *logMember, err error) {
	var cert, key []byte
	if members > 1 {
		if cert, key, err = selfSigned(); err != nil {
			return nil, err
		}
	}
	for i := range members {
		cmd := actor(binary, "REPLICA_TEST_CHILD=yard")
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		dir := b.stage.TempDir()
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		b.stage.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		m, id := &logMember{in, bufio.NewReader(out)}, fmt.Sprint("n", i)
		a, err := m.ask(logOrder{Open: &logOpen{Bare: bare, Bootstrap: i == 0, Dir: dir, ID: id, Cert: cert, Key: key}})
		if err == nil && i == 0 {
			first = m
		} else if err == nil {
			_, err = first.ask(logOrder{Add: &logAdd{id, a.Address}})
		}
		if err != nil {
			return nil, err
		}
	}
	return first, nil
}

// selfSigned makes a certificate, and its key, that proves the members to each other.
func selfSigned() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	sheet := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"member"}, NotAfter: time.Now().Add(24 * time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if cert, err = x509.CreateCertificate(rand.Reader, sheet, sheet, &private.PublicKey, private); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalECPrivateKey(private)
	return cert, key, err
}

// raft: commands of some 130 bytes through the store, on one member and on three, beside bare raft on the same log store with
// the same settings, over the same mutual TLS, and a state that keeps nothing. The callers live with the leader.
func (b *bench) raft() error {
	binary, err := b.room("storage/replica")
	if err != nil {
		return err
	}
	for _, members := range []int{1, 3} {
		ours, err := b.logCluster(binary, false, members)
		if err != nil {
			return err
		}
		bare, err := b.logCluster(binary, true, members)
		if err != nil {
			return err
		}
		for _, callers := range []int{1, 64} {
			var rates, times [2][]float64
			for range b.rounds {
				for i, m := range []*logMember{bare, ours} {
					a, err := m.ask(logOrder{Load: &logLoad{callers, b.seconds}})
					if err != nil {
						return err
					}
					rates[i] = append(rates[i], float64(a.Count)/a.Elapsed.Seconds())
					times[i] = append(times[i], ms(a.P50))
				}
			}
			where := fmt.Sprintf("%d member(s), c=%d: ", members, callers)
			b.table.add(where+"bare raft, commands", "1/s", rates[0], nil, "")
			b.table.add(where+"the store, commands", "1/s", rates[1], rates[0], "bare raft")
			b.table.add(where+"bare raft, p50", "ms", times[0], nil, "")
			b.table.add(where+"the store, p50", "ms", times[1], times[0], "bare raft")
		}
	}
	return nil
}

// gossip: how long it takes until a pool knows the member that makes it one of so many, all in one process, beside bare
// memberlist with the same settings, those of --timing=fast.
func (b *bench) gossip() error {
	binary, err := b.room("peer/gossip")
	if err != nil {
		return err
	}
	sizes := []int{10, 50, 100}
	took := map[string][][]float64{"bare": make([][]float64, len(sizes)), "ours": make([][]float64, len(sizes))}
	for range b.rounds {
		for _, kind := range []string{"bare", "ours"} {
			text, err := actor(binary, "GOSSIP_TEST_CHILD="+kind, "FAST=1", "SIZES=10,50,100").Output()
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			var each []time.Duration
			if err := json.Unmarshal(text, &each); err != nil || len(each) != len(sizes) {
				return fmt.Errorf("%s answered %q: %w", kind, text, err)
			}
			for i, d := range each {
				took[kind][i] = append(took[kind][i], ms(d))
			}
		}
	}
	for i, size := range sizes {
		b.table.add(fmt.Sprintf("bare memberlist: member %d known to all", size), "ms", took["bare"][i], nil, "")
		b.table.add(fmt.Sprintf("gossip: member %d known to all", size), "ms", took["ours"][i], took["bare"][i], "bare memberlist")
	}
	return nil
}
