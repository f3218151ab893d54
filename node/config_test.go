package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/node"
)

func mustWrite(tb testing.TB, name, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

// Requirements: O1.
func TestLoad_precedence(t *testing.T) {
	file := mustWrite(t, "node.yaml", "region: from-file\nworkers: 7\nlog_level: warn\nsession_ttl: 3s\njoin: [a:1, b:2]\n")
	c, err := node.Load(node.Sources{
		Flags:   map[string]string{"region": "from-flag"},
		Env:     env(map[string]string{"AGENTOS_REGION": "from-env", "AGENTOS_WORKERS": "8", "AGENTOS_MODE": ""}),
		EnvFile: map[string]string{"AGENTOS_WORKERS": "9", "AGENTOS_LOG_LEVEL": "error"},
		File:    file,
	})
	if err != nil {
		t.Fatal(err)
	}
	o := c.Options
	if o.Region != "from-flag" || o.Workers != 8 || o.LogLevel != "error" || o.SessionTTL != 3*time.Second || o.Mode != node.Demo {
		t.Errorf("region %q, workers %d, log level %q, ttl %v, mode %q", o.Region, o.Workers, o.LogLevel, o.SessionTTL, o.Mode)
	}
	if len(o.Join) != 2 || o.Join[1] != "b:2" {
		t.Errorf("join = %q", o.Join)
	}
	for name, want := range map[string]string{"region": "flag", "workers": "environment, AGENTOS_WORKERS", "log-level": "environment file", "session-ttl": "file " + file, "mode": "default"} {
		if !strings.HasPrefix(c.From[name], want) {
			t.Errorf("%s came from %q, want %q", name, c.From[name], want)
		}
	}
}

func TestLoad_refuses(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"unknown key":     {"regoin: x\n", `line 1: unknown key "regoin"`},
		"flag's spelling": {"data-dir: x\n", `"data_dir" was probably meant`},
		"twice":           {"region: a\nregion: b\n", "stands twice"},
		"two documents":   {"region: a\n---\nregion: b\n", "more than one"},
		"nested":          {"region: {a: b}\n", "neither a plain value"},
		"not a mapping":   {"- a\n", "no mapping"},
		"no value":        {"region:\n", "no value"},
		"wrong type":      {"workers: many\n", "workers"},
		"broken":          {"region: [\n", "yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := node.Load(node.Sources{File: mustWrite(t, "node.yaml", c.yaml), Env: env(nil)})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestConfig_YAML_readsBackTheSame(t *testing.T) {
	first, err := node.Load(node.Sources{Env: env(nil), Flags: map[string]string{
		"workers": "12", "disk-floor": "3GiB", "openai-base-url": "http://127.0.0.1:1/v1", "init": "true", "join-token": "a secret",
	}})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := first.YAML(&text); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), "a secret") {
		t.Error("a secret was printed")
	}
	second, err := node.Load(node.Sources{Env: env(nil), File: mustWrite(t, "node.yaml", text.String())})
	if err != nil {
		t.Fatalf("what --print writes can't be read: %v\n%s", err, text.String())
	}
	for _, s := range node.Settings() {
		if s.Secret {
			continue
		}
		if a, b := s.Value(&first.Options), s.Value(&second.Options); a != b {
			t.Errorf("%s: %q came back as %q", s.Name, a, b)
		}
	}
}

// Requirements: T7.
func TestOptions_Validate(t *testing.T) {
	if err := (node.Options{}).Validate(); err != nil {
		t.Fatalf("the defaults are refused: %v", err)
	}
	for name, c := range map[string]struct {
		o        node.Options
		settings []string
	}{
		"mode":             {node.Options{Mode: "production"}, []string{"mode"}},
		"ids":              {node.Options{StackID: "a b", Region: "ä"}, []string{"stack-id", "region"}},
		"addresses":        {node.Options{APIListen: "127.0.0.1", AdminListen: "127.0.0.1:x"}, []string{"api-listen", "admin-listen"}},
		"plain HTTP":       {node.Options{APIListen: "0.0.0.0:8420"}, []string{"api-listen"}},
		"unspecified":      {node.Options{GossipAdvertise: "0.0.0.0:1"}, []string{"gossip-advertise"}},
		"half a pair":      {node.Options{APITLSCertFile: "c"}, []string{"api-tls-key-file"}},
		"secret in URL":    {node.Options{OpenAIBaseURL: "https://me:secret@host/v1"}, []string{"openai-base-url"}},
		"init and join":    {node.Options{Init: true, Join: []string{"a:1"}}, []string{"join"}},
		"limits":           {node.Options{Workers: -1, SessionTTL: time.Millisecond, DiskFloor: -1}, []string{"workers", "session-ttl", "disk-floor"}},
		"words":            {node.Options{LogLevel: "loud", LogFormat: "xml", BuiltinBackend: "maybe"}, []string{"log-level", "log-format", "builtin-backend"}},
		"prod, bare":       {node.Options{Mode: node.Prod}, []string{"api-tls-cert-file", "api-tls-key-file", "gossip-key-file", "seal-key-file", "organization"}},
		"prod, inline":     {node.Options{Mode: node.Prod, JoinToken: "x"}, []string{"join-token"}},
		"two seal sources": {node.Options{SealKeyFile: "a", SealKeyCommand: "b"}, []string{"seal-key-command"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.o.Validate()
			if err == nil {
				t.Fatal("accepted")
			}
			named := map[string]bool{}
			collect(err, named)
			for _, s := range c.settings {
				if !named[s] {
					t.Errorf("%s is not named in: %v", s, err)
				}
			}
		})
	}
	whole := node.Options{
		Mode: node.Prod, Organization: "acme", APIListen: "0.0.0.0:443", APIAdvertise: "node.example:443",
		APITLSCertFile: "c", APITLSKeyFile: "k", GossipKeyFile: "g", SealKeyCommand: "unseal",
	}
	if err := whole.Validate(); err != nil {
		t.Errorf("a complete prod configuration is refused: %v", err)
	}
}

func collect(err error, named map[string]bool) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			collect(e, named)
		}
		return
	}
	if f, ok := errors.AsType[*node.FieldError](err); ok {
		named[f.Setting] = true
	}
}

func TestSettings_table(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range node.Settings() {
		if seen[s.Name] || s.Doc == "" || s.Group == "" {
			t.Errorf("%s: twice, or without doc or group", s.Name)
		}
		seen[s.Name] = true
		if s.Default == "" {
			continue
		}
		var o node.Options
		if err := s.Set(&o, s.Default); err != nil {
			t.Error(err)
		} else if got := s.Value(&o); got != s.Default {
			t.Errorf("%s: default %q reads back as %q", s.Name, s.Default, got)
		}
	}
}

func TestReadEnvFile(t *testing.T) {
	vars, err := node.ReadEnvFile(mustWrite(t, ".env", "# a comment\n\nexport A=1\nB = \"two words\"\nC='#x'\nD=\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"A": "1", "B": "two words", "C": "#x", "D": ""} {
		if got, ok := vars[name]; !ok || got != want {
			t.Errorf("%s = %q, %v; want %q", name, got, ok, want)
		}
	}
	if _, err := node.ReadEnvFile(mustWrite(t, ".env", "A=1\nnonsense\n")); err == nil || !strings.Contains(err.Error(), ":2:") {
		t.Errorf("a broken line: %v", err)
	}
	if vars, err := node.ReadEnvFile(filepath.Join(t.TempDir(), "none")); err != nil || len(vars) != 0 {
		t.Errorf("a missing file: %v, %v", vars, err)
	}
}
