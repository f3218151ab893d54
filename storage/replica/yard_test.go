package replica_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// The bench (tests/bench) has this test binary play a member of a cluster, of ours or of bare raft, in a process of its
// own. It reads one order a line from standard input, and answers each with a line, until its input ends.

// yardOrder says what to do. Exactly one field is set.
type yardOrder struct {
	Open *yardOpen
	Add  *yardAdd
	Load *yardLoad
}

type yardOpen struct {
	Bare      bool
	Dir, ID   string
	Bootstrap bool
	// Cert and Key, DER, prove all members to each other; none: a lone member that listens nowhere.
	Cert, Key []byte
}

type yardAdd struct{ ID, Address string }

type yardLoad struct {
	Callers int
	Seconds float64
}

type yardAnswer struct {
	Address string        `json:",omitempty"`
	Count   int           `json:",omitempty"`
	Elapsed time.Duration `json:",omitempty"`
	P50     time.Duration `json:",omitempty"`
	Error   string        `json:",omitempty"`
}

// yardMember is a member, ours or bare.
type yardMember interface {
	add(id, address string) error
	put(key, value string) error
	close() error
}

type ourMember struct {
	s   *replica.Store
	set storage.Call[putArgs, struct{}]
}

func (m ourMember) add(id, address string) error {
	return m.s.AddVoter(context.Background(), id, address)
}

func (m ourMember) put(key, value string) error {
	_, _, err := m.set.Do(context.Background(), m.s, "", putArgs{key, value})
	return err
}

func (m ourMember) close() error { return m.s.Close() }

type bareMember struct{ *replica.Bare }

func (m bareMember) add(id, address string) error { return m.AddVoter(id, address) }
func (m bareMember) put(key, value string) error  { return m.Do([]byte(key + value)) }
func (m bareMember) close() error                 { return m.Close() }

func openYard(o yardOpen) (m yardMember, address string, err error) {
	reg := storage.NewRegistry()
	set := storage.Define(reg, "put", func(tx storage.Tx, a putArgs) (struct{}, error) {
		tx.Set(a.Key, []byte(a.Value))
		return struct{}{}, nil
	})
	ro := replica.Options{Dir: o.Dir, ServerID: o.ID, ClusterID: "bench", Registry: reg, Bootstrap: o.Bootstrap}
	ro.Fatal = func(err error) { panic(err) }
	if o.Cert != nil {
		s, err := newTLSStream(o.Cert, o.Key)
		if err != nil {
			return nil, "", err
		}
		ro.Stream, address = s, s.Addr().String()
	}
	if o.Bare {
		b, err := replica.OpenBare(ro)
		if err == nil && o.Bootstrap {
			err = b.Lead()
		}
		return bareMember{b}, address, err
	}
	s, err := replica.Open(ro)
	if err != nil {
		return nil, "", err
	}
	if err := s.Start(context.Background()); err != nil {
		return nil, "", err
	}
	if o.Bootstrap {
		err = s.Ready(context.Background())
	}
	return ourMember{s, set}, address, err
}

// load has callers put small values, each waiting for its answer before the next.
func (o yardLoad) run(m yardMember) (a yardAnswer, err error) {
	value := strings.Repeat("v", 100)
	until := time.Now().Add(time.Duration(o.Seconds * float64(time.Second)))
	began := time.Now()
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for w := range o.Callers {
		wg.Go(func() {
			var mine []time.Duration
			for i := 0; time.Now().Before(until); i++ {
				asked := time.Now()
				if failed := m.put(fmt.Sprintf("bench/%d/%d/%d", began.UnixNano(), w, i), value); failed != nil {
					mu.Lock()
					err = errors.Join(err, failed)
					mu.Unlock()
					return
				}
				mine = append(mine, time.Since(asked))
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	a = yardAnswer{Count: len(took), Elapsed: time.Since(began)}
	if slices.Sort(took); len(took) > 0 {
		a.P50 = took[len(took)/2]
	}
	return a, err
}

func childYard() error { return serveYard(os.Stdin, os.Stdout) }

func serveYard(in io.Reader, out io.Writer) (err error) {
	var m yardMember
	defer func() {
		if m != nil {
			err = errors.Join(err, m.close())
		}
	}()
	lines := bufio.NewScanner(in)
	answers := json.NewEncoder(out)
	for lines.Scan() {
		var o yardOrder
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		var a yardAnswer
		var err error
		switch {
		case o.Open != nil && m == nil:
			m, a.Address, err = openYard(*o.Open)
		case o.Add != nil && m != nil:
			err = m.add(o.Add.ID, o.Add.Address)
		case o.Load != nil && m != nil:
			a, err = o.Load.run(m)
		default:
			err = errors.New("an order that makes no sense here")
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

// tlsStream is a replica.Stream over mutual TLS, as the nodes of a cluster have it.
type tlsStream struct {
	net.Listener
	conf *tls.Config
}

func newTLSStream(cert, key []byte) (*tlsStream, error) {
	leaf, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, err
	}
	private, err := x509.ParseECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	conf := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: private}}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "member", MinVersion: tls.VersionTLS13,
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	return &tlsStream{Listener: l, conf: conf}, err
}

// Dial implements replica.Stream.
func (s *tlsStream) Dial(address string, timeout time.Duration) (net.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: timeout}, "tcp", address, s.conf)
}

// TestYard: ours and the yardstick both make a cluster and take commands; else the bench would compare with nothing.
func TestYard(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sheet := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"member"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, sheet, sheet, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for _, bare := range []bool{false, true} {
		t.Run(fmt.Sprintf("bare=%v", bare), func(t *testing.T) {
			t.TempDir() // makes sure that directories go after the members have stopped
			first := newYard(t)
			for i := range 3 {
				y, id := first, fmt.Sprint("n", i)
				if i > 0 {
					y = newYard(t)
				}
				a := y.ask(yardOrder{Open: &yardOpen{Bare: bare, Dir: t.TempDir(), ID: id, Bootstrap: i == 0, Cert: cert, Key: key}})
				if i > 0 {
					first.ask(yardOrder{Add: &yardAdd{id, a.Address}})
				}
			}
			if a := first.ask(yardOrder{Load: &yardLoad{Callers: 4, Seconds: 0.05}}); a.Count < 4 || a.P50 <= 0 {
				t.Errorf("no commands: %+v", a)
			}
		})
	}
}

// yard is a member that takes orders, in this process.
type yard struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Scanner
}

func newYard(t *testing.T) *yard {
	orders, in := io.Pipe()
	out, answers := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- serveYard(orders, answers) }()
	t.Cleanup(func() {
		_ = in.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &yard{t, in, bufio.NewScanner(out)}
}

func (y *yard) ask(o yardOrder) (a yardAnswer) {
	y.t.Helper()
	if err := json.NewEncoder(y.in).Encode(o); err != nil {
		y.t.Fatal(err)
	}
	if !y.out.Scan() {
		y.t.Fatal("no answer")
	}
	if err := json.Unmarshal(y.out.Bytes(), &a); err != nil || a.Error != "" {
		y.t.Fatalf("%s: %v", y.out.Bytes(), err)
	}
	return a
}
