package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"
)

// certificate is the API's, replaceable while it is served.
type certificate struct {
	at atomic.Pointer[tls.Certificate]
}

func (c *certificate) load(certFile, keyFile string) error {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return &FieldError{"api-tls-cert-file", err.Error(), "give a PEM certificate chain and its key"}
	}
	c.at.Store(&pair)
	return nil
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.at.Load(), nil },
	}
}

// listen opens a listener and names protocol, address and port when it can't.
func listen(ctx context.Context, setting, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err == nil {
		return l, nil
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &FieldError{setting, fmt.Sprintf("tcp %s is taken by another process", addr), "stop it, or give another address"}
	}
	return nil, &FieldError{setting, fmt.Sprintf("listen on tcp %s: %v", addr, err), ""}
}

// serve runs s on l until the teardown that it pushes. A listener that fails by itself takes the node down.
func (n *Node) serve(name string, s *http.Server, l net.Listener) {
	serve := func() error { return s.Serve(l) }
	if n.certs != nil {
		s.TLSConfig = n.certs.config()
		serve = func() error { return s.ServeTLS(l, "", "") }
	}
	n.serveBy(name, s, serve)
}

// serveBy is serve for a server that knows its listener.
func (n *Node) serveBy(name string, s *http.Server, serve func() error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			n.fail(name, err)
		}
	}()
	n.down.push(name, func(ctx context.Context) error {
		err := s.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) { // there are always clients that don't let go
			n.log.Info("requests were cut off", zap.String("door", name))
			err = s.Close()
		} else if err != nil {
			err = errors.Join(err, s.Close())
		}
		<-done
		return err
	})
}
