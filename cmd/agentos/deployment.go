package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/node/fleet"
)

// deployment are the flags of the commands that act on a whole deployment.
type deployment struct {
	reportDir string
}

func (d *deployment) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.reportDir, "report-dir", "reports", "where the report of this action goes")
}

// envFile is the file beside the state directory that up writes once and people edit: .agentos.env for .agentos.
func (a *app) envFile() string { return filepath.Clean(a.stateDir) + ".env" }

// fleet opens the deployment.
func (a *app) fleet(d deployment, shape func(*fleet.Options) error) (*fleet.Fleet, error) {
	env, err := a.readEnvFile()
	if err != nil {
		return nil, err
	}
	for _, s := range node.Settings() {
		name := node.EnvName(s.Name)
		if _, ok := env[name]; ok && envLess[s.Name] && s.Name != "mode" {
			return nil, usage("%s names %s, which a deployment decides for each of its nodes; take it out", a.envFile(), name)
		}
	}
	o := fleet.Options{StateDir: a.stateDir, ReportDir: d.reportDir, Env: env, Build: build(), Progress: a.progress().tell}
	if shape != nil {
		if err := shape(&o); err != nil {
			return nil, err
		}
	}
	return fleet.Open(o)
}

// reported prints where the report of an action lies.
func (a *app) reported(r *fleet.Report) {
	for _, name := range r.Files {
		a.say("report: %s", name)
	}
}
