package safehttp_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/safehttp"
)

func TestPublic(t *testing.T) {
	for _, s := range []string{
		"127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "224.0.0.1",
		"255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
		"::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "ff02::1", "168.63.129.16", "192.0.0.192",
	} {
		if safehttp.Public(netip.MustParseAddr(s)) {
			t.Errorf("%s is taken for public", s)
		}
	}
	for _, s := range []string{"1.1.1.1", "8.8.8.8", "172.32.0.1", "2606:4700:4700::1111"} {
		if !safehttp.Public(netip.MustParseAddr(s)) {
			t.Errorf("%s is taken for not public", s)
		}
	}
}

func get(t *testing.T, c *safehttp.Client, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err == nil {
		t.Cleanup(func() { _ = resp.Body.Close() })
	}
	return resp, err
}

// TestClient_Do_refuses tries loopback in every notation that a resolver or a URL parser might let through.
//
// Requirements: A4, Q3.
func TestClient_Do_refuses(t *testing.T) {
	hit := false
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hit = true }))
	defer srv.Close()
	port := srv.URL[strings.LastIndexByte(srv.URL, ':'):]
	c := safehttp.New(safehttp.Options{})
	defer c.Close()
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "[::]"} {
		if resp, err := get(t, c, "http://"+host+port+"/"); err == nil {
			t.Errorf("%s answered %d", host, resp.StatusCode)
		}
	}
	for _, url := range []string{"file:///etc/passwd", "gopher://127.0.0.1/", "http:///", "http://user:pass@example.com/"} {
		if _, err := get(t, c, url); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if hit {
		t.Error("a request reached the server on loopback")
	}
}

func TestClient_Do_redirectIntoTheHouse(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the inner server was asked") }))
	defer inside.Close()
	loop := ""
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target := strings.Replace(inside.URL, "127.0.0.1", "127.0.0.2", 1)
		if r.URL.Path == "/loop" {
			target = loop
		}
		http.Redirect(w, r, target, http.StatusFound)
	}))
	defer outside.Close()
	loop = outside.URL + "/loop"
	c := safehttp.New(safehttp.Options{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	defer c.Close()
	if _, err := get(t, c, outside.URL); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a redirect to a refused address: %v, want forbidden", err)
	}
	if _, err := get(t, c, loop); !fault.Is(err, fault.Unavailable) {
		t.Errorf("endless redirects: %v", err)
	}
}

func TestClient_Do_boundsTheBody(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bomb" { // a megabyte of zeros in a few bytes
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(make([]byte, 1<<20))
			_ = z.Close()
			return
		}
		_, _ = io.WriteString(w, "small")
	}))
	defer srv.Close()
	c := safehttp.New(safehttp.Options{MaxBody: 1000, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	defer c.Close()
	resp, err := get(t, c, srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "small" {
		t.Errorf("a small answer: %q, %v", body, err)
	}
	resp, err = get(t, c, srv.URL+"/bomb")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); len(body) != 1000 || !fault.Is(err, fault.PayloadTooLarge) {
		t.Errorf("a bomb gave %d bytes and %v", len(body), err)
	}
}
