package manifest_test

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
)

const (
	realFile   = "testdata/microchip/ECC608C-TNGTLSU-B.json"
	realSigner = "testdata/microchip/MCHP_manifest_signer_5_Mar_6-2024_noExpiration.crt"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func certificate(t testing.TB, name string) []byte {
	t.Helper()
	b := readFile(t, name)
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	return b
}

func realOptions(t testing.TB) manifest.Options {
	return manifest.Options{Format: manifest.Microchip, Signers: pinned(certificate(t, realSigner)), Now: now}
}

func TestRealMicrochipManifestIsRead(t *testing.T) {
	chips, summary, err := collect(t, bytes.NewReader(readFile(t, realFile)), realOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	if summary.Chips != 10 || summary.Keys != 50 || summary.NotProvable != 0 {
		t.Errorf("summary %+v", summary)
	}
	if got := hex.EncodeToString(summary.Signer[:]); got != "571d99841117e3afb34f28886045903fa785cc283dd2e8068e1e5ea4604ce0e3" {
		t.Errorf("signer %s", got)
	}
	for _, c := range chips {
		if len(c.Keys) != 5 || c.Vendor != "microchip" || c.ChipType != "ATECC608C-TNGTLSU-B" || c.Model != "ATECC608C" {
			t.Errorf("chip %s: %d keys, vendor %s, type %s, model %s", c.UID, len(c.Keys), c.Vendor, c.ChipType, c.Model)
		}
		if k := c.Keys[0]; k.Slot != "0" || len(k.Chain) != 2 || k.VendorProof {
			t.Errorf("key of chip %s: slot %s, %d certificates, proof %v", c.UID, k.Slot, len(k.Chain), k.VendorProof)
		}
	}
	if chips[0].UID != "0123f2408ea1fcf201" || chips[9].Entry != 10 {
		t.Errorf("first %s, last has number %d", chips[0].UID, chips[9].Entry)
	}
	// Without the chip maker's root there is one finding, about all ten; each
	// certificate obeys the rule for serial numbers.
	if len(summary.Findings) != 1 || summary.Findings[0].Count != 10 || !strings.Contains(summary.Findings[0].Text, "root") {
		t.Errorf("findings %v", summary.Findings)
	}
}

// TestVendorProofComesFromTheChain takes the intermediate certificates of the file
// for roots, which proves each chip by its own one and no other.
func TestVendorProofComesFromTheChain(t *testing.T) {
	o := realOptions(t)
	chips, _, err := collect(t, bytes.NewReader(readFile(t, realFile)), o)
	if err != nil {
		t.Fatal(err)
	}
	root := chips[0].Keys[0].Chain[1]
	o.VendorRoots = [][]byte{root}
	chips, summary, err := collect(t, bytes.NewReader(readFile(t, realFile)), o)
	if err != nil {
		t.Fatal(err)
	}
	proved := 0
	for _, c := range chips {
		if want := bytes.Equal(c.Keys[0].Chain[1], root); c.Keys[0].VendorProof != want {
			t.Errorf("chip %s: vendor proof %v, want %v", c.UID, c.Keys[0].VendorProof, want)
		}
		if c.Keys[0].VendorProof {
			proved++
		}
		if c.Keys[1].VendorProof {
			t.Errorf("chip %s: a key without certificate has a vendor proof", c.UID)
		}
	}
	if proved == 0 || proved == 10 || len(summary.Findings) != 1 {
		t.Errorf("%d of 10 chips proved, findings %v", proved, summary.Findings)
	}
}

func TestRealMicrochipManifestNeedsItsSigner(t *testing.T) {
	o := realOptions(t)
	o.Signers = nil
	_, _, err := collect(t, bytes.NewReader(readFile(t, realFile)), o)
	refused(t, err, fault.ManifestSigner, "entry 1:", "571d99841117e3af")
}

func TestRealSignerIsWhatItsFileSays(t *testing.T) {
	cert, err := x509.ParseCertificate(certificate(t, realSigner))
	if err != nil {
		t.Fatal(err)
	}
	if cert.NotAfter.Year() != 9999 {
		t.Errorf("valid to %v", cert.NotAfter)
	}
}
