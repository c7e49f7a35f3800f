package enroll

import (
	"bytes"
	"context"
	"crypto/subtle"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// replayWindow is how long a spent one-time secret still fetches the
// certificate that it paid for, with the same key.
const replayWindow = 15 * time.Minute

// requester is who asks, after authentication, with the device as it was read:
// the decision is stored only if the device is still at that version.
type requester struct {
	device     device.Device
	credential *device.Credential // nil: authenticated by the one-time secret
	issuer     string             // name of the authority behind credential
	foreign    bool               // credential is not ours: it is in no slot of the device
	// spentOn is set when the secret was spent: it fetches the certificate of
	// this key and nothing else.
	spentOn *[32]byte
}

// identify returns what stands for the requester's credential in idempotency
// keys.
func (q *requester) identify() []byte {
	if q.credential != nil {
		return q.credential.CertSerial
	}
	return q.device.Secret.Hash[:]
}

// authenticate judges what the transport saw. A certificate goes before a
// secret. Cheap checks come first: an unauthenticated caller costs one look-up
// and one hash, or one signature check.
func (e *Enroller) authenticate(ctx context.Context, plane *authority.Snapshot, r *Request) (*requester, error) {
	if len(r.Requester.Chain) > 0 {
		q, err := e.byCertificate(ctx, plane, r)
		if err == nil || r.Operation == Reenroll || r.Requester.DeviceSerial == "" {
			return q, err
		}
		// RFC 7030, section 3.2.3: a client may send both; the certificate of
		// another authority than ours must not lock out the device's secret.
		if !fault.Has(err, fault.RequesterCertificate) && !fault.Has(err, fault.ChainUntrusted) {
			return nil, err
		}
	}
	if r.Operation == Reenroll {
		return nil, fault.New(fault.RequesterCertificate)
	}
	return e.bySecret(ctx, r)
}

func (e *Enroller) bySecret(ctx context.Context, r *Request) (*requester, error) {
	if r.Requester.DeviceSerial == "" {
		return nil, fault.New(fault.RequesterUnknown)
	}
	hash := device.HashSecret(r.Requester.Secret)
	d, err := e.devices.Device(ctx, access.Everything(), e.devices.DeviceID(r.Requester.DeviceSerial))
	if err != nil && !fault.Has(err, fault.DeviceUnknown) {
		return nil, err
	}
	// One answer for an unknown device, a device without secret and a wrong
	// secret, after the same work.
	right := subtle.ConstantTimeCompare(hash[:], d.Secret.Hash[:]) == 1
	if err != nil || d.DeviceSerial != r.Requester.DeviceSerial || !d.Secret.Set || !right {
		return nil, fault.New(fault.SecretWrong)
	}
	q := &requester{device: d}
	if !d.Secret.SpentAt.IsZero() {
		if e.now().Sub(d.Secret.SpentAt) > replayWindow {
			return nil, fault.New(fault.SecretSpent)
		}
		q.spentOn = &d.Secret.SpentSPKI
	}
	return q, nil
}

// byCertificate finds the device behind a presented certificate: one of ours is
// looked up by its serial and must be the very certificate on record; one of a
// foreign authority that was imported is checked by path and names its device
// in the subject.
func (e *Enroller) byCertificate(ctx context.Context, plane *authority.Snapshot, r *Request) (*requester, error) {
	leaf := r.Requester.Chain[0]
	c, err := e.devices.CredentialBySerial(ctx, access.Everything(), leaf.SerialNumber.Bytes())
	if fault.Has(err, fault.CredentialUnknown) {
		return e.byForeign(ctx, plane, r.Requester.Chain)
	}
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(c.DER, leaf.Raw) || c.Device == 0 {
		return nil, fault.New(fault.RequesterCertificate)
	}
	if c.Kind == string(profile.KindAttestation) { // its key signs what anybody hashes in the TPM, a handshake too
		return nil, fault.New(fault.RequesterCertificate, "it is an attestation key's")
	}
	switch c.State {
	case device.Revoked, device.Held:
		return nil, fault.New(fault.CredentialRevoked)
	}
	if _, err := e.checkPath(ctx, plane, leaf, nil); err != nil {
		return nil, err
	}
	d, err := e.devices.Device(ctx, access.Everything(), c.Device)
	if err != nil {
		return nil, err
	}
	m, ok := plane.AuthorityByID(c.Authority)
	if !ok {
		return nil, fault.New(fault.RequesterCertificate)
	}
	return &requester{device: d, credential: &c, issuer: m.Name}, nil
}

// checkNewest refuses a credential whose successor has been seen in use. While
// the successor has not, the device may have missed the answer and asks again
// with the old one.
func (e *Enroller) checkNewest(ctx context.Context, q *requester) error {
	id := q.device.Current[q.credential.Slot()]
	for range maxUnconfirmed {
		if id == q.credential.ID {
			return nil
		}
		if id == 0 {
			break
		}
		c, err := e.devices.Credential(ctx, access.Everything(), id)
		if err != nil {
			return err
		}
		if !c.ConfirmedAt.IsZero() {
			break
		}
		id = c.Previous
	}
	return fault.New(fault.CredentialSuperseded)
}

// maxUnconfirmed bounds how many successors a device may have missed in a row.
const maxUnconfirmed = 16
