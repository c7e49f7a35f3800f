package request

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// tpmArea is the public area of a key on P-256, as a TPM has it.
func tpmArea(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	// The template without what TPM2_CreatePrimary puts into its last two fields.
	head := bytes.TrimSuffix(tpm.SubjectTemplate(tpm.ECP256), []byte{0, 0, 0, 0})
	return append(append(bytes.Clone(head), tpm.Sized(point[1:33])...), tpm.Sized(point[33:])...)
}

func signs(key crypto.Signer) func([]byte) ([]byte, error) {
	return func(content []byte) ([]byte, error) {
		digest := sha256.Sum256(content)
		return key.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
}

// tcgRequest is a TCG-CSR-IDEVID that passes.
func tcgRequest(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &tpm.CSRIDevID{
		HashAlg: tpm.AlgSHA256, AttestPublic: []byte("k"), SigningPublic: tpmArea(t, key), SigningCertify: []byte("a"), SigningCertifySign: []byte("s"),
	}
	b, err := c.Build(signs(key))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTCGRequests(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	area := tpmArea(t, key)
	initial := func(area []byte, by crypto.Signer) []byte {
		c := &tpm.CSRIDevID{
			HashAlg: tpm.AlgSHA256, AttestPublic: []byte("k"), SigningPublic: area, SigningCertify: []byte("a"), SigningCertifySign: []byte("s"),
		}
		b, err := c.Build(signs(by))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	local := func(area []byte, by crypto.Signer) []byte {
		c := &tpm.CSRLDevID{HashAlg: tpm.AlgSHA256, IAKCertificate: []byte("c"), Public: area, Certify: []byte("a"), CertifySignature: []byte("s")}
		b, err := c.Build(signs(by))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, b := range map[string][]byte{"IDevID": initial(area, key), "LDevID": local(area, key)} {
		r, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.KeyType != profile.P256 || !key.PublicKey.Equal(r.PublicKey) || !bytes.Equal(r.SPKI, spkiOf(t, key.Public())) ||
			r.SPKIDigest != sha256.Sum256(r.SPKI) || r.Subject != nil || r.SAN != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, tt := range map[string]struct {
		b    []byte
		code fault.Code
	}{
		"IDevID signed by another": {initial(area, other), fault.ProofOfPossession},
		"LDevID signed by another": {local(area, other), fault.ProofOfPossession},
		"no public area":           {initial([]byte("key"), key), fault.KeyMalformed},
		"cut":                      {initial(area, key)[:100], fault.RequestMalformed},
		"the beginning alone":      {tcgStart, fault.RequestMalformed},
		"too long":                 {append(bytes.Clone(tcgStart), make([]byte, tpm.MaxCSR)...), fault.RequestTooLarge},
	} {
		if _, err := Parse(tt.b); !fault.Has(err, tt.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
