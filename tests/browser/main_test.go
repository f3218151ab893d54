// Package browser_test opens the pages of a running node in a real browser, Debian's chromium without a window, and looks
// at them as a reader does. A page that a program finds well-formed may still be empty, or ask a stranger for its fonts.
package browser_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/nexixai/agentos/tests/harness"
)

var suite harness.Suite

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

// soon bounds waits for what should come at once, on a machine that is busy with other things.
const soon = time.Minute

// tab is one page of a browser, with all that it asked for and complained of.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	asked      []string // addresses
	complaints []string
}

// open starts a browser with an empty page. It ends with the test.
func open(t *testing.T) *tab {
	t.Helper()
	harness.Needs(t, "chromium")
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 1600),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	b := &tab{t: t}
	b.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(b.note))
	t.Cleanup(cancel)
	if err := chromedp.Do(b.ctx); err != nil {
		t.Fatalf("starting the browser: %v", err)
	}
	return b
}

// note keeps what happens in the page.
func (b *tab) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.asked = append(b.asked, e.Request.URL)
	case *network.EventWebSocketCreated:
		b.asked = append(b.asked, e.URL)
	case *network.EventLoadingFailed:
		if !e.Canceled {
			b.complaints = append(b.complaints, fmt.Sprintf("a request failed: %s %s", e.ErrorText, e.BlockedReason))
		}
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 {
			b.complaints = append(b.complaints, fmt.Sprintf("%s answers %d", e.Response.URL, e.Response.Status))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.complaints = append(b.complaints, e.Entry.Text)
		}
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, fmt.Sprintf("%+v", e.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			var words []string
			for _, arg := range e.Args {
				words = append(words, string(arg.Value)+arg.Description)
			}
			b.complaints = append(b.complaints, strings.Join(words, " "))
		}
	}
}

// goTo opens an address.
func (b *tab) goTo(address string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, soon)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(address)); err != nil {
		b.t.Fatalf("opening %s: %v", address, err)
	}
}

// eval returns the value of an expression in the page.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, soon)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("evaluating %s: %v", expression, err)
	}
	return value
}

// until waits for an expression to be true in the page, also across a change of the page.
func (b *tab) until(expression string) {
	b.t.Helper()
	var last error
	if !harness.Poll(soon, 50*time.Millisecond, func() bool {
		var ok bool
		ok, last = chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression))
		return ok
	}) {
		b.t.Fatalf("%s is not true within %v: %v; the page complains %q", expression, soon, last, b.noted())
	}
}

func (b *tab) noted() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.complaints...)
}

// quiet fails the test when the page complained, or asked any host but this one.
func (b *tab) quiet(base string) {
	b.t.Helper()
	want, err := url.Parse(base)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.noted() {
		b.t.Errorf("the page complains: %s", c)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.asked) == 0 {
		b.t.Error("no request was noted: nothing was looked at")
	}
	for _, address := range b.asked {
		if u, err := url.Parse(address); err != nil || u.Host != want.Host && u.Scheme != "data" && u.Scheme != "about" {
			b.t.Errorf("the page asks %.200s", address)
		}
	}
}
