// Package tpmtest brings TPMs in software (swtpm) for tests: each set up for
// itself, as a maker would, with a seed, endorsement keys, their certificates and a
// platform certificate in its NV memory. The maker's authority is in the test's
// hands, so that it can certify also what an honest maker would not.
package tpmtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/needs"
)

// Maker is a maker of TPMs: a root and an issuing authority that certifies
// endorsement keys.
type Maker struct {
	Root    *x509.Certificate
	Issuing *x509.Certificate
	Now     time.Time
	// Bare TPMs have neither endorsement keys nor certificates in their memory.
	Bare bool

	dir      string // of the tools' configuration
	setup    string // paths of the tools
	emulator string
	key      *ecdsa.PrivateKey // of Issuing
}

// Start starts n TPMs of one maker and ends them with the test.
func Start(t testing.TB, n int) (*Maker, []*TPM) {
	t.Helper()
	return start(t, n, false)
}

// StartBare starts TPMs without endorsement keys and certificates.
func StartBare(t testing.TB, n int) []*TPM {
	t.Helper()
	_, all := start(t, n, true)
	return all
}

func start(t testing.TB, n int, bare bool) (*Maker, []*TPM) {
	t.Helper()
	needs.Command(t, "swtpm")
	needs.Command(t, "swtpm_setup")
	needs.Command(t, "swtpm_localca")
	dir, err := os.MkdirTemp("", "tpm") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m, err := NewMaker(dir)
	if err != nil {
		t.Fatal(err)
	}
	m.Bare = bare
	all, err := m.Make(n)
	t.Cleanup(func() {
		for _, one := range all {
			one.Stop()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, all
}

// NewMaker makes a maker whose TPMs live in a folder. The folder's path must be
// short: a socket's path has at most 107 octets.
func NewMaker(dir string) (*Maker, error) {
	m := &Maker{dir: dir, Now: time.Now()}
	var err error
	if m.setup, err = exec.LookPath("swtpm_setup"); err != nil {
		return nil, err
	}
	if m.emulator, err = exec.LookPath("swtpm"); err != nil {
		return nil, err
	}
	localca, err := exec.LookPath("swtpm_localca")
	if err != nil {
		return nil, err
	}
	if err := m.makeAuthorities(); err != nil {
		return nil, err
	}
	ca := filepath.Join(dir, "ca")
	if err := os.Mkdir(ca, 0o700); err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(m.key)
	if err != nil {
		return nil, err
	}
	for name, text := range map[string][]byte{
		"ca/signkey.pem":    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"ca/issuercert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Issuing.Raw}),
		"localca.conf": fmt.Appendf(nil, "statedir=%[1]s\nsigningkey=%[1]s/signkey.pem\nissuercert=%[1]s/issuercert.pem\ncertserial=%[1]s/certserial\n",
			ca),
		"localca.options": []byte("--platform-manufacturer ExampleWidgets\n--platform-version 1.0\n--platform-model GW-100\n"),
		"setup.conf": fmt.Appendf(nil, "create_certs_tool=%[2]s\ncreate_certs_tool_config=%[1]s/localca.conf\ncreate_certs_tool_options=%[1]s/localca.options\nactive_pcr_banks=sha256\n",
			dir, localca),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Maker) makeAuthorities() error {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	fields := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "TPM Maker Root"},
		NotBefore: m.Now.Add(-time.Hour), NotAfter: m.Now.Add(20 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if m.Root, err = sign(fields, fields, &rootKey.PublicKey, rootKey); err != nil {
		return err
	}
	issuing := *fields
	issuing.SerialNumber, issuing.Subject = big.NewInt(2), pkix.Name{CommonName: "TPM Maker Issuing"}
	m.Issuing, err = sign(&issuing, m.Root, &m.key.PublicKey, rootKey)
	return err
}

func sign(fields, parent *x509.Certificate, public crypto.PublicKey, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, fields, parent, public, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Anchors returns PEM of the maker's root and issuing authority.
func (m *Maker) Anchors() []byte {
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Root.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Issuing.Raw})...)
}

// EKFields says what an endorsement key's certificate contains; what is empty is
// as usual.
type EKFields struct {
	Manufacturer, Model, Version string // "id:49465800", "SLB9672", "id:00010000"
	NotBefore, NotAfter          time.Time
	Usage                        asn1.ObjectIdentifier // instead of tcg-kp-EKCertificate
}

// The object identifiers of an endorsement key's certificate (TCG EK Credential
// Profile, section 3.2).
var (
	oidManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidEKUsage      = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidAltName      = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// Certify returns a certificate by this maker for an endorsement key, DER.
func (m *Maker) Certify(key crypto.PublicKey, f EKFields) ([]byte, error) {
	for _, d := range []struct {
		field *string
		value string
	}{{&f.Manufacturer, "id:49424D00"}, {&f.Model, "swtpm"}, {&f.Version, "id:00010000"}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if f.NotBefore.IsZero() {
		f.NotBefore = m.Now.Add(-time.Hour)
	}
	if f.NotAfter.IsZero() {
		f.NotAfter = m.Now.Add(10 * 365 * 24 * time.Hour)
	}
	if f.Usage == nil {
		f.Usage = oidEKUsage
	}
	name, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: oidManufacturer, Value: f.Manufacturer}}, {{Type: oidModel, Value: f.Model}}, {{Type: oidVersion, Value: f.Version}},
	})
	if err != nil {
		return nil, err
	}
	directory, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name})
	if err != nil {
		return nil, err
	}
	alt, err := asn1.Marshal([]asn1.RawValue{{FullBytes: directory}})
	if err != nil {
		return nil, err
	}
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	usage := x509.KeyUsageKeyEncipherment
	if _, ok := key.(*ecdsa.PublicKey); ok {
		usage = x509.KeyUsageKeyAgreement
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: number, NotBefore: f.NotBefore, NotAfter: f.NotAfter, KeyUsage: usage, BasicConstraintsValid: true,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{f.Usage},
		ExtraExtensions:    []pkix.Extension{{Id: oidAltName, Critical: true, Value: alt}},
	}, m.Issuing, key, m.key)
}

// TPM is a TPM in software that runs.
type TPM struct {
	Path string // of its socket; beside it, with ".ctrl", the one for control

	emulator string
	dir      string
	mu       sync.Mutex
	process  *exec.Cmd // nil: stopped; guarded by mu
}

// Make sets up n TPMs, as many at once as there are processors, and starts them.
// Those that it returns beside an error run, too.
func (m *Maker) Make(n int) ([]*TPM, error) {
	all, errs := make([]*TPM, n), make([]error, n)
	room := make(chan struct{}, runtime.NumCPU())
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			all[i], errs[i] = m.makeOne(fmt.Sprintf("t%d", i))
		})
	}
	wg.Wait()
	made := all[:0]
	for _, one := range all {
		if one != nil {
			made = append(made, one)
		}
	}
	return made, errors.Join(errs...)
}

func (m *Maker) makeOne(name string) (*TPM, error) {
	t := &TPM{dir: filepath.Join(m.dir, name), emulator: m.emulator}
	t.Path = filepath.Join(t.dir, "sock")
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return nil, err
	}
	args := []string{
		"--tpm2", "--tpm-state", t.dir, "--config", filepath.Join(m.dir, "setup.conf"), "--overwrite", "--pcr-banks", "sha256,sha384",
		"--vmid", name, "--logfile", filepath.Join(t.dir, "setup.log"),
	}
	if !m.Bare {
		args = append(args, "--create-ek-cert", "--create-platform-cert", "--lock-nvram")
	}
	out, err := exec.Command(m.setup, args...).CombinedOutput()
	if err != nil {
		text, _ := os.ReadFile(filepath.Join(t.dir, "setup.log"))
		return nil, fmt.Errorf("swtpm_setup: %w: %s%s", err, out, text)
	}
	return t, t.Start()
}

// startTime is how long an emulator may take until it listens.
const startTime = 30 * time.Second

// Start starts a TPM that was stopped, which is what a reset is to it.
func (t *TPM) Start() error {
	return t.start(t.Path, "unix", "--server", "type=unixio,path="+t.Path, "--ctrl", "type=unixio,path="+t.Path+".ctrl")
}

func (t *TPM) start(address, network string, where ...string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.process != nil {
		return nil
	}
	cmd := exec.Command(t.emulator, append([]string{"socket", "--tpm2", "--tpmstate", "dir=" + t.dir, "--flags", "not-need-init,startup-clear"}, where...)...)
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Start(); err != nil {
		return err
	}
	for end := time.Now().Add(startTime); ; {
		conn, err := net.Dial(network, address)
		if err == nil {
			t.process = cmd
			return conn.Close()
		}
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return fmt.Errorf("swtpm does not listen: %w: %s", err, words.String())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// StartTCP starts a TPM that was stopped on a TCP port of 127.0.0.1 instead of its
// socket.
func (t *TPM) StartTCP(port int) error {
	return t.start("127.0.0.1:"+strconv.Itoa(port), "tcp",
		"--server", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1", port), "--ctrl", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1", port+1))
}

// Stop ends the TPM. Its keys and indices stay; what was loaded, and the registers,
// are gone.
func (t *TPM) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.process == nil {
		return
	}
	_ = t.process.Process.Signal(os.Interrupt)
	_ = t.process.Wait() // it was told to end
	t.process = nil
	_ = os.Remove(t.Path) // so that nobody finds a socket without a TPM
}

// TCTI is what tpm2-tools and OpenSSL's tpm2 provider are told to reach it by.
func (t *TPM) TCTI() string { return "swtpm:path=" + t.Path }
