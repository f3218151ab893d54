package main

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nexixai/agentos/internal/fault"
)

// TestDial_delayed: a command that gets no answer says so while it waits.
func TestDial_delayed(t *testing.T) {
	said := make(chan string, 1)
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if line := <-said; !strings.Contains(line, "no answer from http://127.0.0.1:") || !strings.Contains(line, "3 times") {
			t.Errorf("while it waits, it says %q", line)
		}
		_, _ = io.WriteString(w, `{"runs":[],"next_cursor":null}`)
	}))
	defer node.Close()
	a := newApp()
	heard, voice := io.Pipe()
	defer voice.Close()
	a.err = voice
	go func() {
		defer close(said)
		line, _ := bufio.NewReader(heard).ReadString('\n')
		said <- line
	}()
	if code := a.run(t.Context(), []string{"runs", "list", "--api-url", node.URL, "--key-file", someKey(t)}); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func someKey(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte("aos_x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestApp_describe: what a node advises by its calls, the command line advises by its commands; what a peer advises is for
// the peer's people.
func TestApp_describe(t *testing.T) {
	for said, want := range map[string]string{
		"There is no such agent; see GET /v1/agents for those there are.":                               "There is no such agent; see 'agentos agents list' for those there are (not_found)",
		"globex does not take the run: There is no such agent; see GET /v1/agents for those there are.": "globex does not take the run: There is no such agent (not_found)",
		"No place can take it. Ask POST /v1/federation/routes:explain for each place's reasons.":        "No place can take it. Ask 'agentos routes explain' for each place's reasons (not_found)",
		"There is no such route; see GET /v1/federation/routes for those there are.":                    "There is no such route; see 'agentos routes list' for those there are (not_found)",
		`There is no model "m" that this tenant may use; see GET /v1/models for those there are.`:       `There is no model "m" that this tenant may use; see 'agentos models list' for those there are (not_found)`,
	} {
		if got := newApp().describe(fault.New(fault.NotFound, "%s", said)); got != want {
			t.Errorf("%s\n got %s\nwant %s", said, got, want)
		}
	}
}
