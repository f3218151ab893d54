package run

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Where runs lie. Everything of a tenant's lies under tenant/{tenant}/:
//
//	runs/{run}                  the record
//	runs/{run}/state            the state
//	runs/{run}/waiting          what it waits for, of a run whose worker has to wait long
//	runs/{run}/forward          where it goes, of a run that others work on
//	runs/{run}/origin           where it came from, of a run of others
//	runs/{run}/veil             there while the end of a run of others is not to be seen (package event)
//	runs/{run}/events/{seq}     the journal (package event)
//	run-list/{made}             all runs, by the time they were made
//	run-agent/{agent}/{made}    those of an agent
//	run-status/{status}/{made}  those with a status
//	run-label/{hash}/{made}     those with a label
//	run-key/{hash}              idempotency keys
//
// where {made} is "{Unix ms}/{run}". Beside them lie deadline/{Unix ms}/{tenant}/{run}: when to look at a run that isn't final;
// relay-wait/{tenant}/{run}: a run that others work on, and that no node here relays at the moment; and
// inbound/{trust domain}/{cluster}/{run}: what is known of a run of others (see inbound).
const (
	deadlineKeys = "deadline/"
	waitKeys     = "relay-wait/"
	inboundKeys  = "inbound/"
	inboundCount = "inbound-count/"
	inboundOrder = "inbound-due/" // inbound-due/{Unix ms}/…: notes that are forgotten in time
)

// keys names one run.
type keys struct{ tenantID, runID string }

func (k keys) record() string  { return k.join("/runs/", "") }
func (k keys) state() string   { return k.join("/runs/", "/state") }
func (k keys) waiting() string { return k.join("/runs/", "/waiting") }
func (k keys) forward() string { return k.join("/runs/", "/forward") }
func (k keys) origin() string  { return k.join("/runs/", "/origin") }
func (k keys) wait() string    { return waitKeys + k.tenantID + "/" + k.runID }

func (k keys) join(part, tail string) string {
	return "tenant/" + k.tenantID + part + k.runID + tail
}

func listPrefix(tenantID string) string { return "tenant/" + tenantID + "/run-list/" }

func agentPrefix(tenantID, agentID string) string {
	return "tenant/" + tenantID + "/run-agent/" + agentID + "/"
}

func statusPrefix(tenantID string, s Status) string {
	return "tenant/" + tenantID + "/run-status/" + string(s) + "/"
}

func labelPrefix(tenantID, key, value string) string {
	return "tenant/" + tenantID + "/run-label/" + hashOf(key, value)[:32] + "/"
}

func idempotencyKey(tenantID, principal, agentID, key string) string {
	return "tenant/" + tenantID + "/run-key/" + hashOf(principal, agentID, key)
}

func deadlineKey(ms int64, tenantID, runID string) string {
	b := appendMS(append(make([]byte, 0, 96), deadlineKeys...), ms)
	b = append(append(b, '/'), tenantID...)
	return string(append(append(b, '/'), runID...))
}

func parseDeadline(key string) (ms int64, k keys, err error) {
	part := strings.SplitN(strings.TrimPrefix(key, deadlineKeys), "/", 3)
	if len(part) == 3 {
		if ms, err = strconv.ParseInt(part[0], 10, 64); err == nil {
			return ms, keys{part[1], part[2]}, nil
		}
	}
	return 0, keys{}, fmt.Errorf("run: broken deadline %q", key)
}

// appendMS appends Unix milliseconds with as many digits as keep them in order until the year 2286.
func appendMS(b []byte, ms int64) []byte {
	var digits [20]byte
	d := strconv.AppendInt(digits[:0], max(ms, 0), 10)
	for i := len(d); i < 13; i++ {
		b = append(b, '0')
	}
	return append(b, d...)
}

// hashOf hashes texts, each with its length, so that no choice of texts can meet another's.
func hashOf(texts ...string) string {
	h := sha256.New()
	for _, t := range texts {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(t)))
		h.Write(size[:])
		_, _ = io.WriteString(h, t)
	}
	var sum [sha256.Size]byte
	return hex.EncodeToString(h.Sum(sum[:0]))
}
