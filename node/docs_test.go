package node_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/nexixai/agentos/node"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

const configurationDoc = "../docs/configuration.md"

// TestSettings_documented holds docs/configuration.md to the table of settings: go test ./node -run documented -update
// writes it anew.
//
// Requirements: O1.
func TestSettings_documented(t *testing.T) {
	want := configuration()
	if *update {
		if err := os.WriteFile(configurationDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(configurationDoc)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the table of settings says; run: go test ./node -run documented -update", configurationDoc)
	}
}

func configuration() string {
	var b strings.Builder
	b.WriteString(`# Configuration of a node

<!-- Written from the table of settings in node/settings.go by: go test ./node -run documented -update -->

Every setting can be given as a flag of ` + "`agentos node run`" + `, as an environment variable, or as a key of one YAML file
(` + "`--config FILE`" + ` or ` + "`AGENTOS_CONFIG`" + `). Of several, the first of these wins: flag, environment, environment file, configuration
file, default. The environment file lies beside the state directory (` + "`.agentos.env`" + ` beside ` + "`.agentos`" + `, in the working directory
unless ` + "`--state-dir`" + ` says otherwise), holds NAME=VALUE lines, is written by the first ` + "`agentos up`" + ` and then yours. An unknown
key or variable of ours in a file, a key that stands twice, and a value of the wrong form are refused by name. An empty
variable counts as not set.

` + "`agentos node config --print`" + ` shows what the settings come to and where each came from; ` + "`--check`" + ` says whether a node would
start with them. Both take the same flags as ` + "`node run`" + `.

Amounts are written like 512MiB, durations like 30s, lists with commas (in YAML also as a list). Settings marked
"on SIGHUP" are read again by a running node when it gets that signal; all others need a restart
(` + "`agentos redeploy`" + `).

## Modes

| mode | API | secrets | samples | admin calls |
|---|---|---|---|---|
| demo | plain HTTP on loopback, else TLS | none needed | seeded | on both listeners |
| dev | as demo | as demo | seeded | on both listeners |
| prod | TLS only | seal key and gossip key given, as files or commands, never inline | none | admin listener only |

A node in prod that lacks one of these does not start, and says which by name.
`)
	group := ""
	for _, s := range node.Settings() {
		if s.Group != group {
			group = s.Group
			fmt.Fprintf(&b, "\n## %s\n\n| flag, variable, key | kind | default | reload | what it says |\n|---|---|---|---|---|\n", group)
		}
		def, reload := "–", "–"
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		if s.Reload {
			reload = "on SIGHUP"
		}
		fmt.Fprintf(&b, "| `--%s`<br>`%s`<br>`%s` | %s | %s | %s | %s |\n", s.Name, node.EnvName(s.Name), node.Key(s.Name), s.Kind(), def, reload, s.Doc)
	}
	b.WriteString(`
## Files and directories

| where | what | mode |
|---|---|---|
| DATA_DIR | everything a node keeps; one process at a time | 0700 |
| DATA_DIR/node.json | which node and which cluster this is | 0600 |
| DATA_DIR/lock | held while a process uses the directory; names it | 0600 |
| DATA_DIR/store | the replicated log and the state it made | 0700 |
| DATA_DIR/trust | the CA's certificate, the node's own and its key, the gossip key; in demo and dev also the seal key | 0700 |
| DATA_DIR/platform_admin.key | the first key, written by ` + "`--init`" + `; move it away | 0600 |

## Ports

| listener | default | protocol | who |
|---|---|---|---|
| API | 127.0.0.1:8420 | HTTP, HTTPS | clients of both stacks |
| federation | :8421 | TLS 1.3, mutual | the nodes of other organisations, and those that have been invited to pair |
| cluster | :8422 | TLS 1.3, mutual | the other nodes of the cluster, and those that join it |
| gossip | :8423 | TCP and UDP, encrypted | the other nodes of the cluster |
| admin | 127.0.0.1:8424 | HTTP, HTTPS | /metrics, /debug/pprof/, admin calls |

` + "`agentos up`" + ` gives each node five ports in a row from ` + "`--base-port`" + ` on (8420 when left out), the next node ten further on.
[operating.md](operating.md) tells how nodes on machines of their own become a cluster.

## Memory

A node alone and idle takes well under 60 MB. The collector runs when the heap has doubled (` + "`gc-percent`" + ` 100): the heap of a
node is small and most of what a request makes dies with it, so a larger value buys little speed and costs idle memory.
In a control group with a limit the heap is held below 90 % of it, so that the collector works harder before the kernel
kills. GOGC and GOMEMLIMIT, when set, win over both settings.
`)
	return b.String()
}
