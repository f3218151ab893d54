// Package id mints and checks the identifiers of the wire contract: a prefix that says what a thing is, then a ULID.
//
// Room: plumbing. It imports nothing of the house.
package id

import (
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// Prefix says what an identifier names.
type Prefix string

// The prefixes of the contract.
const (
	Tenant      Prefix = "tnt_"
	Agent       Prefix = "agt_"
	Run         Prefix = "run_"
	Step        Prefix = "stp_"
	Event       Prefix = "evt_"
	Request     Prefix = "req_"
	Correlation Prefix = "corr_"
	ToolCall    Prefix = "tcall_"
	User        Prefix = "usr_"
	Service     Prefix = "svc_"
	Policy      Prefix = "pol_"
	Stack       Prefix = "stk_"
	Cluster     Prefix = "clu_"
	Peering     Prefix = "prg_"
	Route       Prefix = "rte_"
	Idempotency Prefix = "idem_"
	Session     Prefix = "ses_"
	Key         Prefix = "key_"
	Audit       Prefix = "aud_"
	Receipt     Prefix = "rcpt_"
	// Reservation and Command name things inside a cluster only; they are on no wire to clients.
	Reservation Prefix = "rsv_"
	Command     Prefix = "cmd_"
)

// MaxLen is the longest identifier accepted, in bytes.
const MaxLen = 128

var source = struct {
	sync.Mutex
	*ulid.MonotonicEntropy
}{MonotonicEntropy: ulid.Monotonic(rand.Reader, 0)}

// New mints a globally unique identifier. Identifiers of one process sort by the time of their making.
func New(p Prefix) string {
	source.Lock()
	u, err := ulid.New(ulid.Timestamp(time.Now()), source.MonotonicEntropy)
	if err != nil { // the monotonic source overflows once in 2^80 draws within a millisecond; a fresh draw is as unique
		u = ulid.MustNew(ulid.Timestamp(time.Now()), rand.Reader)
	}
	source.Unlock()
	b := make([]byte, len(p)+ulid.EncodedSize)
	copy(b, p)
	_ = u.MarshalTextTo(b[len(p):])
	return string(b)
}

// Valid reports whether s may be an identifier: [A-Za-z0-9._-], 1 to MaxLen bytes, and not "." or "..".
func Valid(s string) bool {
	if len(s) == 0 || len(s) > MaxLen || s == "." || s == ".." {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !plain(s[i]) {
			return false
		}
	}
	return true
}

// ValidTool reports whether s may be a tool id: "tool." and a dotted name.
func ValidTool(s string) bool {
	name, ok := strings.CutPrefix(s, "tool.")
	return ok && name != "" && Valid(s) && !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, ".") && !strings.Contains(name, "..")
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}
