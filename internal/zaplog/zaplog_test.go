package zaplog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/zaplog"
)

// Requirements: T6, M2.
func TestNew_hidesSecrets(t *testing.T) {
	const secret = "aos_0123456789abcdefghij"
	var out bytes.Buffer
	log, _, err := zaplog.New(zaplog.Options{Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	log.With(zap.String("header", "Bearer "+secret), zap.String("client_secret", "hunter2")).
		Info("key "+secret+" refused", zap.Error(errors.New("bad "+secret)), zap.Any("all", map[string]string{"k": secret}), zap.Any("Authorization", 7), zap.String("tenant_id", "tnt_demo"))
	if text := out.String(); strings.Contains(text, secret[4:]) || strings.Contains(text, "hunter2") {
		t.Errorf("a secret was logged: %s", text)
	}
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line["tenant_id"] != "tnt_demo" || line["level"] != "info" || !strings.HasSuffix(line["time"].(string), "Z") {
		t.Errorf("line = %v", line)
	}
}

func TestLevel_Set(t *testing.T) {
	var out bytes.Buffer
	log, level, err := zaplog.New(zaplog.Options{Out: &out, Level: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	if out.Len() != 0 {
		t.Errorf("info was logged at warn: %s", out.String())
	}
	if err := level.Set("debug"); err != nil {
		t.Fatal(err)
	}
	log.Debug("loud")
	if !strings.Contains(out.String(), "loud") {
		t.Error("debug was not logged after the level changed")
	}
	if err := level.Set("shout"); err == nil {
		t.Error("a level that does not exist was accepted")
	}
}

func TestNew_refuses(t *testing.T) {
	for _, o := range []zaplog.Options{{Level: "x"}, {Format: "xml"}} {
		if _, _, err := zaplog.New(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
