package conformance_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"os"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// tag is an HMAC over texts, each after its length.
func tag(key []byte, texts ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, text := range texts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		h.Write([]byte(text))
	}
	return h.Sum(nil)
}

// acceptance is the body with which another organisation accepts an invitation, from the wire contract alone.
func acceptance(t *testing.T, invitation string) object {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(invitation, "aiv_"))
	if err != nil {
		t.Fatal(err)
	}
	in := harness.Answer{Body: raw}
	secret, err := base64.RawURLEncoding.DecodeString(in.Str("s"))
	if err != nil {
		t.Fatal(err)
	}
	const name, domain, cluster, address = "initech", "initech.example", "clu_initech", "127.0.0.1:1"
	ca, err := os.ReadFile(harness.NewAuthority(t, domain).CertFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ca)
	sum := sha256.Sum256(block.Bytes)
	print, nonce := hex.EncodeToString(sum[:]), rand.Text()
	bare := bytes.Replace(raw, []byte(`,"s":"`+in.Str("s")+`"`), nil, 1)
	proof := tag(tag(secret, "agentos invitation key 1", string(bare)),
		"agentos invitation proof 1", in.Str("p"), in.Str("f"), in.Str("c"), name, domain, cluster, print, nonce, address)
	return object{
		"peering_id": in.Str("p"), "organization": name, "trust_domain": domain, "cluster_id": cluster, "fingerprint": print, "bundle": string(ca),
		"addresses": []string{address}, "nonce": nonce, "proof": hex.EncodeToString(proof),
	}
}
