package issuing

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// tpmInput returns an input whose TPM is an Intel one.
func tpmInput(t *testing.T, c *Compiled) Input {
	t.Helper()
	in := input(t, c, sampleKey(t, profile.P256))
	digest := sha256.Sum256([]byte("an EK certificate"))
	in.Values.TPMManufacturer, in.Values.TPMModel, in.Values.TPMVersion = "id:494E5443", "SPTx", "id:00010002"
	in.Values.HardwareSerial = "494E5443:A0B1C2:0102030405"
	in.Values.EKDigest = hex.EncodeToString(digest[:])
	return in
}

// lines returns what asn1parse says, without offsets and lengths, one element a
// line with its depth.
func (o *openssl) lines(t *testing.T, der []byte) string {
	t.Helper()
	path := filepath.Join(o.dir, "part.der")
	if err := os.WriteFile(path, der, 0o600); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(o.run(t, "asn1parse", "-inform", "DER", "-in", path)) {
		_, rest, _ := strings.Cut(line, "d=")
		depth, rest, _ := strings.Cut(rest, "hl=")
		_, rest, _ = strings.Cut(rest, ": ")
		text.WriteString(strings.TrimSpace(depth) + " " + strings.Join(strings.Fields(rest), " ") + "\n")
	}
	return text.String()
}

func TestOpenSSLReadsTheNamesOfATPM(t *testing.T) {
	o := newOpenSSL(t)
	iss := testIssuer(t, profile.P256)
	digest := sha256.Sum256([]byte("an EK certificate"))
	for name, want := range map[string]string{
		"attestation-key": `0 SEQUENCE
1 cont [ 4 ]
2 SEQUENCE
3 SET
4 SEQUENCE
5 OBJECT :2.23.133.2.1
5 UTF8STRING :id:494E5443
3 SET
4 SEQUENCE
5 OBJECT :2.23.133.2.2
5 UTF8STRING :SPTx
3 SET
4 SEQUENCE
5 OBJECT :2.23.133.2.3
5 UTF8STRING :id:00010002
`,
		"idevid-tpm": `0 SEQUENCE
1 cont [ 0 ]
2 OBJECT :1.3.6.1.5.5.7.8.4
2 cont [ 0 ]
3 SEQUENCE
4 OBJECT :2.23.133.1.2
4 OCTET STRING :494E5443:A0B1C2:0102030405
1 cont [ 0 ]
2 OBJECT :Permanent Identifier
2 cont [ 0 ]
3 SEQUENCE
4 UTF8STRING :` + hex.EncodeToString(digest[:]) + `
4 OBJECT :2.23.133.12.1
`,
	} {
		c := compiled(t, preset(t, name), iss)
		in := tpmInput(t, c)
		cert := parseCertificate(t, issue(t, c, in))
		for _, e := range cert.Extensions {
			if e.Id.String() != "2.5.29.17" {
				continue
			}
			if e.Critical != (len(cert.Subject.Names) == 0) {
				t.Errorf("%s: the alternative name is critical: %v", name, e.Critical)
			}
			got := strings.ReplaceAll(o.lines(t, e.Value), "OBJECT :Hardware Module Name", "OBJECT :1.3.6.1.5.5.7.8.4")
			if got != want {
				t.Errorf("%s: openssl reads\n%s", name, got)
			}
		}
	}
}

// The octets of an attestation key's alternative name, counted by hand.
func TestAlternativeNameOfAnAttestationKey(t *testing.T) {
	c := compiled(t, preset(t, "attestation-key"), testIssuer(t, profile.P256))
	got, err := c.SAN(tpmInput(t, c).Values)
	if err != nil {
		t.Fatal(err)
	}
	want := "3045" + "a443" + "3041" +
		"3116" + "3014" + "06056781050201" + "0c0b" + hex.EncodeToString([]byte("id:494E5443")) +
		"310f" + "300d" + "06056781050202" + "0c04" + hex.EncodeToString([]byte("SPTx")) +
		"3116" + "3014" + "06056781050203" + "0c0b" + hex.EncodeToString([]byte("id:00010002"))
	if hex.EncodeToString(got) != want {
		t.Errorf("got  %x\nwant %s", got, want)
	}
}

func TestOpenSSLReadsAnAttestationKey(t *testing.T) {
	o := newOpenSSL(t)
	c := compiled(t, preset(t, "attestation-key"), testIssuer(t, profile.P256))
	out := o.run(t, "x509", "-in", o.write(t, "leaf.pem", "CERTIFICATE", issue(t, c, tpmInput(t, c))), "-noout", "-text")
	for _, want := range []string{
		"Subject: \n", "X509v3 Basic Constraints: critical\n                CA:FALSE", "2.23.133.8.3", "X509v3 Subject Alternative Name: critical",
		"Policy: 2.23.133.11.1.1", "Policy: 2.23.133.11.1.2", "Policy: 2.23.133.11.1.3", "X509v3 Key Usage: critical\n                Digital Signature\n",
	} {
		if !strings.Contains(out, want) && !strings.Contains(strings.ReplaceAll(out, "Subject:\n", "Subject: \n"), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// A certificate about a TPM is not made without what it says of the TPM.
func TestAttestationKeyNeedsItsTPM(t *testing.T) {
	c := compiled(t, preset(t, "attestation-key"), testIssuer(t, profile.P256))
	for _, s := range []profile.Source{profile.FromTPMManufacturer, profile.FromTPMModel, profile.FromTPMVersion} {
		in := tpmInput(t, c)
		in.Values.Set(s, "")
		if der, err := c.Issue(in); err == nil {
			t.Errorf("without %s: %x", s, der)
		}
	}
	// A TPM without an EK certificate has no digest of one.
	c = compiled(t, preset(t, "idevid-tpm"), testIssuer(t, profile.P256))
	in := tpmInput(t, c)
	in.Values.EKDigest = ""
	der := issue(t, c, in)
	if bytes.Contains(der, oidPermanentIdentifier) || !bytes.Contains(der, oidHardwareModuleName) {
		t.Errorf("names of a TPM without an EK certificate: %x", der)
	}
}
