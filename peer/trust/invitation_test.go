package trust_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
)

func invitation(tb testing.TB, change func(*trust.Invitation)) trust.Invitation {
	tb.Helper()
	i := trust.Invitation{
		PeeringID: "prg_1", Organization: "acme", TrustDomain: "acme.test", ClusterID: "clu_1", Addresses: []string{"10.0.0.1:8421", "[fd00::1]:8421"},
		CA: strings.Repeat("0a", 32), ExpiresAt: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
	}
	if change != nil {
		change(&i)
	}
	made, err := trust.NewInvitation(i)
	if err != nil {
		tb.Fatal(err)
	}
	return made
}

func TestInvitation_RoundTrip(t *testing.T) {
	i := invitation(t, nil)
	back, err := trust.ParseInvitation("\n " + i.Encode() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(i, back, cmpopts.IgnoreUnexported(trust.Invitation{})); d != "" || !bytes.Equal(i.Key(), back.Key()) {
		t.Errorf("it comes back as another: %s", d)
	}
	if other := invitation(t, nil); bytes.Equal(i.Key(), other.Key()) || i.Encode() == other.Encode() {
		t.Error("two invitations are alike")
	}
	for _, shown := range []string{fmt.Sprintf("%x", i.Key())} {
		if strings.Contains(i.Encode(), shown) {
			t.Error("what is kept stands in the text")
		}
	}
}

// The text has to fit where people paste it, however many nodes the inviter has.
func TestInvitation_Fits(t *testing.T) {
	i := invitation(t, func(i *trust.Invitation) {
		i.Addresses = nil
		for n := range 60 {
			i.Addresses = append(i.Addresses, fmt.Sprintf("node-%02d.%s.example.com:8421", n, strings.Repeat("x", 40)))
		}
	})
	if n := len(i.Encode()); n > trust.MaxInvitation || len(i.Addresses) < 5 || i.Addresses[0][:7] != "node-00" {
		t.Errorf("%d bytes, %d addresses", n, len(i.Addresses))
	}
	if _, err := trust.ParseInvitation(i.Encode()); err != nil {
		t.Error(err)
	}
}

func TestNewInvitation_Refuses(t *testing.T) {
	for name, change := range map[string]func(*trust.Invitation){
		"no address":     func(i *trust.Invitation) { i.Addresses = nil },
		"no port":        func(i *trust.Invitation) { i.Addresses = []string{"10.0.0.1"} },
		"port 0":         func(i *trust.Invitation) { i.Addresses = []string{"10.0.0.1:0"} },
		"a URL":          func(i *trust.Invitation) { i.Addresses = []string{"https://acme.test:8421"} },
		"a path":         func(i *trust.Invitation) { i.Addresses = []string{"acme.test/x:8421"} },
		"an escape":      func(i *trust.Invitation) { i.Addresses = []string{"acme\x1b[2J:8421"} },
		"user":           func(i *trust.Invitation) { i.Addresses = []string{"me@acme.test:8421"} },
		"organisation":   func(i *trust.Invitation) { i.Organization = "acme corp" },
		"trust domain":   func(i *trust.Invitation) { i.TrustDomain = "Acme" },
		"cluster":        func(i *trust.Invitation) { i.ClusterID = "" },
		"fingerprint":    func(i *trust.Invitation) { i.CA = strings.Repeat("0A", 32) },
		"half a print":   func(i *trust.Invitation) { i.CA = strings.Repeat("0a", 16) },
		"peering":        func(i *trust.Invitation) { i.PeeringID = "a/b" },
		"names too long": func(i *trust.Invitation) { i.TrustDomain = strings.Repeat("d", 256) },
	} {
		i := trust.Invitation{
			PeeringID: "prg_1", Organization: "acme", TrustDomain: "acme.test", ClusterID: "clu_1", Addresses: []string{"10.0.0.1:8421"}, CA: strings.Repeat("0a", 32),
		}
		change(&i)
		if _, err := trust.NewInvitation(i); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever is changed in the text, it is refused or has another key: nothing in an invitation can be altered on its way.
//
// Requirements: P1.
func TestInvitation_AlteredAnywhere(t *testing.T) {
	i := invitation(t, nil)
	text := i.Encode()
	rapid.Check(t, func(rt *rapid.T) {
		b := []byte(text)
		at := rapid.IntRange(0, len(b)-1).Draw(rt, "at")
		b[at] = rapid.Byte().Draw(rt, "to")
		if string(b) == text {
			return
		}
		if back, err := trust.ParseInvitation(string(b)); err == nil && bytes.Equal(back.Key(), i.Key()) && strings.TrimSpace(string(b)) != text {
			rt.Fatalf("%q has the key of the original", b)
		}
	})
}

// A proof stands for exactly the terms it was made for.
func TestProve_CoversEverything(t *testing.T) {
	key := invitation(t, nil).Key()
	terms := trust.Terms{
		PeeringID: "prg_1", InviterCA: "aa", InviterCluster: "clu_1", Nonce: "n",
		Accepter: trust.Party{Organization: "globex", TrustDomain: "globex.test", ClusterID: "clu_2", CA: "bb", Addresses: []string{"a:1", "b:2"}},
	}
	proof := trust.Prove(key, terms)
	if !trust.Proven(key, terms, proof) {
		t.Fatal("a good proof is refused")
	}
	for name, change := range map[string]func(*trust.Terms){
		"peering":      func(x *trust.Terms) { x.PeeringID = "prg_2" },
		"inviter CA":   func(x *trust.Terms) { x.InviterCA = "ab" },
		"inviter":      func(x *trust.Terms) { x.InviterCluster = "clu_3" },
		"organisation": func(x *trust.Terms) { x.Accepter.Organization = "globe" },
		"domain":       func(x *trust.Terms) { x.Accepter.TrustDomain = "globex" },
		"cluster":      func(x *trust.Terms) { x.Accepter.ClusterID = "clu_1" },
		"CA":           func(x *trust.Terms) { x.Accepter.CA = "b" },
		"address":      func(x *trust.Terms) { x.Accepter.Addresses = []string{"a:1", "c:2"} },
		"addresses":    func(x *trust.Terms) { x.Accepter.Addresses = []string{"a:1b:2"} },
		"moved":        func(x *trust.Terms) { x.Accepter.Organization, x.Accepter.TrustDomain = "globexglobex", ".test" },
		"nonce":        func(x *trust.Terms) { x.Nonce = "na"; x.Accepter.Addresses = []string{":1", "b:2"} },
	} {
		other := terms
		change(&other)
		if trust.Proven(key, other, proof) {
			t.Errorf("%s: a proof for other terms is taken", name)
		}
	}
	if trust.Proven(invitation(t, nil).Key(), terms, proof) || trust.Proven(key, terms, "") || trust.Proven(key, terms, proof[:63]) {
		t.Error("a proof by another key, or none, is taken")
	}
}

func TestReadAuthority(t *testing.T) {
	now := time.Now()
	acme := trusttest.New(t, "acme.test")
	domain, print, err := trust.ReadAuthority(acme.CA.CertificatePEM(), now)
	if err != nil || domain != "acme.test" || print != acme.Fingerprint() {
		t.Errorf("%q, %q, %v", domain, print, err)
	}
	leaf, _ := acme.Issue(acme.ID(trust.Node, "stk_a"), now, 0)
	two := append(acme.CA.CertificatePEM(), trusttest.New(t, "acme.test").CA.CertificatePEM()...)
	for name, c := range map[string]struct {
		pem []byte
		at  time.Time
	}{
		"a node's": {leaf, now}, "two": {two, now}, "none": {nil, now}, "no PEM": {[]byte("x"), now},
		"expired": {acme.CA.CertificatePEM(), now.AddDate(20, 0, 0)}, "not yet": {acme.CA.CertificatePEM(), now.AddDate(-1, 0, 0)},
	} {
		if _, _, err := trust.ReadAuthority(c.pem, c.at); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlainFingerprint(t *testing.T) {
	if got := trust.PlainFingerprint("3F:9A: 00"); got != "3f9a00" {
		t.Error(got)
	}
}

// FuzzParseInvitation: whatever a person pastes, it's an invitation that reads the same again, or a refusal without a panic.
func FuzzParseInvitation(f *testing.F) {
	good := invitation(f, nil).Encode()
	for _, s := range []string{good, good[:len(good)-1], "aiv_", "", "ajt_x", "aiv_e30", strings.Repeat("a", 3000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := trust.ParseInvitation(s)
		if err != nil {
			if !fault.Is(err, fault.InvalidRequest) {
				t.Fatalf("%v", err)
			}
			return
		}
		if len(i.Encode()) > 2*trust.MaxInvitation {
			t.Fatalf("%d bytes", len(i.Encode()))
		}
		back, err := trust.ParseInvitation(i.Encode())
		if len(i.Encode()) <= trust.MaxInvitation && (err != nil || !bytes.Equal(back.Key(), i.Key())) {
			t.Fatalf("%q comes back as another: %v", s, err)
		}
	})
}
