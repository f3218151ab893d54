package zaplog_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/zaplog"
)

func TestLines(t *testing.T) {
	var out bytes.Buffer
	log, _, err := zaplog.New(zaplog.Options{Out: &out, Level: "debug"})
	if err != nil {
		t.Fatal(err)
	}
	zaplog.Std(log, "gossip").Printf("[DEBUG] memberlist: Stream connection from=%s", "127.0.0.1")
	zaplog.Std(log, "gossip").Print("[ERR] memberlist: failed [again]\n")
	zaplog.Std(log, "gossip").Print("[odd] no level, token Bearer abc.def")
	hc := zaplog.HC(log, "raft", hclog.Warn)
	hc.Info("not shown")
	hc.Warn("heartbeat timeout", "last-leader", "x")
	want := []struct{ level, msg, detail string }{
		{"debug", "gossip", "memberlist: Stream connection from=127.0.0.1"},
		{"error", "gossip", "memberlist: failed [again]"},
		{"info", "gossip", "[odd] no level, token Bearer [REDACTED]"},
		{"warn", "raft", "heartbeat timeout: last-leader=x"},
	}
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d lines: %s", len(got), out.String())
	}
	for i, w := range want {
		var line struct{ Level, Msg, Detail string }
		if err := json.Unmarshal([]byte(got[i]), &line); err != nil {
			t.Fatal(err)
		}
		if line.Level != w.level || line.Msg != w.msg || line.Detail != w.detail {
			t.Errorf("line %d is %+v, want %+v", i, line, w)
		}
	}
}

// Every kind of field is looked at, not only strings.
//
// Requirements: T6, M2.
func TestNew_hidesInEveryField(t *testing.T) {
	const secret = "aos_0123456789abcdefghij"
	for _, f := range []zap.Field{
		zap.ByteString("b", []byte("x "+secret)), zap.Strings("list", []string{"a", secret}), zap.Binary("bin", []byte(secret)),
		zap.Any("m", map[string]any{"deep": []string{secret}}), zap.Reflect("r", struct{ A *string }{ptr(secret)}),
		zap.Dict("d", zap.String("k", secret)), zap.Inline(zap.DictObject(zap.String("k", secret))), zap.Stringers("s", []stringer{secret}),
	} {
		var out bytes.Buffer
		log, _, err := zaplog.New(zaplog.Options{Out: &out})
		if err != nil {
			t.Fatal(err)
		}
		log.Info("x", f)
		if strings.Contains(out.String(), secret[4:]) {
			t.Errorf("field %s shows the secret: %s", f.Key, out.String())
		}
	}
}

type stringer string

func (s stringer) String() string { return string(s) }

func ptr(s string) *string { return &s }
