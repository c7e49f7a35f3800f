package enroll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/pki/chain"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// longestGrace bounds how long after its end a certificate may still be looked
// at for re-enrollment; the profile's own limit is checked when it is known.
const longestGrace = 10 * 365 * 24 * time.Hour

// trust is what a snapshot of the control plane lets our listeners accept. It
// is made once per snapshot.
type trust struct {
	plane                  *authority.Snapshot
	anchors, intermediates *chain.Pool
}

// trusted returns the pools of a snapshot. An authority that was revoked is in
// none of them, so neither is anything below it.
func (e *Enroller) trusted(plane *authority.Snapshot) *trust {
	if t := e.trust.Load(); t != nil && t.plane == plane {
		return t
	}
	t := &trust{plane: plane, anchors: chain.NewPool(), intermediates: chain.NewPool()}
	for _, m := range plane.Trusted() {
		if m.Parent == 0 {
			t.anchors.Add(m.X509)
			continue
		}
		t.intermediates.Add(m.X509)
	}
	e.trust.Store(t)
	return t
}

// checkPath wants a good path from a presented certificate to a root of ours,
// or to a foreign authority that was imported as an anchor. Revocation of the
// leaf is looked up in the register by the caller.
func (e *Enroller) checkPath(ctx context.Context, plane *authority.Snapshot, leaf *x509.Certificate, presented []*x509.Certificate) (*chain.Path, error) {
	t := e.trusted(plane)
	return e.verifier.Verify(ctx, leaf, chain.Options{
		Anchors: t.anchors, Intermediates: t.intermediates, Presented: presented, At: e.now(),
		Usage: chain.UsageAny, AcceptExpired: longestGrace,
	})
}

// byForeign judges a certificate that is not in the register: its authority
// must be one that was imported, and its subject must name a registered device.
func (e *Enroller) byForeign(ctx context.Context, plane *authority.Snapshot, presented []*x509.Certificate) (*requester, error) {
	leaf := presented[0]
	path, err := e.checkPath(ctx, plane, leaf, presented[1:])
	if err != nil {
		return nil, err
	}
	issuer := foreignIssuer(plane, path)
	if issuer == nil {
		return nil, fault.New(fault.RequesterCertificate)
	}
	if q, err := e.byAdopted(ctx, leaf); q != nil || err != nil {
		if q != nil {
			q.issuer = issuer.Name
		}
		return q, err
	}
	deviceSerial := serialOf(leaf)
	if device.CheckSerial(deviceSerial) != nil {
		return nil, fault.New(fault.RequesterCertificate)
	}
	d, err := e.devices.Device(ctx, access.Everything(), e.devices.DeviceID(deviceSerial))
	if fault.Has(err, fault.DeviceUnknown) || err == nil && d.DeviceSerial != deviceSerial {
		return nil, fault.New(fault.RequesterCertificate)
	}
	if err != nil {
		return nil, err
	}
	return &requester{device: d, issuer: issuer.Name, foreign: true, credential: &device.Credential{
		CertSerial: leaf.SerialNumber.Bytes(), Kind: "idevid", Device: d.ID,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, SPKIDigest: sha256.Sum256(leaf.RawSubjectPublicKeyInfo), DER: leaf.Raw,
	}}, nil
}

// byAdopted finds the device whose initial identity is this very certificate of a
// chip maker: it is on record under a number of ours, so it is looked up by its
// key. It returns nothing when none has it.
func (e *Enroller) byAdopted(ctx context.Context, leaf *x509.Certificate) (*requester, error) {
	c, err := e.devices.CredentialBySPKI(ctx, access.Everything(), sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
	if fault.Has(err, fault.CredentialUnknown) || err == nil && !bytes.Equal(c.DER, leaf.Raw) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if c.Device == 0 {
		return nil, fault.New(fault.RequesterCertificate)
	}
	if c.State == device.Revoked || c.State == device.Held {
		return nil, fault.New(fault.CredentialRevoked)
	}
	d, err := e.devices.Device(ctx, access.Everything(), c.Device)
	if err != nil {
		return nil, err
	}
	if d.Current[device.IDevIDSlot] != c.ID {
		return nil, fault.New(fault.CredentialSuperseded)
	}
	return &requester{device: d, credential: &c, foreign: true}, nil
}

// foreignIssuer returns the imported authority on the path whose key is not
// ours: who vouches for the leaf. A certificate of an authority of ours that is
// not in the register is a forgery, whatever its path says.
func foreignIssuer(plane *authority.Snapshot, path *chain.Path) *authority.Member {
	for _, c := range path.Certificates[1:] {
		for _, m := range plane.Trusted() {
			if !bytes.Equal(m.Certificate, c.Raw) {
				continue
			}
			if m.KeyURI != "" {
				return nil
			}
			return m
		}
	}
	return nil
}

var oidSerialNumber = asn1.ObjectIdentifier{2, 5, 4, 5}

// serialOf returns the device serial in a foreign IDevID: the subject's
// serialNumber (IEEE 802.1AR, section 8.6), or its common name.
func serialOf(leaf *x509.Certificate) string {
	for _, a := range leaf.Subject.Names {
		if a.Type.Equal(oidSerialNumber) {
			s, _ := a.Value.(string)
			return s
		}
	}
	return leaf.Subject.CommonName
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// checkSameSubject wants the subject of the current certificate, and its
// alternative names if the request has any: nothing of either is used, but a
// device that asks for another name is not the one we think it is (RFC 7030,
// section 4.2.2).
func checkSameSubject(der []byte, csr *request.Request) error {
	current, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if !sameName(current.RawSubject, csr.Subject) {
		return fault.New(fault.SubjectChanged)
	}
	if csr.SAN == nil {
		return nil
	}
	for _, x := range current.Extensions {
		if x.Id.Equal(oidSubjectAltName) && bytes.Equal(x.Value, csr.SAN) {
			return nil
		}
	}
	return fault.New(fault.SubjectChanged)
}
