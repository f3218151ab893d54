package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/link"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
)

// A connection is closed as soon as its certificate proves nothing any more: its peering is not in force, or has another CA
// than when it was opened, which a node that was cut off may hear of all at once.
//
// Requirements: P1.
func TestDoor_Cut(t *testing.T) {
	acme, globex, anew := trusttest.New(t, "acme.test"), trusttest.New(t, "globex.test"), trusttest.New(t, "globex.test")
	none := errors.New("there is no peering")
	for name, c := range map[string]struct {
		bundle []byte // what is kept when Cut is called
		lives  bool
	}{
		"nothing has changed":      {globex.CA.CertificatePEM(), true},
		"the peering is over":      {nil, false},
		"the peering is another's": {anew.CA.CertificatePEM(), false},
	} {
		t.Run(name, func(t *testing.T) {
			var kept atomic.Pointer[[]byte]
			hold := func(b []byte) { kept.Store(&b) }
			hold(globex.CA.CertificatePEM())
			bundles := func(domain string) ([]byte, error) {
				if b := *kept.Load(); b != nil && domain == "globex.test" {
					return b, nil
				}
				return nil, fault.New(fault.Forbidden, "No.").Because(none)
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			door := link.OpenDoor(link.DoorOptions{Listener: ln, Credentials: acme.Node("stk_a"), Bundles: bundles})
			defer door.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			raw, err := new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			ours := func(string) ([]byte, error) { return acme.CA.CertificatePEM(), nil }
			conn := tls.Client(raw, globex.Node("stk_g").FederationClient(trust.Bundles(ours), "acme.test", "stk_a"))
			defer conn.Close()
			if err := conn.HandshakeContext(ctx); err != nil {
				t.Fatal(err)
			}
			there, err := door.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer there.Close()
			hold(c.bundle)
			door.Cut(bundles)
			if c.lives {
				if _, err := there.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = conn.Read(make([]byte, 1))
			if (err == nil) != c.lives || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("reading on: %v", err)
			}
		})
	}
}
