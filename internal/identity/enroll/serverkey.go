package enroll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/pki/cms"
	"github.com/birthmark/birthmark/internal/pki/keypool"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// KeyResponse is a certificate with the key that we made for it. Exactly one of
// Key and Sealed is set.
type KeyResponse struct {
	Response
	Key    []byte // DER PKCS #8, for a connection that protects it
	Sealed []byte // CMS EnvelopedData of a signed asymmetric key package (RFC 5958)
}

// Erase clears the key. Call it when the answer is out.
func (r *KeyResponse) Erase() { clear(r.Key) }

// serverKey is the key of a request that has none.
type serverKey struct {
	key       *keypool.Key
	recipient *x509.Certificate // nil: the connection protects the key
}

// EnrollServerKey implements Service. The certificate is issued by the same rules
// as any other; its key is marked as injected for ever.
func (e *Enroller) EnrollServerKey(ctx context.Context, r Request) (*KeyResponse, error) {
	if e.line == nil {
		return nil, fault.New(fault.KeyModel, "this server makes no keys")
	}
	s := &serverKey{}
	r.serverKey = s
	defer func() {
		if s.key != nil {
			s.key.Erase()
		}
	}()
	answer, err := e.Enroll(ctx, r)
	if err != nil {
		return nil, err
	}
	if answer.Replayed || s.key == nil { // the key of that certificate is not here any more
		return nil, fault.New(fault.RequestReplayed)
	}
	out := &KeyResponse{Response: *answer}
	if s.recipient == nil {
		out.Key = bytes.Clone(s.key.PKCS8())
		return out, nil
	}
	out.Sealed, err = e.sealPackage(ctx, s)
	return out, err
}

// sealPackage puts the key into a package, signed if we can, and seals that.
func (e *Enroller) sealPackage(ctx context.Context, s *serverKey) ([]byte, error) {
	content, err := keyPackage(s.key.PKCS8())
	if err != nil {
		return nil, err
	}
	defer clear(content)
	by := e.line.Packages
	if by == nil {
		return cms.Seal(cms.KeyPackage, content, s.recipient, cms.CBC, e.line.Random)
	}
	signed, err := cms.Sign(cms.KeyPackage, content, by.Certificate(), func(message []byte) ([]byte, error) { return by.Sign(ctx, message) })
	if err != nil {
		return nil, err
	}
	defer clear(signed)
	return cms.Seal(cms.SignedData, signed, s.recipient, cms.CBC, e.line.Random)
}

// parse judges the request, whose key and signature mean nothing when we make the
// key.
func (r *Request) parse() (*request.Request, error) {
	if r.serverKey != nil {
		return request.ParseWithoutKey(r.CSR)
	}
	return request.Parse(r.CSR)
}

// makeKey puts a key of ours in the request's place, once, if the profile lets us
// and there is a way for it to travel. A requester that shows the certificate
// which it wants to replace asks for a re-enrollment.
func (e *Enroller) makeKey(ctx context.Context, r *Request, d *decision, csr *request.Request) error {
	p, s := d.road.Profile, r.serverKey
	switch {
	case p.RequireHardware:
		return fault.New(fault.KeyModel, "the profile wants a key that lives in a chip")
	case p.ServerKeys == profile.ServerKeysNone:
		return fault.New(fault.KeyModel, "the profile wants a key that the device made")
	case csr.SharedKey:
		return fault.New(fault.RecipientInvalid, "name a certificate of the device (AsymmetricDecryptKeyIdentifier)")
	case csr.DecryptKey == nil && p.ServerKeys != profile.ServerKeysTLS:
		return fault.New(fault.KeyModel, "the profile wants the key encrypted: name a certificate of the device (AsymmetricDecryptKeyIdentifier)")
	case d.requester.spentOn != nil:
		return fault.New(fault.SecretSpent)
	}
	q := d.requester
	if q.credential != nil && !q.foreign && q.credential.Slot() == d.slot {
		r.Operation = Reenroll
	}
	d.injected = true
	var err error
	if s.recipient == nil && csr.DecryptKey != nil {
		if s.recipient, err = e.recipientOf(ctx, r, q, csr.DecryptKey); err != nil {
			return err
		}
	}
	if s.key != nil {
		return nil
	}
	i := slices.IndexFunc(p.Keys, func(t profile.KeyType) bool { return slices.Contains(keypool.Types(), t) })
	if i < 0 {
		return fault.New(fault.KeyNotAllowed)
	}
	if s.key, err = e.line.Keys.Take(ctx, p.Keys[i]); err != nil {
		return err
	}
	csr.SPKI, csr.SPKIDigest, csr.KeyType = s.key.SPKI, sha256.Sum256(s.key.SPKI), s.key.Type
	return nil
}

// recipientOf returns the certificate of the device that has this key identifier:
// the one it presented, or one that it has from us.
func (e *Enroller) recipientOf(ctx context.Context, r *Request, q *requester, id []byte) (*x509.Certificate, error) {
	if q.credential != nil && len(r.Requester.Chain) > 0 && bytes.Equal(r.Requester.Chain[0].SubjectKeyId, id) {
		return r.Requester.Chain[0], cms.CheckRecipient(r.Requester.Chain[0])
	}
	for _, current := range q.device.Current {
		c, err := e.devices.Credential(ctx, access.Everything(), current)
		if err != nil {
			return nil, err
		}
		if c.State != device.Issued && c.State != device.Confirmed || e.now().After(c.NotAfter) {
			continue
		}
		cert, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(cert.SubjectKeyId, id) {
			return cert, cms.CheckRecipient(cert)
		}
	}
	return nil, fault.New(fault.RecipientInvalid, "the device has no certificate with this key identifier")
}

// keyPackage returns AsymmetricKeyPackage (RFC 5958, section 2) with one key.
func keyPackage(pkcs8 []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(pkcs8) })
	return b.Bytes()
}
