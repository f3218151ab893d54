package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/node/fleet"
)

// Exit codes; docs/cli.md tells them to people, and a test holds the two together.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitForbidden   = 4
	exitConflict    = 5
	exitLimit       = 6
	exitUnreachable = 7
	exitRunFailed   = 8
	exitCut         = 9
	exitInterrupted = 130
)

// exitCodes says what each code means.
var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "done"},
	{exitFailed, "failed, in a way that no other code names; also a failed check of `up`, `validate` or `audit verify`"},
	{exitUsage, "used wrongly: a flag, an argument, a setting or the request itself is not acceptable"},
	{exitNotFound, "what was named does not exist, or there is no deployment in the state directory"},
	{exitForbidden, "refused: the key is not valid, or may not do this, or policy forbids it"},
	{exitConflict, "it stands against what is there: already final, already exists, another body under the same idempotency key, or a store of a higher version than the binary can do"},
	{exitLimit, "over a rate, a quota or a budget"},
	{exitUnreachable, "the node, or something it needs, could not be reached in time"},
	{exitRunFailed, "the run that was watched ended `failed` or `canceled`"},
	{exitCut, "the event stream ended before the run's final event was seen"},
	{exitInterrupted, "interrupted by a signal"},
}

// codedError is an error that knows its exit code and, perhaps, what to do next.
type codedError struct {
	code int
	err  error
	hint string
}

// Error implements error.
func (e *codedError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *codedError) Unwrap() error { return e.err }

// usage is an error of the person at the keyboard.
func usage(format string, args ...any) error {
	return &codedError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// exactly refuses any other number of arguments, in our own voice.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == n:
			return nil
		case n == 0:
			return usage("%s takes no argument, and %q was given", cmd.CommandPath(), args[0])
		case len(args) < n:
			return usage("%s needs %s", cmd.CommandPath(), what)
		}
		return usage("%s takes %s, and %d arguments were given", cmd.CommandPath(), what, len(args))
	}
}

// atMost refuses more arguments than n.
func atMost(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usage("%s takes %s at most, and %d arguments were given", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

func none(cmd *cobra.Command, args []string) error { return exactly(0, "")(cmd, args) }

// fail tells the error, a hint if there is one, and returns the exit code.
func (a *app) fail(cmd *cobra.Command, err error) int {
	code, hint := judge(err)
	hint = a.fitting(cmd, hint)
	if _, refused := errors.AsType[*fault.Error](err); refused && cmd != nil && cmd.Parent() != nil && cmd.Parent().Name() == "node" {
		hint = "" // a node that starts has no key that could be another
	}
	if hint == otherRole && a.keyFile != "" {
		hint = "the key of another role may do it: --key-file names one, and agentos keys issue makes one"
	}
	if hint == "" && cmd != nil && !errors.Is(err, fs.ErrNotExist) { // a file that is not there says all by itself
		hint = next(cmd, code)
	}
	for line := range strings.Lines(a.describe(err)) {
		a.say("error: %s", strings.TrimRight(line, "\n"))
	}
	if failed, ok := errors.AsType[*fleet.FailedError](err); ok {
		if len(failed.Log) > 0 {
			a.say("the last lines of %s:", failed.LogFile)
			for _, line := range failed.Log {
				fmt.Fprintln(a.err, "  "+line)
			}
		}
	}
	if hint != "" {
		a.say("hint: %s", hint)
	}
	return code
}

// Hints that only fit some calls; fitting says which.
const (
	hintStatus  = "agentos status says whether the node runs"
	hintUp      = "agentos status says whether the node runs; agentos up starts it"
	hintExplain = "agentos routes explain says of each place why not; agentos peers show says what a peer lacks"
)

// fitting makes a hint fit what was called: status and up know nothing of a node that was named outright, and whoever asked
// for an agent's run wants the explanation for that agent.
func (a *app) fitting(cmd *cobra.Command, hint string) string {
	switch hint {
	case hintStatus, hintUp:
		if a.apiURL != "" {
			return "the node was named by --api-url or AGENTOS_API_URL: see whether it runs there, and what it logs"
		}
	case hintExplain:
		if cmd == nil || cmd.Flags().Lookup("agent") == nil {
			return hint
		}
		if agentID := cmd.Flags().Lookup("agent").Value.String(); agentID != "" {
			return strings.Replace(hint, "routes explain", "routes explain --agent "+plain(agentID), 1)
		}
	}
	return hint
}

// next is what to try after an error that has no hint of its own.
func next(cmd *cobra.Command, code int) string {
	switch code {
	case exitUsage:
		return cmd.CommandPath() + " --help"
	case exitNotFound:
		if cmd.CommandPath() == "agentos runs create" {
			return "agentos agents list shows which agents there are"
		}
		if parent := cmd.Parent(); parent != nil {
			if parent.CommandPath() == "agentos cluster" {
				return "agentos cluster members shows who belongs to it"
			}
			if list, _, err := parent.Find([]string{"list"}); err == nil && list != parent {
				return list.CommandPath() + " shows what there is"
			}
		}
	}
	return ""
}

// describe is the error in words for a person: of an answer from a node, its message and how to ask about it.
func (a *app) describe(err error) string {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || errors.Is(err, client.ErrCut) {
		return err.Error()
	}
	text := fmt.Sprintf("%s (%s)", plain(strings.TrimSuffix(inCommands(e.Message), ".")), e.Code)
	if field, ok := e.Details["field"].(string); ok {
		text += ", field " + field
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf(", try again in %v", e.RetryAfter)
	}
	if e.CorrelationID != "" && (e.Code == fault.Internal || e.Code == fault.Unavailable || e.Code == fault.Timeout) {
		text += ", correlation id " + plain(e.CorrelationID)
	}
	return text
}

// inCommands puts the commands into a node's message in place of the calls that it advises. What a peer advises is for its
// own people: of that, only what it says stays.
func inCommands(message string) string {
	if strings.Contains(message, " does not take the run: ") {
		message, _, _ = strings.Cut(message, "; see GET /v1/")
	}
	return strings.NewReplacer(
		"POST /v1/federation/routes:explain", "'agentos routes explain'", "GET /v1/federation/routes", "'agentos routes list'",
		"GET /v1/agents", "'agentos agents list'", "GET /v1/models", "'agentos models list'",
	).Replace(message)
}

// judge finds an error's exit code and hint.
func judge(err error) (code int, hint string) {
	if e, ok := errors.AsType[*codedError](err); ok {
		return e.code, e.hint
	}
	if e, ok := errors.AsType[*fleet.RefusedError](err); ok {
		return exitUsage, e.Hint
	}
	if e, ok := errors.AsType[*fleet.FailedError](err); ok {
		return exitFailed, "next, try: " + e.Next
	}
	if _, ok := errors.AsType[*node.FieldError](err); ok {
		return exitUsage, ""
	}
	if errors.Is(err, fleet.ErrNoDeployment) {
		return exitNotFound, "agentos up makes one; --state-dir names another; --api-url and --key-file speak to any node"
	}
	if errors.Is(err, client.ErrCut) {
		return exitCut, hintStatus
	}
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return judgeFault(e)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return exitNotFound, ""
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return exitUnreachable, hintStatus
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return exitUnreachable, "--ca-file names the certificates to trust"
	}
	if _, ok := errors.AsType[*url.Error](err); ok { // whatever else kept an answer from coming
		return exitUnreachable, hintUp
	}
	return exitFailed, ""
}

// otherRole is for a key that was found by its role.
const otherRole = "another role may do it: --as tenant_admin or --as platform_admin"

func judgeFault(e *fault.Error) (code int, hint string) {
	switch e.Code {
	case fault.InvalidRequest, fault.MethodNotAllowed, fault.PayloadTooLarge, fault.UnsupportedMediaType:
		return exitUsage, ""
	case fault.NotFound:
		return exitNotFound, ""
	case fault.Unauthorized:
		return exitForbidden, "the key may have expired or been revoked: agentos keys list --as platform_admin"
	case fault.Forbidden:
		if e.Details["field"] == "X-Tenant-Id" {
			return exitForbidden, "--tenant names the tenant that the key is of; agentos keys issue --tenant TENANT makes one"
		}
		return exitForbidden, otherRole
	case fault.PolicyBlocked:
		return exitForbidden, "the tenant's policy says no; change what is asked, or the policy"
	case fault.UnsupportedCapability:
		if e.Details["candidates"] != nil {
			return exitConflict, hintExplain
		}
		return exitConflict, ""
	case fault.Conflict, fault.LoopDetected:
		return exitConflict, ""
	case fault.RateLimited, fault.QuotaExceeded, fault.StepLimit:
		return exitLimit, "agentos tenants quotas TENANT shows the limits, and changes them with --file"
	case fault.Unavailable, fault.Timeout:
		if e.Details["service"] == "quorum" {
			return exitUnreachable, "agentos cluster status says who is away"
		}
		if e.Details["peer"] != nil {
			return exitUnreachable, "the other organisation's node is away, or something is between; agentos peers list says what is known of it"
		}
		return exitUnreachable, hintUp
	}
	return exitFailed, ""
}
