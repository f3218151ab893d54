package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nexixai/agentos/model"
)

// Bounds of what a server may send.
const (
	maxAnswer = 32 << 20 // of a whole answer, or all of a stream
	maxLine   = 1 << 20  // of one line of a stream
	maxError  = 64 << 10
	maxModels = 2000
)

// Options says which server to talk to.
type Options struct {
	// Name is the backend's name; "" means "openai".
	Name string
	// BaseURL ends before "/chat/completions", as in "https://api.openai.com/v1".
	BaseURL string
	// KeyFile holds the API key; "" sends none.
	KeyFile string
	// HeaderTimeout bounds the wait for the headers of a stream or a list, AnswerTimeout that of a whole answer, whose
	// headers come when the model is done, and IdleTimeout that between two pieces. 0 means 1 min, 10 min and 1 min.
	HeaderTimeout, AnswerTimeout, IdleTimeout time.Duration
	// Models are described by the operator where the server can't; a nil list asks the server.
	Models []model.Info
	// Transport is for tests; nil means one of the provider's own.
	Transport http.RoundTripper
}

// Validate names the setting at fault.
func (o Options) Validate() error {
	u, err := url.Parse(o.BaseURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("openai: the base URL %q is not an http or https URL without user and query", o.BaseURL)
	}
	if strings.ContainsAny(o.Name, "/:") {
		return fmt.Errorf("openai: the backend's name %q must not hold '/' or ':'", o.Name)
	}
	return nil
}

// Provider talks to one server. It is safe for concurrent use.
type Provider struct {
	o      Options
	base   string
	client *http.Client
	key    *keyFile
}

var _ model.Provider = (*Provider)(nil)

// New returns a Provider. It doesn't call the server.
func New(o Options) (*Provider, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name = "openai"
	}
	for _, d := range []struct {
		at       *time.Duration
		standard time.Duration
	}{{&o.HeaderTimeout, time.Minute}, {&o.AnswerTimeout, 10 * time.Minute}, {&o.IdleTimeout, time.Minute}} {
		if *d.at <= 0 {
			*d.at = d.standard
		}
	}
	if o.Transport == nil {
		o.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     90 * time.Second,
			ForceAttemptHTTP2:   true,
		}
	}
	p := &Provider{o: o, base: strings.TrimRight(o.BaseURL, "/"), key: &keyFile{path: o.KeyFile}}
	p.client = &http.Client{
		Transport:     o.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p, nil
}

// Close drops idle connections.
func (p *Provider) Close() { p.client.CloseIdleConnections() }

// Name implements model.Provider.
func (p *Provider) Name() string { return p.o.Name }

// Health implements model.Provider: the server answers and takes the key.
func (p *Provider) Health(ctx context.Context) error {
	_, err := p.list(ctx)
	return err
}

// Models implements model.Provider.
func (p *Provider) Models(ctx context.Context) ([]model.Info, error) {
	if p.o.Models != nil {
		list := slices.Clone(p.o.Models)
		for i := range list {
			list[i].Backend, list[i].ID = p.o.Name, p.o.Name+"/"+list[i].Model
		}
		return list, nil
	}
	return p.list(ctx)
}

func (p *Provider) list(ctx context.Context) ([]model.Info, error) {
	var answer struct {
		Data []struct {
			ID      string `json:"id"`
			OwnedBy string `json:"owned_by"`
			Created int64  `json:"created"`
			// What some servers add.
			MaxModelLen   int64 `json:"max_model_len"`
			ContextLength int64 `json:"context_length"`
		} `json:"data"`
	}
	if err := p.call(ctx, http.MethodGet, "/models", nil, p.o.HeaderTimeout, &answer); err != nil {
		return nil, err
	}
	list := make([]model.Info, 0, len(answer.Data))
	for _, m := range answer.Data {
		capability := capabilityOf(m.ID)
		if capability == "" || len(list) == maxModels {
			continue
		}
		list = append(list, model.Info{
			ID: p.o.Name + "/" + m.ID, Backend: p.o.Name, Model: m.ID, OwnedBy: m.OwnedBy, Created: m.Created,
			Capabilities: []string{capability}, ContextWindowTokens: max(m.MaxModelLen, m.ContextLength, 0),
		})
	}
	return list, nil
}

// capabilityOf guesses by its name what a model does: the list doesn't say. "" is neither chat nor embeddings.
func capabilityOf(name string) string {
	name = strings.ToLower(name)
	for _, other := range []string{"whisper", "tts", "dall-e", "moderation", "gpt-image", "sora", "realtime", "transcribe", "davinci-002", "babbage-002"} {
		if strings.Contains(name, other) {
			return ""
		}
	}
	for _, embed := range []string{"embed", "bge-", "minilm", "/e5-", "gte-"} {
		if strings.Contains(name, embed) {
			return model.OpEmbed
		}
	}
	return model.OpChat
}

// Embed implements model.Provider.
func (p *Provider) Embed(ctx context.Context, name string, req *model.EmbedRequest) (*model.EmbedResponse, error) {
	body := struct {
		Model          string   `json:"model"`
		Input          []string `json:"input"`
		EncodingFormat string   `json:"encoding_format"`
		Dimensions     int      `json:"dimensions,omitempty"`
	}{name, req.Texts, "float", req.Dimensions}
	var answer struct {
		Data []struct {
			Index     int       `json:"index"`
			Embedding []float32 `json:"embedding"`
		} `json:"data"`
		Usage *usage `json:"usage"`
	}
	if err := p.call(ctx, http.MethodPost, "/embeddings", body, p.o.AnswerTimeout, &answer); err != nil {
		return nil, err
	}
	resp := &model.EmbedResponse{Vectors: make([][]float32, len(req.Texts)), Usage: answer.Usage.model()}
	for _, d := range answer.Data {
		if d.Index < 0 || d.Index >= len(resp.Vectors) || resp.Vectors[d.Index] != nil || len(d.Embedding) == 0 {
			return nil, p.odd("an embedding without its text")
		}
		resp.Vectors[d.Index] = d.Embedding
	}
	if slices.ContainsFunc(resp.Vectors, func(v []float32) bool { return v == nil }) {
		return nil, p.odd("fewer embeddings than texts")
	}
	return resp, nil
}

// call makes one request and decodes its whole answer.
func (p *Provider) call(ctx context.Context, method, path string, body any, timeout time.Duration, answer any) error {
	ctx, stop := p.patience(ctx, timeout)
	defer stop.end()
	resp, err := p.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	stop.reset(p.o.IdleTimeout)
	raw, err := readAll(resp.Body, stop, p.o.IdleTimeout)
	if err != nil {
		return p.broken(ctx, err)
	}
	if len(raw) > maxAnswer {
		return p.odd("an answer larger than the node takes")
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return p.odd("an answer that is not the JSON it should be").Because(err)
	}
	return nil
}

func readAll(r io.Reader, stop *patience, idle time.Duration) ([]byte, error) {
	var b bytes.Buffer
	r = io.LimitReader(r, maxAnswer+1)
	for {
		_, err := io.CopyN(&b, r, 64<<10)
		if errors.Is(err, io.EOF) {
			return b.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
		stop.reset(idle)
	}
}

// send makes one request and returns an answer of status 200. A refused key is read anew and, if it changed, tried once
// more.
func (p *Provider) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("openai: encode a request: %w", err)
		}
	}
	for again := false; ; again = true {
		key, err := p.key.read(again)
		if err != nil {
			return nil, p.unavailable("The node can't read its key for the model backend %q; the operator has to see to it.").Because(err)
		}
		resp, err := p.once(ctx, method, path, payload, key)
		if err != nil {
			return nil, p.broken(ctx, err)
		}
		if resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		failure := p.refusal(resp)
		resp.Body.Close()
		if resp.StatusCode == http.StatusUnauthorized && !again {
			if next, err := p.key.read(true); err == nil && next != key {
				continue
			}
		}
		return nil, failure
	}
}

func (p *Provider) once(ctx context.Context, method, path string, payload []byte, key string) (*http.Response, error) {
	var body io.Reader
	if payload != nil {
		body = bytes.NewReader(payload)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.base+path, body)
	if err != nil {
		return nil, err
	}
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("User-Agent", "agentos")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	return p.client.Do(req)
}
