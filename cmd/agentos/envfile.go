package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nexixai/agentos/node"
)

// envLess are settings that up decides for each node, so that the environment file can't.
var envLess = map[string]bool{
	"mode": true, "stack-id": true, "organization": true, "trust-domain": true, "region": true, "data-dir": true, "init": true,
	"join": true, "join-token": true, "join-token-file": true, "api-listen": true, "api-advertise": true, "federation-listen": true,
	"federation-advertise": true, "cluster-listen": true, "cluster-advertise": true, "gossip-listen": true,
	"gossip-advertise": true, "admin-listen": true,
}

// more are the variables that the environment file may hold beside the settings of nodes.
var more = []string{"AGENTOS_BASE_PORT", "AGENTOS_API_URL", "AGENTOS_KEY_FILE", "AGENTOS_CA_FILE", "AGENTOS_SMTP_ADDRESS", "AGENTOS_ALERT_RECEIVER"}

// readEnvFile reads the environment file, if there is one. A name of ours that nothing knows is a slip, and refused.
func (a *app) readEnvFile() (map[string]string, error) {
	vars, err := node.ReadEnvFile(a.envFile())
	if err != nil {
		return nil, &codedError{code: exitUsage, err: err, hint: "each line of it is NAME=VALUE, or a comment"}
	}
	known := map[string]bool{}
	for _, s := range node.Settings() {
		known[node.EnvName(s.Name)] = true
	}
	for name := range vars {
		if strings.HasPrefix(name, "AGENTOS_") && !known[name] && !slices.Contains(more, name) {
			return nil, &codedError{code: exitUsage, err: fmt.Errorf("%s names %s, which is no setting", a.envFile(), name), hint: "docs/configuration.md lists every setting"}
		}
	}
	return vars, nil
}

// writeEnvFile writes the environment file of a deployment, unless there is one: it belongs to the person who edits it.
func writeEnvFile(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(`# Settings of the deployment beside this file. "agentos up" wrote it once and never changes it.
# Precedence: flags, environment, this file, defaults. Take away the "# " before a line to use it, then run
# "agentos redeploy". Secrets belong in files of their own; name the files here.

# Shape of a new deployment.
# AGENTOS_MODE=demo
# AGENTOS_BASE_PORT=8420
`)
	group := ""
	for _, s := range node.Settings() {
		if envLess[s.Name] || s.Secret {
			continue
		}
		if s.Group != group {
			group = s.Group
			fmt.Fprintf(&b, "\n# %s\n", group)
		}
		fmt.Fprintf(&b, "# %s=%s\n", node.EnvName(s.Name), s.Default)
	}
	b.WriteString(`
# Mail for alerts and the receiver of test alerts; read by alerting, which comes later.
# AGENTOS_SMTP_ADDRESS=
# AGENTOS_ALERT_RECEIVER=
`)
	_, err = f.WriteString(b.String())
	return errors.Join(err, f.Close())
}
