package manifest_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/manifesttest"
)

// birthmarkFile writes our format with a chain for each chip.
func birthmarkFile(t *testing.T, m *manifesttest.Maker, created time.Time, n int64) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := format.NewWriter(&file, format.Header{Maker: "x", Created: created, Vendor: "acme", ChipType: "A"}, m.Signer(), m.SignerKey())
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		e, err := m.Entry(i)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := m.Certificate(i)
		if err != nil {
			t.Fatal(err)
		}
		e.Keys[0].Chain = [][]byte{cert, m.Issuing()}
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func TestSignerOfABirthmarkManifestMustHaveBeenValid(t *testing.T) {
	m := maker(t)
	for _, created := range []time.Time{made.AddDate(-1, 0, 0), made.AddDate(41, 0, 0)} {
		_, _, err := collect(t, bytes.NewReader(birthmarkFile(t, m, created, 1)), options(m, manifest.Birthmark))
		refused(t, err, fault.ManifestSigner, created.Format("2006"))
	}
	// It need not be valid any more when the file is imported.
	o := options(m, manifest.Birthmark)
	o.Now = func() time.Time { return made.AddDate(60, 0, 0) }
	if _, _, err := collect(t, bytes.NewReader(birthmarkFile(t, m, made, 1)), o); err != nil {
		t.Error(err)
	}
}

func TestVendorProofNeedsCertificatesThatAreValid(t *testing.T) {
	m := maker(t)
	file := birthmarkFile(t, m, made, 3)
	for _, test := range []struct {
		now   time.Time
		roots [][]byte
		proof bool
		words string
	}{
		{made.AddDate(1, 0, 0), [][]byte{m.Root()}, true, ""},
		{made.AddDate(60, 0, 0), [][]byte{m.Root()}, false, "above the chip's"},
		{made.AddDate(1, 0, 0), nil, false, "no chip maker's root"},
		{made.AddDate(1, 0, 0), [][]byte{m.Signer()}, false, "does not lead"},
	} {
		o := options(m, manifest.Birthmark)
		o.VendorRoots, o.Now = test.roots, func() time.Time { return test.now }
		chips, summary, err := collect(t, bytes.NewReader(file), o)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, f := range summary.Findings {
			text.WriteString(f.String() + "\n")
		}
		if chips[2].Keys[0].VendorProof != test.proof || !strings.Contains(text.String(), test.words) || test.proof != (text.String() == "") {
			t.Errorf("proof %v, findings %s", chips[2].Keys[0].VendorProof, text.String())
		}
	}
}

func TestChainWithABrokenLinkIsRefused(t *testing.T) {
	m := maker(t)
	other, err := manifesttest.New("Another Maker", made)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := m.Certificate(1)
	if err != nil {
		t.Fatal(err)
	}
	// The same name with another key: only the signature tells.
	issuing, err := x509.ParseCertificate(m.Issuing())
	if err != nil {
		t.Fatal(err)
	}
	issuing.PublicKey = m.SignerKey().Public()
	twin, err := x509.CreateCertificate(nil, issuing, issuing, m.SignerKey().Public(), m.SignerKey())
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(cert)
	flipped[len(flipped)-1] ^= 1
	for name, chain := range map[string]string{
		"another maker's issuer": pemOf(cert) + pemOf(other.Issuing()),
		"twin of the issuer":     pemOf(cert) + pemOf(twin),
		"issuer left out":        pemOf(cert) + pemOf(m.Root()),
		"signature changed":      pemOf(flipped) + pemOf(m.Issuing()),
		"leaf as issuer":         pemOf(cert) + pemOf(cert),
	} {
		o := options(m, manifest.CSV)
		o.Vendor = "acme"
		_, _, err := collect(t, strings.NewReader("uid,cert\n1,\""+chain+"\"\n"), o)
		if !fault.Has(err, fault.ManifestEntry) || !strings.Contains(err.Error(), "chain") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestChainToAnotherRootIsNoProof gives chains that are whole and end in a root
// that nobody gave; the root they carry themselves counts for nothing.
func TestChainToAnotherRootIsNoProof(t *testing.T) {
	m := maker(t)
	other, err := manifesttest.New("Another Maker", made)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := m.Certificate(1)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		root  []byte
		proof bool
	}{"another": {other.Root(), false}, "its own": {m.Root(), true}} {
		for _, chain := range []string{pemOf(m.Issuing()), pemOf(m.Issuing()) + pemOf(m.Root())} {
			o := options(m, manifest.CSV)
			o.Vendor, o.VendorRoots = "acme", [][]byte{test.root}
			chips, _, err := collect(t, strings.NewReader("uid,cert\n1,\""+pemOf(cert)+chain+"\"\n"), o)
			if err != nil {
				t.Fatal(err)
			}
			if chips[0].Keys[0].VendorProof != test.proof {
				t.Errorf("%s root: proof %v", name, !test.proof)
			}
		}
	}
}

// TestIssuerMustBeAnAuthority signs a chip's certificate with the key of another
// chip, which is no CA.
func TestIssuerMustBeAnAuthority(t *testing.T) {
	m := maker(t)
	parentDER, err := m.Certificate(1)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := x509.ParseCertificate(parentDER)
	if err != nil {
		t.Fatal(err)
	}
	parentKey, err := m.Key(1)
	if err != nil {
		t.Fatal(err)
	}
	key, err := m.Key(2)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.CreateCertificate(nil, &x509.Certificate{
		SerialNumber: parent.SerialNumber, NotBefore: made, NotAfter: parent.NotAfter,
	}, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	o := options(m, manifest.CSV)
	o.Vendor = "acme"
	_, _, err = collect(t, strings.NewReader("uid,cert\n1,\""+pemOf(leaf)+pemOf(parentDER)+pemOf(m.Issuing())+"\"\n"), o)
	refused(t, err, fault.ManifestEntry, "chain")
}

func TestSerialNumberOffTheRuleIsAFinding(t *testing.T) {
	m := maker(t)
	file := microchipFile(t, m, 3, 2, func(e *manifesttest.MicrochipEntry) {
		cert, err := m.Certificate(1) // its serial number is only a count
		if err != nil {
			t.Fatal(err)
		}
		slot0(t, e)["x5c"] = [][]byte{cert, m.Issuing()}
	})
	_, summary, err := collect(t, bytes.NewReader(file), options(m, manifest.Microchip))
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Findings) != 1 || !strings.HasPrefix(summary.Findings[0].String(), "entry 2: the certificate's serial number") {
		t.Errorf("findings %v", summary.Findings)
	}
}

func TestFileOfTwoSignersIsRefused(t *testing.T) {
	m := maker(t)
	other, err := manifesttest.New("Another Maker", made)
	if err != nil {
		t.Fatal(err)
	}
	file := microchipFile(t, m, 2, 0, nil)
	second := microchipFile(t, other, 1, 0, nil)
	joined := append(append(bytes.TrimSuffix(file, []byte("]")), ','), second[1:]...)
	o := options(m, manifest.Microchip)
	o.Signers = append(o.Signers, pinned(other.Signer())...)
	_, _, err = collect(t, bytes.NewReader(joined), o)
	refused(t, err, fault.ManifestSigner, "entry 3:", "another signer")
}

func TestPinnedCertificateMustBeTheOneOfItsFingerprint(t *testing.T) {
	m := maker(t)
	o := options(m, manifest.Birthmark)
	o.Signers[0].Fingerprint[0] ^= 1
	_, _, err := collect(t, bytes.NewReader(birthmarkFile(t, m, made, 1)), o)
	refused(t, err, fault.ManifestSigner)
}

func TestCanceledImportEnds(t *testing.T) {
	m := maker(t)
	var file bytes.Buffer
	if err := m.WriteCSV(&file, 0, 3000); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	batches := 0
	_, err := manifest.Import(ctx, &file, options(m, manifest.CSV), func([]manifest.Chip) error { batches++; return nil },
		func(read, chips int64) {
			if read == 0 || chips == 0 {
				t.Error("progress without any")
			}
			cancel()
		})
	if !errors.Is(err, context.Canceled) || batches != 1 {
		t.Errorf("%v after %d batches", err, batches)
	}
}

func TestUnknownFormatIsRefused(t *testing.T) {
	for _, f := range []manifest.Format{"", "pdf"} {
		_, _, err := collect(t, strings.NewReader("x"), options(maker(t), f))
		refused(t, err, fault.ManifestFormat)
	}
	for _, f := range manifest.Formats() {
		if !f.Known() || f.Signed() != (f == manifest.Microchip || f == manifest.Birthmark) {
			t.Errorf("%s: known %v, signed %v", f, f.Known(), f.Signed())
		}
	}
}

// TestResultDoesNotDependOnWorkers reads the same file with one and with many
// workers, good and bad.
func TestResultDoesNotDependOnWorkers(t *testing.T) {
	m := maker(t)
	good := microchipFile(t, m, 900, 0, nil)
	bad := microchipFile(t, m, 900, 850, func(e *manifesttest.MicrochipEntry) { e.UID = "0123aaaaaaaaaaaa01" })
	for _, workers := range []int{1, 7} {
		o := options(m, manifest.Microchip)
		o.Workers = workers
		chips, _, err := collect(t, bytes.NewReader(good), o)
		if err != nil || len(chips) != 900 || chips[899].UID != m.UID(899) {
			t.Fatalf("%d workers: %d chips, %v", workers, len(chips), err)
		}
		_, _, err = collect(t, bytes.NewReader(bad), o)
		refused(t, err, fault.ManifestEntry, "entry 850:")
	}
}
