package onenode_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// certificate writes a certificate for 127.0.0.1 and its key, and returns their names and who trusts it.
func certificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "api.crt"), filepath.Join(dir, "api.key")
	must(os.WriteFile(certFile, certPEM, 0o600))
	must(os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, roots
}

// Over TLS and HTTP/2 a stream lives through its silences and is whole at the end, on the connection that carries every
// other request of the client's beside it.
func TestTLS_Stream(t *testing.T) {
	t.Parallel()
	certFile, keyFile, roots := certificate(t)
	port, err := harness.FreePorts(5)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	argv := []string{suite.Binary(t), "node", "run", "--init", "--organization=acme", "--stack-id=stk_tls", "--data-dir=" + dir, "--api-tls-cert-file=" + certFile, "--api-tls-key-file=" + keyFile}
	for i, name := range []string{"api", "federation", "cluster", "gossip", "admin"} {
		argv = append(argv, fmt.Sprintf("--%s-listen=127.0.0.1:%d", name, port+i))
	}
	p := new(harness.Starter).Launch(t, dir, nil, argv)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport}
	defer transport.CloseIdleConnections()
	base := fmt.Sprintf("https://127.0.0.1:%d", port)
	ask := func(method, path, body string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		if key, err := os.ReadFile(filepath.Join(dir, "platform_admin.key")); err == nil {
			r.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(key)))
		}
		r.Header.Set("Content-Type", "application/json")
		return client.Do(r)
	}
	if !harness.Poll(soon, 50*time.Millisecond, func() bool {
		resp, err := ask("GET", "/readyz", "")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == 200
	}) {
		t.Fatalf("the node doesn't become ready:\n%s", p.Output())
	}
	resp, err := ask("POST", "/v1/agents/agt_sample_echo_v1/runs", `{"input":{"type":"text","text":"/wait 18s\n/say done"}}`)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	run, _ := harness.At(harness.Decode(raw), "run.run_id").(string)
	if resp.StatusCode != 201 || resp.ProtoMajor != 2 || run == "" {
		t.Fatalf("%s %d %s", resp.Proto, resp.StatusCode, raw)
	}
	resp, err = ask("GET", "/v1/runs/"+run+"/events", "")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ids, beats := []string{}, 0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			ids = append(ids, id)
		}
		if strings.HasPrefix(lines.Text(), ": ") {
			beats++
		}
	}
	if err := lines.Err(); err != nil || len(ids) != 7 || ids[6] != "7" || beats < 1 {
		t.Errorf("events %v, %d heartbeats, %v", ids, beats, err)
	}
	// Plain HTTP gets nothing of it.
	plain, err := http.NewRequestWithContext(context.Background(), "GET", fmt.Sprintf("http://127.0.0.1:%d/v1/runs/%s", port, run), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := client.Do(plain); err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("over plain HTTP: %d", resp.StatusCode)
		}
	}
}
