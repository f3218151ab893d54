package trust_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
	"github.com/nexixai/agentos/tenancy"
)

func mustSigner(tb testing.TB, c *trust.Credentials) *trust.ForwardSigner {
	tb.Helper()
	s, err := c.ForwardSigner()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func claims() trust.ForwardClaims {
	return trust.ForwardClaims{
		Subject: "usr_ann", Audience: "clu_globex", TenantID: "tnt_demo", ID: "jti_1", Hops: 1,
		Scopes:        []tenancy.Scope{tenancy.RunsCreate, tenancy.RunsRead},
		PolicyContext: tenancy.PolicyContext{DataClassification: "internal", Region: "eu-1", Purpose: "a test", ConsentTags: []string{"x"}},
		Actors:        []trust.ForwardActor{{Node: "spiffe://initech.test/node/stk_i", ClusterID: "clu_initech"}},
	}
}

// TestForwardToken_crosses: what one side says is what the other side reads, and nothing more.
func TestForwardToken_crosses(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	s := mustSigner(t, trusttest.New(t, "acme.test").Node("stk_a"))
	token, expires, err := s.Sign(claims(), "clu_acme", now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := trust.VerifyForward(token, s.Leaf(), "clu_globex", now)
	if err != nil {
		t.Fatal(err, fault.Of(err).Err)
	}
	want := claims()
	want.Issuer = "acme.test"
	want.Actors = append(want.Actors, trust.ForwardActor{Node: "spiffe://acme.test/node/stk_a", ClusterID: "clu_acme"})
	want.IssuedAt, want.ExpiresAt = now.Truncate(time.Second), now.Truncate(time.Second).Add(time.Minute)
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
	if !expires.Equal(want.ExpiresAt) {
		t.Errorf("told to expire at %v, the token says %v", expires, want.ExpiresAt)
	}
	if diff := cmp.Diff([]string{"clu_initech", "clu_acme"}, got.Via()); diff != "" {
		t.Error(diff)
	}
	for _, skew := range []time.Duration{-trust.ForwardTokenLeeway, trust.ForwardTokenLife + trust.ForwardTokenLeeway - time.Second} {
		if _, err := trust.VerifyForward(token, s.Leaf(), "clu_globex", now.Add(skew)); err != nil {
			t.Errorf("refused by a clock that differs by %v: %v", skew, fault.Of(err).Err)
		}
	}
}

// forger signs whatever it is told to.
type forger struct {
	leaf *x509.Certificate
	key  crypto.Signer
	alg  string
}

func mustForger(tb testing.TB, o trusttest.Org, name string) forger {
	tb.Helper()
	certPEM, keyPEM := o.Issue(o.ID(trust.Node, name), time.Now(), 0)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		tb.Fatal(err)
	}
	return forger{leaf: pair.Leaf, key: pair.PrivateKey.(crypto.Signer), alg: "ES256"}
}

// mustCertify makes a leaf of any key, for what the CA would not sign.
func mustCertify(tb testing.TB, key crypto.Signer, alg string) forger {
	tb.Helper()
	who := &url.URL{Scheme: "spiffe", Host: "acme.test", Path: "/node/stk_a"}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{who}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return forger{leaf: leaf, key: key, alg: alg}
}

func segment(tb testing.TB, v any) string {
	tb.Helper()
	raw, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			tb.Fatal(err)
		}
		raw = string(b)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(raw))
}

func (f forger) sign(tb testing.TB, head, body any) string {
	tb.Helper()
	text := segment(tb, head) + "." + segment(tb, body)
	sum := sha256.Sum256([]byte(text))
	var sig []byte
	switch key := f.key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			tb.Fatal(err)
		}
		n := (key.Curve.Params().BitSize + 7) / 8
		sig = append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
	case ed25519.PrivateKey:
		sig = ed25519.Sign(key, []byte(text))
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func (f forger) head(with map[string]any) map[string]any {
	h := map[string]any{"alg": f.alg, "typ": "JWT"}
	for k, v := range with {
		h[k] = v
	}
	return h
}

// body is a token's claims that are right, but for what with changes; nil takes a claim out.
func (f forger) body(now time.Time, with map[string]any) map[string]any {
	b := map[string]any{
		"iss": "acme.test", "sub": "usr_ann", "aud": "clu_globex", "exp": now.Unix() + 60, "jti": "jti_1", "tenant_id": "tnt_demo",
		"scope": "runs:create", "policy_context": map[string]any{}, "hops": 2,
		"cnf": map[string]any{"x5t#S256": trust.Thumbprint(f.leaf)},
		"act": map[string]any{"sub": "spiffe://acme.test/node/stk_a", "cluster_id": "clu_acme"},
	}
	for k, v := range with {
		if v == nil {
			delete(b, k)
			continue
		}
		b[k] = v
	}
	return b
}

// Requirements: P6, Q3.
func TestVerifyForward_refuses(t *testing.T) {
	now := time.Now()
	acme, globex := trusttest.New(t, "acme.test"), trusttest.New(t, "globex.test")
	f, other := mustForger(t, acme, "stk_a"), mustForger(t, globex, "stk_a")
	sibling := mustForger(t, acme, "stk_b")
	actor := func(depth int) map[string]any {
		a := map[string]any{"sub": "spiffe://acme.test/node/stk_a", "cluster_id": "clu_acme"}
		outer := a
		for range depth - 1 {
			inner := map[string]any{"sub": "spiffe://initech.test/node/stk_i", "cluster_id": "clu_i"}
			a["act"] = inner
			a = inner
		}
		return outer
	}
	hs256 := func(key []byte) string {
		text := segment(t, map[string]any{"alg": "HS256", "typ": "JWT"}) + "." + segment(t, f.body(now, nil))
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	public, err := x509.MarshalPKIXPublicKey(f.leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	jwk := map[string]any{"kty": "EC", "crv": "P-256", "x": strings.Repeat("A", 43), "y": strings.Repeat("A", 43)}
	head := func(with map[string]any) string { return f.sign(t, f.head(with), f.body(now, nil)) }
	body := func(with map[string]any) string { return f.sign(t, f.head(nil), f.body(now, with)) }
	good := body(nil)
	if _, err := trust.VerifyForward(good, f.leaf, "clu_globex", now); err != nil {
		t.Fatalf("the token that all others are made of is refused: %v", fault.Of(err).Err)
	}
	cases := map[string]string{
		"nothing":                    "",
		"no dots":                    "x",
		"two parts":                  good[:strings.LastIndexByte(good, '.')],
		"no signature":               good[:strings.LastIndexByte(good, '.')+1],
		"five parts":                 good + ".x.y",
		"a space after it":           good + " ",
		"padding":                    good + "=",
		"a megabyte":                 good + strings.Repeat("A", 1<<20),
		"just too long":              body(map[string]any{"more": strings.Repeat("x", trust.MaxForwardToken)}),
		"JSON serialization":         `{"payload":"` + strings.Split(good, ".")[1] + `","protected":"` + strings.Split(good, ".")[0] + `","signature":"` + strings.Split(good, ".")[2] + `"}`,
		"alg none":                   segment(t, map[string]any{"alg": "none"}) + "." + segment(t, f.body(now, nil)) + ".",
		"alg None, signed":           head(map[string]any{"alg": "None"}),
		"HS256 by the certificate":   hs256(f.leaf.Raw),
		"HS256 by the public key":    hs256(public),
		"HS256 by nothing":           hs256(nil),
		"alg ES384":                  head(map[string]any{"alg": "ES384"}),
		"alg EdDSA":                  head(map[string]any{"alg": "EdDSA"}),
		"alg missing":                f.sign(t, map[string]any{"typ": "JWT"}, f.body(now, nil)),
		"alg twice":                  f.sign(t, `{"alg":"ES256","alg":"none"}`, f.body(now, nil)),
		"alg by another case":        f.sign(t, `{"ALG":"ES256"}`, f.body(now, nil)),
		"a header that is no object": f.sign(t, `["ES256"]`, f.body(now, nil)),
		"jku":                        head(map[string]any{"jku": "http://127.0.0.1:1/keys"}),
		"x5u":                        head(map[string]any{"x5u": "http://127.0.0.1:1/cert"}),
		"jwk":                        head(map[string]any{"jwk": jwk}),
		"x5c":                        head(map[string]any{"x5c": []string{base64.StdEncoding.EncodeToString(f.leaf.Raw)}}),
		"x5t":                        head(map[string]any{"x5t#S256": trust.Thumbprint(f.leaf)}),
		"crit":                       head(map[string]any{"crit": []string{"exp"}}),
		"b64":                        head(map[string]any{"b64": false}),
		"an odd kid":                 head(map[string]any{"kid": "../../keys/other"}),
		"an empty kid":               head(map[string]any{"kid": ""}),
		"another's kid":              head(map[string]any{"kid": trust.Thumbprint(other.leaf)}),
		"a kid that is no text":      head(map[string]any{"kid": 7}),
		"another type":               head(map[string]any{"typ": "logout+jwt"}),
		"another organisation's key": forger{f.leaf, other.key, "ES256"}.sign(t, f.head(nil), f.body(now, nil)),
		"another node's key":         forger{f.leaf, sibling.key, "ES256"}.sign(t, f.head(nil), f.body(now, nil)),
		"a claim changed after":      strings.Split(good, ".")[0] + "." + segment(t, f.body(now, map[string]any{"sub": "usr_root"})) + "." + strings.Split(good, ".")[2],
		"claims that are no object":  f.sign(t, f.head(nil), `"x"`),
		"a claim twice":              f.sign(t, f.head(nil), `{"aud":"clu_globex","aud":"clu_other"}`),
		"aud missing":                body(map[string]any{"aud": nil}),
		"aud empty":                  body(map[string]any{"aud": ""}),
		"aud of another":             body(map[string]any{"aud": "clu_other"}),
		"aud of two":                 body(map[string]any{"aud": []string{"clu_globex", "clu_other"}}),
		"aud of none":                body(map[string]any{"aud": []string{}}),
		"aud that is a number":       body(map[string]any{"aud": 7}),
		"iss missing":                body(map[string]any{"iss": nil}),
		"iss of another":             body(map[string]any{"iss": "globex.test"}),
		"iss by another case":        body(map[string]any{"iss": "ACME.test"}),
		"sub missing":                body(map[string]any{"sub": nil}),
		"sub with a line break":      body(map[string]any{"sub": "usr_a\nusr_b"}),
		"sub too long":               body(map[string]any{"sub": strings.Repeat("u", 600)}),
		"tenant missing":             body(map[string]any{"tenant_id": nil}),
		"tenant malformed":           body(map[string]any{"tenant_id": "a/b"}),
		"jti missing":                body(map[string]any{"jti": nil}),
		"jti malformed":              body(map[string]any{"jti": "a/../b"}),
		"jti too long":               body(map[string]any{"jti": strings.Repeat("j", 200)}),
		"exp missing":                body(map[string]any{"exp": nil}),
		"exp that is text":           body(map[string]any{"exp": "9999999999"}),
		"exp beyond all numbers":     f.sign(t, f.head(nil), strings.Replace(string(must(json.Marshal(f.body(now, map[string]any{"exp": "E"})))), `"E"`, "1e300", 1)),
		"expired":                    body(map[string]any{"exp": now.Unix() - 61}),
		"far future":                 body(map[string]any{"exp": now.Unix() + 3600}),
		"iat of tomorrow":            body(map[string]any{"iat": now.Unix() + 86400}),
		"a life of two minutes":      body(map[string]any{"iat": now.Unix() - 60, "exp": now.Unix() + 60}),
		"a life of an age":           body(map[string]any{"iat": -1 << 62}),
		"iat after exp":              body(map[string]any{"iat": now.Unix() + 50, "exp": now.Unix() + 10}),
		"nbf of tomorrow":            body(map[string]any{"nbf": now.Unix() + 86400}),
		"cnf missing":                body(map[string]any{"cnf": nil}),
		"cnf empty":                  body(map[string]any{"cnf": map[string]any{"x5t#S256": ""}}),
		"cnf of another certificate": body(map[string]any{"cnf": map[string]any{"x5t#S256": trust.Thumbprint(sibling.leaf)}}),
		"hops missing":               body(map[string]any{"hops": nil}),
		"hops negative":              body(map[string]any{"hops": -1}),
		"hops too many":              body(map[string]any{"hops": 4}),
		"hops broken":                body(map[string]any{"hops": 1.5}),
		"act missing":                body(map[string]any{"act": nil}),
		"act of another node":        body(map[string]any{"act": map[string]any{"sub": "spiffe://acme.test/node/stk_b", "cluster_id": "clu_acme"}}),
		"act without a cluster":      body(map[string]any{"act": map[string]any{"sub": "spiffe://acme.test/node/stk_a"}}),
		"act too long":               body(map[string]any{"act": actor(4)}),
		"act without end":            body(map[string]any{"act": actor(100)}),
		"an unknown class":           body(map[string]any{"policy_context": map[string]any{"data_classification": "secret"}}),
		"a malformed region":         body(map[string]any{"policy_context": map[string]any{"region": "a b"}}),
		"a hundred scopes":           body(map[string]any{"scope": strings.Repeat("s ", 100)}),
	}
	for name, token := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := trust.VerifyForward(token, f.leaf, "clu_globex", now)
			if err == nil {
				t.Fatalf("taken: %+v", c)
			}
			e := fault.Of(err)
			if e.Code != fault.Unauthorized || e.Message != "The forward token is not acceptable." || e.Details != nil || e.Err == nil {
				t.Errorf("the refusal is %+v: it must say why inside, and nothing outside", e)
			}
		})
	}
	t.Run("on another's connection", func(t *testing.T) {
		for _, leaf := range []*x509.Certificate{sibling.leaf, other.leaf} {
			if _, err := trust.VerifyForward(good, leaf, "clu_globex", now); err == nil {
				t.Error("a token that was stolen is taken on another connection")
			}
		}
	})
	t.Run("a receiver without a name", func(t *testing.T) {
		if _, err := trust.VerifyForward(body(map[string]any{"aud": ""}), f.leaf, "", now); err == nil {
			t.Error("an empty aud is taken by a cluster that does not know its id yet")
		}
	})
}

func must[T any](v T, _ error) T { return v }

// TestVerifyForward_takes: what a peer of another make may do differently.
func TestVerifyForward_takes(t *testing.T) {
	now := time.Now()
	f := mustForger(t, trusttest.New(t, "acme.test"), "stk_a")
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed := mustCertify(t, edKey, "EdDSA")
	for name, c := range map[string]struct {
		f     forger
		token string
	}{
		"no typ":              {f, f.sign(t, map[string]any{"alg": "ES256"}, f.body(now, nil))},
		"the thumbprint":      {f, f.sign(t, f.head(map[string]any{"kid": trust.Thumbprint(f.leaf)}), f.body(now, nil))},
		"aud as a list":       {f, f.sign(t, f.head(nil), f.body(now, map[string]any{"aud": []string{"clu_globex"}}))},
		"a claim of tomorrow": {f, f.sign(t, f.head(nil), f.body(now, map[string]any{"more": []int{1}}))},
		"an unknown scope":    {f, f.sign(t, f.head(nil), f.body(now, map[string]any{"scope": "runs:create runs:new"}))},
		"no hops left":        {f, f.sign(t, f.head(nil), f.body(now, map[string]any{"hops": 0}))},
		"Ed25519":             {ed, ed.sign(t, ed.head(nil), ed.body(now, nil))},
	} {
		if _, err := trust.VerifyForward(c.token, c.f.leaf, "clu_globex", now); err != nil {
			t.Errorf("%s: %v", name, fault.Of(err).Err)
		}
	}
}

// TestVerifyForward_keys: a key that no algorithm goes with signs nothing.
func TestVerifyForward_keys(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []string{"ES384", "ES256"} {
		f := mustCertify(t, key, alg)
		if _, err := trust.VerifyForward(f.sign(t, f.head(nil), f.body(time.Now(), nil)), f.leaf, "clu_globex", time.Now()); err == nil {
			t.Errorf("a token by a P-384 key is taken as %s", alg)
		}
	}
}

// TestForwardSigner_renewal: a token goes with the certificate that a connection was opened with, also when the node has
// got a new one meanwhile.
func TestForwardSigner_renewal(t *testing.T) {
	org := trusttest.New(t, "acme.test")
	c := org.Node("stk_a")
	old := mustSigner(t, c)
	cert, key := org.Issue(org.ID(trust.Node, "stk_a"), time.Now(), 0)
	if err := c.Replace(cert, key, org.CA.CertificatePEM()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, s := range []*trust.ForwardSigner{old, mustSigner(t, c)} {
		token, _, err := s.Sign(claims(), "clu_acme", now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.VerifyForward(token, s.Leaf(), "clu_globex", now); err != nil {
			t.Error(fault.Of(err).Err)
		}
		if _, err := trust.VerifyForward(token, map[bool]*x509.Certificate{true: c.Leaf(), false: old.Leaf()}[s == old], "clu_globex", now); err == nil {
			t.Error("a token is taken on a connection that was opened with another certificate of the same node")
		}
	}
}

func FuzzVerifyForward(f *testing.F) {
	now := time.Now()
	forge := mustForger(f, trusttest.New(f, "acme.test"), "stk_a")
	f.Add([]byte(`{"alg":"ES256"}`), must(json.Marshal(forge.body(now, nil))))
	f.Add([]byte(`{"alg":"ES256","typ":"JWT","kid":"x"}`), []byte(`{"exp":1,"aud":["x"],"act":{"act":{"act":{}}}}`))
	f.Fuzz(func(t *testing.T, head, body []byte) {
		token := forge.sign(t, string(head), string(body))
		if c, err := trust.VerifyForward(token, forge.leaf, "clu_globex", now); err == nil {
			if c.Issuer != "acme.test" || c.Audience != "clu_globex" || c.Hops < 0 || c.Hops > trust.MaxHops || len(c.Actors) == 0 || c.ExpiresAt.After(now.Add(3*time.Minute)) {
				t.Errorf("%s %s is taken as %+v", head, body, c)
			}
		}
		if _, err := trust.VerifyForward(string(head)+"."+string(body), forge.leaf, "clu_globex", now); err == nil {
			t.Errorf("%s is taken unsigned", head)
		}
	})
}

func BenchmarkForwardToken(b *testing.B) {
	s := mustSigner(b, trusttest.New(b, "acme.test").Node("stk_a"))
	now := time.Now()
	token, _, err := s.Sign(claims(), "clu_acme", now)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		for b.Loop() {
			_, _, _ = s.Sign(claims(), "clu_acme", now)
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			_, _ = trust.VerifyForward(token, s.Leaf(), "clu_globex", now)
		}
	})
}
