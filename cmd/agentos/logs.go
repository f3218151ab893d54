package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

var errNotReady = errors.New("not every node is ready")

// errNoLeader says that nothing can be written at the moment.
var errNoLeader = errors.New("the cluster has no leader")

func (a *app) logsCommand() *cobra.Command {
	var d deployment
	var last int
	var follow bool
	cmd := &cobra.Command{
		Use:     "logs [NODE]",
		Short:   "Print the log of a node, or of all",
		Example: "  agentos logs --lines 50\n  agentos logs stk_acme_node_01 --follow",
		Args:    atMost(1, "one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last < 0 {
				return usage("--lines counts from 0")
			}
			f, err := a.fleet(d, nil)
			if err != nil {
				return err
			}
			files, err := f.LogFiles(strings.Join(args, ""))
			if err != nil && f.Exists() {
				err = noNode(err)
			}
			if err != nil {
				return err
			}
			return a.logs(cmd.Context(), files, last, follow)
		},
	}
	cmd.Flags().IntVarP(&last, "lines", "n", 100, "how many of the last lines to begin with")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is written from now on")
	return cmd
}

// noNode is the error that a deployment has no such node.
func noNode(err error) error {
	return &codedError{code: exitNotFound, err: err, hint: "agentos status shows which nodes there are"}
}

func (a *app) logs(ctx context.Context, files map[string]string, last int, follow bool) error {
	type source struct {
		id   string
		file *os.File
		rest string // a line whose end has not been written yet
	}
	var sources []*source
	for _, id := range slices.Sorted(maps.Keys(files)) {
		file, err := os.Open(files[id])
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer file.Close()
		if err := seekLines(file, last); err != nil {
			return err
		}
		sources = append(sources, &source{id: id, file: file})
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, s := range sources {
			raw, err := io.ReadAll(s.file)
			if err != nil {
				return err
			}
			text := s.rest + string(raw)
			end := strings.LastIndexByte(text, '\n') + 1
			if !follow {
				end = len(text)
			}
			s.rest = text[end:]
			if err := a.printLog(s.id, text[:end], len(files) > 1); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printLog prints whole lines. As JSON each is an object with its node; a line that is no JSON becomes its msg.
func (a *app) printLog(id, text string, many bool) error {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if a.output == "json" {
			entry := map[string]any{}
			if json.Unmarshal([]byte(line), &entry) != nil {
				entry = map[string]any{"msg": line}
			}
			entry["node"] = id
			raw, err := json.Marshal(entry)
			if err != nil {
				return err
			}
			line = string(raw)
		} else if line = plain(line); many {
			line = id + "  " + line
		}
		if _, err := fmt.Fprintln(a.out, line); err != nil {
			return err
		}
	}
	return nil
}

// seekLines moves file to where its last n lines begin.
func seekLines(file *os.File, n int) error {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	const block = 64 << 10
	buf := make([]byte, block)
	for at := size; at > 0; {
		from := max(0, at-block)
		read, err := file.ReadAt(buf[:at-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := read - 1; i >= 0; i-- {
			if buf[i] != '\n' || from+int64(i) == size-1 {
				continue
			}
			if n--; n == 0 {
				_, err := file.Seek(from+int64(i)+1, io.SeekStart)
				return err
			}
		}
		at = from
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}
