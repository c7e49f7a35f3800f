package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/signer"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

// Settings are the signer's configuration, a YAML file. Unknown keys are
// refused. Paths that are not absolute are beside the file. The comments here
// are the manual.
type Settings struct {
	// Path of the socket.
	Socket string `yaml:"socket"`
	// Rights of the socket: 0600, or 0660 with a group that the server is in.
	SocketMode  string `yaml:"socket_mode"`
	SocketGroup string `yaml:"socket_group"`
	// Users (names or numbers) who may ask. Whoever else connects is turned away.
	Users []string `yaml:"users"`
	// Folder of the journal and of certificates.
	State string `yaml:"state"`

	PKCS11 PKCS11Settings `yaml:"pkcs11"`
	File   FileSettings   `yaml:"file"`
	TPM    TPMSettings    `yaml:"tpm"`

	Keys []KeySettings `yaml:"keys"`

	dir string // of the file
}

// PKCS11Settings say how keys pkcs11:... are reached.
type PKCS11Settings struct {
	// Path of the module, as the HSM's maker names it.
	Module string `yaml:"module"`
	// File with the PIN, readable by nobody else. Without it serve asks at the
	// terminal.
	PINFile string `yaml:"pin_file"`
	// Sessions used at once; default 4.
	Sessions int `yaml:"sessions"`
	// The longest that one call may take; default 10s.
	Wait time.Duration `yaml:"wait"`
}

// FileSettings say where keys file:NAME are.
type FileSettings struct {
	Folder         string `yaml:"folder"`
	PassphraseFile string `yaml:"passphrase_file"`
}

// TPMSettings say how keys tpm:HANDLE are reached.
type TPMSettings struct {
	// /dev/tpmrm0, unix:PATH or tcp:HOST:PORT.
	Path string `yaml:"path"`
	// File with the keys' authorization value; without it they need none.
	AuthFile string `yaml:"auth_file"`
}

// KeySettings are one key with its bounds.
type KeySettings struct {
	// Name by which the server knows it: signer:NAME.
	Name string `yaml:"name"`
	// pkcs11:token=LABEL;object=LABEL[;id=HEX], file:NAME or tpm:HANDLE.
	URI string `yaml:"uri"`
	// The authority's certificate (PEM). While the file is not there the key signs
	// only the request for one. Default: certificates/NAME.pem in the state folder,
	// where `key bind` puts it.
	Certificate string `yaml:"certificate"`
	// For a key that signs OCSP answers and is not the authority's own: the
	// authority's certificate (PEM).
	Issuer string `yaml:"issuer"`
	// What it signs: ca, ocsp-responder, server, attestation, device (any other
	// certificate), crl, ocsp. It is judged from the bytes.
	Signs []string `yaml:"signs"`
	// The longest validity of certificates: 90d, 30y, or forever, which allows no
	// expiry, too.
	Validity string `yaml:"validity"`
	// The longest validity of CRLs (default 35d; 400d for a key that signs ca) and
	// OCSP answers (default 8d).
	CRLValidity  string `yaml:"crl_validity"`
	OCSPValidity string `yaml:"ocsp_validity"`
	// Signatures a second and a day (UTC).
	PerSecond int   `yaml:"per_second"`
	PerDay    int64 `yaml:"per_day"`
	// The key is a root's: it may sign its own certificate, and is then bound to it.
	Root bool `yaml:"root"`
	// Users who may use this key, among those above; default: all of them.
	Users []string `yaml:"users"`
}

// maxConfig is far above what any configuration needs.
const maxConfig = 256 << 10

func invalid(detail ...any) error { return fault.New(fault.SignerConfig, detail...) }

// readSettings reads and checks the configuration.
func readSettings(path string) (*Settings, error) {
	// It holds the keys' bounds: whoever may write it may sign anything.
	text, info, err := readFile(path, maxConfig+1)
	if err != nil {
		return nil, fault.Wrap(fault.SignerConfig, err, path, "cannot be read")
	}
	if info.Mode().Perm()&0o002 != 0 {
		return nil, invalid("everybody may write", path+"; chmod o-w")
	}
	s, err := parseSettings(text)
	if err != nil {
		return nil, fault.New(fault.SignerConfig, path+":", firstLine(yaml.FormatError(err, false, false)))
	}
	if s.dir, err = filepath.Abs(filepath.Dir(path)); err != nil {
		return nil, err
	}
	for _, at := range []*string{&s.Socket, &s.State, &s.PKCS11.PINFile, &s.File.Folder, &s.File.PassphraseFile, &s.TPM.AuthFile} {
		*at = s.path(*at)
	}
	if s.SocketMode == "" {
		s.SocketMode = "0600"
	}
	for i := range s.Keys {
		k := &s.Keys[i]
		if k.Certificate == "" {
			k.Certificate = filepath.Join(s.State, "certificates", k.Name+".pem")
		}
		k.Certificate, k.Issuer = s.path(k.Certificate), s.path(k.Issuer)
	}
	return s, s.check()
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func parseSettings(text []byte) (s *Settings, err error) {
	defer func() {
		if p := recover(); p != nil { // the library panics on some tags
			err = errors.New("it is not YAML of plain keys and values")
		}
	}()
	if len(text) > maxConfig {
		return nil, errors.New("it is larger than a configuration is")
	}
	s = &Settings{}
	return s, yaml.UnmarshalWithOptions(text, s, yaml.Strict())
}

// path makes a path that is not absolute one beside the configuration.
func (s *Settings) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(s.dir, p)
}

func (s *Settings) check() error {
	switch {
	case s.Socket == "":
		return invalid("socket: missing")
	case s.State == "":
		return invalid("state: missing")
	case s.SocketMode != "0600" && s.SocketMode != "0660":
		return invalid("socket_mode: 0600 or 0660")
	case len(s.Keys) == 0:
		return invalid("keys: none")
	}
	if _, err := uids("users", s.Users); err != nil {
		return err
	}
	names := map[string]bool{}
	for i := range s.Keys {
		k := &s.Keys[i]
		if !wire.ValidName(k.Name) || names[k.Name] {
			return invalid("keys: the name", strconv.Quote(k.Name), "is not one, or there twice")
		}
		names[k.Name] = true
		if _, err := k.bounds(); err != nil {
			return err
		}
		if _, err := parseURI(k.URI); err != nil {
			return err
		}
	}
	return nil
}

// uids returns the numbers of users.
func uids(what string, names []string) ([]uint32, error) {
	var all []uint32
	for _, name := range names {
		id := name
		if u, err := user.Lookup(name); err == nil {
			id = u.Uid
		}
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, invalid(what+": this system has no user", name)
		}
		all = append(all, uint32(n))
	}
	return all, nil
}

// bounds returns what the key may be used for.
func (k *KeySettings) bounds() (signer.Bounds, error) {
	b := signer.Bounds{Rate: k.PerSecond, Daily: k.PerDay, Root: k.Root}
	for _, name := range k.Signs {
		kind, ok := signer.ParseKind(name)
		if !ok || slices.Contains(b.Kinds, kind) {
			return b, invalid("key", k.Name+":", "signs:", name, "is no kind, or there twice")
		}
		b.Kinds = append(b.Kinds, kind)
	}
	for _, one := range []struct {
		name, text string
		to         *time.Duration
	}{{"validity", k.Validity, &b.Validity}, {"crl_validity", k.CRLValidity, &b.ListValidity}, {"ocsp_validity", k.OCSPValidity, &b.AnswerValidity}} {
		d, err := parseDays(one.text)
		if err != nil {
			return b, invalid("key", k.Name+":", one.name+":", one.text, "is not 12h, 90d, 30y", "or forever")
		}
		*one.to = d
	}
	b.NoExpiry = k.Validity == "forever"
	var err error
	b.UIDs, err = uids("key "+k.Name+": users", k.Users)
	if err != nil {
		return b, err
	}
	return b, b.Check(k.Name)
}

// parseDays reads 12h, 90d, 30y or forever. A year has 366 days, so that none is
// too long.
func parseDays(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	if text == "" {
		return 0, nil
	}
	if text == "forever" {
		return 100 * 366 * day, nil
	}
	units := map[byte]time.Duration{'h': time.Hour, 'd': day, 'y': 366 * day}
	unit := units[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if err != nil || unit == 0 || n == 0 || n > uint64(100*366*day/unit) {
		return 0, errors.New("not a time")
	}
	return time.Duration(n) * unit, nil
}

// maxSecret is longer than any PIN or passphrase.
const maxSecret = 4 << 10

// readFile reads a plain file and returns the rights of the very file that was
// read, whatever its name means by then.
func readFile(path string, most int64) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, errors.New("it is no plain file")
	}
	text, err := io.ReadAll(io.LimitReader(f, most))
	return text, info, err
}

// readSecret reads a file that nobody else may read.
func readSecret(path, what string) ([]byte, error) {
	if path == "" {
		return nil, invalid("no file with", what, "is named")
	}
	text, info, err := readFile(path, maxSecret)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, invalid("the file with", what, "is not there:", path)
	case err != nil:
		return nil, fault.Wrap(fault.SignerConfig, err, "the file with", what, "cannot be read:", path)
	case info.Mode().Perm()&0o077 != 0:
		clear(text)
		return nil, invalid("others may read", path+"; chmod 600")
	}
	text = bytes.TrimRight(text, "\r\n")
	if len(text) == 0 {
		return nil, invalid("the file with", what, "is empty:", path)
	}
	return text, nil
}
