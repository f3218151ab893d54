package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
)

// Mode says how strict a node is.
type Mode string

const (
	// Demo is for a first look on one machine: plain HTTP on loopback, sample tenants and agent.
	Demo Mode = "demo"
	// Dev is Demo for those who build on it: the same leniency, more in the log.
	Dev Mode = "dev"
	// Prod refuses to start without TLS and given secrets, and seeds no samples.
	Prod Mode = "prod"
)

// Options are everything a node can be told. The zero value of a field means the default in Settings.
type Options struct {
	Mode         Mode
	StackID      string
	Organization string
	TrustDomain  string
	Region       string
	DataDir      string

	Init          bool
	Join          []string
	JoinToken     string
	JoinTokenFile string

	APIListen           string
	APIAdvertise        string
	FederationListen    string
	FederationAdvertise string
	ClusterListen       string
	ClusterAdvertise    string
	GossipListen        string
	GossipAdvertise     string
	AdminListen         string

	APITLSCertFile string
	APITLSKeyFile  string
	CACertFile     string
	CAKeyFile      string
	SealKeyFile    string
	SealKeyCommand string
	GossipKeyFile  string

	OpenAIBaseURL  string
	OpenAIKeyFile  string
	BuiltinBackend string

	LogLevel     string
	LogFormat    string
	OTLPEndpoint string

	// Timing is standard or fast: fast shortens the time-outs of raft, gossip and sessions to about a third.
	Timing          string
	CertificateLife time.Duration

	Workers      int
	SessionTTL   time.Duration
	DrainTimeout time.Duration
	DiskFloor    Bytes
	MemoryLimit  Bytes
	GCPercent    int

	// OwnsProcess says that this node has the process to itself, so that it may set what belongs to the process: the limit
	// of open files, the collector, and where libraries count. It is no setting.
	OwnsProcess bool
	// Network is what the node reaches other nodes through; nil is the machine's own. It is no setting: tests cut it.
	Network Network
	// Build says what this binary is; it is no setting.
	Build Build
	// StoreVersion is the highest version of the store that this binary can do; 0 means registry.StoreVersion. It is no
	// setting: tests of upgrades stamp another one.
	StoreVersion int
	// Logger receives what the node has to say; nil builds one by LogLevel and LogFormat, on standard error.
	Logger *zap.Logger
}

// Network carries what a node sends to other nodes, whether of its cluster or not. What it is sent by them comes in at its
// listeners. It must be safe for concurrent use.
type Network interface {
	// DialContext opens a connection as net.Dialer's does; it blocks until then, or until ctx ends.
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	// Datagram carries one datagram to addr: it calls send, which does not block, at once, later, or never.
	Datagram(addr string, send func())
}

// Build identifies a binary.
type Build struct {
	Version   string `json:"version"`
	GitSHA    string `json:"git_sha"`
	Timestamp string `json:"timestamp"`
}

// FieldError is a setting that can't be accepted.
type FieldError struct {
	Setting string // the flag's name, without dashes
	Reason  string
	Hint    string // what to do about it; may be empty
}

// Error names the setting in all of its spellings, because the person may have used any.
func (e *FieldError) Error() string {
	s := fmt.Sprintf("setting %s (--%s, %s): %s", Key(e.Setting), e.Setting, EnvName(e.Setting), e.Reason)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

func refuse(setting, format string, args ...any) error {
	return &FieldError{Setting: setting, Reason: fmt.Sprintf(format, args...)}
}

// Validate returns every setting at fault, joined; each is a *FieldError. It looks at files only by name: whether they can
// be read is seen at Start.
func (o Options) Validate() error {
	o = o.withDefaults()
	var faults []error
	add := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	switch o.Mode {
	case Demo, Dev, Prod:
	default:
		add(refuse("mode", "%q is none of demo, dev, prod", o.Mode))
	}
	for name, v := range map[string]string{"stack-id": o.StackID, "organization": o.Organization, "region": o.Region, "trust-domain": o.TrustDomain} {
		if v != "" && !id.Valid(v) {
			add(refuse(name, "%q may hold only letters, digits, '.', '_' and '-', 1 to %d of them", v, id.MaxLen))
		}
	}
	if o.TrustDomain != strings.ToLower(o.TrustDomain) {
		add(refuse("trust-domain", "%q must be in lower case (SPIFFE ID standard, section 2.1)", o.TrustDomain))
	}
	add(o.validateAddresses())
	add(o.validateFiles())
	add(o.validateStart())
	add(o.validateLimits())
	if o.Mode == Prod {
		add(o.validateProd())
	}
	return errors.Join(faults...)
}

func (o Options) validateAddresses() error {
	var faults []error
	check := func(name, addr string, advertised bool) {
		if addr == "" {
			return
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil || port == "" {
			faults = append(faults, refuse(name, "%q is no HOST:PORT", addr))
			return
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			faults = append(faults, refuse(name, "%q is no port", port))
		}
		if ip := net.ParseIP(host); advertised && (host == "" || ip != nil && ip.IsUnspecified()) {
			faults = append(faults, refuse(name, "%q can't be dialled by others; give the address they reach this node at", addr))
		}
	}
	check("api-listen", o.APIListen, false)
	check("api-advertise", o.APIAdvertise, true)
	check("federation-listen", o.FederationListen, false)
	check("federation-advertise", o.FederationAdvertise, true)
	check("cluster-listen", o.ClusterListen, false)
	check("cluster-advertise", o.ClusterAdvertise, true)
	check("gossip-listen", o.GossipListen, false)
	check("gossip-advertise", o.GossipAdvertise, true)
	check("admin-listen", o.AdminListen, false)
	if o.APITLSCertFile == "" && o.Mode != Prod && !loopback(o.APIListen) {
		faults = append(faults, &FieldError{
			"api-listen", fmt.Sprintf("%q is not on loopback, and there is no TLS: API keys would cross the network in the clear", o.APIListen),
			"give --api-tls-cert-file and --api-tls-key-file, or listen on 127.0.0.1",
		})
	}
	return errors.Join(faults...)
}

// loopback reports whether addr can be reached from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (o Options) validateFiles() error {
	var faults []error
	pair := func(a, av, b, bv string) {
		switch {
		case av != "" && bv == "":
			faults = append(faults, refuse(b, "is missing beside --%s", a))
		case av == "" && bv != "":
			faults = append(faults, refuse(a, "is missing beside --%s", b))
		}
	}
	pair("api-tls-cert-file", o.APITLSCertFile, "api-tls-key-file", o.APITLSKeyFile)
	if o.CAKeyFile != "" && o.CACertFile == "" {
		faults = append(faults, refuse("ca-cert-file", "is missing beside --ca-key-file"))
	}
	if o.SealKeyFile != "" && o.SealKeyCommand != "" {
		faults = append(faults, refuse("seal-key-command", "stands beside --seal-key-file; give one of them"))
	}
	for name, raw := range map[string]string{"openai-base-url": o.OpenAIBaseURL, "otlp-endpoint": o.OTLPEndpoint} {
		if raw == "" {
			continue
		}
		if u, err := url.Parse(raw); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			faults = append(faults, refuse(name, "%q is no http or https URL", raw))
		} else if u.User != nil {
			faults = append(faults, refuse(name, "holds a password; secrets belong in files"))
		}
	}
	if o.OpenAIKeyFile != "" && o.OpenAIBaseURL == "" {
		faults = append(faults, refuse("openai-base-url", "is missing beside --openai-key-file"))
	}
	return errors.Join(faults...)
}

func (o Options) validateStart() error {
	var faults []error
	if o.Init && len(o.Join) > 0 {
		faults = append(faults, refuse("join", "stands beside --init; a node either makes a cluster or joins one"))
	}
	if o.JoinToken != "" && o.JoinTokenFile != "" {
		faults = append(faults, refuse("join-token-file", "stands beside --join-token; give one of them"))
	}
	switch o.BuiltinBackend {
	case "auto", "on", "off":
	default:
		faults = append(faults, refuse("builtin-backend", "%q is none of auto, on, off", o.BuiltinBackend))
	}
	switch o.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		faults = append(faults, refuse("log-level", "%q is none of debug, info, warn, error", o.LogLevel))
	}
	switch o.LogFormat {
	case "json", "console":
	default:
		faults = append(faults, refuse("log-format", "%q is none of json, console", o.LogFormat))
	}
	return errors.Join(faults...)
}

func (o Options) validateLimits() error {
	var faults []error
	within := func(name string, v, least, most int64) {
		if v < least || v > most {
			faults = append(faults, refuse(name, "%d is not between %d and %d", v, least, most))
		}
	}
	within("workers", int64(o.Workers), 1, 100_000)
	within("gc-percent", int64(o.GCPercent), 10, 10_000)
	span := func(name string, v, least, most time.Duration) {
		if v < least || v > most {
			faults = append(faults, refuse(name, "%v is not between %v and %v", v, least, most))
		}
	}
	span("certificate-life", o.CertificateLife, 5*time.Second, trust.CertificateLife)
	if o.Timing != "standard" && o.Timing != "fast" {
		faults = append(faults, refuse("timing", "%q is neither standard nor fast", o.Timing))
	}
	span("session-ttl", o.SessionTTL, time.Second, 10*time.Minute)
	span("drain-timeout", o.DrainTimeout, time.Second, 10*time.Minute)
	if o.DiskFloor < 0 {
		faults = append(faults, refuse("disk-floor", "is negative"))
	}
	if o.MemoryLimit < 0 {
		faults = append(faults, refuse("memory-limit", "is negative"))
	}
	return errors.Join(faults...)
}

// validateProd names everything that production demands and demo forgives.
func (o Options) validateProd() error {
	var faults []error
	need := func(name, v, why string) {
		if v == "" {
			faults = append(faults, &FieldError{name, "is required in mode prod", why})
		}
	}
	need("api-tls-cert-file", o.APITLSCertFile, "the API is never served in plain HTTP there")
	need("api-tls-key-file", o.APITLSKeyFile, "the API is never served in plain HTTP there")
	need("gossip-key-file", o.GossipKeyFile, "gossip is always encrypted there (32 bytes, base64)")
	if o.SealKeyFile == "" && o.SealKeyCommand == "" {
		faults = append(faults, &FieldError{"seal-key-file", "is required in mode prod, or --seal-key-command", "it seals the CA key within the store"})
	}
	need("organization", explicit(o.Organization, "organization"), "its trust domain is made from it and can't change later")
	if o.JoinToken != "" {
		faults = append(faults, &FieldError{"join-token", "is not accepted in mode prod", "a secret on a command line or in an environment can be read by others; use --join-token-file"})
	}
	if !loopback(o.AdminListen) && o.APITLSCertFile == "" {
		faults = append(faults, refuse("admin-listen", "%q is not on loopback, and there is no TLS", o.AdminListen))
	}
	return errors.Join(faults...)
}

// explicit returns v unless it is only the setting's default.
func explicit(v, setting string) string {
	if s, ok := Lookup(setting); ok && v == s.Default {
		return ""
	}
	return v
}

// withDefaults fills in what was left out.
func (o Options) withDefaults() Options {
	for _, s := range table {
		if s.Default != "" && s.isZero(&o) {
			if err := s.set(&o, s.Default); err != nil {
				panic("node: default of " + s.Name + ": " + err.Error()) // a fault in the table; a test sets every default
			}
		}
	}
	if o.TrustDomain == "" && o.Organization != "" {
		o.TrustDomain = defaultTrustDomain(o.Organization)
	}
	if o.StoreVersion == 0 {
		o.StoreVersion = registry.StoreVersion
	}
	if o.SessionTTL == 0 {
		o.SessionTTL = map[bool]time.Duration{true: 3 * time.Second, false: 10 * time.Second}[o.Timing == "fast"]
	}
	for _, a := range []struct{ listen, advertise *string }{
		{&o.APIListen, &o.APIAdvertise},
		{&o.FederationListen, &o.FederationAdvertise},
		{&o.ClusterListen, &o.ClusterAdvertise},
		{&o.GossipListen, &o.GossipAdvertise},
	} {
		if *a.advertise == "" {
			*a.advertise = dialable(*a.listen)
		}
	}
	return o
}

func defaultTrustDomain(organization string) string {
	return strings.ToLower(organization) + ".agentos.internal"
}

// dialable turns a listen address into one that others can dial: the machine's own address stands for "every address".
func dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort(ownAddress(), port)
	}
	return listen
}

// ownAddress is the first address of this machine that others can route to, else loopback.
func ownAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
