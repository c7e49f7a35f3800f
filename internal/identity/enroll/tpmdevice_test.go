package enroll_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// field is a world whose devices enroll on their own, with TPMs of a trusted maker.
type field struct {
	*tpmLine
	gateway device.Product
}

func newField(t testing.TB, edit func(*device.Product), profiles ...string) *field {
	t.Helper()
	f := &field{tpmLine: newTPMLine(t, nil, profiles...)}
	p := device.Product{Name: "gateway", Profiles: []string{"ldevid-tpm", "attestation-key", "ldevid-cloud"}, LeastEvidence: "tpm"}
	if edit != nil {
		edit(&p)
	}
	var err error
	f.gateway, err = f.plane.AddProduct(t.Context(), "system", p)
	must(t, err)
	must(t, f.plane.SetLabel(t.Context(), "system", label("ak", "attestation-key")))
	must(t, f.plane.SetLabel(t.Context(), "system", label("cloud", "ldevid-cloud")))
	return f
}

// tpmDevice is a device with a TPM and what it shows to be known.
type tpmDevice struct {
	*unitTPM
	who enroll.Requester
}

func (f *field) newDevice(deviceSerial string) *tpmDevice {
	f.t.Helper()
	return f.deviceWith(f.tpm(deviceSerial))
}

func (f *field) deviceWith(x *unitTPM) *tpmDevice {
	f.t.Helper()
	d := f.device("gateway", x.deviceSerial)
	return &tpmDevice{x, enroll.Requester{DeviceSerial: x.deviceSerial, Secret: []byte(d.Secret)}}
}

func (f *field) challengeFor(d *tpmDevice, label string) (*wire.Challenge, error) {
	return f.enroller.Challenge(f.t.Context(), enroll.ChallengeRequest{Requester: d.who, Label: label, Claim: d.Claim(d.ak)})
}

// request answers a challenge for a new certificate under a label.
func (f *field) request(d *tpmDevice, label string) enroll.Request {
	f.t.Helper()
	c, err := f.challengeFor(d, label)
	must(f.t, err)
	subject := d.key
	if label == "ak" {
		subject = nil
	}
	a, err := d.Answer(d.ak, subject, c)
	must(f.t, err)
	r := enroll.Request{Operation: enroll.Enroll, Requester: d.who, Label: label, TPM: &a}
	if subject != nil {
		r.CSR = subject.CSR(f.t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "device"}})
	}
	return r
}

func (f *field) enrolls(r enroll.Request) (*enroll.Response, error) {
	return f.enroller.Enroll(f.t.Context(), r)
}

// first gives a device its first certificate and lets it show that from then on.
func (f *field) first(d *tpmDevice) *enroll.Response {
	f.t.Helper()
	r, err := f.enrolls(f.request(d, ""))
	must(f.t, err)
	d.who = enroll.Requester{Chain: []*x509.Certificate{parsed(f.t, r)}}
	return r
}

func TestDeviceWithATPMEnrolls(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	before := f.ledgerSize()
	r := f.first(d)
	if r.Credential.KeyKind != device.KeyHardware || r.Credential.SPKIDigest != sha256.Sum256(d.key.SPKI()) {
		t.Errorf("credential %+v", r.Credential)
	}
	kept, err := f.store.Evidence(t.Context(), access.Everything(), r.Credential.ID)
	must(t, err)
	if kept.Claims != attest.KeyInChip|attest.Fresh|attest.Genuine {
		t.Errorf("claims %s", kept.Claims)
	}
	if all := f.leaves(ledger.EvidenceKept, before); len(all) != 1 || all[0].Actor != "device:"+r.Credential.Device.String() {
		t.Errorf("leaves %+v", all)
	}
	row, err := f.store.Device(t.Context(), access.Everything(), r.Credential.Device)
	must(t, err)
	if row.State != device.Active || row.Secret.SpentAt.IsZero() {
		t.Errorf("device %+v", row)
	}
}

// A device whose answer got lost asks again, with the same answer or with a fresh
// challenge, and gets the same certificate.
func TestDeviceWithATPMThatAsksAgain(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	q := f.request(d, "")
	first, err := f.enrolls(q)
	must(t, err)
	same := func(name string, r *enroll.Response, err error) {
		t.Helper()
		if err != nil || !r.Replayed || !bytes.Equal(r.Credential.DER, first.Credential.DER) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	again, err := f.enrolls(q)
	same("the same answer", again, err)
	again, err = f.enrolls(f.request(d, ""))
	same("a fresh challenge", again, err)
	f.pass(11 * time.Minute)
	again, err = f.enrolls(q)
	same("the same answer, late", again, err)
	f.pass(5 * time.Minute)
	_, err = f.enrolls(q)
	refused(t, err, fault.SecretSpent)

	// The same for a renewal.
	d.who = enroll.Requester{Chain: []*x509.Certificate{parsed(t, first)}}
	d.key = d.NewSubject(wire.ECP256)
	q = f.request(d, "")
	first, err = f.enrolls(q)
	must(t, err)
	again, err = f.enrolls(q)
	same("the same renewal", again, err)
	f.pass(time.Hour)
	again, err = f.enrolls(q)
	same("the same renewal, late", again, err)
	// Another key with the same ticket is another request.
	f.pass(-time.Hour)
	d.key = d.NewSubject(wire.ECP256)
	c, err := f.challengeFor(d, "")
	must(t, err)
	a, err := d.Answer(d.ak, d.key, c)
	must(t, err)
	r := enroll.Request{Operation: enroll.Enroll, Requester: d.who, TPM: &a, CSR: d.key.CSR(t, &x509.CertificateRequest{})}
	_, err = f.enrolls(r)
	must(t, err)
	second := d.NewSubject(wire.ECP256)
	binding := wire.Binding(c.Nonce, second.SPKI())
	a.Public = second.Public()
	a.Attest, a.Signature = d.Certify(d.ak, second, binding[:])
	r.CSR = second.CSR(t, &x509.CertificateRequest{})
	_, err = f.enrolls(r)
	refused(t, err, fault.TicketUsed)
}

func TestDeviceRenewsWithFreshEvidence(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	first := f.first(d)
	// With its certificate alone it gets nothing that the profile wants proven.
	_, err := f.byCertificate(enroll.Reenroll, parsed(t, first), "", newCSR(t, newKey(t), parsed(t, first).RawSubject))
	refused(t, err, fault.EvidenceMissing)
	d.key = d.NewSubject(wire.ECP256)
	r, err := f.enrolls(f.request(d, ""))
	must(t, err)
	if r.Credential.Previous != first.Credential.ID || r.Credential.KeyKind != device.KeyHardware {
		t.Errorf("credential %+v", r.Credential)
	}
	// As EST's re-enrollment, with the subject that it has.
	d.who = enroll.Requester{Chain: []*x509.Certificate{parsed(t, r)}}
	d.key = d.NewSubject(wire.ECP256)
	q := f.request(d, "")
	q.Operation, q.CSR = enroll.Reenroll, d.key.CSR(t, &x509.CertificateRequest{RawSubject: parsed(t, r).RawSubject})
	third, err := f.enrolls(q)
	must(t, err)
	if third.Credential.Previous != r.Credential.ID {
		t.Errorf("credential %+v", third.Credential)
	}
}

func TestAttestationKeyIsCertified(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	f.first(d)
	r, err := f.enrolls(f.request(d, "ak"))
	must(t, err)
	cert := parsed(t, r)
	if len(cert.Subject.Names) != 0 || r.Credential.SPKIDigest != sha256.Sum256(d.ak.SPKI()) || r.Credential.KeyKind != device.KeyHardware ||
		r.Credential.Slot() != device.LDevIDSlot("attestation") {
		t.Errorf("credential %+v", r.Credential)
	}
	if !bytes.Contains(cert.Raw, []byte("id:54455354")) {
		t.Error("the certificate does not name the TPM's maker")
	}
	again, err := f.enrolls(f.request(d, "ak"))
	must(t, err)
	if !again.Replayed || !bytes.Equal(again.Credential.DER, r.Credential.DER) {
		t.Errorf("again: %+v", again.Credential)
	}
	// Later it is a renewal with the same key.
	f.pass(25 * time.Hour)
	renewed, err := f.enrolls(f.request(d, "ak"))
	must(t, err)
	if renewed.Replayed || renewed.Credential.Previous != r.Credential.ID || renewed.Credential.SPKIDigest != r.Credential.SPKIDigest {
		t.Errorf("renewed: %+v", renewed.Credential)
	}
	row, err := f.store.Device(t.Context(), access.Everything(), r.Credential.Device)
	must(t, err)
	if row.Current[device.LDevIDSlot("attestation")] != renewed.Credential.ID || row.State != device.Active {
		t.Errorf("device %+v", row)
	}
	// Another device does not get one for the same key.
	thief := &tpmDevice{&unitTPM{d.TPM, "GW-2", d.ak, d.key}, enroll.Requester{}}
	thief = f.deviceWith(thief.unitTPM)
	_, err = f.challengeFor(thief, "")
	refused(t, err, fault.TPMOfOther)
	f.alarm(factory.AlarmChipReused)
}

// A TPM that nobody has seen before may begin with its attestation key, which tells
// of no counters; what its first key tells is kept from then on.
func TestAttestationKeyComesFirst(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	r, err := f.enrolls(f.request(d, "ak"))
	must(t, err)
	if r.Credential.SPKIDigest != sha256.Sum256(d.ak.SPKI()) || r.Credential.KeyKind != device.KeyHardware {
		t.Errorf("credential %+v", r.Credential)
	}
	seen, err := f.store.TPMOf(t.Context(), access.Everything(), r.Credential.Device)
	must(t, err)
	if seen.Device != r.Credential.Device || seen.Clock != 0 || seen.Vendor != "id:54455354" {
		t.Errorf("TPM %+v", seen)
	}
	added, err := f.register.RenewSecret(t.Context(), f.operator, r.Credential.Device)
	must(t, err)
	d.who.Secret = []byte(added.Secret)
	f.first(d)
	seen, err = f.store.TPMOf(t.Context(), access.Everything(), r.Credential.Device)
	must(t, err)
	if seen.Clock == 0 {
		t.Errorf("TPM %+v", seen)
	}
	thief := f.deviceWith(&unitTPM{d.TPM, "GW-2", d.ak, d.key})
	_, err = f.challengeFor(thief, "")
	refused(t, err, fault.TPMOfOther)
}

func TestAttestationKeyIsNotCertifiedOtherwise(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	f.first(d)
	leaf := d.who.Chain[0]
	_, err := f.byCertificate(enroll.Enroll, leaf, "ak", newCSR(t, newKey(t), nil))
	refused(t, err, fault.ProfileNotAllowed) // a request by EST, without evidence
	q := f.request(d, "ak")
	q.CSR = newCSR(t, newKey(t), nil)
	_, err = f.enrolls(q)
	refused(t, err, fault.ProfileNotAllowed) // a key that is not the AK
	q = f.request(d, "ak")
	q.TPM.Secret = make([]byte, 32)
	_, err = f.enrolls(q)
	refused(t, err, fault.ActivationWrong)
	q = f.request(d, "")
	q.CSR, q.TPM.Public, q.TPM.Attest, q.TPM.Signature = nil, nil, nil, nil
	_, err = f.enrolls(q)
	refused(t, err, fault.ProfileNotAllowed) // the AK under a profile for other keys
}

// Each row is what a device answers that is not its own, or not what is demanded.
func TestDeviceAnswerRefuses(t *testing.T) {
	f := newField(t, nil)
	other := f.newDevice("GW-other")
	f.first(other)
	for name, tt := range map[string]struct {
		edit func(d *tpmDevice, q *enroll.Request)
		want fault.Code
	}{
		"another device": {func(_ *tpmDevice, q *enroll.Request) { q.Requester = other.who }, fault.TicketOther},
		"another label":  {func(_ *tpmDevice, q *enroll.Request) { q.Label = "cloud" }, fault.TicketOther},
		"late":           {func(*tpmDevice, *enroll.Request) { f.pass(11 * time.Minute) }, fault.TicketExpired},
		"no evidence":    {func(_ *tpmDevice, q *enroll.Request) { q.TPM = nil }, fault.EvidenceMissing},
		"guessed":        {func(_ *tpmDevice, q *enroll.Request) { q.TPM.Secret[0] ^= 1 }, fault.ActivationWrong},
		"changed ticket": {func(_ *tpmDevice, q *enroll.Request) { q.TPM.Ticket[40] ^= 1 }, fault.TicketInvalid},
		"nonce of before": {func(d *tpmDevice, q *enroll.Request) {
			c, err := f.challengeFor(d, "")
			must(t, err)
			binding := wire.Binding(c.Nonce, d.key.SPKI())
			q.TPM.Attest, q.TPM.Signature = d.Certify(d.ak, d.key, binding[:])
		}, fault.CertifyNonce},
		"key made by us": {func(_ *tpmDevice, q *enroll.Request) { q.Operation = 0 }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := f.newDevice("GW-" + strings.ReplaceAll(name, " ", "-"))
			q := f.request(d, "")
			before := f.ledgerSize()
			tt.edit(d, &q)
			if tt.want == 0 {
				_, err := f.enroller.EnrollServerKey(t.Context(), q)
				refused(t, err, fault.KeyModel)
				return
			}
			_, err := f.enrolls(q)
			refused(t, err, tt.want)
			n := 1
			if tt.want == fault.EvidenceMissing { // nothing was shown that was refused
				n = 0
			}
			if all := f.leaves(ledger.EvidenceRefused, before); len(all) != n || n == 1 && all[0].Body["code"] != tt.want.String() {
				t.Errorf("leaves %+v", all)
			}
			_, err = f.enrolls(f.request(d, ""))
			must(t, err)
		})
	}
}

// What a product demands is for the first identity; each further certificate is
// governed by its profile.
func TestProductsLevelIsForTheFirstIdentity(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	_, err := f.enrolls(enroll.Request{Operation: enroll.Enroll, Requester: d.who, Label: "cloud", CSR: newCSR(t, newKey(t), nil)})
	refused(t, err, fault.EvidenceMissing)
	f.first(d)
	r, err := f.byCertificate(enroll.Enroll, d.who.Chain[0], "cloud", newCSR(t, newKey(t), nil))
	must(t, err)
	if r.Credential.KeyKind != device.KeySoftware {
		t.Errorf("kind %v", r.Credential.KeyKind)
	}
}

func TestChipsOfDevicesThatEnrollOnTheirOwn(t *testing.T) {
	f := newField(t, func(p *device.Product) { p.LeastEvidence = "tpm-listed" })
	_, err := f.challengeFor(f.newDevice("GW-0"), "")
	refused(t, err, fault.EvidenceTooLittle)
	d := f.newDevice("GW-1")
	c := f.listTPM(d.unitTPM, nil)
	r := f.first(d)
	used, err := f.store.Chip(t.Context(), c.ID)
	must(t, err)
	if used.State != factory.ChipUsed || used.Device != r.Credential.Device {
		t.Errorf("chip %+v", used)
	}
	for name, tt := range map[string]struct {
		edit func(*chip)
		want fault.Code
	}{
		"of another product": {func(c *chip) { c.Product = f.tpmLine.product.ID }, fault.ChipOtherProduct},
		"withdrawn":          {func(c *chip) { c.State = factory.ChipWithdrawn }, fault.ChipWithdrawn},
		"of an order":        {func(c *chip) { c.State, c.Order = factory.ChipAllotted, f.order.ID }, fault.ChipOtherOrder},
	} {
		t.Run(name, func(t *testing.T) {
			d := f.newDevice("GW-" + strings.ReplaceAll(name, " ", "-"))
			f.listTPM(d.unitTPM, tt.edit)
			_, err := f.challengeFor(d, "")
			refused(t, err, tt.want)
		})
	}
}

func TestStrangersGetNoChallenge(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	before := f.ledgerSize()
	for name, who := range map[string]enroll.Requester{
		"nobody":       {},
		"wrong secret": {DeviceSerial: "GW-1", Secret: []byte("guess")},
		"unknown":      {DeviceSerial: "GW-9", Secret: d.who.Secret},
	} {
		_, err := f.enroller.Challenge(t.Context(), enroll.ChallengeRequest{Requester: who, Claim: d.Claim(d.ak)})
		if k := fault.Of(err).Kind; k != fault.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.enroller.Known(t.Context(), who); fault.Of(err).Kind != fault.Unauthenticated {
			t.Errorf("%s: known: %v", name, err)
		}
	}
	must(t, f.enroller.Known(t.Context(), d.who))
	if n := f.ledgerSize(); n != before {
		t.Errorf("strangers made %d entries", n-before)
	}
}

func TestFloodOfRefusedEvidenceIsBounded(t *testing.T) {
	f := newField(t, nil)
	stranger := tpmtest.NewMaker(t, "Nobody", tpmtest.MakerOptions{Now: f.clock()})
	d := f.deviceWith(newTPM(t, stranger, "GW-1", tpmtest.Options{}))
	before := f.ledgerSize()
	for range 50 {
		_, err := f.challengeFor(d, "")
		refused(t, err, fault.EKUntrusted)
	}
	if all := f.leaves(ledger.EvidenceRefused, before); len(all) != 1 {
		t.Errorf("%d leaves", len(all))
	}
}

func TestServerWithoutTPMs(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	q := f.request(d, "")
	e := withoutLine(t, f.world)
	_, err := e.Challenge(t.Context(), enroll.ChallengeRequest{Requester: d.who, Claim: d.Claim(d.ak)})
	refused(t, err, fault.EvidenceMissing)
	_, err = e.Enroll(t.Context(), q)
	refused(t, err, fault.TicketInvalid)
}

// What is demanded is what is demanded when the answer comes.
func TestProductThatDemandsMoreThanAtTheChallenge(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	q := f.request(d, "")
	for level, want := range map[string]fault.Code{"tpm-listed": fault.EvidenceTooLittle, "tpm-firmware": fault.EvidenceTooLittle} {
		p := f.gateway
		p.LeastEvidence = level
		must(t, f.plane.ChangeProduct(t.Context(), "system", p))
		_, err := f.enrolls(q)
		refused(t, err, want)
	}
	must(t, f.plane.ChangeProduct(t.Context(), "system", f.gateway))
	_, err := f.enrolls(q) // it was no wrong answer
	must(t, err)
}

// A TPM outlives its device: once that has ended, another may have it.
func TestTPMOfADeviceThatHasEnded(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	first := f.first(d)
	next := f.deviceWith(&unitTPM{d.TPM, "GW-2", d.NewAK(wire.ECP256), d.NewSubject(wire.ECP256)})
	_, err := f.challengeFor(next, "")
	refused(t, err, fault.TPMOfOther)
	_, err = f.register.Move(t.Context(), f.operator, first.Credential.Device, device.Decommissioned)
	must(t, err)
	r := f.first(next)
	record, err := f.store.TPM(t.Context(), d.ek())
	must(t, err)
	if record.Device != r.Credential.Device {
		t.Errorf("TPM %+v", record)
	}
}
