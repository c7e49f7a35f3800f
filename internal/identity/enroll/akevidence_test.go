package enroll_test

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/status"
)

// certified gives a device its first certificate and one for its attestation key.
func (f *field) certified(deviceSerial string) (*tpmDevice, *enroll.Response) {
	f.t.Helper()
	d := f.newDevice(deviceSerial)
	f.first(d)
	ak, err := f.enrolls(f.request(d, "ak"))
	must(f.t, err)
	return d, ak
}

func (f *field) attestNonce(d *tpmDevice) []byte {
	f.t.Helper()
	nonce, until, err := f.enroller.AttestNonce(f.t.Context(), d.who)
	must(f.t, err)
	if len(nonce) != 32 || !until.Equal(f.clock().Add(10*time.Minute)) {
		f.t.Fatalf("a nonce of %d octets until %v", len(nonce), until)
	}
	return nonce
}

// attestedRequest is a request for a new key with evidence by the certified AK.
func (f *field) attestedRequest(d *tpmDevice, nonce []byte, certificates ...[]byte) enroll.Request {
	f.t.Helper()
	d.key = d.NewSubject(wire.ECP256)
	binding := wire.Binding(nonce, d.key.SPKI())
	a := &enroll.Attestation{Nonce: nonce, Public: d.key.Public(), AKCertificates: certificates}
	a.Attest, a.Signature = d.Certify(d.ak, d.key, binding[:])
	return enroll.Request{
		Operation: enroll.Reenroll, Requester: d.who, Attestation: a,
		CSR: d.key.CSR(f.t, &x509.CertificateRequest{RawSubject: d.who.Chain[0].RawSubject}),
	}
}

func TestCertifiedAttestationKeyProvesAnotherKey(t *testing.T) {
	f := newField(t, nil)
	d, ak := f.certified("GW-1")
	q := f.attestedRequest(d, f.attestNonce(d), ak.Credential.DER)
	first, err := f.enrolls(q)
	must(t, err)
	if first.Credential.KeyKind != device.KeyHardware {
		t.Errorf("credential %+v", first.Credential)
	}
	kept, err := f.store.Evidence(t.Context(), access.Everything(), first.Credential.ID)
	must(t, err)
	if kept.Claims != attest.KeyInChip|attest.Fresh|attest.Genuine {
		t.Errorf("claims %s", kept.Claims)
	}
	for name, later := range map[string]time.Duration{"again": 0, "late": time.Hour} {
		f.pass(later)
		again, err := f.enrolls(q)
		if err != nil || !again.Replayed || !bytes.Equal(again.Credential.DER, first.Credential.DER) {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
	}
	// The device's current certificate is taken where none is sent.
	d.who = enroll.Requester{Chain: []*x509.Certificate{parsed(t, first)}}
	_, err = f.enrolls(f.attestedRequest(d, f.attestNonce(d)))
	must(t, err)
	used, err := f.store.Credential(t.Context(), access.Everything(), ak.Credential.ID)
	must(t, err)
	if used.ConfirmedAt.IsZero() {
		t.Error("the use of the attestation key's certificate is not on record")
	}
}

func TestEvidenceByACertifiedAttestationKeyIsRefused(t *testing.T) {
	f := newField(t, nil)
	other, otherAK := f.certified("GW-other")
	for name, tt := range map[string]struct {
		edit  func(d *tpmDevice, ak *enroll.Response, q *enroll.Request)
		want  fault.Code
		burns bool
	}{
		"a nonce of nobody": {func(_ *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			q.Attestation.Nonce = make([]byte, 32)
		}, fault.AttestNonce, false},
		"a nonce that somebody made": {func(d *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			key := d.key
			*q = f.attestedRequest(d, flipped(q.Attestation.Nonce, 31))
			d.key = key
		}, fault.AttestNonce, false},
		"a certificate with the number of ours": {func(_ *tpmDevice, ak *enroll.Response, q *enroll.Request) {
			ca, key := foreignCA(t)
			forged := signCertificate(t, &x509.Certificate{
				SerialNumber: new(big.Int).SetBytes(ak.Credential.CertSerial), NotBefore: f.clock(), NotAfter: f.clock().Add(time.Hour),
			}, ca, key, newKey(t))
			q.Attestation.AKCertificates = [][]byte{forged.Raw}
		}, fault.AKCertificate, false},
		"a nonce that is too short": {func(_ *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			q.Attestation.Nonce = q.Attestation.Nonce[:31]
		}, fault.AttestNonce, false},
		"no nonce": {func(_ *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			q.Attestation.Nonce = nil
		}, fault.AttestNonce, false},
		"an old nonce": {func(*tpmDevice, *enroll.Response, *enroll.Request) {
			f.pass(11 * time.Minute)
		}, fault.AttestNonce, false},
		"another nonce than was certified": {func(d *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			q.Attestation.Nonce = f.attestNonce(d)
		}, fault.CertifyNonce, false}, // that other nonce is burned
		"the AK of another device": {func(_ *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			q.Attestation.AKCertificates = [][]byte{otherAK.Credential.DER}
		}, fault.AKCertificate, false},
		"a certificate of another kind": {func(d *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			q.Attestation.AKCertificates = [][]byte{d.who.Chain[0].Raw}
		}, fault.AKCertificate, false},
		"a certificate that is none": {func(_ *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			q.Attestation.AKCertificates = [][]byte{{0x30, 0x00}}
		}, fault.AKCertificate, false},
		"a certificate of somebody else": {func(d *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			ca, key := foreignCA(t)
			q.Attestation.AKCertificates = [][]byte{foreignLeaf(t, ca, key, newKey(t), "GW-1").Raw}
		}, fault.AKCertificate, false},
		"a revoked certificate": {func(_ *tpmDevice, ak *enroll.Response, _ *enroll.Request) {
			_, err := f.status.Revoke(t.Context(), access.System(), status.Act{CertSerial: ak.Credential.CertSerial, Reason: "keyCompromise"})
			must(t, err)
		}, fault.AKCertificate, false},
		"an AK that is not the certified one": {func(d *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			binding := wire.Binding(q.Attestation.Nonce, d.key.SPKI())
			q.Attestation.Attest, q.Attestation.Signature = d.Certify(d.NewAK(wire.ECP256), d.key, binding[:])
		}, fault.CertifySignature, true},
		"a key of another TPM": {func(d *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			*q = f.attestedRequest(other, q.Attestation.Nonce)
			q.Requester = d.who
			q.CSR = other.key.CSR(t, &x509.CertificateRequest{RawSubject: d.who.Chain[0].RawSubject})
		}, fault.CertifySignature, true},
		"both kinds of evidence": {func(d *tpmDevice, _ *enroll.Response, q *enroll.Request) {
			q.TPM = f.request(d, "").TPM
		}, fault.ParameterInvalid, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := f.clock()
			d, ak := f.certified("GW-" + wordsOf(name))
			nonce := f.attestNonce(d)
			good := f.attestedRequest(d, nonce)
			bad := good
			copied := *good.Attestation
			bad.Attestation = &copied
			tt.edit(d, ak, &bad)
			_, err := f.enrolls(bad)
			refused(t, err, tt.want)
			f.pass(now.Sub(f.clock()))
			_, err = f.enrolls(good)
			switch {
			case tt.burns:
				refused(t, err, fault.AttestNonce)
			case name == "a revoked certificate":
				refused(t, err, fault.AKCertificate)
			default:
				must(t, err)
			}
		})
	}
}

// Where the form of the evidence has no place for the nonce, the AK signs it as it
// is.
func TestBareNonceIsQualifyingData(t *testing.T) {
	f := newField(t, nil)
	d, _ := f.certified("GW-1")
	bare := func(nonce []byte) enroll.Request {
		q := f.attestedRequest(d, nonce)
		q.Attestation.Nonce = nil
		q.Attestation.Attest, q.Attestation.Signature = d.Certify(d.ak, d.key, nonce)
		return q
	}
	nonce := f.attestNonce(d)
	first, err := f.enrolls(bare(nonce))
	must(t, err)
	if first.Credential.KeyKind != device.KeyHardware {
		t.Errorf("credential %+v", first.Credential)
	}
	_, err = f.enrolls(bare(nonce))
	refused(t, err, fault.AttestNonce) // it was used
	_, err = f.enrolls(bare(make([]byte, 32)))
	refused(t, err, fault.AttestNonce) // it is not ours
	// The statement is about one key: another request does not get it.
	q := bare(f.attestNonce(d))
	q.CSR = newCSR(t, newKey(t), d.who.Chain[0].RawSubject)
	_, err = f.enrolls(q)
	refused(t, err, fault.SubjectKey)
}

// A nonce makes one certificate, even for the device that asked for it.
func TestAttestationNonceIsSpentOnce(t *testing.T) {
	f := newField(t, nil)
	d, _ := f.certified("GW-1")
	nonce := f.attestNonce(d)
	_, err := f.enrolls(f.attestedRequest(d, nonce))
	must(t, err)
	_, err = f.enrolls(f.attestedRequest(d, nonce))
	refused(t, err, fault.AttestNonce)
	_, _, err = f.enroller.AttestNonce(t.Context(), enroll.Requester{DeviceSerial: "GW-1", Secret: []byte("guess")})
	if fault.Of(err).Kind != fault.Unauthenticated {
		t.Errorf("a stranger: %v", err)
	}
}

// Trust that ends after the attestation key was certified ends what it proves.
func TestAttestationKeyOfATPMThatIsDenied(t *testing.T) {
	f := newField(t, nil)
	d, _ := f.certified("GW-1")
	bundle := tpmtest.Bundle(2, f.maker)
	bundle.Deny = []attest.Deny{{Model: "TEST", Reason: "broken keys"}}
	f.trust(bundle)
	_, err := f.enrolls(f.attestedRequest(d, f.attestNonce(d)))
	refused(t, err, fault.EKDenied)
	// A policy wants a quote, which this evidence has none of.
	f.trust(tpmtest.Bundle(3, f.maker))
	f.policy(f.gateway.ID, 1, attest.PolicyFile{Bank: "sha256", States: []attest.State{{Name: "any", PCRs: registers(d.unitTPM, 0)}}})
	_, err = f.enrolls(f.attestedRequest(d, f.attestNonce(d)))
	refused(t, err, fault.QuoteMissing)
}
