package issuing

import (
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Input is what differs from one certificate of a profile to the next.
type Input struct {
	CertSerial          []byte // content octets of a positive INTEGER, at most 20
	NotBefore, NotAfter time.Time
	Values              profile.Values
	SPKI                []byte // SubjectPublicKeyInfo
}

// version3 is [0] { INTEGER 2 }.
var version3 = []byte{0xa0, 0x03, tagInteger, 0x01, 0x02}

// Issue makes a certificate. The bytes it returns were signed, verified and
// compared with in, field by field.
func (c *Compiled) Issue(in Input) ([]byte, error) {
	l, err := c.layoutFor(in.SPKI)
	if err != nil {
		return nil, err
	}
	tbs, err := c.tbs(l, &in)
	if err != nil {
		return nil, err
	}
	der, err := c.authority.seal(tbs, 0, nil)
	if err != nil {
		return nil, err
	}
	if err := c.compare(der, l, &in); err != nil {
		return nil, fault.Wrap(fault.SignatureFault, err)
	}
	if c.authority.limited {
		if err := c.authority.permits(der); err != nil {
			return nil, err
		}
	}
	return der, nil
}

// layoutFor returns the layout for a subject's key, or refuses the key.
func (c *Compiled) layoutFor(spki []byte) (*layout, error) {
	t, err := keyType(spki)
	if err != nil {
		return nil, err
	}
	l := c.layouts[t]
	if l == nil {
		return nil, fault.New(fault.KeyNotAllowed, t)
	}
	return l, nil
}

// tbs fills the holes. The slice it returns has room for the signature.
func (c *Compiled) tbs(l *layout, in *Input) ([]byte, error) {
	if !serialOK(in.CertSerial) {
		return nil, errSerial
	}
	if err := c.checkValidity(in); err != nil {
		return nil, err
	}
	var scratch [512]byte
	names, err := appendName(scratch[:0], c.name, &in.Values, c.profile.FixedLength)
	if err != nil {
		return nil, err
	}
	subjectLen := len(names)
	if names, err = c.appendAltNames(names, &in.Values); err != nil {
		return nil, err
	}
	subject, san := names[:subjectLen], names[subjectLen:]
	if subjectLen == 2 && len(san) == 0 {
		return nil, fault.New(fault.ProfileValue, "the certificate would have no name at all")
	}

	a := c.authority
	issuer := a.subject
	if a.certificate == nil {
		issuer = subject
	}
	dst := make([]byte, 0, 320+len(issuer)+len(names)+len(in.SPKI)+l.size+a.size)
	dst = append(dst, version3...)
	dst = appendTLV(dst, tagInteger, in.CertSerial)
	dst = append(dst, a.id...)
	dst = append(dst, issuer...)
	dst = appendValidity(dst, in)
	dst = append(dst, subject...)
	dst = append(dst, in.SPKI...)
	dst = c.appendExtensions(dst, l, in, san, subjectLen == 2)
	return wrap(dst, 0, tagSequence), nil
}

func appendValidity(dst []byte, in *Input) []byte {
	start := len(dst)
	dst = appendTime(dst, in.NotBefore.UTC())
	dst = appendTime(dst, in.NotAfter.UTC())
	return wrap(dst, start, tagSequence)
}

func (c *Compiled) appendExtensions(dst []byte, l *layout, in *Input, san []byte, nameless bool) []byte {
	start := len(dst)
	for i := range l.pieces {
		switch p := &l.pieces[i]; p.hole {
		case holeNone:
			dst = append(dst, p.fixed...)
		case holeSubjectKey:
			id := subjectKeyID(in.SPKI)
			dst = appendHeader(dst, tagSequence, len(extSubjectKeyID)+4+len(id))
			dst = append(dst, extSubjectKeyID...)
			dst = append(dst, tagOctetString, byte(2+len(id)), tagOctetString, byte(len(id)))
			dst = append(dst, id[:]...)
		case holeAltName:
			if len(san) > 0 {
				// RFC 5280, section 4.2.1.6: critical when the subject is empty.
				dst = appendExtension(dst, extAltName, nameless, san)
			}
		case holeShard:
			dst = appendExtension(dst, extCRLPoints, false, c.points[Shard(in.CertSerial, len(c.points))])
		}
	}
	dst = wrap(dst, start, tagSequence)
	return wrap(dst, start, explicit(3))
}

// subjectKeyID returns the key identifier of a SubjectPublicKeyInfo that
// keyType has accepted.
func subjectKeyID(spki []byte) [20]byte {
	bits, err := publicKeyBits(spki)
	if err != nil {
		return [20]byte{}
	}
	return keyID(bits)
}

var errSerial = errors.New("issuing: a certificate serial is the content of a positive INTEGER of at most 20 octets")

// serialOK reports whether s can be the content of a certificate's serial number
// (RFC 5280, section 4.1.2.2): positive, minimal, at most 20 octets.
func serialOK(s []byte) bool {
	switch {
	case len(s) == 0 || len(s) > 20 || s[0] >= 0x80:
		return false
	case len(s) == 1:
		return s[0] != 0
	}
	return s[0] != 0 || s[1] >= 0x80
}

// Shard returns the CRL shard of a certificate: the first four octets of the
// SHA-256 of its serial, without leading zeros, modulo the number of shards.
// Certificates carry the result for life, so this never changes.
func Shard(certSerial []byte, shards int) int {
	if shards <= 1 {
		return 0
	}
	for len(certSerial) > 1 && certSerial[0] == 0 {
		certSerial = certSerial[1:]
	}
	sum := sha256.Sum256(certSerial)
	return int(binary.BigEndian.Uint32(sum[:4]) % uint32(shards))
}

// The one encoding of SubjectPublicKeyInfo that each curve has here: named curve,
// uncompressed point (RFC 5480, section 2).
const (
	p256Prefix    = "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
	p384Prefix    = "\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00"
	ed25519Prefix = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"
)

// keyType returns the type of a public key, and refuses encodings and points
// that have no business in a certificate even if a caller let them through.
func keyType(spki []byte) (profile.KeyType, error) {
	if point, ok := cutPrefix(spki, p256Prefix, 65); ok {
		if _, err := ecdh.P256().NewPublicKey(point); err != nil {
			return "", fault.Wrap(fault.KeyAlgorithm, err)
		}
		return profile.P256, nil
	}
	if point, ok := cutPrefix(spki, p384Prefix, 97); ok {
		if _, err := ecdh.P384().NewPublicKey(point); err != nil {
			return "", fault.Wrap(fault.KeyAlgorithm, err)
		}
		return profile.P384, nil
	}
	if _, ok := cutPrefix(spki, ed25519Prefix, 32); ok {
		return profile.Ed25519, nil
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return "", fault.Wrap(fault.KeyAlgorithm, err)
	}
	t, err := profile.KeyTypeOf(public)
	if err != nil {
		return "", err
	}
	if canonical, err := x509.MarshalPKIXPublicKey(public); err != nil || string(canonical) != string(spki) {
		return "", fault.New(fault.KeyAlgorithm, "the public key is not in its usual encoding")
	}
	return t, nil
}

func cutPrefix(spki []byte, prefix string, size int) ([]byte, bool) {
	if len(spki) != len(prefix)+size || string(spki[:len(prefix)]) != prefix {
		return nil, false
	}
	return spki[len(prefix):], true
}
