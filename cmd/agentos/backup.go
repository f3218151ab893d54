package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node"
)

func (a *app) backupCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "Copy a cluster's whole store into a file",
		Long: `Copy the whole store of a cluster, of all its tenants, into a file (mode 0600), while it runs. The file is whole or is
not there. To restore it, the cluster's seal key is needed too, which is not in it.`,
		Example: "  agentos backup --out acme.backup\n  agentos backup --out acme.backup --api-url http://127.0.0.1:8420 --key-file admin.key",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usage("%s needs --out", cmd.CommandPath())
			}
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			began := time.Now()
			var size int64
			index, err := writeWhole(out, func(w io.Writer) (uint64, error) {
				last := began
				return c.Backup(cmd.Context(), w, func(done, all int64) {
					if size = all; time.Since(last) > time.Second {
						last = time.Now()
						a.say("backup: %d of %d MiB", done>>20, all>>20)
					}
				})
			})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(map[string]any{"file": out, "index": index, "bytes": size, "duration_ms": time.Since(began).Milliseconds()})
			}
			t := newTable(a.out)
			t.row("file", out)
			t.row("index", index)
			t.row("bytes", size)
			return t.flush()
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "the file to write")
	return cmd
}

// writeWhole writes a file that is there only when it is whole and synced.
func writeWhole(name string, write func(io.Writer) (uint64, error)) (uint64, error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return 0, err
	}
	index, err := write(f)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return 0, errors.Join(err, os.Remove(f.Name()))
	}
	return index, nil
}

func (a *app) restoreCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "restore --from FILE --data-dir DIR",
		Short: "Make a new cluster out of a backup",
		Long: `Make the first node of a new cluster out of a backup, in an empty data directory: with the organisation, the CA, the
tenants, keys, agents and runs of the old one, under a new cluster id and store epoch, by which peers see that history was
rewound. Then start it with "agentos node run", and let further nodes join. The old cluster must not run any more.

The directory becomes a node's when all is there. A restore that is refused leaves nothing behind; what one that was cut
short has left can't be started, and the next try begins anew.`,
		Example: "  agentos restore --from acme.backup --data-dir data --seal-key-file seal.key --stack-id stk_acme_node_01",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return usage("%s needs --from", cmd.CommandPath())
			}
			config, err := a.loadSettings(cmd.Flags())
			if err != nil {
				return err
			}
			f, err := os.Open(from)
			if err != nil {
				return err
			}
			defer f.Close()
			clusterID, index, err := node.Restore(config.Options, f)
			if err != nil {
				return notRestored(err, from)
			}
			if a.output == "json" {
				return a.json(map[string]any{"cluster_id": clusterID, "index": index, "data_dir": config.Options.DataDir})
			}
			t := newTable(a.out)
			t.row("cluster", clusterID)
			t.row("index", index)
			t.row("next", "agentos node run --data-dir "+config.Options.DataDir)
			return t.flush()
		},
	}
	settingFlags(cmd.Flags())
	cmd.Flags().StringVar(&from, "from", "", "the backup")
	return cmd
}

// notRestored says what to do about a restore that failed.
func notRestored(err error, from string) error {
	err = fmt.Errorf("restore: %w", err)
	code, hint := judge(err)
	switch refused, _ := errors.AsType[*fault.Error](err); {
	case errors.Is(err, node.ErrBackup):
		hint = "compare " + from + " with the copy that it came from, or take another backup: agentos backup --out FILE"
	case refused != nil && refused.Code == fault.Forbidden:
		hint = "--seal-key-file names the seal key of the cluster that the backup was made of"
	case refused != nil && refused.Code == fault.UnsupportedCapability:
		hint = "agentos version shows up to which store version a binary can do it"
	}
	return &codedError{code: code, err: err, hint: hint}
}

func (a *app) clusterRecoverCommand() *cobra.Command {
	var dir string
	var sure bool
	cmd := &cobra.Command{
		Use:   "recover --data-dir DIR --yes-really",
		Short: "Go on with one node when most voters are lost for good",
		Long: `Make the node in a data directory the one member of its cluster, when more than half of the voters are lost for good.
The node must not run. What only the lost nodes had acknowledged is lost with them; they must never be started again
with what they hold, but may join anew with empty data directories.`,
		Example: "  agentos cluster recover --data-dir data --yes-really && agentos node run --data-dir data",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usage("%s needs --data-dir", cmd.CommandPath())
			}
			if !sure {
				return usage("recovering leaves every other member behind for good; say --yes-really")
			}
			highest, err := stampedStoreVersion()
			if err != nil {
				return err
			}
			stackID, err := node.Recover(node.Options{DataDir: dir, StoreVersion: highest})
			if err != nil {
				return fmt.Errorf("recover: %w", err)
			}
			a.say("start it with: agentos node run --data-dir %s", dir)
			return a.done("recovered", stackID)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "data directory of the node that goes on")
	cmd.Flags().BoolVar(&sure, "yes-really", false, "do it")
	return cmd
}
