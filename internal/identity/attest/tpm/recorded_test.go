package tpm_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
)

// recorded returns a file that was recorded of swtpm by tpm2-tools, see record.sh in
// its folder. Public areas are without their size.
func recorded(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "internal", "format", "tpm", "testdata", "swtpm", name))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".pub") {
		if int(binary.BigEndian.Uint16(b)) != len(b)-2 {
			t.Fatal("not a TPM2B_PUBLIC")
		}
		return b[2:]
	}
	return b
}

// TestRecorded: what another client made a TPM say. The tool certifies without a
// nonce, so that a certification passes all checks up to this one.
func TestRecorded(t *testing.T) {
	zeros := strings.Repeat("00", 32)
	p := policyOf(t, attest.PolicyFile{Bank: "sha256", States: []attest.State{
		{Name: "nothing was measured", PCRs: map[int]string{0: zeros, 1: zeros, 7: zeros, 23: zeros}},
	}})
	values := map[int][]byte{0: make([]byte, 32), 1: make([]byte, 32), 7: make([]byte, 32), 23: make([]byte, 32)}
	nonce := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	for _, kind := range []string{"ecdsa", "ecdsa384", "rsassa", "rsapss"} {
		t.Run(kind, func(t *testing.T) {
			ak, err := tpm.ParseAK(recorded(t, "ak-"+kind+".pub"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ak.Name(), recorded(t, "ak-"+kind+".name")) {
				t.Error("another name than the TPM's")
			}
			subject, err := wire.ParsePublic(recorded(t, "subject-"+kind+".pub"))
			if err != nil {
				t.Fatal(err)
			}
			a := &wire.Answer{Public: subject.Raw, Attest: recorded(t, "certify-"+kind+".attest"), Signature: recorded(t, "certify-"+kind+".sig")}
			_, err = ak.Certified(a, nonce, subject.SPKI, tpm.Subject{})
			refusedWith(t, err, fault.CertifyNonce)
			q := &wire.Quote{Attest: recorded(t, "quote-"+kind+".attest"), Signature: recorded(t, "quote-"+kind+".sig"), PCRs: values}
			got, err := ak.Quoted(q, nonce, p)
			if err != nil || got.State != "nothing was measured" {
				t.Errorf("%+v, %v", got, err)
			}
			_, err = ak.Quoted(&wire.Quote{Attest: a.Attest, Signature: a.Signature, PCRs: values}, nonce, p)
			refusedWith(t, err, fault.QuoteInvalid)
		})
	}
	_, err := tpm.ParseAK(recorded(t, "ak-sha1.pub"))
	refusedWith(t, err, fault.AKAlgorithm)
	for _, other := range []string{"subject-ecdsa.pub", "subject-rsa.pub", "ek-L-1.pub"} {
		_, err := tpm.ParseAK(recorded(t, other))
		refusedWith(t, err, fault.AKAttributes)
	}
}

// TestRecordedEKs: the EKs of swtpm are those of the templates, and its certificates
// are read.
func TestRecordedEKs(t *testing.T) {
	b := newBench(t)
	for form, certified := range map[string]bool{"L-1": true, "L-2": false, "H-3": true, "H-4": false, "H-6": false} {
		c := wire.Claim{EKPublic: recorded(t, "ek-"+form+".pub"), AKPublic: b.ak.Public()}
		if certified {
			c.EKCertificate = recorded(t, "ek-"+form+".crt")
			_, err := b.check(c)
			refusedWith(t, err, fault.EKUntrusted)
		}
		all := tpm.ClaimOptions{Now: now, Listed: func([32]byte) (bool, error) { return true, nil }}
		x, err := b.trust.Check(&c, all)
		if err != nil || x.EKForm != form {
			t.Errorf("%s: %+v, %v", form, x, err)
		}
	}
	c := wire.Claim{EKCertificate: recorded(t, "platform.crt"), EKPublic: recorded(t, "ek-L-1.pub"), AKPublic: b.ak.Public()}
	_, err := b.check(c)
	refusedWith(t, err, fault.EKCertificate)
}
