package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// legs are the ways of runs, each from its start: the POST until its 201; that until the first and the last event of the
// executor were seen in the stream; and, by the times in the events, from created to started, which may be two clocks'.
type legs struct {
	Created []time.Duration `json:"created,omitempty"`
	Seen    []time.Duration `json:"seen,omitempty"`
	Ended   []time.Duration `json:"ended,omitempty"`
	Started []time.Duration `json:"started,omitempty"`
}

// turns makes a run by Path and follows it to its end, and then another by Other, so that whatever else happens to the
// machine meets both alike.
func (l *loader) turns(c *conn) (time.Duration, error) {
	begun := time.Now()
	for i, path := range []string{l.Path, l.Other} {
		one, err := l.leg(c, path)
		if err != nil {
			return 0, err
		}
		l.mu.Lock()
		t := &l.res.Turns[i]
		t.Created, t.Seen = append(t.Created, one.Created...), append(t.Seen, one.Seen...)
		t.Ended, t.Started = append(t.Ended, one.Ended...), append(t.Started, one.Started...)
		l.mu.Unlock()
	}
	return time.Since(begun), nil
}

func (l *loader) leg(c *conn, path string) (one legs, err error) {
	begun := time.Now()
	id, took, err := l.create(c, path)
	if err != nil {
		return one, err
	}
	var stream []byte
	var seen time.Duration
	if err := c.send("GET", l.Watch+id+"/events", l.Key, nil); err != nil {
		return one, err
	}
	status, _, chunked, err := c.head()
	if err != nil || status != 200 || !chunked {
		return one, fmt.Errorf("follow: status %d, chunked %v: %w", status, chunked, err)
	}
	err = c.chunks(func(p []byte) bool {
		stream = append(stream, p...)
		if seen == 0 && bytes.Contains(stream, []byte(startedType)) {
			seen = time.Since(begun)
		}
		return true
	})
	if c.last {
		c.close()
	}
	if err == nil && !bytes.Contains(stream, []byte(finals[0])) {
		err = fmt.Errorf("the run did not complete: %.2000s", stream)
	}
	if err != nil {
		return one, err
	}
	between, err := apart(stream)
	return legs{Created: []time.Duration{took}, Seen: []time.Duration{seen - took}, Ended: []time.Duration{time.Since(begun)}, Started: []time.Duration{between}}, err
}

const (
	createdType = `"agentos.run.created"`
	startedType = `"agentos.run.started"`
)

// apart is how long after a run's creation it was started, as its events say.
func apart(stream []byte) (time.Duration, error) {
	var at [2]time.Time
	for line := range bytes.Lines(stream) {
		for i, typ := range []string{createdType, startedType} {
			if !bytes.Contains(line, []byte(typ)) {
				continue
			}
			t, err := time.Parse(time.RFC3339, field(line, `"time":"`))
			if err != nil {
				return 0, err
			}
			at[i] = t
		}
	}
	if at[0].IsZero() || at[1].IsZero() {
		return 0, errors.New("the stream does not tell of the run's creation and start")
	}
	return at[1].Sub(at[0]), nil
}

// proof is a certificate with its key and the CA of both sides of a yardstick over mutual TLS, in files.
type proof struct{ Cert, Key, CA string }

// conf is what both sides have: the settings of the federation door.
func (p *proof) conf() (*tls.Config, *x509.CertPool, error) {
	cert, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, nil, err
	}
	pem, err := os.ReadFile(p.CA)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("no certificate in %s", p.CA)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{cert},
	}, pool, nil
}

func (p *proof) client() (*tls.Config, error) {
	conf, pool, err := p.conf()
	if err != nil {
		return nil, err
	}
	conf.InsecureSkipVerify = true // the certificate names no host; the chain is what proves it
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool})
		return err
	}
	return conf, nil
}

// yardTLS serves an echo of POSTs over mutual TLS, and nothing else. It prints its address and serves until its standard
// input ends.
func yardTLS(p proof) error {
	conf, pool, err := p.conf()
	if err != nil {
		return err
	}
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, pool
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(echo)}
	fmt.Println(l.Addr())
	go func() { _ = server.Serve(l) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return server.Close()
}
