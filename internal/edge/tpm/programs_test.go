package tpm_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	format "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/needs"
)

// openSSLConfig returns the configuration with which every program on OpenSSL 3
// loads keys of a TPM, as docs/operate/agent.md has it.
func openSSLConfig(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../../../docs/operate/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```\n# /etc/birthmark/openssl.cnf\n")
	config, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("docs/operate/agent.md has no configuration for OpenSSL")
	}
	return []byte(config)
}

// office is a small authority with a device's credential in a folder.
type office struct {
	t    *testing.T
	dir  string
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	tpm  *tpmtest.TPM
	bus  string // environment variable with the address of the resource manager's bus
}

func newOffice(t *testing.T, kind format.KeyKind) *office {
	t.Helper()
	_, all := tpmtest.Start(t, 1)
	o := &office{t: t, dir: t.TempDir(), tpm: all[0]}
	var err error
	if o.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	o.root = o.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "Root"}, IsCA: true, BasicConstraintsValid: true}, &o.key.PublicKey)
	d := open(t, o.tpm.Path)
	k, err := d.NewKey(t.Context(), kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	file, err := k.File()
	if err != nil {
		t.Fatal(err)
	}
	c := o.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "device-1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, k.Parsed().Key)
	o.write("key.pem", file)
	o.write("certificate.pem", certificatePEM(c))
	o.write("ca.pem", certificatePEM(o.root))
	o.write("openssl.cnf", openSSLConfig(t))
	return o
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func (o *office) sign(c *x509.Certificate, public any) *x509.Certificate {
	o.t.Helper()
	c.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := o.root
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, o.key)
	if err != nil {
		o.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

func (o *office) path(name string) string { return filepath.Join(o.dir, name) }

func (o *office) write(name string, text []byte) {
	o.t.Helper()
	if err := os.WriteFile(o.path(name), text, 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// server returns the credential of a server on 127.0.0.1.
func (o *office) server() *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	c := o.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &key.PublicKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		o.t.Fatal(err)
	}
	o.write("server.pem", certificatePEM(c))
	o.write("server-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

// command is a program that finds keys in the TPM.
func (o *office) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(o.t.Context(), needs.Command(o.t, name), args...)
	cmd.Env = append(os.Environ(), o.bus, "OPENSSL_CONF="+o.path("openssl.cnf"), "TPM2OPENSSL_TCTI=tabrmd:bus_type=session", "TSS2_LOG=all+none")
	return cmd
}

// share starts the resource manager of user space on a bus of its own: OpenSSL's
// provider needs more loaded objects for a TLS handshake than the three that a TPM
// has, and that the kernel's resource manager offers.
func (o *office) share() (end func()) {
	o.t.Helper()
	daemon := exec.CommandContext(o.t.Context(), needs.Command(o.t, "dbus-daemon"), "--session", "--nofork", "--print-address")
	address, err := daemon.StdoutPipe()
	if err != nil {
		o.t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		o.t.Fatal(err)
	}
	line, err := bufio.NewReader(address).ReadString('\n')
	if err != nil {
		o.t.Fatal(err)
	}
	o.bus = "DBUS_SESSION_BUS_ADDRESS=" + strings.TrimSpace(line)
	manager := exec.CommandContext(o.t.Context(), needs.Command(o.t, "tpm2-abrmd"), "--allow-root", "--session", "--tcti="+o.tpm.TCTI())
	manager.Env = append(os.Environ(), o.bus)
	if err := manager.Start(); err != nil {
		o.t.Fatal(err)
	}
	for {
		ask := o.command("dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.NameHasOwner", "string:com.intel.tss2.Tabrmd")
		out, err := ask.CombinedOutput()
		if err != nil {
			o.t.Fatalf("%v: %s", err, out)
		}
		if strings.Contains(string(out), "boolean true") {
			break
		}
	}
	return func() {
		for _, one := range []*exec.Cmd{manager, daemon} {
			_ = one.Process.Signal(os.Interrupt)
			_ = one.Wait() // it was told to end
		}
	}
}

func tpmKinds() []format.KeyKind {
	return []format.KeyKind{format.ECP256, format.ECP384, format.RSA2048}
}

// TestCurlUsesTheKeyFile lets curl show the certificate whose key is in the TPM.
func TestCurlUsesTheKeyFile(t *testing.T) {
	needs.Curl(t)
	for _, kind := range tpmKinds() {
		o := newOffice(t, kind)
		anchors := x509.NewCertPool()
		anchors.AddCert(o.root)
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "hello %s, TLS %x\n", r.TLS.PeerCertificates[0].Subject.CommonName, r.TLS.Version)
		}))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*o.server()}, ClientCAs: anchors, ClientAuth: tls.RequireAndVerifyClientCert}
		s.StartTLS()
		end := o.share()
		out, err := o.command("curl", "--silent", "--show-error", "--cacert", o.path("ca.pem"), "--cert", o.path("certificate.pem"), "--key", o.path("key.pem"), s.URL).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "hello device-1, TLS 304") {
			t.Errorf("%s: %v: %s", kind, err, out)
		}
		s.Close()
		end()
		nothingLoaded(t, open(t, o.tpm.Path))
	}
}

// TestOpenSSLUsesTheKeyFile lets openssl sign a certificate request and check it.
func TestOpenSSLUsesTheKeyFile(t *testing.T) {
	needs.OpenSSL(t)
	for _, kind := range tpmKinds() {
		o := newOffice(t, kind)
		end := o.share()
		out, err := o.command("openssl", "req", "-new", "-key", o.path("key.pem"), "-subj", "/CN=device-1", "-out", o.path("request.pem")).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", kind, err, out)
		}
		end()
		text, err := os.ReadFile(o.path("request.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		if block == nil {
			t.Fatal("no request")
		}
		if r, err := x509.ParseCertificateRequest(block.Bytes); err != nil || r.CheckSignature() != nil || r.Subject.CommonName != "device-1" {
			t.Errorf("%s: the request does not hold: %v", kind, err)
		}
		nothingLoaded(t, open(t, o.tpm.Path))
	}
}

// TestMosquittoUsesTheKeyFile lets mosquitto_pub and mosquitto_sub speak to a
// broker that knows them by certificates whose key is in the TPM.
func TestMosquittoUsesTheKeyFile(t *testing.T) {
	broker := needs.Command(t, "mosquitto")
	needs.Command(t, "mosquitto_pub")
	needs.Command(t, "mosquitto_sub")
	for _, kind := range tpmKinds() {
		o := newOffice(t, kind)
		o.server()
		port := freePort(t)
		o.write("broker.conf", fmt.Appendf(nil, "listener %[2]d 127.0.0.1\ncafile %[1]s/ca.pem\ncertfile %[1]s/server.pem\nkeyfile %[1]s/server-key.pem\nrequire_certificate true\nuse_identity_as_username true\npersistence false\nuser root\n", o.dir, port))
		serve := exec.CommandContext(t.Context(), broker, "-c", o.path("broker.conf"))
		said, err := serve.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := serve.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, said, "running")
		end := o.share()
		args := func(more ...string) []string {
			return append([]string{
				"-h", "127.0.0.1", "-p", fmt.Sprint(port), "-q", "1", "-t", "line/1",
				"--cafile", o.path("ca.pem"), "--cert", o.path("certificate.pem"), "--key", o.path("key.pem"),
			}, more...)
		}
		if out, err := o.command("mosquitto_pub", args("-r", "-m", "it works")...).CombinedOutput(); err != nil {
			t.Errorf("%s: publish: %v: %s", kind, err, out)
		}
		out, err := o.command("mosquitto_sub", args("-C", "1", "-W", "20")...).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "it works" {
			t.Errorf("%s: subscribe: %v: %s", kind, err, out)
		}
		_ = serve.Process.Kill()
		_ = serve.Wait()
		end()
		nothingLoaded(t, open(t, o.tpm.Path))
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// waitFor reads what a program says until it says the words.
func waitFor(t *testing.T, r io.Reader, words string) {
	t.Helper()
	lines := bufio.NewScanner(r)
	var all strings.Builder
	for lines.Scan() {
		all.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), words) {
			go func() { _, _ = io.Copy(io.Discard, r) }() // so that it never waits for a reader
			return
		}
	}
	t.Fatalf("it ended: %s", all.String())
}
