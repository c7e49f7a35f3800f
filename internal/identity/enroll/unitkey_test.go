package enroll_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/pkcs12"
)

func TestUnitOfAPreProvisionedChip(t *testing.T) {
	l := newLine(t, func(p *device.Product) { p.KeyModel = device.KeyModelProvisioned })
	c := l.newChip("a0", nil)
	nonce := l.nonce()
	first := l.made(l.held("SN-1", c, nonce))
	cert := parsed(t, &first.Response)
	if !c.key.PublicKey.Equal(cert.PublicKey) || first.Credential.KeyKind != device.KeyHardware || first.Unit.Evidence != "chip" {
		t.Errorf("certificate for another key, or %s", first.Credential.KeyKind)
	}
	again := l.made(l.held("SN-1", c, nonce))
	if !again.Replayed || !bytes.Equal(again.Credential.DER, first.Credential.DER) {
		t.Error("the retry got another certificate")
	}
	for name, tt := range map[string]struct {
		unit *station.Unit
		want fault.Code
	}{
		"a request besides": {func() *station.Unit {
			u := l.held("SN-2", l.newChip("b0", nil), l.nonce())
			u.CSR = newCSR(t, newKey(t), nil)
			return u
		}(), fault.KeyModel},
		"proof of a request": {func() *station.Unit {
			c := l.newChip("b1", nil)
			u := l.held("SN-2", c, l.nonce())
			u.Proof = sign(t, c.key, proof.Chip(u.Nonce, u.Order, u.DeviceSerial, c.Keys[0].SPKI))
			return u
		}(), fault.ChipProof},
		"no proof": {func() *station.Unit {
			u := l.held("SN-2", l.newChip("b2", nil), l.nonce())
			u.Proof = nil
			return u
		}(), fault.ChipProofMissing},
		"no chip":      {&station.Unit{Order: "PO-1", DeviceSerial: "SN-2"}, fault.ChipProofMissing},
		"used chip":    {l.held("SN-2", c, l.nonce()), fault.ChipUsed},
		"taken serial": {l.held("SN-1", l.newChip("b3", nil), l.nonce()), fault.UnitSerialTaken},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.ask(tt.unit)
			refused(t, err, tt.want)
		})
	}
}

func TestUnitAdoptsTheMakersCertificate(t *testing.T) {
	l := newLine(t, func(p *device.Product) {
		p.KeyModel, p.Profiles = device.KeyModelAdopted, []string{"idevid", "ldevid-maker"}
	}, makerProfile)
	ca, caKey := foreignCA(t)
	adoptable := func(uid string, edit func(k *factory.ChipKey)) *chip {
		return l.newChip(uid, func(c *chip) {
			leaf := foreignLeaf(t, ca, caKey, c.key, "chip-"+uid)
			c.Keys[0].Chain, c.Keys[0].VendorProof = [][]byte{leaf.Raw, ca.Raw}, true
			if edit != nil {
				edit(&c.Keys[0])
			}
		})
	}
	c := adoptable("a0", nil)
	r := l.made(l.held("SN-1", c, l.nonce()))
	if !bytes.Equal(r.Credential.DER, c.Keys[0].Chain[0]) || len(r.Chain) != 1 || !bytes.Equal(r.Chain[0], ca.Raw) {
		t.Error("the answer is not the maker's certificate")
	}
	row, err := l.store.Credential(t.Context(), access.Everything(), r.Credential.ID)
	must(t, err)
	leaf, err := x509.ParseCertificate(row.DER)
	must(t, err)
	if row.Authority != 0 || row.KeyKind != device.KeyHardware || new(big.Int).SetBytes(row.CertSerial).Cmp(leaf.SerialNumber) == 0 {
		t.Errorf("credential %+v", row)
	}
	again := l.made(l.held("SN-1", c, l.nonce()))
	if !again.Replayed || len(again.Chain) != 1 {
		t.Errorf("retry: %+v", again)
	}
	// It authenticates the device from then on, though its subject says another
	// serial.
	_, err = l.plane.Import(t.Context(), "system", authority.Existing{Name: "chipmaker", Certificate: ca.Raw})
	must(t, err)
	must(t, l.plane.SetLabel(t.Context(), "system", label("maker", "ldevid-maker")))
	got, err := l.byCertificate(enroll.Enroll, leaf, "maker", newCSR(t, newKey(t), nil))
	must(t, err)
	if got.Credential.Device != r.Credential.Device {
		t.Error("the certificate is another device's")
	}
	for name, k := range map[string]func(k *factory.ChipKey){
		"no certificate":          func(k *factory.ChipKey) { k.Chain = nil },
		"maker's root not known":  func(k *factory.ChipKey) { k.VendorProof = false },
		"certificate for another": func(k *factory.ChipKey) { k.Chain[0] = foreignLeaf(t, ca, caKey, newKey(t), "x").Raw },
		"not a certificate":       func(k *factory.ChipKey) { k.Chain[0] = []byte{0x30, 0x00} },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.ask(l.held("SN-2", adoptable("b-"+name[:5], k), l.nonce()))
			refused(t, err, fault.ChipNotProvable)
		})
	}
}

func TestUnitWithAnInjectedKey(t *testing.T) {
	l := newLine(t, func(p *device.Product) { p.KeyModel, p.LeastEvidence, p.ChipTypes = device.KeyModelInjected, "", nil })
	key := newKey(t)
	to := signCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: l.clock(), NotAfter: l.clock().Add(time.Hour), KeyUsage: x509.KeyUsageKeyAgreement,
	}, nil, key, key)
	ask := func(serial string, edit func(u *station.Unit)) (*enroll.UnitResponse, error) {
		u := &station.Unit{Order: "PO-1", DeviceSerial: serial, Recipient: to.Raw}
		if edit != nil {
			edit(u)
		}
		return l.ask(u)
	}
	first, err := ask("SN-1", nil)
	must(t, err)
	if first.Credential.KeyKind != device.KeyInjected || len(first.Wrapped) == 0 {
		t.Fatalf("key of kind %s, %d octets", first.Credential.KeyKind, len(first.Wrapped))
	}
	if got := decrypted(t, first.Wrapped, to, key); got != nil {
		private, err := x509.ParsePKCS8PrivateKey(got)
		must(t, err)
		own, err := x509.MarshalPKIXPublicKey(private.(crypto.Signer).Public())
		must(t, err)
		if cert := parsed(t, &first.Response); !bytes.Equal(own, cert.RawSubjectPublicKeyInfo) {
			t.Error("the wrapped key is not the certificate's")
		}
	}
	again, err := ask("SN-1", nil)
	must(t, err)
	if !again.Replayed || !bytes.Equal(again.Wrapped, first.Wrapped) || again.ConfirmNonce != first.ConfirmNonce {
		t.Error("the retry got another key")
	}
	other := newKey(t)
	_, err = ask("SN-1", func(u *station.Unit) {
		u.Recipient = signCertificate(t, &x509.Certificate{SerialNumber: big.NewInt(8)}, nil, other, other).Raw
	})
	refused(t, err, fault.UnitSerialTaken)

	const password = "one-time password"
	file, err := ask("SN-2", func(u *station.Unit) { u.Recipient, u.Password = nil, password })
	must(t, err)
	if !pkcs12.Opens(file.Wrapped, password) {
		t.Error("the password does not open the file")
	}
	_, err = ask("SN-2", func(u *station.Unit) { u.Recipient, u.Password = nil, "another password" })
	refused(t, err, fault.UnitSerialTaken)

	// When the wrapped key was erased, the unit is lost.
	l.pass(25 * time.Hour)
	n, err := l.store.EraseWrappedKeys(t.Context(), l.clock())
	must(t, err)
	if n != 2 {
		t.Errorf("%d keys were erased", n)
	}
	_, err = ask("SN-1", nil)
	refused(t, err, fault.WrappedKeyGone)
	// A rework gets a new one.
	reworked, err := ask("SN-1", func(u *station.Unit) { u.Rework = &station.Rework{Reason: "lost its key"} })
	must(t, err)
	if reworked.Replayed || bytes.Equal(reworked.Wrapped, first.Wrapped) {
		t.Error("rework got the old key")
	}
	// Once that is confirmed, the same words mean another rework, and a repetition
	// of the first request gets no key any more.
	l.confirm(reworked)
	once := func(u *station.Unit) { u.Rework = &station.Rework{Reason: "lost its key"} }
	third, err := ask("SN-1", once)
	must(t, err)
	if third.Replayed || third.Unit.ID == reworked.Unit.ID {
		t.Error("a confirmed unit was not reworked")
	}
	l.confirm(third)
	_, err = ask("SN-3", nil)
	must(t, err)

	for name, tt := range map[string]struct {
		edit func(u *station.Unit)
		want fault.Code
	}{
		"no recipient":       {func(u *station.Unit) { u.Recipient = nil }, fault.RecipientInvalid},
		"recipient is none":  {func(u *station.Unit) { u.Recipient = []byte{1} }, fault.RecipientInvalid},
		"recipient signs":    {func(u *station.Unit) { u.Recipient = signer(t) }, fault.RecipientInvalid},
		"short password":     {func(u *station.Unit) { u.Form, u.Password = "pkcs12", "elevenchars" }, fault.ParameterInvalid},
		"form that is none":  {func(u *station.Unit) { u.Form = "zip" }, fault.ParameterInvalid},
		"request of its own": {func(u *station.Unit) { u.CSR = newCSR(t, newKey(t), nil) }, fault.KeyModel},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask("SN-9", tt.edit)
			refused(t, err, tt.want)
		})
	}
}

// confirm notes a unit as read back.
func (l *line) confirm(r *enroll.UnitResponse) {
	l.t.Helper()
	must(l.t, l.store.ConfirmUnit(l.t.Context(), factory.Confirmation{ID: r.Unit.ID, Device: r.Unit.Device, Order: r.Unit.Order, At: l.clock()},
		ledger.Entry{Kind: ledger.UnitConfirmed, At: l.clock(), Actor: "system", Body: &ledger.ConfirmedUnit{
			Credential: int64(r.Unit.ID), Order: r.Unit.Order, Device: int64(r.Unit.Device),
		}}))
}

func signer(t *testing.T) []byte {
	t.Helper()
	key := newKey(t)
	return signCertificate(t, &x509.Certificate{SerialNumber: big.NewInt(9), KeyUsage: x509.KeyUsageDigitalSignature}, nil, key, key).Raw
}

// decrypted is what openssl reads of an envelope; nil without openssl.
func decrypted(t *testing.T, sealed []byte, cert *x509.Certificate, key any) []byte {
	t.Helper()
	openssl := needs.OpenSSL(t)
	dir := t.TempDir()
	file := func(name, kind string, content []byte) string {
		path := filepath.Join(dir, name)
		if kind != "" {
			content = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
		}
		must(t, os.WriteFile(path, content, 0o600))
		return path
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	out := filepath.Join(dir, "out")
	text, err := exec.CommandContext(t.Context(), openssl, "cms", "-decrypt", "-binary", "-inform", "DER", "-in", file("sealed", "", sealed),
		"-inkey", file("key.pem", "PRIVATE KEY", private), "-recip", file("cert.pem", "CERTIFICATE", cert.Raw), "-out", out).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	got, err := os.ReadFile(out)
	must(t, err)
	return got
}
