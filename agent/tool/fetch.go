package tool

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
)

// Doer makes HTTP requests. The one for tools refuses private, loopback and metadata addresses when it dials, again for
// each redirect.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

const fetchSchema = `{"type":"object","properties":{"url":{"type":"string","minLength":1,"maxLength":8192},` +
	`"method":{"type":"string","enum":["GET","HEAD","POST","PUT","PATCH","DELETE","OPTIONS"]},` +
	`"headers":{"type":"object","maxProperties":64,"additionalProperties":{"type":"string","maxLength":8192}},` +
	`"body":{"type":"string"}},"required":["url"]}`

// maxFetchHeaders bounds the headers of an answer that are given to the model, in bytes.
const maxFetchHeaders = 16 << 10

type fetchInput struct {
	URL     string            `json:"url"`
	Method  string            `json:"method"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

// refusedHeaders are request headers that belong to the connection, that claim where a request came from, or that open
// cloud metadata services.
var refusedHeaders = []string{
	"Host", "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Expect",
	"Forwarded", "Via", "X-Real-Ip", "Metadata", "Metadata-Flavor", "X-Google-Metadata-Request",
}

func refusedHeader(name string) bool {
	name = textproto.CanonicalMIMEHeaderKey(name)
	return slices.Contains(refusedHeaders, name) || strings.HasPrefix(name, "Proxy-") ||
		strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Aws-Ec2-") ||
		strings.HasPrefix(name, "X-Agentos-")
}

// safeMethod reports whether a request of tool.http.fetch asks for nothing to change (RFC 9110 §9.2.1).
func safeMethod(input json.RawMessage) bool {
	var in fetchInput
	if json.Unmarshal(input, &in) != nil {
		return false
	}
	switch in.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	return false
}

func fetch(ctx context.Context, client Doer, input json.RawMessage) (json.RawMessage, error) {
	request, err := fetchRequest(ctx, input)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, unreachable(ctx, request.URL.Host, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxOutput+1))
	if err != nil {
		return nil, unreachable(ctx, request.URL.Host, err)
	}
	return fetchOutput(response, body), nil
}

func fetchRequest(ctx context.Context, input json.RawMessage) (*http.Request, error) {
	var in fetchInput
	if err := json.Unmarshal(input, &in); err != nil {
		return nil, fault.Invalid("input", "The input is not an object with a url.")
	}
	target, err := url.Parse(in.URL)
	switch {
	case err != nil || target.Host == "":
		return nil, fault.Invalid("input.url", "The url is not an absolute http or https address.")
	case target.Scheme != "http" && target.Scheme != "https":
		return nil, fault.Invalid("input.url", "Only http and https addresses can be fetched.")
	case target.User != nil:
		return nil, fault.Invalid("input.url", "The url must not hold a user or password; use a header.")
	}
	if in.Method == "" {
		in.Method = http.MethodGet
	}
	var body io.Reader
	if in.Body != "" {
		body = strings.NewReader(in.Body)
	}
	request, err := http.NewRequestWithContext(ctx, in.Method, target.String(), body)
	if err != nil {
		return nil, fault.Invalid("input", "The request can't be made.").Because(err)
	}
	for name, value := range in.Headers {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) || refusedHeader(name) {
			return nil, fault.Invalid("input.headers", "The header %.64q can't be sent.", name)
		}
		request.Header.Set(name, value)
	}
	if request.Header.Get("User-Agent") == "" {
		request.Header.Set("User-Agent", "agentos-tool")
	}
	return request, nil
}

// fetchOutput builds the output, with as much of the body as fits.
func fetchOutput(response *http.Response, body []byte) json.RawMessage {
	truncated := len(body) > MaxOutput
	out := append(make([]byte, 0, len(body)+1024), `{"status":`...)
	out = appendStatus(out, response.StatusCode)
	out = append(out, `,"headers":{`...)
	names := make([]string, 0, len(response.Header))
	for name := range response.Header {
		if name != "Set-Cookie" { // a secret between server and browser; the model has no use for it
			names = append(names, name)
		}
	}
	slices.Sort(names)
	start, first := len(out), true
	for _, name := range names {
		mark := len(out)
		if !first {
			out = append(out, ',')
		}
		out = event.AppendString(out, strings.ToLower(name))
		out = append(out, ':')
		out = event.AppendString(out, strings.Join(response.Header[name], ", "))
		if len(out)-start > maxFetchHeaders {
			out = out[:mark]
			break
		}
		first = false
	}
	out = append(out, `},"body":`...)
	const tail = `,"truncated":false}`
	text, cut := CutText(string(body), MaxOutput-len(out)-len(tail))
	out = event.AppendString(out, text)
	if truncated || cut {
		return append(out, `,"truncated":true}`...)
	}
	return append(out, tail...)
}

func appendStatus(b []byte, status int) []byte {
	return append(b, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10))
}

// unreachable gives a failed request its code, unless the client has given one: it refuses addresses by itself.
func unreachable(ctx context.Context, host string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if coded, ok := errors.AsType[*fault.Error](err); ok {
		return coded
	}
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return fault.New(fault.Timeout, "%.200s did not answer in time.", host).Because(err)
	}
	return fault.New(fault.Unavailable, "%.200s could not be reached.", host).With("service", host).Because(err)
}
