package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"

	"github.com/birthmark/birthmark/internal/fault"
)

// Settings are the server's settings. Each is a key of the YAML file (named by
// --config), a flag of the same name with dashes, and an environment variable
// BIRTHMARK_ with the name in capitals. A flag goes before the variable, the
// variable before the file. The comments here are the manual.
type Settings struct {
	// Folder with keys, witness file and, unless Database says otherwise, the
	// SQLite database.
	Data string `yaml:"data" help:"Data folder." default:"birthmark-data" env:"BIRTHMARK_DATA" type:"path"`
	// Where the record is: sqlite:PATH or postgres://USER@HOST/NAME. Empty:
	// birthmark.db in the data folder.
	Database string `yaml:"database" help:"Database: sqlite:PATH or postgres://... (default: SQLite in the data folder)." env:"BIRTHMARK_DATABASE"`
	// Name of this process among those that share one database. Empty: the
	// name kept in the data folder.
	Node string `yaml:"node" help:"Name of this node among those on one database." env:"BIRTHMARK_NODE"`

	// Addresses. Everything binds to loopback until told otherwise.
	DeviceListen  string `yaml:"device_listen" help:"Address for devices and stations (TLS)." default:"127.0.0.1:8443" env:"BIRTHMARK_DEVICE_LISTEN"`
	ConsoleListen string `yaml:"console_listen" help:"Address for people and programs (HTTP on loopback, TLS elsewhere)." default:"127.0.0.1:9080" env:"BIRTHMARK_CONSOLE_LISTEN"`
	StatusListen  string `yaml:"status_listen" help:"Address for OCSP, CRLs, authorities, ledger tiles and health (HTTP)." default:"127.0.0.1:8080" env:"BIRTHMARK_STATUS_LISTEN"`
	// Addresses or networks (10.0.0.7, 10.1.0.0/24) of load balancers in front of
	// the device and status listeners that speak version 2 of the PROXY protocol.
	// Each connection from there must begin with its header, and counts as its
	// client's in logs and limits; nobody else's word is taken.
	ProxyFrom []string `yaml:"proxy_from" help:"Addresses of load balancers that speak PROXY protocol v2 to the device and status listeners." placeholder:"CIDR,..." env:"BIRTHMARK_PROXY_FROM"`
	// Names and addresses that the device and console listeners' certificates
	// carry, besides localhost.
	Hosts []string `yaml:"hosts" help:"DNS names and addresses of this server for its own certificates." env:"BIRTHMARK_HOSTS"`
	// Type of the listeners' keys.
	ServerKey string `yaml:"server_key" help:"Key type of the server's own TLS certificates (p256, rsa2048, ...)." default:"p256" env:"BIRTHMARK_SERVER_KEY"`
	// File with the passphrase of the issuing keys. Empty: the file in the data
	// folder that init made, with a standing warning.
	PassphraseFile string `yaml:"passphrase_file" help:"File with the passphrase of the keys that the server opens by itself." env:"BIRTHMARK_PASSPHRASE_FILE"`
	// Socket of birthmark-signer, which holds the keys named signer:NAME.
	SignerSocket string `yaml:"signer_socket" aliases:"signer" help:"Socket of birthmark-signer, for keys named signer:NAME." env:"BIRTHMARK_SIGNER_SOCKET" placeholder:"PATH" type:"path"`

	// How long issuing authorities' CRLs are valid.
	CRLValidity time.Duration `yaml:"crl_validity" help:"Validity of CRLs of issuing authorities." default:"24h" env:"BIRTHMARK_CRL_VALIDITY"`
	// How long OCSP answers are valid.
	OCSPValidity time.Duration `yaml:"ocsp_validity" help:"Validity of OCSP answers." default:"1h" env:"BIRTHMARK_OCSP_VALIDITY"`
	// Files to which each checkpoint of the ledger is appended; at least one
	// should be on another machine's disk. Empty: witness.log in the data
	// folder.
	WitnessFiles []string `yaml:"witness_files" help:"Files that witness the ledger's checkpoints." env:"BIRTHMARK_WITNESS_FILES"`

	// Hosts (with or without a port) that webhooks may reach although they have
	// private addresses or no TLS, such as an ERP in the same building.
	WebhookHosts []string `yaml:"webhook_hosts" help:"Hosts that webhooks may reach at private addresses and without TLS." env:"BIRTHMARK_WEBHOOK_HOSTS"`

	// Log lines of at least this level: debug, info, warn, error.
	LogLevel string `yaml:"log_level" help:"Least level of log lines." default:"info" enum:"debug,info,warn,error" env:"BIRTHMARK_LOG_LEVEL"`
	// text or json.
	LogFormat string `yaml:"log_format" help:"Form of log lines." default:"text" enum:"text,json" env:"BIRTHMARK_LOG_FORMAT"`
}

// databaseDSN returns the DSN with the default filled in.
func (s *Settings) databaseDSN() string {
	if s.Database != "" {
		return s.Database
	}
	return "sqlite:" + filepath.Join(s.Data, "birthmark.db")
}

// proxies are the networks of ProxyFrom.
func (s *Settings) proxies() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range s.ProxyFrom {
		p, err := netip.ParsePrefix(text)
		if ip, notPrefix := netip.ParseAddr(text); notPrefix == nil && ip.Zone() == "" {
			p, err = netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()), nil
		}
		if err != nil || p.Bits() == 0 || p.Addr().Is4In6() {
			return nil, fault.New(fault.ConfigInvalid, "proxy_from:", text, "is no address and no network of some")
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// settingsFile reads the YAML file for kong: each key becomes the flag of the
// same name. Unknown keys are refused with line and column.
func settingsFile(path string) (kong.Resolver, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.ConfigInvalid, err, path, "cannot be read")
	}
	values, err := parseSettings(text)
	if err != nil {
		return nil, fault.New(fault.ConfigInvalid, path, firstLine(yaml.FormatError(err, false, false)))
	}
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		v, ok := values[strings.ReplaceAll(flag.Name, "-", "_")]
		inEnvironment := func(name string) bool { return os.Getenv(name) != "" }
		if !ok || !settingNames[flag.Name] || slices.ContainsFunc(flag.Envs, inEnvironment) {
			return nil, nil
		}
		return flagText(v), nil
	}), nil
}

// parseSettings refuses what is not a setting and returns the values by key.
func parseSettings(text []byte) (values map[string]any, err error) {
	defer func() {
		if p := recover(); p != nil { // the library panics on some tags
			err = errors.New("it is not YAML of plain keys and values")
		}
	}()
	if len(text) > maxSettings {
		return nil, errors.New("it is larger than settings are")
	}
	var checked Settings
	if err := yaml.UnmarshalWithOptions(text, &checked, yaml.Strict()); err != nil {
		return nil, err
	}
	values = map[string]any{}
	return values, yaml.Unmarshal(text, &values)
}

// maxSettings is far above what all keys with comments need.
const maxSettings = 64 << 10

// settingNames are the flags that may come from the file.
var settingNames = func() map[string]bool {
	names := map[string]bool{}
	for f := range reflect.TypeFor[Settings]().Fields() {
		names[strings.ReplaceAll(f.Tag.Get("yaml"), "_", "-")] = true
	}
	return names
}()

// flagText renders a YAML value as the flag's text.
func flagText(v any) string {
	list, ok := v.([]any)
	if !ok {
		return fmt.Sprint(v)
	}
	parts := make([]string, len(list))
	for i, one := range list {
		parts[i] = fmt.Sprint(one)
	}
	return strings.Join(parts, ",")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// configFlag loads the file before other flags are looked at.
type configFlag string

// BeforeReset makes the file's values the defaults of this run.
func (c configFlag) BeforeReset(ctx *kong.Context, trace *kong.Path) error {
	path := string(ctx.FlagValue(trace.Flag).(configFlag))
	if path == "" {
		return errors.New("--config needs a file")
	}
	resolver, err := settingsFile(path)
	if err != nil {
		return err
	}
	ctx.AddResolver(resolver)
	return nil
}
