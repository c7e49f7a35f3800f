package enroll_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

func TestUnitWithATPMGetsItsIdentity(t *testing.T) {
	l := newTPMLine(t, func(p *device.Product) { p.IDevIDProfile, p.Profiles = "idevid-tpm", []string{"idevid-tpm"} })
	x := l.tpm("SN-1")
	c := l.listTPM(x, nil)
	before := l.ledgerSize()
	challenge := l.challenged(x)
	if n := l.ledgerSize(); n != before {
		t.Errorf("a challenge wrote %d entries", n-before)
	}
	if len(challenge.Nonce) != 32 || challenge.Quote != nil || !challenge.ExpiresAt.Equal(l.clock().Add(10*time.Minute)) {
		t.Errorf("challenge %+v", challenge)
	}
	r := l.made(l.answered(x, challenge))
	cert := parsed(t, &r.Response)
	spki, err := x509.MarshalPKIXPublicKey(cert.PublicKey)
	must(t, err)
	if !bytes.Equal(spki, x.key.SPKI()) || cert.Subject.SerialNumber != "SN-1" {
		t.Errorf("certificate of %s", cert.Subject)
	}
	ek, err := x509.ParseCertificate(x.EKCertificate)
	must(t, err)
	number := "54455354:" + hex.EncodeToString(ek.AuthorityKeyId) + ":" + hex.EncodeToString(ek.SerialNumber.Bytes())
	if !bytes.Contains(cert.Raw, []byte(number)) {
		t.Errorf("the certificate does not name the TPM %s", number)
	}
	digest := sha256.Sum256(x.EKCertificate)
	if !bytes.Contains(cert.Raw, []byte(hex.EncodeToString(digest[:]))) {
		t.Error("the certificate does not have the EK certificate's digest")
	}
	if r.Credential.KeyKind != device.KeyHardware || r.Unit.Evidence != "tpm" || r.Unit.Chip != c.ID {
		t.Errorf("credential %+v, unit %+v", r.Credential, r.Unit)
	}
	kept, err := l.store.Evidence(t.Context(), access.Everything(), r.Credential.ID)
	must(t, err)
	want := attest.KeyInChip | attest.Fresh | attest.Genuine | attest.Listed
	if kept.Kind != attest.TPM || kept.Claims != want || kept.Digest != sha256.Sum256(kept.Content) {
		t.Errorf("evidence %+v", kept)
	}
	_, err = tpm.ParseKept(kept.Content)
	must(t, err)
	record, err := l.store.TPM(t.Context(), x.ek())
	must(t, err)
	if record.Device != r.Credential.Device || record.Chip != c.ID || record.Vendor != "id:54455354" || record.Clock == 0 {
		t.Errorf("TPM %+v", record)
	}
	used, err := l.store.Chip(t.Context(), c.ID)
	must(t, err)
	if used.State != factory.ChipUsed || used.Device != r.Credential.Device {
		t.Errorf("chip %+v", used)
	}
	if all := l.leaves(ledger.EvidenceKept, before); len(all) != 1 || all[0].Body["claims"] != float64(want) {
		t.Errorf("leaves %+v", all)
	}
}

// The same unit again is answered with the same certificate, whatever became of the
// challenge.
func TestUnitWithATPMThatAsksAgainGetsTheSameAnswer(t *testing.T) {
	l := newTPMLine(t, nil)
	x := l.tpm("SN-1")
	u := l.answered(x, l.challenged(x))
	first := l.made(u)
	for name, again := range map[string]func() *station.Unit{
		"the same answer":      func() *station.Unit { return u },
		"a fresh challenge":    func() *station.Unit { return l.answered(x, l.challenged(x)) },
		"no answer":            func() *station.Unit { return &station.Unit{Order: u.Order, DeviceSerial: u.DeviceSerial, CSR: u.CSR} },
		"the answer, too late": func() *station.Unit { l.pass(time.Hour); return u },
	} {
		t.Run(name, func(t *testing.T) {
			r := l.made(again())
			if !r.Replayed || !bytes.Equal(r.Credential.DER, first.Credential.DER) {
				t.Errorf("got %+v", r)
			}
		})
	}
	if n := l.counts("PO-1"); n.Issued != 1 {
		t.Errorf("counts %+v", n)
	}
}

// Each row is what an attacker tries at the challenge; nothing is issued.
func TestChallengeRefuses(t *testing.T) {
	l := newTPMLine(t, func(p *device.Product) { p.LeastEvidence = "tpm-listed" })
	product2, err := l.plane.AddProduct(t.Context(), "system", device.Product{Name: "other", Profiles: []string{"ldevid-cloud"}})
	must(t, err)
	stranger := tpmtest.NewMaker(t, "Nobody", tpmtest.MakerOptions{Now: l.clock()})
	closed := l.newOrder("PO-closed", 5, 0, l.station.ID)
	l.terms("PO-closed", func(o *factory.Order) { o.State, o.ClosedAt = factory.OrderClosed, l.clock() })
	elsewhere := l.newOrder("PO-elsewhere", 5, 0)
	l.refresh()
	good := l.tpm("SN-100")
	l.listTPM(good, nil)
	l.enrolled(good)
	listed := func(m *tpmtest.Maker, o tpmtest.Options, edit func(*chip)) *unitTPM {
		x := newTPM(t, m, "SN-1", o)
		l.listTPM(x, edit)
		return x
	}
	for name, tt := range map[string]struct {
		tpm   *unitTPM
		order string
		want  fault.Code
	}{
		"EK of an unknown maker":         {newTPM(t, stranger, "SN-1", tpmtest.Options{}), "", fault.EKUntrusted},
		"EK without certificate or list": {newTPM(t, nil, "SN-1", tpmtest.Options{Bare: true}), "", fault.EKNotListed},
		"listed, but its maker unknown":  {listed(stranger, tpmtest.Options{}, nil), "", fault.EvidenceTooLittle},
		"certified, but not listed":      {l.tpm("SN-1"), "", fault.EvidenceTooLittle},
		"manifest of another product":    {listed(l.maker, tpmtest.Options{}, func(c *chip) { c.Product = product2.ID }), "", fault.ChipOtherProduct},
		"another type of chip":           {listed(l.maker, tpmtest.Options{}, func(c *chip) { c.ChipType = "OPTIGA" }), "", fault.ChipOtherProduct},
		"withdrawn":                      {listed(l.maker, tpmtest.Options{}, func(c *chip) { c.State = factory.ChipWithdrawn }), "", fault.ChipWithdrawn},
		"TPM of another device":          {&unitTPM{good.TPM, "SN-1", good.ak, good.key}, "", fault.ChipUsed},
		"order that is closed":           {l.tpm("SN-1"), closed.Number, fault.OrderState},
		"order of other stations":        {l.tpm("SN-1"), elsewhere.Number, fault.StationNotAssigned},
		"serial that is none":            {l.tpm("SN 1"), "", fault.DeviceSerialInvalid},
		"EK certificate of another TPM":  {spliced(l, func(a, b *unitTPM) { a.EKCertificate = b.EKCertificate }), "", fault.EKMismatch},
		"AK that is not restricted":      {withAK(l, func(a *tpmtest.Area) { a.Attributes &^= wire.Restricted }), "", fault.AKAttributes},
		"AK that may be duplicated":      {withAK(l, func(a *tpmtest.Area) { a.Attributes &^= wire.FixedTPM }), "", fault.AKAttributes},
		"AK with SHA-1":                  {withAK(l, func(a *tpmtest.Area) { a.Scheme.Hash = wire.AlgSHA1 }), "", fault.AKAlgorithm},
		"EK of no template":              {withEK(l, func(a *tpmtest.Area) { a.Attributes &^= wire.Restricted }), "", fault.EKTemplate},
		"EK that may leave its TPM":      {withEK(l, func(a *tpmtest.Area) { a.Attributes &^= wire.FixedTPM }), "", fault.EKTemplate},
	} {
		t.Run(name, func(t *testing.T) {
			before := l.ledgerSize()
			l.pass(2 * time.Minute) // the same refusal is written again after a while
			order := tt.order
			if order == "" {
				order = l.order.Number
			}
			_, err := l.challengeOf(l.session, order, tt.tpm)
			refused(t, err, tt.want)
			if tt.want >= 9000 || tt.want == fault.ChipOtherProduct {
				l.refusedOnRecord(before, tt.want, tt.tpm)
			}
		})
	}
	if n := l.counts("PO-1"); n.Issued != 1 {
		t.Errorf("something was issued: %+v", n)
	}
}

// wordsOf makes a device serial's part of a test's name.
func wordsOf(name string) string {
	return strings.ToUpper(strings.NewReplacer(" ", "-", "'", "", ",", "").Replace(name))
}

// spliced is a TPM that shows something of another.
func spliced(l *tpmLine, edit func(a, b *unitTPM)) *unitTPM {
	a, b := l.tpm("SN-1"), l.tpm("SN-2")
	edit(a, b)
	return a
}

func withAK(l *tpmLine, edit func(*tpmtest.Area)) *unitTPM {
	x := l.tpm("SN-1")
	area := tpmtest.AKArea(wire.ECP256)
	edit(&area)
	x.ak = tpmtest.NewKey(l.t, x.TPM, area, tpmtest.Owner)
	return x
}

func withEK(l *tpmLine, edit func(*tpmtest.Area)) *unitTPM {
	x := l.tpm("SN-1")
	edit(&x.EK.Area)
	return x
}

// Each row is what an attacker answers; nothing is issued, and a challenge whose
// answer was wrong has had its one try.
func TestAnswerRefuses(t *testing.T) {
	l := newTPMLine(t, nil)
	other, session := l.newStation("line-8", l.site)
	second := l.newOrder("PO-2", 10, 0, l.station.ID, other.ID)
	l.terms("PO-1", func(o *factory.Order) { o.Stations = append(o.Stations, other.ID) })
	l.refresh()
	stale := l.challenged(l.tpm("SN-1")).Nonce
	const burned, kept = true, false
	for name, tt := range map[string]struct {
		do    func(x *unitTPM, c *wire.Challenge, u *station.Unit) *enroll.StationSession
		want  fault.Code
		burns bool
	}{
		"a ticket of ours, changed": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.TPM.Ticket = flipped(u.TPM.Ticket, len(u.TPM.Ticket)/2)
			return nil
		}, fault.TicketInvalid, kept},
		"no ticket": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.TPM.Ticket = nil
			return nil
		}, fault.TicketInvalid, kept},
		"late": {func(*unitTPM, *wire.Challenge, *station.Unit) *enroll.StationSession {
			l.pass(11 * time.Minute)
			return nil
		}, fault.TicketExpired, kept},
		"by another station": {func(*unitTPM, *wire.Challenge, *station.Unit) *enroll.StationSession {
			return session
		}, fault.TicketOther, kept},
		"for another order": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.Order = second.Number
			return nil
		}, fault.TicketOther, kept},
		"for another serial": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.DeviceSerial = "SN-9"
			return nil
		}, fault.TicketOther, kept},
		"secret that was guessed": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.TPM.Secret = make([]byte, 32)
			return nil
		}, fault.ActivationWrong, burned},
		"no secret": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.TPM.Secret = nil
			return nil
		}, fault.ActivationWrong, burned},
		"key from software": {func(x *unitTPM, c *wire.Challenge, u *station.Unit) *enroll.StationSession {
			// Imported into the TPM, it is not fixed to it; the TPM says so.
			area := tpmtest.SubjectArea(wire.ECP256)
			area.Attributes &^= wire.FixedTPM | wire.FixedParent | wire.SensitiveDataOrigin
			x.key = tpmtest.NewKey(t, nil, area, tpmtest.Owner)
			*u = *l.answered(x, c)
			return nil
		}, fault.SubjectAttributes, burned},
		"key that only says that it is in the TPM": {func(x *unitTPM, c *wire.Challenge, u *station.Unit) *enroll.StationSession {
			soft := tpmtest.NewKey(t, nil, tpmtest.SubjectArea(wire.ECP256), tpmtest.Owner)
			u.CSR = soft.CSR(t, &x509.CertificateRequest{})
			binding := wire.Binding(c.Nonce, soft.SPKI())
			u.TPM.Attest, u.TPM.Signature = x.Certify(x.ak, x.key, binding[:])
			u.TPM.Public = soft.Public()
			return nil
		}, fault.CertifyName, burned},
		"certified under last week's nonce": {func(x *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			binding := wire.Binding(stale, x.key.SPKI())
			u.TPM.Attest, u.TPM.Signature = x.Certify(x.ak, x.key, binding[:])
			return nil
		}, fault.CertifyNonce, burned},
		"CSR by another key": {func(x *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.CSR = newCSR(t, newKey(t), nil)
			return nil
		}, 0, burned},
		"certified by another AK": {func(x *unitTPM, c *wire.Challenge, u *station.Unit) *enroll.StationSession {
			binding := wire.Binding(c.Nonce, x.key.SPKI())
			u.TPM.Attest, u.TPM.Signature = x.Certify(x.NewAK(wire.ECP256), x.key, binding[:])
			return nil
		}, fault.CertifySignature, burned},
		"octets that follow": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.TPM.Attest = append(u.TPM.Attest, 0)
			return nil
		}, fault.AttestMalformed, burned},
		"nothing certified": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.TPM.Public, u.TPM.Attest, u.TPM.Signature = nil, nil, nil
			return nil
		}, fault.AttestMalformed, burned},
		"with a chip beside": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.Chip = &station.Chip{UID: "00"}
			return nil
		}, fault.ParameterInvalid, kept},
		"without a request": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.CSR = nil
			return nil
		}, fault.KeyModel, kept},
		"nothing": {func(_ *unitTPM, _ *wire.Challenge, u *station.Unit) *enroll.StationSession {
			u.TPM = nil
			return nil
		}, fault.EvidenceMissing, kept},
	} {
		t.Run(name, func(t *testing.T) {
			x := l.tpm("SN-" + wordsOf(name))
			c := l.challenged(x)
			good := l.answered(x, c)
			wrong := l.answered(x, c)
			own := *x
			l.pass(2 * time.Minute)
			before := l.ledgerSize()
			s := tt.do(&own, c, wrong)
			if s == nil {
				s = l.session
			}
			_, err := l.enroller.EnrollUnit(t.Context(), s, wrong)
			if tt.want == 0 {
				if !fault.Has(err, fault.CertifyNonce) && !fault.Has(err, fault.SubjectKey) {
					t.Fatalf("got %v", err)
				}
			} else {
				refused(t, err, tt.want)
			}
			if tt.want >= 9000 && tt.want != fault.EvidenceMissing {
				y := *x
				y.deviceSerial = wrong.DeviceSerial
				l.refusedOnRecord(before, tt.want, &y)
			}
			_, err = l.ask(good)
			switch {
			case tt.burns == burned:
				refused(t, err, fault.TicketUsed)
			case tt.want == fault.TicketExpired:
				refused(t, err, fault.TicketExpired)
			default:
				must(t, err)
			}
			// The unit itself is as good as before.
			l.enrolled(x)
		})
	}
}

// The order's counts and the manifest are as they are when the answer comes, not as
// they were at the challenge.
func TestWhatChangesBetweenChallengeAndAnswer(t *testing.T) {
	l := newTPMLine(t, nil)
	t.Run("manifest entry withdrawn", func(t *testing.T) {
		x := l.tpm("SN-1")
		c := l.listTPM(x, nil)
		u := l.answered(x, l.challenged(x))
		now, err := l.store.Chip(t.Context(), c.ID)
		must(t, err)
		from := now.State
		now.State = factory.ChipWithdrawn
		must(t, l.store.UpdateChip(t.Context(), now, from, entry(l.world, ledger.ChipChanged)))
		_, err = l.ask(u)
		refused(t, err, fault.ChipWithdrawn)
	})
	t.Run("order full", func(t *testing.T) {
		one := l.newOrder("PO-one", 1, 0, l.station.ID)
		l.order = one
		a, b := l.tpm("SN-2"), l.tpm("SN-3")
		first, second := l.answered(a, l.challenged(a)), l.answered(b, l.challenged(b))
		l.made(first)
		_, err := l.ask(second)
		refused(t, err, fault.OrderFull)
		l.alarm(factory.AlarmOrderFull)
	})
	t.Run("order closed", func(t *testing.T) {
		l.order = l.newOrder("PO-closing", 5, 0, l.station.ID)
		x := l.tpm("SN-4")
		u := l.answered(x, l.challenged(x))
		l.terms("PO-closing", func(o *factory.Order) { o.State, o.ClosedAt = factory.OrderClosed, l.clock() })
		l.refresh()
		_, err := l.ask(u)
		refused(t, err, fault.OrderState)
	})
	t.Run("maker no longer trusted", func(t *testing.T) {
		l.order = l.newOrder("PO-trust", 5, 0, l.station.ID)
		x := l.tpm("SN-5")
		u := l.answered(x, l.challenged(x))
		f := tpmtest.Bundle(2, l.maker)
		f.Deny = []attest.Deny{{Vendor: "id:54455354", Reason: "broken keys"}}
		l.trust(f)
		_, err := l.ask(u)
		refused(t, err, fault.TicketExpired)
		_, err = l.challenge(x)
		refused(t, err, fault.EKDenied)
		l.trust(tpmtest.Bundle(3, l.maker))
		l.enrolled(x)
	})
	t.Run("product demands more", func(t *testing.T) {
		l.order = l.newOrder("PO-more", 5, 0, l.station.ID)
		x := l.tpm("SN-6")
		u := l.answered(x, l.challenged(x))
		p := l.product
		p.LeastEvidence = "tpm-listed"
		err := l.plane.ChangeProduct(t.Context(), "system", p)
		must(t, err)
		_, err = l.ask(u)
		refused(t, err, fault.EvidenceTooLittle)
	})
}

func TestOneTPMIsOneDevice(t *testing.T) {
	l := newTPMLine(t, nil)
	x := l.tpm("SN-1")
	waiting := *x
	waiting.deviceSerial, waiting.key = "SN-2", x.NewSubject(wire.ECP256)
	u := l.answered(&waiting, l.challenged(&waiting)) // before the TPM has a device
	l.enrolled(x)
	_, err := l.ask(u)
	refused(t, err, fault.TPMOfOther)
	l.alarm(factory.AlarmChipReused)
	_, err = l.challenge(&waiting)
	refused(t, err, fault.TPMOfOther)
	l.alarm(factory.AlarmChipReused)
	if n := l.counts("PO-1"); n.Issued != 1 {
		t.Errorf("counts %+v", n)
	}
}

func TestTPMThatIsListedButNotVouchedFor(t *testing.T) {
	l := newTPMLine(t, nil)
	bare := newTPM(t, nil, "SN-1", tpmtest.Options{Bare: true})
	l.listTPM(bare, nil)
	r := l.enrolled(bare)
	kept, err := l.store.Evidence(t.Context(), access.Everything(), r.Credential.ID)
	must(t, err)
	if kept.Claims != attest.KeyInChip|attest.Fresh|attest.Listed {
		t.Errorf("claims %s", kept.Claims)
	}
	// The entry goes while the challenge is out: nothing vouches for it any more.
	other := newTPM(t, nil, "SN-2", tpmtest.Options{Bare: true})
	c := l.listTPM(other, nil)
	u := l.answered(other, l.challenged(other))
	now, err := l.store.Chip(t.Context(), c.ID)
	must(t, err)
	from := now.State
	now.State = factory.ChipWithdrawn
	must(t, l.store.UpdateChip(t.Context(), now, from, entry(l.world, ledger.ChipChanged)))
	_, err = l.ask(u)
	refused(t, err, fault.ChipWithdrawn)
}

func TestFirmwareOfAUnit(t *testing.T) {
	l := newTPMLine(t, func(p *device.Product) { p.LeastEvidence = "tpm-firmware" })
	x := l.tpm("SN-1")
	_, err := l.challenge(x)
	refused(t, err, fault.EvidenceTooLittle) // there is no policy: nobody can reach the level
	x.Extend(4, []byte("boot loader 1.2"))
	x.Extend(7, []byte("secure boot on"))
	l.policy(l.product.ID, 1, attest.PolicyFile{Bank: "sha256", EventLog: true, States: []attest.State{
		{Name: "release 1.2", PCRs: registers(x, 4, 7)},
	}})
	c := l.challenged(x)
	if c.Quote == nil || c.Quote.Bank != "sha256" || !slices.Equal(c.Quote.PCRs, []int{4, 7}) {
		t.Fatalf("quote %+v", c.Quote)
	}
	u := l.answered(x, c)
	u.TPM.Quote = nil
	_, err = l.ask(u)
	refused(t, err, fault.QuoteMissing)
	r := l.enrolled(x)
	kept, err := l.store.Evidence(t.Context(), access.Everything(), r.Credential.ID)
	must(t, err)
	if kept.Claims&attest.Firmware == 0 || !bytes.Contains(kept.Content, []byte("release 1.2")) {
		t.Errorf("claims %s", kept.Claims)
	}
	wrong := l.tpm("SN-2")
	wrong.Extend(4, []byte("boot loader of mine"))
	wrong.Extend(7, []byte("secure boot on"))
	_, err = l.ask(l.answered(wrong, l.challenged(wrong)))
	refused(t, err, fault.QuoteState)
	// A clone of the TPM's state that has not seen its last start.
	past := *x
	past.TPM = new(*x.TPM)
	past.key = x.NewSubject(wire.ECP256)
	past.ResetCount--
	u = l.answered(&past, l.challenged(&past))
	u.Rework = &station.Rework{Reason: "board"}
	_, err = l.ask(u)
	refused(t, err, fault.QuoteOld)
	// The TPM itself after a restart is welcome.
	x.Reset()
	x.Extend(4, []byte("boot loader 1.2"))
	x.Extend(7, []byte("secure boot on"))
	x.key = x.NewSubject(wire.ECP256)
	u = l.answered(x, l.challenged(x))
	u.Rework = &station.Rework{Reason: "board"}
	if r := l.made(u); !r.Unit.Spare {
		t.Error("the rework is no spare")
	}
}

// registers returns values as a policy has them.
func registers(x *unitTPM, pcrs ...int) map[int]string {
	out := map[int]string{}
	for i, v := range x.Values(wire.AlgSHA256, pcrs...) {
		out[i] = hex.EncodeToString(v)
	}
	return out
}

// The firmware's version is known only when the TPM has attested something.
func TestFirmwareThatIsDenied(t *testing.T) {
	l := newTPMLine(t, nil)
	f := tpmtest.Bundle(2, l.maker)
	f.Deny = []attest.Deny{{Vendor: "id:54455354", FirmwareFrom: 0x0001000200030000, FirmwareTo: 0x000100020003FFFF, Reason: "weak keys"}}
	l.trust(f)
	for name, tt := range map[string]struct {
		firmware uint64
		want     fault.Code
	}{
		"the weak one": {0x0001000200030004, fault.EKDenied},
		"the next one": {0x0001000200040000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTPM(t, l.maker, "SN-"+wordsOf(name), tpmtest.Options{Firmware: tt.firmware})
			x.ak = tpmtest.NewKey(t, x.TPM, tpmtest.AKArea(wire.ECP256), tpmtest.Endorsement) // which masks nothing
			_, err := l.ask(l.answered(x, l.challenged(x)))
			if tt.want == 0 {
				must(t, err)
				return
			}
			refused(t, err, tt.want)
		})
	}
}

// forgetful is a record whose manifests can be taken away.
type forgetful struct {
	enroll.Chips
	empty bool
}

func (f *forgetful) ChipByKey(ctx context.Context, digest [32]byte) (factory.Chip, error) {
	if f.empty {
		return factory.Chip{}, fault.New(fault.ChipUnknown)
	}
	return f.Chips.ChipByKey(ctx, digest)
}

// A TPM that only the list vouches for is nothing without the list.
func TestListThatIsGone(t *testing.T) {
	l := newTPMLine(t, nil)
	list := &forgetful{Chips: l.store}
	l.reopen(&enroll.Attest{Store: l.store, Chips: list, Random: rand.Reader})
	x := newTPM(t, nil, "SN-1", tpmtest.Options{Bare: true})
	l.listTPM(x, nil)
	u := l.answered(x, l.challenged(x))
	list.empty = true
	_, err := l.ask(u)
	refused(t, err, fault.EKNotListed)
	list.empty = false
	l.made(u)
}
