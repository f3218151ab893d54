package client_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/api/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire answers requests without a network, so that time can be made to pass.
type wire func(r *http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	return w(r)
}

// reply makes an answer. headers are name, value, name, value.
func reply(status int, body string, headers ...string) *http.Response {
	return replyWith(status, io.NopCloser(strings.NewReader(body)), headers...)
}

func replyWith(status int, body io.ReadCloser, headers ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: h, Body: body, ProtoMajor: 1, ProtoMinor: 1}
}

func refusal(code string) string {
	return `{"error":{"code":"` + code + `","message":"No.","retryable":false,"details":{}},"correlation_id":"corr_1"}`
}

func mustClient(tb testing.TB, o client.Options, w wire) *client.Client {
	tb.Helper()
	if o.BaseURL == "" {
		o.BaseURL = "http://node.test:8420"
	}
	if w != nil {
		o.HTTP = &http.Client{Transport: w}
	}
	c, err := client.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}
