package cluster_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
)

// Requirements: N3, N7.
func TestJoin(t *testing.T) {
	acme := trusttest.New(t, "acme.test")
	tok := trust.NewJoinToken(acme.Fingerprint())
	a := open(t, acme.Node("stk_a"), nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.ServeJoins(func(_ context.Context, got trust.JoinToken, pub *ecdsa.PublicKey, r cluster.JoinRequest) (*cluster.JoinAnswer, error) {
			switch {
			case r.Member.StackID == "stk_boom":
				return nil, errors.New("a secret of the house")
			case !got.Matches(tok.Hash()):
				return nil, fault.New(fault.Unauthorized, "No such token.")
			}
			cert, err := acme.CA.Sign(trust.Request{ID: acme.ID(trust.Node, r.Member.StackID), Public: pub, Hosts: r.Hosts}, time.Now())
			return &cluster.JoinAnswer{Certificate: string(cert), CABundle: string(acme.CA.CertificatePEM()), ClusterID: "clu_1"}, err
		})
	}()
	t.Cleanup(func() { _ = a.Close(); <-done })

	key, keyPEM, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(token, stack string) (*cluster.JoinAnswer, error) {
		r := cluster.JoinRequest{Token: token, Hosts: []string{"127.0.0.1"}}
		r.Member.StackID = stack
		return cluster.Dial(nil).AskToJoin(t.Context(), a.Addr(), key, r)
	}
	answer, err := ask(tok.Encode(), "stk_b")
	if err != nil {
		t.Fatal(err)
	}
	creds, err := trust.NewCredentials([]byte(answer.Certificate), keyPEM, []byte(answer.CABundle), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, creds, nil)
	echo(t, b, cluster.Raft)
	conn, err := a.Dial(t.Context(), b.Addr(), "stk_b", cluster.Raft)
	hello(t, conn, err, cluster.Raft)

	if _, err := ask(trust.NewJoinToken(tok.CA).Encode(), "stk_c"); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("a token of nobody: %v", err)
	}
	elsewhere := trust.NewJoinToken(trusttest.New(t, "acme.test").Fingerprint())
	if _, err := ask(elsewhere.Encode(), "stk_c"); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), a.Addr()) {
		t.Errorf("a token that pins another CA: %v", err)
	}
	if _, err := ask(tok.Encode(), "stk_boom"); !fault.Is(err, fault.Internal) || strings.Contains(err.Error(), "secret of the house") {
		t.Errorf("an inner failure: %v", err)
	}
}

// What the join protocol's stranger sends must cost little and reach nothing else.
func TestJoin_BoundsStrangers(t *testing.T) {
	acme := trusttest.New(t, "acme.test")
	a := open(t, acme.Node("stk_a"), nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.ServeJoins(func(context.Context, trust.JoinToken, *ecdsa.PublicKey, cluster.JoinRequest) (*cluster.JoinAnswer, error) {
			t.Error("a malformed call reached the admission")
			return nil, nil
		})
	}()
	t.Cleanup(func() { _ = a.Close(); <-done })
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return cluster.Dial(nil).Join(ctx, a.Addr(), acme.Fingerprint())
	}}}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", cluster.JoinPath, "", http.StatusNotFound},
		{"POST", "/v1/runs", "{}", http.StatusNotFound},
		{"POST", cluster.JoinPath, "{", http.StatusBadRequest},
		{"POST", cluster.JoinPath, `{"token":"x"}`, http.StatusBadRequest},
		{"POST", cluster.JoinPath, `{"token":"` + strings.Repeat("x", 100<<10) + `"}`, http.StatusBadRequest},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+a.Addr()+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, resp.StatusCode, c.status)
		}
	}
}
