package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bytes is an amount of memory or disk. It is written as a number with an optional KiB, MiB, GiB or TiB.
type Bytes int64

// String returns b in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range byteUnits {
		if b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

var byteUnits = []struct {
	name string
	size int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// ParseBytes reads what Bytes.String writes.
func ParseBytes(s string) (Bytes, error) {
	number, size := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/size {
		return 0, fmt.Errorf("%q is no amount like 512MiB", s)
	}
	return Bytes(n * size), nil
}

// Kind is what a setting's value is.
type Kind string

// The kinds of settings.
const (
	KindString   Kind = "string"
	KindBool     Kind = "bool"
	KindInt      Kind = "int"
	KindDuration Kind = "duration"
	KindBytes    Kind = "bytes"
	KindList     Kind = "list"
)

// Setting is one line of the table of settings.
type Setting struct {
	// Name is the flag, without dashes. EnvName and Key make the other two spellings from it.
	Name    string
	Default string // as it would be written; "" for none
	Doc     string
	// Group heads the setting's section in the documentation.
	Group string
	// Reload says that a running node takes a new value on SIGHUP.
	Reload bool
	// Secret values are never printed.
	Secret bool

	field func(*Options) any // pointer to the field
}

// EnvName is the environment variable of the setting with this name.
func EnvName(name string) string {
	return "AGENTOS_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Key is the YAML key of the setting with this name.
func Key(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Settings returns the table of settings, in the order of the documentation.
func Settings() []Setting { return slices.Clone(table) }

// Lookup finds a setting by its flag's name.
func Lookup(name string) (Setting, bool) {
	for _, s := range table {
		if s.Name == name {
			return s, true
		}
	}
	return Setting{}, false
}

// Kind returns what the setting's value is.
func (s Setting) Kind() Kind {
	switch s.field(new(Options)).(type) {
	case *bool:
		return KindBool
	case *int:
		return KindInt
	case *time.Duration:
		return KindDuration
	case *Bytes:
		return KindBytes
	case *[]string:
		return KindList
	}
	return KindString
}

// Set parses v and puts it into o.
func (s Setting) Set(o *Options, v string) error {
	if err := s.set(o, v); err != nil {
		return &FieldError{Setting: s.Name, Reason: err.Error()}
	}
	return nil
}

func (s Setting) set(o *Options, v string) error {
	var err error
	switch p := s.field(o).(type) {
	case *string:
		*p = v
	case *Mode:
		*p = Mode(v)
	case *bool:
		*p, err = strconv.ParseBool(v)
		if err != nil {
			err = fmt.Errorf("%q is neither true nor false", v)
		}
	case *int:
		*p, err = strconv.Atoi(v)
		if err != nil {
			err = fmt.Errorf("%q is no whole number", v)
		}
	case *time.Duration:
		*p, err = time.ParseDuration(v)
		if err != nil {
			err = fmt.Errorf("%q is no duration like 30s", v)
		}
	case *Bytes:
		*p, err = ParseBytes(v)
	case *[]string:
		*p = nil
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*p = append(*p, part)
			}
		}
	default:
		err = fmt.Errorf("no value of type %T can be set", p)
	}
	return err
}

// Value returns the setting's value in o as it would be written.
func (s Setting) Value(o *Options) string {
	switch p := s.field(o).(type) {
	case *string:
		return *p
	case *Mode:
		return string(*p)
	case *bool:
		return strconv.FormatBool(*p)
	case *int:
		return strconv.Itoa(*p)
	case *time.Duration:
		return p.String()
	case *Bytes:
		return p.String()
	case *[]string:
		return strings.Join(*p, ",")
	}
	return ""
}

func (s Setting) isZero(o *Options) bool {
	var zero Options
	return s.Value(o) == s.Value(&zero)
}

// Groups of the table.
const (
	groupIdentity = "Who the node is"
	groupStart    = "How it starts"
	groupListen   = "Where it listens"
	groupTrust    = "Keys and certificates"
	groupModels   = "Model backends"
	groupWatch    = "Logs and traces"
	groupLimits   = "Limits"
)

// table is the one place where settings are declared. It is never changed.
var table = []Setting{
	{
		Name: "mode", Default: "demo", Group: groupIdentity, field: func(o *Options) any { return &o.Mode },
		Doc: "demo, dev or prod. prod refuses plain HTTP and missing secrets, seeds no samples, and keeps admin calls on the admin listener.",
	},
	{
		Name: "stack-id", Group: groupIdentity, field: func(o *Options) any { return &o.StackID },
		Doc: "This node's id. Left out, one is minted with the data directory and kept there.",
	},
	{
		Name: "organization", Default: "local", Group: groupIdentity, field: func(o *Options) any { return &o.Organization },
		Doc: "The organisation this node belongs to.",
	},
	{
		Name: "trust-domain", Group: groupIdentity, field: func(o *Options) any { return &o.TrustDomain },
		Doc: "The organisation's SPIFFE trust domain. Left out, it is ORGANIZATION.agentos.internal.",
	},
	{
		Name: "region", Default: "local", Group: groupIdentity, field: func(o *Options) any { return &o.Region },
		Doc: "Where the node stands; a run bound to a region stays on nodes of that region.",
	},

	{
		Name: "data-dir", Default: "agentos-data", Group: groupStart, field: func(o *Options) any { return &o.DataDir },
		Doc: "Directory for everything the node keeps, mode 0700. One process at a time uses it.",
	},
	{
		Name: "init", Group: groupStart, field: func(o *Options) any { return &o.Init },
		Doc: "Make a new cluster. Refused when the data directory already holds one; leave it out from the second start on. The first platform_admin key is written to platform_admin.key in the data directory.",
	},
	{
		Name: "join", Group: groupStart, field: func(o *Options) any { return &o.Join },
		Doc: "Cluster addresses of members to join, separated by commas; any one of them does. Needed once, with a token: from the second start on the data directory knows its cluster.",
	},
	{
		Name: "join-token", Group: groupStart, Secret: true, field: func(o *Options) any { return &o.JoinToken },
		Doc: "The token a member gave out for joining. Refused in prod, where --join-token-file is the way.",
	},
	{
		Name: "join-token-file", Group: groupStart, field: func(o *Options) any { return &o.JoinTokenFile },
		Doc: "File that holds the join token.",
	},

	{
		Name: "api-listen", Default: "127.0.0.1:8420", Group: groupListen, field: func(o *Options) any { return &o.APIListen },
		Doc: "Address of the API (both stacks). Plain HTTP is served on loopback only.",
	},
	{
		Name: "api-advertise", Group: groupListen, field: func(o *Options) any { return &o.APIAdvertise },
		Doc: "HOST:PORT under which others reach the API. Left out, the listen address.",
	},
	{
		Name: "federation-listen", Default: ":8421", Group: groupListen, field: func(o *Options) any { return &o.FederationListen },
		Doc: "Address for the nodes of other organisations. Mutual TLS only.",
	},
	{
		Name: "federation-advertise", Group: groupListen, field: func(o *Options) any { return &o.FederationAdvertise },
		Doc: "HOST:PORT under which peers reach it.",
	},
	{
		Name: "cluster-listen", Default: ":8422", Group: groupListen, field: func(o *Options) any { return &o.ClusterListen },
		Doc: "Address for the other members of the cluster. Mutual TLS only.",
	},
	{
		Name: "cluster-advertise", Group: groupListen, field: func(o *Options) any { return &o.ClusterAdvertise },
		Doc: "HOST:PORT under which members reach it.",
	},
	{
		Name: "gossip-listen", Default: ":8423", Group: groupListen, field: func(o *Options) any { return &o.GossipListen },
		Doc: "Address for gossip, TCP and UDP. Encrypted with the cluster's key.",
	},
	{
		Name: "gossip-advertise", Group: groupListen, field: func(o *Options) any { return &o.GossipAdvertise },
		Doc: "HOST:PORT under which members gossip with it.",
	},
	{
		Name: "admin-listen", Default: "127.0.0.1:8424", Group: groupListen, field: func(o *Options) any { return &o.AdminListen },
		Doc: "Address of /metrics, /debug/pprof/ and the admin calls.",
	},

	{
		Name: "api-tls-cert-file", Group: groupTrust, Reload: true, field: func(o *Options) any { return &o.APITLSCertFile },
		Doc: "Certificate chain of the API and admin listeners, PEM. The file is read again on SIGHUP.",
	},
	{
		Name: "api-tls-key-file", Group: groupTrust, Reload: true, field: func(o *Options) any { return &o.APITLSKeyFile },
		Doc: "Its key, PEM. The file is read again on SIGHUP.",
	},
	{
		Name: "ca-cert-file", Group: groupTrust, field: func(o *Options) any { return &o.CACertFile },
		Doc: "The organisation's CA, PEM, when it is given from outside; read when a cluster is made. It holds one URI name, spiffe://TRUST_DOMAIN.",
	},
	{
		Name: "ca-key-file", Group: groupTrust, field: func(o *Options) any { return &o.CAKeyFile },
		Doc: "The CA's key, PKCS #8 PEM, beside it. It is sealed into the store, so that the cluster can sign the nodes that join.",
	},
	{
		Name: "seal-key-file", Group: groupTrust, field: func(o *Options) any { return &o.SealKeyFile },
		Doc: "Key that seals secrets within the store (32 bytes, base64). Required in prod, here or by command.",
	},
	{
		Name: "seal-key-command", Group: groupTrust, field: func(o *Options) any { return &o.SealKeyCommand },
		Doc: "Command that prints the seal key.",
	},
	{
		Name: "gossip-key-file", Group: groupTrust, field: func(o *Options) any { return &o.GossipKeyFile },
		Doc: "Key that encrypts gossip (32 bytes, base64); read when a cluster is made. Required in prod.",
	},
	{
		Name: "certificate-life", Default: "2160h0m0s", Group: groupTrust, field: func(o *Options) any { return &o.CertificateLife },
		Doc: "How long the certificates live that this node signs, at most 90 days. A node renews its own when two thirds have passed.",
	},

	{
		Name: "builtin-backend", Default: "auto", Group: groupModels, field: func(o *Options) any { return &o.BuiltinBackend },
		Doc: "auto, on or off: the offline backend for first use and tests. auto is on in demo and dev, off in prod.",
	},
	{
		Name: "openai-base-url", Group: groupModels, field: func(o *Options) any { return &o.OpenAIBaseURL },
		Doc: "Base URL of a server that speaks the OpenAI API, such as https://api.openai.com/v1; it becomes the backend openai.",
	},
	{
		Name: "openai-key-file", Group: groupModels, field: func(o *Options) any { return &o.OpenAIKeyFile },
		Doc: "File that holds its key. The file must not be readable by others.",
	},

	{
		Name: "log-level", Default: "info", Group: groupWatch, Reload: true, field: func(o *Options) any { return &o.LogLevel },
		Doc: "debug, info, warn or error.",
	},
	{
		Name: "log-format", Default: "json", Group: groupWatch, field: func(o *Options) any { return &o.LogFormat },
		Doc: "json, or console for reading by eye.",
	},
	{
		Name: "otlp-endpoint", Group: groupWatch, field: func(o *Options) any { return &o.OTLPEndpoint },
		Doc: "Where traces go (OTLP over HTTP). Reserved: no traces are exported yet.",
	},

	{
		Name: "workers", Default: "256", Group: groupLimits, field: func(o *Options) any { return &o.Workers },
		Doc: "How many runs this node works on at the same time.",
	},
	{
		Name: "timing", Default: "standard", Group: groupLimits, field: func(o *Options) any { return &o.Timing },
		Doc: "standard, or fast: the time-outs of raft, gossip and sessions at about a third, for nodes on one machine or in one rack. All nodes of a cluster use the same.",
	},
	{
		Name: "session-ttl", Group: groupLimits, field: func(o *Options) any { return &o.SessionTTL },
		Doc: "How long the cluster waits for a silent node before its runs go on elsewhere. Left out, 10s, and 3s with timing fast.",
	},
	{
		Name: "drain-timeout", Default: "25s", Group: groupLimits, field: func(o *Options) any { return &o.DrainTimeout },
		Doc: "How long a stopping node gives its requests, streams and steps.",
	},
	{
		Name: "disk-floor", Default: "256MiB", Group: groupLimits, field: func(o *Options) any { return &o.DiskFloor },
		Doc: "Free space below which new work is refused.",
	},
	{
		Name: "memory-limit", Default: "0", Group: groupLimits, field: func(o *Options) any { return &o.MemoryLimit },
		Doc: "Soft limit of the Go heap. 0 takes 90 % of the control group's limit, if it has one. GOMEMLIMIT, when set, wins.",
	},
	{
		Name: "gc-percent", Default: "100", Group: groupLimits, field: func(o *Options) any { return &o.GCPercent },
		Doc: "How much the heap may grow between two collections, in percent. GOGC, when set, wins.",
	},
}
