package chain_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/chain"
)

var seed = flag.Uint64("seed", 1, "seed of the random PKIs; 0 takes the time")

// world is a random PKI: few names and few keys, so that they collide, and
// every rule drawn by chance.
type world struct {
	*rand.Rand
	keys  []crypto.Signer
	certs []entity
}

func newWorld(t testing.TB, r *rand.Rand, keys []crypto.Signer) *world {
	w := &world{Rand: r, keys: keys}
	for k := range 3 {
		w.certs = append(w.certs, certify(t, nil, w.keys[k], asCA(w.name()), w.quirks()))
	}
	for range 12 {
		by := w.certs[w.IntN(len(w.certs))]
		c := asCA(w.name())
		if w.IntN(4) == 0 {
			c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
		}
		w.certs = append(w.certs, certify(t, &by, w.keys[w.IntN(len(w.keys))], c, w.quirks()))
	}
	return w
}

func (w *world) name() string { return string(rune('A' + w.IntN(7))) }

func (w *world) odds(n int) bool { return w.IntN(n) == 0 }

// quirks breaks or bends a few rules.
func (w *world) quirks() option {
	return func(c *x509.Certificate) {
		if w.odds(12) {
			c.NotAfter = now.AddDate(0, 0, -1)
		}
		if w.odds(12) {
			c.NotBefore = now.AddDate(0, 0, 1)
		}
		if c.IsCA && w.odds(4) {
			pathLen(w.IntN(3))(c)
		}
		if w.odds(10) {
			c.KeyUsage = x509.KeyUsage(w.IntN(512))
		}
		if !c.IsCA {
			c.KeyUsage &^= x509.KeyUsageCertSign
		}
		if w.odds(4) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{[]x509.ExtKeyUsage{x509.ExtKeyUsageAny, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}[w.IntN(3)]}
		}
		if w.odds(15) {
			ext(private, w.odds(2), []byte{5, 0})(c)
		}
		if w.odds(3) {
			noIdentifiers(c)
		}
		if w.odds(3) {
			c.DNSNames = []string{w.domain(), w.domain()}
		}
		if w.odds(6) {
			c.EmailAddresses = []string{"joe@" + w.domain()}
		}
		if w.odds(6) {
			c.IPAddresses = []net.IP{{10, byte(w.IntN(3)), 0, 1}}
		}
		if c.IsCA && w.odds(4) {
			w.constrain(c)
		}
	}
}

func (w *world) domain() string {
	d := []string{"a.test", "b.test", "x.a.test", "y.x.a.test", "A.test", "xa.test"}[w.IntN(6)]
	if w.odds(5) {
		d = "*." + d
	}
	return strings.TrimPrefix(d, "*."+"*.")
}

func (w *world) constrain(c *x509.Certificate) {
	c.PermittedDNSDomainsCritical = true
	domain := strings.TrimPrefix(w.domain(), "*.")
	network := []*net.IPNet{{IP: net.IP{10, byte(w.IntN(3)), 0, 0}, Mask: net.CIDRMask(16, 32)}}
	switch w.IntN(6) {
	case 0:
		c.PermittedDNSDomains = []string{domain}
	case 1:
		c.ExcludedDNSDomains = []string{domain}
	case 2:
		c.PermittedIPRanges = network
	case 3:
		c.ExcludedIPRanges = network
	case 4:
		c.PermittedEmailAddresses = []string{domain}
	case 5:
		c.ExcludedEmailAddresses = []string{"." + domain}
	}
}

func (w *world) pick(share int) (std *x509.CertPool, ours *chain.Pool) {
	std, ours = x509.NewCertPool(), chain.NewPool()
	for _, c := range w.certs {
		if w.IntN(100) < share {
			std.AddCert(c.Certificate)
			ours.Add(c.Certificate)
		}
	}
	return std, ours
}

// TestAgreesWithTheLibrary judges random leaves of random PKIs and compares with
// crypto/x509. What we accept it accepts, but for self-issued authorities, which
// it counts in path lengths and holds against name constraints though RFC 5280
// exempts them, and for a leaf with the name and key of an authority above it,
// which it takes for a loop. What we refuse and it accepts must be one of our stricter rules.
func TestAgreesWithTheLibrary(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	r := rand.New(rand.NewPCG(s, 0))
	keys := make([]crypto.Signer, 9)
	for i := range keys {
		keys[i] = p256(t)
		if i%4 == 3 {
			keys[i] = ed(t)
		}
	}
	worlds := 60
	if testing.Short() {
		worlds = 10
	}
	var accepted, refused, exempt int
	codes := map[fault.Code]int{}
	for range worlds {
		w := newWorld(t, r, keys)
		for range 40 {
			stdRoots, roots := w.pick(20)
			stdMids, mids := w.pick(80)
			leaf := w.certs[w.IntN(len(w.certs))]
			if w.odds(2) {
				by := w.certs[w.IntN(len(w.certs))]
				leaf = certify(t, &by, w.keys[w.IntN(len(w.keys))], base("leaf"), w.quirks())
			}
			usage, stdUsage := chain.UsageAny, x509.ExtKeyUsageAny
			if w.odds(2) {
				usage, stdUsage = chain.UsageClient, x509.ExtKeyUsageClientAuth
			}
			p, err := chain.Verify(t.Context(), leaf.Certificate, chain.Options{Anchors: roots, Intermediates: mids, At: now, Usage: usage, MaxChain: 9})
			stdPaths, stdErr := leaf.Verify(x509.VerifyOptions{Roots: stdRoots, Intermediates: stdMids, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{stdUsage}})
			switch {
			case err == nil && stdErr == nil:
				accepted++
			case err != nil && stdErr != nil:
				refused++
			case err == nil && passesSelfIssued(p):
				exempt++
			case err == nil:
				t.Errorf("seed %d: accepted, but the library says %v\n%s", s, stdErr, show(p.Certificates))
			default:
				codes[fault.Of(err).Code]++
				if slices.ContainsFunc(stdPaths, func(p []*x509.Certificate) bool { return !stricter(p, usage) }) {
					t.Errorf("seed %d: refused with %v, but the library accepts\n%s", s, err, show(stdPaths[0]))
				}
			}
		}
	}
	t.Logf("seed %d: %d accepted and %d refused by both, %d by the exemption, stricter: %v", s, accepted, refused, exempt, codes)
	if accepted < worlds || refused < worlds {
		t.Errorf("seed %d: the PKIs are one-sided", s)
	}
}

func passesSelfIssued(p *chain.Path) bool {
	leaf := p.Certificates[0]
	return slices.ContainsFunc(p.Certificates[1:], func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawIssuer, c.RawSubject) ||
			bytes.Equal(c.RawSubject, leaf.RawSubject) && bytes.Equal(c.RawSubjectPublicKeyInfo, leaf.RawSubjectPublicKeyInfo)
	})
}

// stricter reports whether a path meets one of the rules that the library does
// not have: keyUsage must allow what the usage needs, and a mailbox constraint
// without a period means that very host.
func stricter(path []*x509.Certificate, u chain.Usage) bool {
	const may = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement
	if u == chain.UsageClient && path[0].KeyUsage != 0 && path[0].KeyUsage&may == 0 {
		return true
	}
	return slices.ContainsFunc(path, func(c *x509.Certificate) bool { return len(c.PermittedEmailAddresses) > 0 })
}

func show(certs []*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		fmt.Fprintf(&b, "%s < %s  %s\n", c.Subject, c.Issuer, hex.EncodeToString(c.Raw))
	}
	return b.String()
}

// TestAgreesWithOpenSSL runs the trials through openssl verify. Where OpenSSL
// has another rule the trial says so.
func TestAgreesWithOpenSSL(t *testing.T) {
	tool := needs.OpenSSL(t)
	needs.Time(t)
	compared := 0
	for _, c := range trials(t) {
		if c.openssl != "" {
			continue
		}
		args, ok := opensslArguments(t, &c)
		if !ok {
			continue
		}
		compared++
		out, err := exec.Command(tool, args...).CombinedOutput()
		if (err == nil) != (c.want == 0) {
			t.Errorf("%s: want %d, openssl says %v\n%s", c.name, c.want, err, out)
		}
	}
	t.Logf("%d trials compared", compared)
	if compared < 60 {
		t.Errorf("only %d trials could be compared", compared)
	}
}

func opensslArguments(t *testing.T, c *trial) ([]string, bool) {
	o := c.options()
	dir := t.TempDir()
	file := func(name string, es ...entity) string {
		var ders [][]byte
		for _, e := range es {
			ders = append(ders, e.Raw)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pemOf("CERTIFICATE", ders...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	args := []string{"verify", "-no-CApath", "-no-CAstore", "-partial_chain", "-auth_level", "0", "-attime", strconv.FormatInt(o.At.Unix(), 10)}
	if len(c.anchors) > 0 {
		args = append(args, "-CAfile", file("anchors.pem", c.anchors...))
	} else {
		args = append(args, "-no-CAfile")
	}
	if len(c.intermediates) > 0 {
		args = append(args, "-untrusted", file("intermediates.pem", c.intermediates...))
	}
	switch o.Usage {
	case "", chain.UsageAny:
	case chain.UsageClient:
		args = append(args, "-purpose", "sslclient")
	case chain.UsageServer:
		args = append(args, "-purpose", "sslserver")
	default:
		return nil, false
	}
	if o.Host != "" {
		flag := "-verify_hostname"
		if net.ParseIP(strings.Trim(o.Host, "[]")) != nil {
			flag = "-verify_ip"
		}
		args = append(args, flag, strings.Trim(o.Host, "[]"))
	}
	return append(args, file("leaf.pem", c.leaf)), o.MinRSABits == 0
}
