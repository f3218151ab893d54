package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// stagingName is the folder within a data directory that a restore works in. While it is there, and the directory has no
// identity of its own, no node starts on the directory.
const stagingName = "restoring"

// staging is a data directory that a restore is making: what it makes lies in a folder of its own until all of it is there.
type staging struct {
	*dataDir // what is being made
	target   *dataDir
	made     bool // the target was not there before
}

// stage locks o.DataDir, which must hold nothing but what an earlier restore left unfinished, and begins anew in it.
func stage(o Options) (*staging, error) {
	_, err := os.Stat(o.DataDir)
	made := errors.Is(err, os.ErrNotExist)
	target, err := lockDataDir(o.DataDir)
	if err != nil {
		return nil, err
	}
	d, err := target.stage(o)
	if err != nil {
		target.close()
		return nil, err
	}
	return &staging{dataDir: d, target: target, made: made}, nil
}

// stage opens the staging folder of a directory that no node has.
func (d *dataDir) stage(o Options) (*dataDir, error) {
	if HoldsNode(d.path) {
		return nil, &FieldError{"data-dir", d.path + " already holds a node", "give an empty directory"}
	}
	if err := d.clear(); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := d.unused(); err != nil {
		return nil, err
	}
	o.DataDir = d.staging()
	return openDataDir(o)
}

func (d *dataDir) staging() string { return filepath.Join(d.path, stagingName) }

// clear removes what a restore left unfinished. The identity in the staging folder goes last: while it is there, store and
// trust beside the folder are the restore's own.
func (d *dataDir) clear() error {
	names := []string{d.staging()}
	if HoldsNode(d.staging()) {
		names = []string{d.store(), d.trust(""), d.staging()}
	}
	for _, name := range names {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// finish moves what was made into its place. The identity goes last, with which the directory becomes a node's.
func (s *staging) finish() error {
	if err := s.save(); err != nil {
		return err
	}
	for _, step := range [][]string{{storeName, trustName}, {identityName}} {
		for _, name := range step {
			if err := os.Rename(filepath.Join(s.path, name), filepath.Join(s.target.path, name)); err != nil {
				return err
			}
		}
		if err := errors.Join(syncDir(s.target.path), syncDir(s.path)); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(filepath.Dir(s.target.path)), os.RemoveAll(s.path))
}

// close lets the directory go; after a failure nothing is left of it that was not there before.
func (s *staging) close(failed bool) error {
	s.dataDir.close()
	defer s.target.close()
	if !failed || HoldsNode(s.target.path) {
		return nil
	}
	err := s.target.clear()
	if s.made && err == nil {
		err = errors.Join(os.Remove(filepath.Join(s.target.path, lockName)), os.Remove(s.target.path))
	}
	return err
}
