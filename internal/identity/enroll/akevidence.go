package enroll

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// Attestation is evidence of a TPM for the key of a CSR without a challenge of its
// own: the attestation key is known by its certificate of ours, which it got for an
// opened credential (a Request without CSR), and the nonce is one of AttestNonce. A
// protocol that carries the evidence in the CSR (the attestation attribute, TCG
// statement 2.23.133.20.1) fills it from there.
//
// The device asks for a nonce, makes TPM2_Certify with the qualifying data
// tpm.Binding(nonce, SPKI), and sends both with the CSR within ten minutes. A nonce
// is good for one certificate. Where the form of the evidence has no place for the
// nonce, the qualifying data is the nonce itself.
type Attestation struct {
	Nonce     []byte // as AttestNonce gave it; empty: it is the qualifying data of Attest
	Attest    []byte // TPMS_ATTEST of TPM2_Certify
	Signature []byte // TPMT_SIGNATURE by the attestation key
	Public    []byte // TPMT_PUBLIC of the CSR's key
	// AKCertificates holds the attestation key's certificate (DER), and its issuers
	// if the device likes; empty: the device's current one.
	AKCertificates [][]byte
}

// nonceLabel separates the nonces' key from all else under the tickets' key.
const nonceLabel = "birthmark attestation nonce v1"

// nonceID is how long the id of a nonce is; a MAC as long follows.
const nonceID = len(device.Ticket{}.ID)

// AttestNonce returns a nonce of 32 octets for an Attestation of anybody who is
// known, and until when it is good. It is remembered nowhere: what makes it ours is
// a MAC over the time in it. STORE spends it as a ticket.
func (e *Enroller) AttestNonce(ctx context.Context, who Requester) ([]byte, time.Time, error) {
	if err := e.mayAttest(); err != nil {
		return nil, time.Time{}, err
	}
	if err := e.Known(ctx, who); err != nil {
		return nil, time.Time{}, err
	}
	now := e.now()
	nonce := binary.BigEndian.AppendUint64(make([]byte, 0, 2*nonceID), uint64(now.UnixMicro()))[:nonceID]
	if _, err := io.ReadFull(e.attest.Random, nonce[8:]); err != nil {
		return nil, time.Time{}, fmt.Errorf("an attestation's nonce: %w", err)
	}
	mac, err := e.attest.tickets.mac(ctx, nonce)
	return append(nonce, mac...), now.Add(ticketLife).UTC(), err
}

// mac returns what makes the id of a nonce ours.
func (s *tickets) mac(ctx context.Context, id []byte) ([]byte, error) {
	if _, err := s.sealer(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	h := hmac.New(sha256.New, s.key[:])
	s.mu.Unlock()
	h.Write([]byte(nonceLabel))
	h.Write(id)
	return h.Sum(nil)[:nonceID], nil
}

// openNonce returns the ticket that a nonce is: fault.AttestNonce when it is none
// of ours or its time is over.
func (e *Enroller) openNonce(ctx context.Context, nonce []byte) (*ticket, error) {
	if len(nonce) != 2*nonceID {
		return nil, fault.New(fault.AttestNonce)
	}
	mac, err := e.attest.tickets.mac(ctx, nonce[:nonceID])
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(mac, nonce[nonceID:]) {
		return nil, fault.New(fault.AttestNonce)
	}
	t := &ticket{}
	copy(t.ref.ID[:], nonce)
	t.ref.ExpiresAt = time.UnixMicro(int64(binary.BigEndian.Uint64(nonce))).Add(ticketLife)
	if e.now().After(t.ref.ExpiresAt) {
		return nil, fault.New(fault.AttestNonce, "it is too old")
	}
	return t, nil
}

// proveByAK judges evidence that a certified attestation key made: the same steps
// as after a challenge, with the certificate in place of the opened credential. The
// maker is judged anew, so that a TPM that was denied since is refused.
func (e *Enroller) proveByAK(ctx context.Context, plane *authority.Snapshot, r *Request, d *decision, csr *request.Request) error {
	if e.attest == nil {
		return fault.New(fault.AttestNonce)
	}
	if d.road.Profile.Kind == profile.KindAttestation {
		return fault.New(fault.ProfileNotAllowed, "an attestation key is certified for an opened credential alone")
	}
	m, err := e.makersAt(ctx, d.epoch)
	if err != nil {
		return err
	}
	h := &hardware{}
	d.hardware = h
	if h.nonce, h.bare, err = r.Attestation.nonce(); err != nil {
		return err
	}
	t, err := e.openNonce(ctx, h.nonce)
	if err != nil {
		return err
	}
	c, err := e.attestationCredential(ctx, plane, d, r.Attestation.AKCertificates)
	if err != nil {
		return err
	}
	if h.tpm, err = e.knownTPM(ctx, m, c); err != nil {
		return err
	}
	if err := e.answers.check(asker{device: d.requester.device.ID}, e.now()); err != nil {
		return err
	}
	h.ticket = t
	a := &wire.Answer{Public: r.Attestation.Public, Attest: r.Attestation.Attest, Signature: r.Attestation.Signature}
	if err := e.proveAnswer(ctx, m, a, d, csr.SPKI, csr.SPKI); err != nil {
		return err
	}
	return e.confirm(ctx, plane, c, deviceActor(d.requester.device.ID))
}

// nonce returns the nonce of the evidence, and whether it is the qualifying data.
func (a *Attestation) nonce() (nonce []byte, bare bool, err error) {
	if len(a.Nonce) > 0 {
		return a.Nonce, false, nil
	}
	statement, err := wire.ParseAttest(a.Attest)
	if err != nil {
		return nil, true, err
	}
	return statement.ExtraData, true, nil
}

// attestationCredential finds the certificate of the attestation key: ours, of this
// device, good now, and the newest that was used. All else is fault.AKCertificate.
func (e *Enroller) attestationCredential(ctx context.Context, plane *authority.Snapshot, d *decision, shown [][]byte) (*device.Credential, error) {
	dev := &d.requester.device
	wrong := func(why string) (*device.Credential, error) { return nil, fault.New(fault.AKCertificate, why) }
	c, err := e.shownCredential(ctx, dev, shown)
	switch {
	case fault.Has(err, fault.CredentialUnknown):
		return wrong("it is not ours")
	case err != nil:
		return nil, err
	case c.Kind != string(profile.KindAttestation):
		return wrong("it is of another kind")
	case c.Device != dev.ID:
		return wrong("it is another device's")
	case c.State == device.Revoked || c.State == device.Held:
		return wrong("it is revoked or on hold")
	case e.now().After(c.NotAfter):
		return wrong("it has expired")
	}
	leaf, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return nil, err
	}
	if _, err := e.checkPath(ctx, plane, leaf, nil); err != nil {
		return nil, fault.Wrap(fault.AKCertificate, err, "its authority is not trusted")
	}
	err = e.checkNewest(ctx, &requester{device: *dev, credential: c})
	if fault.Has(err, fault.CredentialSuperseded) {
		return wrong("another followed it and was used")
	}
	return c, err
}

// shownCredential looks up the certificate that was shown or, without one, the
// device's current one.
func (e *Enroller) shownCredential(ctx context.Context, dev *device.Device, shown [][]byte) (*device.Credential, error) {
	unknown := fault.New(fault.CredentialUnknown)
	if len(shown) == 0 {
		id := dev.Current[device.LDevIDSlot(profile.PurposeAttestation)]
		if id == 0 {
			return nil, unknown
		}
		c, err := e.devices.Credential(ctx, access.Everything(), id)
		return &c, err
	}
	leaf, err := x509.ParseCertificate(shown[0])
	if err != nil {
		return nil, unknown
	}
	c, err := e.devices.CredentialBySerial(ctx, access.Everything(), leaf.SerialNumber.Bytes())
	if err == nil && !bytes.Equal(c.DER, shown[0]) {
		return nil, unknown
	}
	return &c, err
}

// knownTPM returns the TPM for which an attestation key was certified, as it is
// judged now.
func (e *Enroller) knownTPM(ctx context.Context, m *makers, c *device.Credential) (*tpm.TPM, error) {
	evidence, err := e.attest.Store.Evidence(ctx, access.Everything(), c.ID)
	if err != nil {
		return nil, err
	}
	kept, err := tpm.ParseKept(evidence.Content)
	if err != nil {
		return nil, err
	}
	claim := &wire.Claim{
		EKCertificate: kept.TPM.EKCertificate, EKChain: kept.TPM.EKChain, EKPublic: kept.TPM.EKPublic, AKPublic: kept.TPM.AKPublic,
	}
	found := &listing{store: e.attest.Chips}
	return m.trust.Check(claim, found.options(ctx, e.now()))
}
