package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

func open(t *testing.T, path string) *tpm.TPM {
	t.Helper()
	d, err := tpm.Open(t.Context(), tpm.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// nothingLoaded fails if the TPM holds objects or sessions.
func nothingLoaded(t *testing.T, d *tpm.TPM) {
	t.Helper()
	h, err := d.Handles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Objects)+len(h.Sessions) > 0 {
		t.Fatalf("the TPM still holds objects %x and sessions %x", h.Objects, h.Sessions)
	}
}

// challenge makes a credential as the server does.
func challenge(t *testing.T, c format.Claim, nonce, secret []byte) *format.Challenge {
	t.Helper()
	ekPublic, err := tpm2.Unmarshal[tpm2.TPMTPublic](c.EKPublic)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := format.ParsePublic(c.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.ImportEncapsulationKey(ekPublic)
	if err != nil {
		t.Fatal(err)
	}
	blob, seed, err := tpm2.CreateCredential(rand.Reader, key, ak.Name(), secret)
	if err != nil {
		t.Fatal(err)
	}
	return &format.Challenge{
		Ticket: []byte("ticket"), Nonce: nonce,
		Credential: tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: blob}), Secret: tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: seed}),
	}
}

func enroll(t *testing.T, d *tpm.TPM, e *tpm.Endorsement) {
	t.Helper()
	ak, err := d.AttestationKey(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.NewKey(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	nonce, secret := make([]byte, 32), make([]byte, 32)
	_, _ = rand.Read(nonce)
	_, _ = rand.Read(secret)
	c := challenge(t, tpm.Claim(e, ak), nonce, secret)
	c.Quote = &format.QuoteRequest{Bank: "sha256", PCRs: []int{0, 1, 2, 3, 4, 5, 6, 7, 16}}
	a, err := d.Answer(t.Context(), c, e, ak, key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Secret, secret) || !bytes.Equal(a.Ticket, c.Ticket) {
		t.Error("another secret or ticket")
	}
	binding := format.Binding(nonce, key.Parsed().SPKI)
	attest, err := format.ParseAttest(a.Attest)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := format.ParseSignature(a.Signature)
	if err != nil {
		t.Fatal(err)
	}
	if !signature.Verifies(ak.Parsed().Key, a.Attest) || !bytes.Equal(attest.ExtraData, binding[:]) || !bytes.Equal(attest.Certify.Name, key.Parsed().Name()) {
		t.Error("the certification does not hold")
	}
	quote, err := format.ParseAttest(a.Quote.Attest)
	if err != nil || !bytes.Equal(quote.ExtraData, nonce) || len(a.Quote.PCRs) != 9 {
		t.Errorf("quote %+v, %v", quote, err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, d.Signer(t.Context(), key))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := x509.ParseCertificateRequest(csr); err != nil || r.CheckSignature() != nil {
		t.Errorf("the certificate request does not hold: %v", err)
	}
}

func TestEnrollmentsLeaveNothingLoaded(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	e, err := d.Endorsement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if e.Template != "L-1" || e.Handle != 0x81010001 || len(e.Certificate) == 0 {
		t.Errorf("endorsement key of template %s at %#x", e.Template, e.Handle)
	}
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		enroll(t, d, e)
	}
	nothingLoaded(t, d)
}

func TestAnAttestationKeyIsTheSameEachTime(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	for _, kind := range []format.KeyKind{format.ECP256, format.ECP384, format.RSA2048} {
		first, err := d.AttestationKey(t.Context(), kind, 0)
		if err != nil {
			t.Fatal(kind, err)
		}
		all[0].Stop()
		if err := all[0].Start(); err != nil {
			t.Fatal(err)
		}
		kept, err := d.AttestationKey(t.Context(), kind, 0x81010100)
		if err != nil {
			t.Fatal(kind, err)
		}
		if !bytes.Equal(first.Public, kept.Public) {
			t.Errorf("%s: another key after a restart", kind)
		}
		at, err := d.KeyAt(t.Context(), 0x81010100)
		if err != nil || at == nil || !bytes.Equal(at.Public, first.Public) {
			t.Errorf("%s: the handle holds %v, %v", kind, at, err)
		}
		if err := d.Evict(t.Context(), 0x81010100); err != nil {
			t.Fatal(err)
		}
	}
	nothingLoaded(t, d)
}

func TestKeysSignAndComeBackFromTheirFiles(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	for _, kind := range []format.KeyKind{format.ECP256, format.ECP384, format.RSA2048} {
		key, err := d.NewKey(t.Context(), kind, 0)
		if err != nil {
			t.Fatal(kind, err)
		}
		file, err := key.File()
		if err != nil {
			t.Fatal(kind, err)
		}
		again, err := tpm.ParseFile(file)
		if err != nil {
			t.Fatal(kind, err)
		}
		digest := sha256.Sum256([]byte("statement"))
		signature, err := d.Signer(t.Context(), again).Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(kind, err)
		}
		if public, ok := key.Parsed().Key.(*ecdsa.PublicKey); ok && !ecdsa.VerifyASN1(public, digest[:], signature) {
			t.Errorf("%s: the signature does not hold", kind)
		}
	}
	nothingLoaded(t, d)
}
