package shelf_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/agent/tool/tooltest"
	"github.com/nexixai/agentos/docs/examples/shelf"
	"github.com/nexixai/agentos/internal/fault"
)

// books makes a shelf with two texts in a folder, and one outside of it.
func books(t *testing.T) *shelf.Kind {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"books/travel.md": "Take the train.", "books/long.md": strings.Repeat("long ", tool.MaxOutput/4), "secret.md": "s"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "books", "way-out.md")); err != nil {
		t.Fatal(err)
	}
	kind, err := shelf.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kind.Close() })
	return kind
}

func named(folder string) agent.Tool {
	config, _ := json.Marshal(map[string]string{"folder": folder})
	return agent.Tool{
		ID: "tool.books.read", Kind: "shelf", Config: config,
		InputSchema: json.RawMessage(`{"type":"object","required":["name"],"properties":{"name":{"type":"string"}}}`),
	}
}

// The example does all that a kind of tool has to, so who starts from it starts from something sound.
func TestKind(t *testing.T) {
	misfit := named("../elsewhere")
	tooltest.Run(t, tooltest.Case{
		Name: "shelf", Kind: books(t),
		Works:  &tooltest.Call{Tool: named("books"), Input: `{"name":"travel.md"}`, Output: `{"text":"Take the train."}`},
		Fails:  &tooltest.Call{Tool: named("books"), Input: `{"name":"none.md"}`, Code: fault.NotFound},
		Long:   &tooltest.Call{Tool: named("books"), Input: `{"name":"long.md"}`},
		Misfit: &misfit,
	})
}

// An agent is given a name by whoever speaks to it: none leads out of the folder.
func TestKind_StaysInside(t *testing.T) {
	set := tool.New(tool.Options{Kinds: map[string]tool.Kind{"shelf": books(t)}})
	for _, name := range []string{"../secret.md", "/etc/hostname", "way-out.md", "", "."} {
		input, _ := json.Marshal(map[string]string{"name": name})
		call := tooltest.Call{Tool: named("books"), Input: string(input)}
		if output, _, err := set.Invoke(t.Context(), call.Invocation("tnt_a", "tcall_a")); err == nil {
			t.Errorf("%q: %s", name, output)
		}
	}
}
