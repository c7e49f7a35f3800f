package issuing

import (
	"bytes"
	"crypto"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// openssl runs the program in a folder of its own; files are PEM.
type openssl struct {
	path, dir string
}

func newOpenSSL(t *testing.T) *openssl {
	t.Helper()
	return &openssl{needs.OpenSSL(t), t.TempDir()}
}

func (o *openssl) write(t *testing.T, name, kind string, ders ...[]byte) string {
	t.Helper()
	var text bytes.Buffer
	for _, der := range ders {
		if err := pem.Encode(&text, &pem.Block{Type: kind, Bytes: der}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (o *openssl) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), o.path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// attime is some minutes after testNow, as openssl wants it.
const attime = "1788266400"

func TestOpenSSLAcceptsEveryPreset(t *testing.T) {
	o := newOpenSSL(t)
	for _, at := range authorityTypes {
		root, iss := testRootAndIssuer(t, at)
		rootFile := o.write(t, "root.pem", "CERTIFICATE", root.Certificate)
		issuing := o.write(t, "issuing.pem", "CERTIFICATE", iss.Certificate)
		for _, name := range profile.Presets() {
			p := preset(t, name)
			parent := iss
			switch {
			case p.Kind == profile.KindRoot:
				continue
			case p.Issuer == "root":
				parent = root
			}
			c := compiled(t, p, parent)
			for _, kt := range p.Keys {
				leaf := o.write(t, "leaf.pem", "CERTIFICATE", issue(t, c, input(t, c, sampleKey(t, kt))))
				out := o.run(t, "verify", "-x509_strict", "-attime", attime, "-CAfile", rootFile, "-untrusted", issuing, leaf)
				if !strings.HasSuffix(strings.TrimSpace(out), ": OK") {
					t.Errorf("%s under %s: %s", name, at, out)
				}
			}
		}
	}
}

func testRootAndIssuer(t *testing.T, at profile.KeyType) (root, iss *Issuer) {
	t.Helper()
	root = testRoot(t, at)
	c := compiled(t, preset(t, "issuing"), root)
	key := testKey(t, profile.P384)
	if at == profile.P384 {
		key = testKey(t, profile.P256)
	}
	in := input(t, c, mustSPKI(t, key.Public()))
	in.Values = profile.Values{CommonName: "Test Issuing"}
	return root, &Issuer{Name: "issuing", Certificate: issue(t, c, in), Key: key, StatusURL: testURL}
}

func TestOpenSSLReadsAnIDevID(t *testing.T) {
	o := newOpenSSL(t)
	iss := testIssuer(t, profile.P256)
	c := compiled(t, preset(t, "idevid"), iss)
	leaf := o.write(t, "leaf.pem", "CERTIFICATE", issue(t, c, input(t, c, sampleKey(t, profile.P256))))
	out := o.run(t, "x509", "-in", leaf, "-noout", "-text")
	for _, want := range []string{
		"Not After : Dec 31 23:59:59 9999 GMT", "serialNumber = SAMPLE-0001", "X509v3 Key Usage: critical",
		"Digital Signature", "http://pki.example.com/crl/issuing/0.crl", "OCSP - URI:http://pki.example.com/ocsp/issuing",
		"CA Issuers - URI:http://pki.example.com/ca/issuing.cer",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestOpenSSLAcceptsCRLs(t *testing.T) {
	o := newOpenSSL(t)
	for _, at := range authorityTypes {
		root, iss := testRootAndIssuer(t, at)
		p := parse(t, strings.Replace(shardedProfile, "SHARDS", "4", 1))
		c := compiled(t, p, iss)
		good, bad := input(t, c, sampleKey(t, profile.P256)), input(t, c, sampleKey(t, profile.P256))
		crls := make([][]byte, 0, 5)
		for shard := range 4 {
			entries := [][]byte{AppendCRLEntry(nil, testSerial(), testNow, 4)}
			if Shard(bad.CertSerial, 4) == shard {
				entries = append(entries, AppendCRLEntry(nil, bad.CertSerial, testNow, ReasonKeyCompromise))
			}
			crl, err := SignCRL(iss, CRL{Number: 9, ThisUpdate: testNow, NextUpdate: testNow.Add(24 * time.Hour), Shard: shard, Shards: 4}, entries)
			if err != nil {
				t.Fatal(err)
			}
			crls = append(crls, crl)
		}
		rootCRL, err := SignCRL(root, testCRL(), nil)
		if err != nil {
			t.Fatal(err)
		}
		rootFile := o.write(t, "root.pem", "CERTIFICATE", root.Certificate)
		chain := o.write(t, "chain.pem", "CERTIFICATE", root.Certificate, iss.Certificate)
		o.run(t, "crl", "-in", o.write(t, "one.pem", "X509 CRL", crls[0]), "-noout", "-CAfile", chain, "-verify")
		all := o.write(t, "crls.pem", "X509 CRL", append(crls, rootCRL)...)
		issuing := o.write(t, "issuing.pem", "CERTIFICATE", iss.Certificate)
		verify := func(in Input) string {
			leaf := o.write(t, "leaf.pem", "CERTIFICATE", issue(t, c, in))
			out, _ := exec.CommandContext(t.Context(), o.path, "verify", "-x509_strict", "-attime", attime, "-crl_check_all", "-extended_crl",
				"-CRLfile", all, "-CAfile", rootFile, "-untrusted", issuing, leaf).CombinedOutput()
			return string(out)
		}
		if out := verify(good); !strings.Contains(out, ": OK") {
			t.Errorf("%s: good certificate: %s", at, out)
		}
		if out := verify(bad); !strings.Contains(out, "certificate revoked") {
			t.Errorf("%s: revoked certificate: %s", at, out)
		}
	}
}

const shardedProfile = `
name: sharded
kind: ldevid
purpose: test
keys: [p256]
validity: {days: 30}
subject: [{attribute: commonName, from: deviceSerial}]
keyUsage: [digitalSignature]
crlShards: SHARDS
`

func TestOpenSSLAcceptsOCSPAnswers(t *testing.T) {
	o := newOpenSSL(t)
	for _, kt := range authorityTypes {
		root, iss := testRootAndIssuer(t, profile.P256)
		key := testKey(t, kt)
		rc := compiled(t, preset(t, "ocsp-responder"), iss)
		responder := issue(t, rc, input(t, rc, mustSPKI(t, key.Public())))
		r, err := NewOCSPResponder(OCSPResponderConfig{Certificate: responder, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		c := compiled(t, preset(t, "ldevid-cloud"), iss)
		in := input(t, c, sampleKey(t, profile.P256))
		leaf := o.write(t, "leaf.pem", "CERTIFICATE", issue(t, c, in))
		parent := parseCertificate(t, iss.Certificate)
		id, err := CertID(crypto.SHA1, parent.RawSubject, parent.RawSubjectPublicKeyInfo, in.CertSerial)
		if err != nil {
			t.Fatal(err)
		}
		// openssl ocsp knows no other time than now.
		now := time.Now().UTC().Truncate(time.Second)
		for status, want := range map[OCSPStatus]string{OCSPGood: "leaf.pem: good", OCSPRevoked: "leaf.pem: revoked", OCSPUnknown: "leaf.pem: unknown"} {
			a := OCSPAnswer{CertID: id, Status: status, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour)}
			if status == OCSPRevoked {
				a.RevokedAt, a.Reason = now.Add(-time.Hour), ReasonSuperseded
			}
			der, err := r.Sign(now, []OCSPAnswer{a}, nil)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(o.dir, "answer.der")
			if err := os.WriteFile(file, der, 0o600); err != nil {
				t.Fatal(err)
			}
			out := o.run(t, "ocsp", "-respin", file, "-issuer", o.write(t, "issuing.pem", "CERTIFICATE", iss.Certificate), "-cert", leaf,
				"-CAfile", o.write(t, "chain.pem", "CERTIFICATE", root.Certificate, iss.Certificate), "-attime", attime, "-no_nonce")
			if !strings.Contains(out, want) || !strings.Contains(out, "Response verify OK") {
				t.Errorf("%s: want %s: %s", kt, want, out)
			}
		}
	}
}
