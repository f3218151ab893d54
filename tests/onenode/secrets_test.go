package onenode_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// find returns the files below dirs that hold text.
func find(t *testing.T, text string, dirs ...string) (files []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			body, err := os.ReadFile(path)
			if bytes.Contains(body, []byte(text)) {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// Keys lie in the data directory as hashes only, and secrets that pass through the node stay out of its logs, audit,
// metrics and reports.
//
// Requirements: T1, T6.
func TestSecrets_AtRest(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	root := d.Admin(t)
	tn := harness.NewTenant(t, root, nil)
	const prompt, header = "canary-prompt-5Zq8xW", "canary-header-7Tr2yV"
	id := tn.Create(t, prompt, nil, "Cookie", header, "X-Other", header)
	tn.Journal(t, id)
	wrong := "aos_" + strings.Repeat("canaryWrongKey", 3) + "x"
	refused(t, tn.As(wrong).Do(t, "GET", "/v1/runs", nil), 401, "unauthorized")
	audit := tn.Root.Want(t, 200, "GET", "/v1/admin/audit?limit=500", nil)
	metrics := harness.NewClient(d.Node().AdminURL, "").Want(t, 200, "GET", "/metrics", nil)
	d.CLI(t, "validate")
	keyID := tn.Root.Want(t, 200, "GET", "/v1/admin/tenants/"+tn.ID+"/keys", nil).Str("keys.0.key_id")
	d.Kill(t) // what is to be found must be on the disk by now

	data := d.Node().DataDir
	if len(find(t, keyID, data)) == 0 {
		t.Errorf("the key's id is not found in %s: this search finds nothing at all", data)
	}
	secrets := map[string]string{"a tenant's key": tn.Key, "the platform administrator's key": root.Key, "a wrong key": wrong}
	for name, secret := range secrets {
		keyFiles := 0
		for _, file := range find(t, secret, d.StateDir, filepath.Join(d.Dir)) {
			if strings.HasSuffix(file, ".key") && mode(t, file) == 0o600 && name == "the platform administrator's key" {
				keyFiles++
				continue
			}
			t.Errorf("%s lies in %s", name, file)
		}
		if name == "the platform administrator's key" && keyFiles == 0 {
			t.Error("no key file holds the administrator's key: this search finds nothing at all")
		}
		sum := sha256.Sum256([]byte(secret))
		if log := d.Log(); strings.Contains(log, secret) || strings.Contains(log, hex.EncodeToString(sum[:])) {
			t.Errorf("%s or its hash is in the log", name)
		}
		for where, text := range map[string][]byte{"audit": audit.Body, "metrics": metrics.Body} {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s is in the %s", name, where)
			}
		}
	}
	for _, canary := range []string{prompt, header} {
		if strings.Contains(d.Log(), canary) || bytes.Contains(audit.Body, []byte(canary)) || bytes.Contains(metrics.Body, []byte(canary)) {
			t.Errorf("%s is in the log, the audit or the metrics", canary)
		}
	}
	if files := find(t, header, d.StateDir); len(files) != 0 {
		t.Errorf("%s lies in %v", header, files)
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// Nobody else on the machine can look into the data directory or take a key.
//
// Requirements: T6.
func TestSecrets_Modes(t *testing.T) {
	t.Parallel()
	d := suite.Shared(t)
	if got := mode(t, d.Node().DataDir); got&0o077 != 0 {
		t.Errorf("the data directory has mode %o", got)
	}
	if got := mode(t, filepath.Join(d.StateDir, "access.json")); got != 0o600 {
		t.Errorf("access.json has mode %o", got)
	}
	for _, tenant := range d.Access.Organizations[0].Tenants {
		for _, p := range tenant.Principals {
			if got := mode(t, p.KeyFile); got != 0o600 {
				t.Errorf("%s has mode %o", p.KeyFile, got)
			}
		}
	}
}
