package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/tenancy"
)

// pipes is a network without buffers, on which time is synctest's.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve puts a world's door on a network, over HTTP/1.1, or HTTP/2 with TLS.
func (w *world) serve(h2 bool) *http.Client {
	w.t.Helper()
	network := newPipes()
	srv := httptest.NewUnstartedServer(nil)
	_ = srv.Listener.Close()
	srv.Listener, srv.Config, srv.EnableHTTP2 = network, api.HTTP(w.door.Handler(), nil), h2
	if h2 {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	client := srv.Client()
	transport := client.Transport.(*http.Transport)
	transport.DialContext = network.dial
	transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 256 << 10}
	w.t.Cleanup(func() {
		client.CloseIdleConnections()
		srv.CloseClientConnections()
		srv.Close()
	})
	scheme := "http"
	if h2 {
		scheme = "https"
	}
	client.Transport = &based{inner: transport, scheme: scheme}
	return client
}

// based sends every request to the one host there is.
type based struct {
	inner  *http.Transport
	scheme string
}

func (b *based) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = b.scheme, "example.com"
	return b.inner.RoundTrip(r)
}

func (b *based) CloseIdleConnections() { b.inner.CloseIdleConnections() }

// stream is an open event stream.
type stream struct {
	*http.Response
	r      *bufio.Reader
	cancel context.CancelFunc
}

// frame is one SSE frame; a comment has nothing but text.
type frame struct{ id, event, data, text string }

func (w *world) follow(client *http.Client, key, path string, header ...string) *stream {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, "GET", path, nil)
	w.must(err)
	r.Header.Set("Authorization", "Bearer "+key)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(r)
	w.must(err)
	s := &stream{Response: resp, r: bufio.NewReader(resp.Body), cancel: cancel}
	w.t.Cleanup(s.close)
	return s
}

func (s *stream) close() {
	s.cancel()
	_ = s.Body.Close()
}

// next reads one frame.
func (s *stream) next() (f frame, err error) {
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return f, err
		}
		if line = strings.TrimSuffix(line, "\n"); line == "" {
			return f, nil
		}
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "id":
			f.id = value
		case "event":
			f.event = value
		case "data":
			f.data = value
		default:
			f.text = line
		}
	}
}

// rest reads frames to the end of the stream and returns the ids of events, and whether the end is whole.
func (s *stream) rest(t testing.TB) (ids []string, whole bool) {
	t.Helper()
	for {
		f, err := s.next()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return ids, true
		}
		if err != nil {
			return ids, false
		}
		if f.id != "" {
			ids = append(ids, f.id)
		}
	}
}

// both runs a test over HTTP/1.1, where a stream takes the connection over, and over HTTP/2, where it can't.
func both(t *testing.T, test func(t *testing.T, w *world, client *http.Client)) {
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				test(t, w, w.serve(h2))
			})
		})
	}
}

func (w *world) cancel(runID string) {
	w.t.Helper()
	_, _, _, err := w.runs.Cancel(w.t.Context(), actor("tnt_a"), runID)
	w.must(err)
}

// A stream begins with its retry hint, brings each event once in order, shows every 15 s of silence that it lives, and is
// whole when it ended with the run.
func TestStream(t *testing.T) {
	both(t, func(t *testing.T, w *world, client *http.Client) {
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		runID := w.create("/wait 40s\n/say x")
		s := w.follow(client, key, "/v1/runs/"+runID+"/events")
		if s.StatusCode != 200 || s.Header.Get("Content-Type") != "text/event-stream" || s.Header.Get("X-Accel-Buffering") != "no" ||
			s.Header.Get("X-Tenant-Id") != "tnt_a" || s.Header.Get("X-Request-Id") == "" || s.Header.Get("X-Agentos-Index") == "" {
			t.Errorf("%d %v", s.StatusCode, s.Header)
		}
		if f, err := s.next(); err != nil || f.text != "retry: 1000" {
			t.Errorf("first %+v, %v", f, err)
		}
		begun, last, beats := time.Now(), 0, 0
		for {
			f, err := s.next()
			if err != nil {
				if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("the end of the run: %v", err)
				}
				break
			}
			switch {
			case f.text == ": heartbeat":
				beats++
			case f.id == "":
				if !strings.Contains(f.data, `"sequence":null`) || strings.Contains(f.data, "event_id") {
					t.Errorf("a frame without an id: %+v", f)
				}
			default:
				if last++; f.id != fmt.Sprint(last) || f.event != "agentos.event" || !strings.Contains(f.data, fmt.Sprintf(`"sequence":%d,`, last)) {
					t.Errorf("event %d: %+v", last, f)
				}
			}
		}
		if took := time.Since(begun); took < 40*time.Second || beats != 2 || last != 7 {
			t.Errorf("%d events and %d heartbeats in %v", last, beats, took)
		}
		synctest.Wait()
		if w.door.Streams() != 0 {
			t.Errorf("%d streams are left", w.door.Streams())
		}
	})
}

// Whoever has seen k gets k+1 on, once each, live and after the end; both ways of saying k count, the larger wins; with
// the final event there is nothing more.
func TestStream_Resume(t *testing.T) {
	both(t, func(t *testing.T, w *world, client *http.Client) {
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		runID := w.create("/wait 10m")
		path := "/v1/runs/" + runID + "/events"
		synctest.Wait()
		live := w.follow(client, key, path, "Last-Event-ID", "2")
		beyond := w.follow(client, key, path+"?after_sequence=5", "Last-Event-ID", "1")
		synctest.Wait()
		w.cancel(runID)
		all, whole := w.follow(client, key, path).rest(t)
		if n := len(all); !whole || n < 6 || all[0] != "1" || all[n-1] != fmt.Sprint(n) {
			t.Fatalf("the whole journal: %v, whole %v", all, whole)
		}
		end := fmt.Sprint(len(all))
		if ids, whole := live.rest(t); !whole || strings.Join(ids, " ") != strings.Join(all[2:], " ") {
			t.Errorf("after 2: %v, whole %v", ids, whole)
		}
		if ids, whole := beyond.rest(t); !whole || strings.Join(ids, " ") != strings.Join(all[5:], " ") {
			t.Errorf("after 5: %v, whole %v", ids, whole)
		}
		for _, c := range []struct {
			query, header string
			from          int // 0: nothing is left
		}{
			{"?after_sequence=0", "", 1},
			{"?after_sequence=3", "", 4},
			{"?from_sequence=3", "", 4},
			{"?from_sequence=3&after_sequence=4", "", 5},
			{"?after_sequence=1", "4", 5},
			{"?after_sequence=4", "1", 5},
			{"?after_sequence=" + end, "", 0},
			{"?after_sequence=9000000000000000000", "", 0},
			{"", end, 0},
		} {
			var header []string
			if c.header != "" {
				header = []string{"Last-Event-ID", c.header}
			}
			s := w.follow(client, key, path+c.query, header...)
			if c.from == 0 {
				if s.StatusCode != 204 {
					t.Errorf("%s %q: %d", c.query, c.header, s.StatusCode)
				}
				continue
			}
			if ids, whole := s.rest(t); !whole || strings.Join(ids, " ") != strings.Join(all[c.from-1:], " ") {
				t.Errorf("%s %q: %v, whole %v", c.query, c.header, ids, whole)
			}
		}
		for _, query := range []string{"after_sequence=-1", "after_sequence=x", "after_sequence=", "from_sequence=1.5", "after_sequence=18446744073709551616"} {
			w.refuse(400, "invalid_request", request{method: "GET", path: path + "?" + query, key: key})
		}
		w.refuse(400, "invalid_request", request{method: "GET", path: path, key: key, header: http.Header{"Last-Event-Id": {"evt_1"}}})
	})
}

// What retention has cut is told before the next event, and the reader's place is not moved by it.
func TestStream_Gap(t *testing.T) {
	both(t, func(t *testing.T, w *world, client *http.Client) {
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		runID := w.create("/say x")
		synctest.Wait()
		_, _, err := w.cut.Do(t.Context(), w.store, "", cutArgs{"tnt_a", runID, 4})
		w.must(err)
		s := w.follow(client, key, "/v1/runs/"+runID+"/events?after_sequence=1")
		for _, want := range []frame{
			{text: "retry: 1000"},
			{event: "agentos.gap", data: fmt.Sprintf(`{"gap":{"run_id":%q,"from_sequence":2,"to_sequence":3,"reason":"retention"}}`, runID)},
		} {
			if f, err := s.next(); err != nil || f != want {
				t.Errorf("got %+v, %v; want %+v", f, err, want)
			}
		}
		if f, err := s.next(); err != nil || f.id != "4" {
			t.Errorf("after the gap: %+v, %v", f, err)
		}
	})
}

// A reader whose key is revoked, or whose tenant is closed, is cut off at the next heartbeat even if the run says nothing,
// and can't take that for the run's end.
//
// Requirements: T1.
func TestStream_Revoked(t *testing.T) {
	both(t, func(t *testing.T, w *world, client *http.Client) {
		runID := w.create("/wait 10m")
		synctest.Wait()
		for name, end := range map[string]func(keyID string) error{
			"key": func(keyID string) error {
				_, err := w.tenants.RevokeKey(t.Context(), actor("tnt_a"), "tnt_a", keyID)
				return err
			},
			"tenant": func(string) error {
				_, _, _, err := w.tenants.SetTenantStatus(t.Context(), actor("tnt_b"), "tnt_a", tenancy.Disabled)
				return err
			},
		} {
			key, keyID := w.key("tnt_a", tenancy.RoleTenantUser)
			s := w.follow(client, key, "/v1/runs/"+runID+"/events")
			for {
				if f, err := s.next(); err != nil || f.text == ": heartbeat" {
					w.must(err)
					break
				}
			}
			begun := time.Now()
			w.must(end(keyID))
			ids, whole := s.rest(t)
			if took := time.Since(begun); whole || len(ids) > 0 || took > heartbeat {
				t.Errorf("%s: %v more in %v, whole %v", name, ids, took, whole)
			}
			_, _, _, err := w.tenants.SetTenantStatus(t.Context(), actor("tnt_b"), "tnt_a", tenancy.Active)
			w.must(err)
		}
	})
}

// A reader that takes nothing is cut off within 15 seconds and holds nobody up; it comes back and has lost nothing.
//
// Requirements: Q3.
func TestStream_Slow(t *testing.T) {
	both(t, func(t *testing.T, w *world, client *http.Client) {
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		runID := w.create("/wait 1s\n/call tool.echo \"" + strings.Repeat("x", 200<<10) + "\"\n/wait 10m")
		path := "/v1/runs/" + runID + "/events"
		slow := w.follow(client, key, path)
		synctest.Wait()
		if n := w.door.Streams(); n != 1 {
			t.Errorf("%d streams", n)
		}
		time.Sleep(time.Second + 15*time.Second + time.Millisecond) // the call comes after a second
		synctest.Wait()
		if w.door.Streams() != 0 {
			t.Errorf("%d streams after 15 s without a reader", w.door.Streams())
		}
		before, whole := slow.rest(t)
		if whole {
			t.Error("the cut stream looks whole")
		}
		w.cancel(runID)
		after := ""
		if n := len(before); n > 0 {
			after = before[n-1]
		}
		more, whole := w.follow(client, key, path, "Last-Event-ID", after).rest(t)
		ids := append(before, more...)
		for i, id := range ids {
			if id != fmt.Sprint(i+1) {
				t.Errorf("before %v, then %v", before, more)
				break
			}
		}
		if !whole || len(ids) < 10 {
			t.Errorf("before %v, then %v, whole %v", before, more, whole)
		}
	})
}

// When the node stops, streams end after a whole frame, and as cut; new ones are refused, as is new work.
func TestStream_Drain(t *testing.T) {
	both(t, func(t *testing.T, w *world, client *http.Client) {
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		runID := w.create("/wait 10m")
		path := "/v1/runs/" + runID + "/events"
		s := w.follow(client, key, path)
		done := make(chan bool)
		go func() {
			_, whole := s.rest(t)
			done <- whole
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w.door.Drain(ctx)
		if ctx.Err() != nil {
			t.Error("streams that are read did not end at once")
		}
		if <-done {
			t.Error("a drained stream looks whole")
		}
		for _, q := range []request{
			{method: "GET", path: path, key: key},
			{method: "POST", path: "/v1/agents/agt_a/runs", key: key, body: `{"input":{"type":"text","text":"x"}}`},
		} {
			if a := w.refuse(503, "dependency_unavailable", q); a.Header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
		}
		w.want(200, request{method: "GET", path: "/v1/runs/" + runID, key: key})
	})
}

// A stream that has come to its run's end leaves its connection to the next request, whether it ended at once, while it was
// busy, or long after it had taken the connection over.
func TestStream_Connection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		client := w.serve(false)
		inner := client.Transport.(*based).inner
		dial, dials := inner.DialContext, 0
		inner.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return dial(ctx, network, address)
		}
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		ended := w.create("/say x")
		synctest.Wait()
		for _, runID := range []string{ended, w.create("/wait 20ms\n/say x"), w.create("/wait 40s\n/say x"), ended} {
			s := w.follow(client, key, "/v1/runs/"+runID+"/events")
			if _, err := io.Copy(io.Discard, s.r); err != nil || s.Close {
				t.Errorf("a stream ended with %v, close %v", err, s.Close)
			}
			synctest.Wait()
		}
		if dials != 1 {
			t.Errorf("%d connections for four streams, one after another", dials)
		}
	})
}

// Closing the viewer cancels nothing, and leaves nothing behind.
func TestStream_Viewer(t *testing.T) {
	both(t, func(t *testing.T, w *world, client *http.Client) {
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		runID := w.create("/wait 10m")
		s := w.follow(client, key, "/v1/runs/"+runID+"/events")
		synctest.Wait()
		s.close()
		time.Sleep(2 * heartbeat)
		synctest.Wait()
		if w.door.Streams() != 0 {
			t.Error("a stream that nobody reads is left")
		}
		if a := w.want(200, request{method: "GET", path: "/v1/runs/" + runID, key: key}); a.body["run"].(map[string]any)["status"] != "running" {
			t.Errorf("the run: %s", a.raw)
		}
	})
}

// HEAD says what a stream would begin with, and ends there.
func TestStream_Head(t *testing.T) {
	both(t, func(t *testing.T, w *world, client *http.Client) {
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		runID := w.create("/wait 10m")
		r, err := http.NewRequestWithContext(t.Context(), "HEAD", "/v1/runs/"+runID+"/events", nil)
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+key)
		for range 2 { // the connection is whole and serves the next
			resp, err := client.Do(r)
			w.must(err)
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || w.door.Streams() != 0 {
				t.Errorf("%d %v, %d streams", resp.StatusCode, resp.Header, w.door.Streams())
			}
			w.must(resp.Body.Close())
		}
	})
}
