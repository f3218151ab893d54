package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

const cliDoc = "../../docs/cli.md"

// TestCommands_documented holds docs/cli.md to the commands: go test ./cmd/agentos -run documented -update writes it anew.
//
// Requirements: O1.
func TestCommands_documented(t *testing.T) {
	want := cliText()
	if *update {
		if err := os.WriteFile(cliDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(cliDoc)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the commands say; run: go test ./cmd/agentos -run documented -update", cliDoc)
	}
}

// TestCommands_help: every command says what it is for, shows an example, and refuses wrong use with code 2.
func TestCommands_help(t *testing.T) {
	each(newApp().root(), func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s has no short text or no example", cmd.CommandPath())
		}
		if strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: a short text ends without a full stop", cmd.CommandPath())
		}
		a := newApp()
		if code := a.run(t.Context(), append(strings.Fields(cmd.CommandPath())[1:], "--no-such-flag")); code != exitUsage {
			t.Errorf("%s --no-such-flag: exit code %d, want %d", cmd.CommandPath(), code, exitUsage)
		}
		if out := a.out.(*bytes.Buffer); out.Len() != 0 {
			t.Errorf("%s --no-such-flag wrote to standard output: %q", cmd.CommandPath(), out)
		}
	})
}

func newApp() *app {
	return &app{in: strings.NewReader(""), out: new(bytes.Buffer), err: new(bytes.Buffer), env: func(string) (string, bool) { return "", false }, interrupted: func() {}}
}

// each visits the commands that people call.
func each(cmd *cobra.Command, visit func(*cobra.Command)) {
	if cmd.Name() == "help" {
		return
	}
	visit(cmd)
	for _, sub := range cmd.Commands() {
		each(sub, visit)
	}
}

func cliText() string {
	var b strings.Builder
	b.WriteString(`# The command line

<!-- Written from the commands themselves by: go test ./cmd/agentos -run documented -update -->

Standard output carries data, as a table or, with ` + "`--output json`" + `, as JSON; standard error carries the voice: progress,
` + "`agentos: error: …`" + ` and a hint at what to do next. ` + "`agentos completion bash|zsh|fish|powershell`" + ` prints completions.

A command that speaks to a node finds it, and a key that may do what it asks, in the ` + "`access.json`" + ` that ` + "`agentos up`" + ` left in
the state directory. ` + "`--api-url`" + `, ` + "`--key-file`" + ` and ` + "`--ca-file`" + ` name any other node, key and CA; what no flag says, the
environment says (AGENTOS_API_URL, AGENTOS_KEY_FILE, AGENTOS_CA_FILE), then the file ` + "`.agentos.env`" + ` beside the state directory.
Keys are read from files only, so that they show up neither in a process list nor in a shell's history.

A request that may be repeated is tried again when the node is away or busy for a moment, as it asks to (Retry-After); a run
is created under a key, so that trying again makes no second one.

## Exit codes

| code | meaning |
|---|---|
`)
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", c.code, c.meaning)
	}
	root := newApp().root()
	b.WriteString("\n## Flags of every command\n\n")
	flags(&b, root.PersistentFlags())
	each(root, func(cmd *cobra.Command) {
		if cmd == root {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n", cmd.CommandPath(), cmd.Short)
		if cmd.Long != "" {
			fmt.Fprintf(&b, "\n%s\n", cmd.Long)
		}
		if cmd.HasSubCommands() {
			b.WriteString("\nCommands: ")
			for i, sub := range cmd.Commands() {
				if i > 0 {
					b.WriteString(", ")
				}
				b.WriteString("`" + sub.Name() + "`")
			}
			b.WriteString(".\n")
		}
		fmt.Fprintf(&b, "\n```console\n")
		for line := range strings.Lines(cmd.Example) {
			b.WriteString("$ " + strings.TrimSpace(line) + "\n")
		}
		b.WriteString("```\n")
		if cmd.Flags().Lookup("api-listen") != nil {
			b.WriteString("\nIt takes every setting of a node as a flag: [configuration.md](configuration.md).\n")
		} else if cmd.LocalNonPersistentFlags().HasAvailableFlags() {
			b.WriteString("\n")
			flags(&b, cmd.LocalNonPersistentFlags())
		}
	})
	return b.String()
}

func flags(b *strings.Builder, set *pflag.FlagSet) {
	b.WriteString("| flag | default | what it says |\n|---|---|---|\n")
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		def := "–"
		if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "0" && f.DefValue != "0s" && f.DefValue != "false" {
			def = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, def, f.Usage)
	})
}
