package cluster_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
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
		a.ServeJoins(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer, err := admit(r, acme, tok)
			if err != nil {
				w.WriteHeader(http.StatusForbidden)
				_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": fault.CodeOf(err), "message": fault.Of(err).Message}})
				return
			}
			_ = json.NewEncoder(w).Encode(answer)
		}))
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

// admit answers a join as a member would, without a store.
func admit(r *http.Request, acme trusttest.Org, tok trust.JoinToken) (*cluster.JoinAnswer, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	req, got, pub, err := cluster.ReadJoin(body)
	switch {
	case err != nil:
		return nil, err
	case r.Method != http.MethodPost || r.URL.Path != cluster.JoinPath:
		return nil, fault.New(fault.NotFound, "%s %s", r.Method, r.URL.Path)
	case req.Member.StackID == "stk_boom":
		return nil, errors.New("a secret of the house")
	case !got.Matches(tok.Hash()):
		return nil, fault.New(fault.Unauthorized, "No such token.")
	}
	cert, err := acme.CA.Sign(trust.Request{ID: acme.ID(trust.Node, req.Member.StackID), Public: pub, Hosts: req.Hosts}, time.Now())
	return &cluster.JoinAnswer{Certificate: string(cert), CABundle: string(acme.CA.CertificatePEM()), ClusterID: "clu_1"}, err
}

// What a stranger sends is refused by field, before anybody is asked about it.
func TestReadJoin(t *testing.T) {
	key, _, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	token := trust.NewJoinToken(strings.Repeat("0", 64)).Encode()
	good := map[string]any{"token": token, "public_key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "later": true}
	if _, _, _, err := cluster.ReadJoin(encoded(t, good)); err != nil {
		t.Fatal(err)
	}
	for field, body := range map[string]string{
		"body":       "{",
		"token":      `{"public_key":"x"}`,
		"public_key": `{"token":"` + token + `"}`,
		"hosts":      `{"token":"` + token + `","hosts":1}`,
		"Token":      `{"Token":"` + token + `"}`,
		"nonce":      `{"nonce":1,"nonce":2}`,
	} {
		_, _, _, err := cluster.ReadJoin([]byte(body))
		if f := fault.Of(err); f == nil || f.Code != fault.InvalidRequest {
			t.Errorf("%s: %v", field, err)
		} else if got := f.Details["field"]; got != field && field != "Token" || field == "Token" && got != "token" {
			t.Errorf("%s: the field is %v", field, got)
		}
	}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
