package trust_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
)

// TestForwardReads_Verify: what is remembered of a token saves the proof of its signature, and none of the other looks.
func TestForwardReads_Verify(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ca := trusttest.New(t, "acme.test")
	s, other := mustSigner(t, ca.Node("stk_a")), mustSigner(t, ca.Node("stk_b"))
	token, _, err := s.Sign(claims(), "clu_acme", now)
	if err != nil {
		t.Fatal(err)
	}
	var reads trust.ForwardReads
	for range 2 { // proven, then remembered
		got, err := reads.Verify(token, s.Leaf(), "clu_globex", now)
		if err != nil || got.Subject != claims().Subject {
			t.Fatalf("a good token: %+v, %v", got, err)
		}
		for name, fail := range map[string]func() error{
			"another connection": func() error { _, err := reads.Verify(token, other.Leaf(), "clu_globex", now); return err },
			"another cluster":    func() error { _, err := reads.Verify(token, s.Leaf(), "clu_initech", now); return err },
			"expired": func() error {
				_, err := reads.Verify(token, s.Leaf(), "clu_globex", now.Add(trust.ForwardTokenLife+trust.ForwardTokenLeeway))
				return err
			},
			"altered": func() error {
				_, err := reads.Verify(token[:len(token)-4]+"AAAA", s.Leaf(), "clu_globex", now)
				return err
			},
			"none": func() error { _, err := reads.Verify("", s.Leaf(), "clu_globex", now); return err },
		} {
			if err := fail(); !fault.Is(err, fault.Unauthorized) {
				t.Errorf("%s: %v, want unauthorized", name, err)
			}
		}
	}
}

// TestForwardReads_forgets: more tokens than are remembered are all good, the first one again too.
func TestForwardReads_forgets(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := mustSigner(t, trusttest.New(t, "acme.test").Node("stk_a"))
	var reads trust.ForwardReads
	verify := func(i int) {
		c := claims()
		c.ID = fmt.Sprintf("jti_%d", i)
		token, _, err := s.Sign(c, "clu_acme", now)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := reads.Verify(token, s.Leaf(), "clu_globex", now); err != nil || got.ID != c.ID {
			t.Fatalf("token %d: %+v, %v", i, got, err)
		}
	}
	for i := range 1100 {
		verify(i)
	}
	verify(0)
}
