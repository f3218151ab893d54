package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/process"
)

// Names within a data directory.
const (
	lockName     = "lock"
	identityName = "node.json"
	storeName    = "store"
	// PlatformKeyName is the file in the data directory that --init leaves the first platform_admin key in.
	PlatformKeyName = "platform_admin.key"
)

// identity is what a data directory says of itself. It is written before the store is made, so that a directory whose
// making was cut short is still known for what it is, and completed by the next start.
type identity struct {
	Format    int    `json:"format"`
	StackID   string `json:"stack_id"`
	ClusterID string `json:"cluster_id"`
	ServerID  string `json:"server_id"` // stack id and incarnation
	// StoreEpoch changes when the store is made anew out of a backup, so that peers see that it went back in time.
	StoreEpoch string    `json:"store_epoch"`
	CreatedAt  time.Time `json:"created_at"`
	// Organization and TrustDomain are the cluster's; "" in a directory that was made before they were kept.
	Organization string `json:"organization,omitempty"`
	TrustDomain  string `json:"trust_domain,omitempty"`
	// Joined is set for a node that joined a cluster instead of making one; its ClusterID is empty until it was let in.
	Joined bool `json:"joined,omitempty"`
	// Stored is set once the store has been made: from then on a missing one is a lost one.
	Stored bool `json:"stored"`
	// Seeded is set once the tenants, agents and keys of a first start are all there.
	Seeded bool `json:"seeded"`
}

const identityFormat = 1

// dataDir is an opened, locked data directory.
type dataDir struct {
	path string
	lock *os.File
	id   identity
}

// openDataDir makes the directory if it may, locks it and reads or makes its identity.
func openDataDir(o Options) (*dataDir, error) {
	d, err := lockDataDir(o.DataDir)
	if err != nil {
		return nil, err
	}
	if err := d.identify(o); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// lockDataDir makes the directory if it may, makes it private and locks it.
func lockDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(path, 0o700); err != nil {
			return nil, fmt.Errorf("data directory: make it private: %w", err)
		}
	}
	d := &dataDir{path: path}
	return d, d.takeLock()
}

// takeLock holds the directory for this process and writes down which one it is. The lock goes with the process, however
// it ends.
func (d *dataDir) takeLock() error {
	name := filepath.Join(d.path, lockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("data directory: lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if owner, _, ownerErr := LockOwner(d.path); ownerErr == nil && owner.PID != 0 {
			return &FieldError{"data-dir", fmt.Sprintf("%s is in use by process %d", d.path, owner.PID), "stop that node first, or give this one a directory of its own"}
		}
		return &FieldError{"data-dir", fmt.Sprintf("%s is in use by another process", d.path), "stop that node first, or give this one a directory of its own"}
	}
	d.lock = f
	self, err := process.Self()
	if err != nil {
		return fmt.Errorf("data directory: lock: %w", err)
	}
	raw, err := json.Marshal(self)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("data directory: lock: %w", err)
	}
	if _, err := f.WriteAt(append(raw, '\n'), 0); err != nil {
		return fmt.Errorf("data directory: lock: %w", err)
	}
	return nil
}

// LockOwner returns the process that last locked the data directory, and whether it still holds it.
func LockOwner(dir string) (owner process.Identity, held bool, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, lockName))
	if errors.Is(err, os.ErrNotExist) {
		return owner, false, nil
	}
	if err != nil {
		return owner, false, err
	}
	if len(raw) == 0 { // locked, or about to be, and not yet signed
		return owner, false, nil
	}
	if err := json.Unmarshal(raw, &owner); err != nil {
		return process.Identity{}, false, fmt.Errorf("%s: %w", filepath.Join(dir, lockName), err)
	}
	return owner, owner.Alive(), nil
}

func (d *dataDir) close() {
	if d.lock != nil {
		d.lock.Close() // closing lets the lock go
		d.lock = nil
	}
}

// identify reads what the directory is, or makes it new when --init says so.
func (d *dataDir) identify(o Options) error {
	name := filepath.Join(d.path, identityName)
	raw, err := os.ReadFile(name)
	switch {
	case err == nil && o.Init:
		return &FieldError{"init", fmt.Sprintf("%s already holds a node", d.path), "leave --init out to start it, or give another --data-dir to make a new cluster"}
	case err == nil:
		if err := json.Unmarshal(raw, &d.id); err != nil {
			return fmt.Errorf("data directory: %s is damaged: %w", name, err)
		}
		return d.check(o)
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("data directory: %w", err)
	}
	if err := d.unused(); err != nil {
		return err
	}
	d.id = identity{Format: identityFormat, StackID: o.StackID, CreatedAt: time.Now().UTC().Truncate(time.Second)}
	switch {
	case o.Init:
		d.id.ClusterID, d.id.StoreEpoch = id.New(id.Cluster), id.New("")
		d.id.Organization, d.id.TrustDomain = o.Organization, o.TrustDomain
	case len(o.Join) > 0:
		d.id.Joined, d.id.Seeded = true, true // what is to be seeded is in the cluster already
	default:
		return &FieldError{"init", fmt.Sprintf("%s holds no node yet", d.path), "give --init to make a new cluster, --join to join one, or the directory of an existing node"}
	}
	if d.id.StackID == "" {
		d.id.StackID = id.New(id.Stack)
	}
	d.id.ServerID = d.id.StackID + "." + id.New("")
	return d.save()
}

// adopt gives o the organisation and the trust domain of the cluster, or refuses others that were asked for.
func (d *dataDir) adopt(o *Options) error {
	if d.id.Organization == "" {
		return nil
	}
	if v := explicit(o.Organization, "organization"); v != "" && v != d.id.Organization {
		return &FieldError{"organization", fmt.Sprintf("is %q, and the cluster of %s belongs to %q", v, d.path, d.id.Organization), "leave it out, or give the right directory or address"}
	}
	if def := defaultTrustDomain(o.Organization); o.TrustDomain != "" && o.TrustDomain != def && o.TrustDomain != d.id.TrustDomain {
		return &FieldError{"trust-domain", fmt.Sprintf("is %q, and the cluster of %s has %q", o.TrustDomain, d.path, d.id.TrustDomain), "leave it out"}
	}
	o.Organization, o.TrustDomain = d.id.Organization, d.id.TrustDomain
	return nil
}

func (d *dataDir) check(o Options) error {
	switch {
	case d.id.Format != identityFormat:
		return &FieldError{"data-dir", fmt.Sprintf("%s has format %d, and this binary reads format %d", d.path, d.id.Format, identityFormat), "use the version of agentos that wrote it"}
	case o.StackID != "" && o.StackID != d.id.StackID:
		return &FieldError{"stack-id", fmt.Sprintf("%q is not the node of %s, which is %q", o.StackID, d.path, d.id.StackID), "leave it out, or give the right directory"}
	case d.id.StackID == "" || d.id.ServerID == "" || d.id.ClusterID == "" && !d.id.Joined:
		return fmt.Errorf("data directory: %s names no node", filepath.Join(d.path, identityName))
	}
	return nil
}

// unused refuses a directory that holds something which a fresh one doesn't.
func (d *dataDir) unused() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, e := range entries {
		switch n := e.Name(); n {
		case lockName, identityName + ".tmp", "lost+found":
		case stagingName:
			return &FieldError{"data-dir", d.path + " holds a restore that was cut short", "run agentos restore again, which begins anew, or give an empty directory"}
		default:
			return &FieldError{"data-dir", fmt.Sprintf("%s holds %q but no %s", d.path, n, identityName), "it is no data directory, or a damaged one; give an empty directory"}
		}
	}
	return nil
}

// save writes the identity so that a crash leaves the old one or the new one.
func (d *dataDir) save() error {
	raw, err := json.MarshalIndent(d.id, "", "  ")
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(d.path, identityName), append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

func (d *dataDir) store() string { return filepath.Join(d.path, storeName) }

// WriteFile puts data under name with this mode, whole or not at all, and synced.
func WriteFile(name string, data []byte, mode os.FileMode) error {
	tmp := name + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // the file may have been there with another mode
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(name))
}

// syncDir makes what was made, renamed and removed in a directory last.
func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
