package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/node/fleet"
)

func (a *app) validateCommand() *cobra.Command {
	var d deployment
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check that the deployment works from end to end",
		Long: `Check that the deployment works: health, a run with a tool call and a governed model call, its events streamed to the
end, metrics that move, the default tenant, and that one tenant can't see another's run. Nothing of yours is changed; the
runs it makes are labelled agentos.validate.`,
		Example: "  agentos validate\n  agentos validate --output json",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := a.fleet(d, nil)
			if err != nil {
				return err
			}
			r, err := f.Validate(cmd.Context())
			if r != nil {
				a.reported(r)
				if printErr := a.printChecks(r); printErr != nil && err == nil {
					err = printErr
				}
			}
			return summed(err)
		},
	}
	d.flags(cmd)
	return cmd
}

// summed is a failed validation on one line: which checks failed was told as they were tried, and stands in the table; the
// last lines of the log stand in the report.
func summed(err error) error {
	failed, ok := errors.AsType[*fleet.FailedError](err)
	if !ok {
		return err
	}
	return &codedError{
		code: exitFailed, err: fmt.Errorf("%s: %s", failed.Phase, failed.Check),
		hint: "next, try: " + failed.Next + "; the log is in " + failed.LogFile,
	}
}

func (a *app) printChecks(r *fleet.Report) error {
	if a.output == "json" {
		return a.json(r)
	}
	t := newTable(a.out, "check", "result", "ms", "detail")
	for _, c := range append(append([]fleet.Check{}, r.Checks...), r.Smoke...) {
		result := "ok"
		if !c.OK {
			result = "FAILED"
		}
		t.row(c.Name, result, c.DurationMS, c.Detail)
	}
	return t.flush()
}
