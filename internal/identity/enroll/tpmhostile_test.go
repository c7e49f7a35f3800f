package enroll_test

import (
	"crypto/x509"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
)

// An attestation key signs whatever does not look like the TPM's own word, and so
// also a TLS handshake. Its certificate says what the TPM says, not who asks.
func TestAttestationKeyAuthenticatesNobody(t *testing.T) {
	f := newField(t, nil)
	d, ak := f.certified("GW-1")
	d.who = enroll.Requester{Chain: []*x509.Certificate{parsed(t, ak)}}
	refused(t, f.enroller.Known(t.Context(), d.who), fault.RequesterCertificate)
	_, err := f.challengeFor(d, "")
	refused(t, err, fault.RequesterCertificate)
	_, _, err = f.enroller.AttestNonce(t.Context(), d.who)
	refused(t, err, fault.RequesterCertificate)
	for _, op := range []enroll.Operation{enroll.Enroll, enroll.Reenroll} {
		for _, label := range []string{"", "cloud", "ak"} {
			_, err := f.byCertificate(op, parsed(t, ak), label, newCSR(t, newKey(t), nil))
			refused(t, err, fault.RequesterCertificate)
		}
	}
}

// An attestation key that another followed is done with, as any credential is whose
// successor has been used: a TPM that left the device would vouch for its keys.
func TestAttestationKeyThatWasReplaced(t *testing.T) {
	f := newField(t, nil)
	d, old := f.certified("GW-1")
	was := d.ak
	d.ak = d.NewAK(wire.ECP256)
	_, err := f.enrolls(f.request(d, "ak"))
	must(t, err)
	// The device may have missed the answer: the old one is good until the new one
	// is used.
	now := d.ak
	d.ak = was
	_, err = f.enrolls(f.attestedRequest(d, f.attestNonce(d), old.Credential.DER))
	must(t, err)
	d.ak = now
	_, err = f.enrolls(f.attestedRequest(d, f.attestNonce(d)))
	must(t, err)
	d.ak = was
	_, err = f.enrolls(f.attestedRequest(d, f.attestNonce(d), old.Credential.DER))
	refused(t, err, fault.AKCertificate)
}

// A device that is known can make leaves of the ledger by answering wrong, but not
// as many as it likes: beyond a few it is not heard for a while, and what it asks is
// not judged.
func TestWrongAnswersAreCounted(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	before := f.ledgerSize()
	tooMany := 0
	for range 100 {
		q := f.request(d, "")
		q.TPM.Secret[0] ^= 1
		_, err := f.enrolls(q)
		if fault.Has(err, fault.TooManyRequests) {
			tooMany++
			continue
		}
		refused(t, err, fault.ActivationWrong)
	}
	if n := len(f.leaves(ledger.EvidenceRefused, before)); n > 20 || n+tooMany != 100 {
		t.Errorf("%d leaves, %d answers not heard", n, tooMany)
	}
	// It burned nothing: the same answer is judged later.
	good := f.request(d, "")
	_, err := f.enrolls(good)
	refused(t, err, fault.TooManyRequests)
	other := f.newDevice("GW-2")
	f.first(other) // nobody else is held up
	f.pass(2 * time.Minute)
	_, err = f.enrolls(good)
	must(t, err)
}

// A station that invents units does not fill the ledger with what it is refused.
func TestRefusalsOfAStationAreCounted(t *testing.T) {
	l := newTPMLine(t, nil)
	x := newTPM(t, tpmtest.NewMaker(t, "Nobody", tpmtest.MakerOptions{Now: l.clock()}), "", tpmtest.Options{})
	before := l.ledgerSize()
	for i := range 400 {
		x.deviceSerial = fmt.Sprintf("SN-%d", i)
		_, err := l.challenge(x)
		refused(t, err, fault.EKUntrusted)
	}
	if n := len(l.leaves(ledger.EvidenceRefused, before)); n != 300 {
		t.Errorf("%d leaves", n)
	}
}

// Who may use a device's key for a moment must not move its identity into a TPM of
// his own: the device is known by its certificate, and so is its TPM, until an
// operator says that the board was replaced.
func TestDeviceKeepsItsTPM(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	r := f.first(d)
	other := &tpmDevice{f.tpm("GW-1"), d.who}
	before := f.ledgerSize()
	for _, label := range []string{"", "ak"} {
		_, err := f.challengeFor(other, label)
		refused(t, err, fault.TPMChanged)
	}
	if n := len(f.leaves(ledger.EvidenceRefused, before)); n != 1 {
		t.Errorf("%d leaves", n)
	}
	// A challenge from before the device had a TPM does not help.
	second := f.newDevice("GW-2")
	thief := &tpmDevice{f.tpm("GW-2"), second.who}
	early := f.request(thief, "")
	f.first(second)
	early.Requester = second.who
	_, err := f.enrolls(early)
	refused(t, err, fault.TicketOther)
	// Its own TPM serves it on, and so does another once that was accepted.
	d.key = d.NewSubject(wire.ECP256)
	_, err = f.enrolls(f.request(d, ""))
	must(t, err)
	must(t, f.store.ResetTPM(t.Context(), r.Credential.Device, entry(f.world, ledger.TPMReset)))
	f.pass(time.Second)
	moved, err := f.enrolls(f.request(other, ""))
	must(t, err)
	other.who = enroll.Requester{Chain: []*x509.Certificate{parsed(t, moved)}}
	d.who = other.who
	_, err = f.challengeFor(d, "")
	refused(t, err, fault.TPMChanged)
}

// What is asked for by a certified attestation key is of the device's TPM, too.
func TestAttestationKeyOfTheTPMBefore(t *testing.T) {
	f := newField(t, nil)
	d, ak := f.certified("GW-1")
	must(t, f.store.ResetTPM(t.Context(), ak.Credential.Device, entry(f.world, ledger.TPMReset)))
	other := &tpmDevice{f.tpm("GW-1"), d.who}
	f.pass(time.Second)
	moved, err := f.enrolls(f.request(other, ""))
	must(t, err)
	d.who = enroll.Requester{Chain: []*x509.Certificate{parsed(t, moved)}}
	_, err = f.enrolls(f.attestedRequest(d, f.attestNonce(d), ak.Credential.DER))
	refused(t, err, fault.TPMChanged)
}

// A nonce is spent where the certificate is stored: of many keys that are shown
// under one at once, one gets a certificate.
func TestOneNonceMakesOneCertificate(t *testing.T) {
	f := newField(t, nil)
	d, _ := f.certified("GW-1")
	nonce := f.attestNonce(d)
	requests := make([]enroll.Request, 16)
	for i := range requests {
		requests[i] = f.attestedRequest(d, nonce)
	}
	var outcomes tally
	var wg sync.WaitGroup
	for _, q := range requests {
		wg.Go(func() { _, err := f.enrolls(q); outcomes.add(t, err) })
	}
	wg.Wait()
	if outcomes.n[0] != 1 || outcomes.n[fault.AttestNonce] != len(requests)-1 {
		t.Errorf("outcomes %v", outcomes.n)
	}
}

// While its certificate is on hold, an attestation key proves nothing.
func TestAttestationKeyOnHold(t *testing.T) {
	f := newField(t, nil)
	d, ak := f.certified("GW-1")
	q := f.attestedRequest(d, f.attestNonce(d))
	act := status.Act{CertSerial: ak.Credential.CertSerial}
	_, err := f.status.Hold(t.Context(), access.System(), act)
	must(t, err)
	_, err = f.enrolls(q)
	refused(t, err, fault.AKCertificate)
	_, err = f.status.Release(t.Context(), access.System(), act)
	must(t, err)
	_, err = f.enrolls(q) // that was no wrong answer
	must(t, err)
}

// A device that answers several challenges does not choose which answer is stored
// first: that one is a moment older than another is no sign of an older TPM.
func TestAnswersArriveInAnyOrder(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	f.first(d)
	d.key = d.NewSubject(wire.ECP256)
	first := f.request(d, "")
	d.Clock += 5000
	f.pass(5 * time.Second)
	d.key = d.NewSubject(wire.ECP256)
	_, err := f.enrolls(f.request(d, ""))
	must(t, err)
	_, err = f.enrolls(first)
	must(t, err)
	before := d.Clock
	d.Clear()
	_, err = f.enrolls(f.request(d, ""))
	refused(t, err, fault.QuoteOld)
	d.Clock = before
}

// A manifest lists keys of other chips, too, and keys that are in no chip at all.
// Who has one of those in software can play a TPM around it: only an entry that is
// an endorsement key's vouches for one.
func TestListedKeyIsNoEndorsementKey(t *testing.T) {
	f := newField(t, nil)
	x := newTPM(t, f.maker, "GW-1", tpmtest.Options{Bare: true})
	f.listTPM(x, func(c *chip) { c.Keys[0].Slot, c.ChipType = "0", "secure element" })
	d := f.deviceWith(x)
	_, err := f.challengeFor(d, "")
	refused(t, err, fault.EKNotListed)
	l := newTPMLine(t, nil)
	u := newTPM(t, l.maker, "SN-1", tpmtest.Options{Bare: true})
	l.listTPM(u, func(c *chip) { c.Keys[0].Slot = "0" })
	_, err = l.challenge(u)
	refused(t, err, fault.EKNotListed)
}
