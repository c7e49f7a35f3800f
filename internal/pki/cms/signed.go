package cms

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	oidContentType     = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x03"
	oidMessageDigest   = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x04"
	oidECDSAWithSHA256 = "\x2a\x86\x48\xce\x3d\x04\x03\x02"
)

// Signer signs a message with an ECDSA key over its SHA-256 and returns the
// signature in DER.
type Signer func(message []byte) ([]byte, error)

// Sign returns the value of type SignedData (RFC 5652, section 5) that carries the
// content, the signer's certificate and one signature over content and type. It
// has no ContentInfo around it: that is how an envelope holds it.
func Sign(kind ContentType, content, certificate []byte, sign Signer) ([]byte, error) {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, err
	}
	if _, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, errors.New("cms: the signer's key is not ECDSA")
	}
	digest := sha256.Sum256(content)
	attributes, err := signedAttributes(kind, digest[:])
	if err != nil {
		return nil, err
	}
	// RFC 5652, section 5.4: signed as SET OF, sent under an implicit tag.
	signature, err := sign(attributes)
	if err != nil {
		return nil, err
	}
	sent := bytes.Clone(attributes)
	sent[0] = tagZero
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(3) // the content is not Data
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { addAlgorithm(b, oidSHA256) })
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addOID(b, string(kind))
			b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1OctetString(content) })
		})
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddBytes(certificate) })
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				addIssuerAndSerial(b, cert)
				addAlgorithm(b, oidSHA256)
				b.AddBytes(sent)
				addAlgorithm(b, oidECDSAWithSHA256)
				b.AddASN1OctetString(signature)
			})
		})
	})
	return b.Bytes()
}

// signedAttributes is SET OF Attribute, which DER wants in the order of the
// encodings: contentType is the shorter one and goes first.
func signedAttributes(kind ContentType, digest []byte) ([]byte, error) {
	attribute := func(b *cryptobyte.Builder, oid string, value func(*cryptobyte.Builder)) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addOID(b, oid)
			b.AddASN1(asn1.SET, value)
		})
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
		attribute(b, oidContentType, func(b *cryptobyte.Builder) { addOID(b, string(kind)) })
		attribute(b, oidMessageDigest, func(b *cryptobyte.Builder) { b.AddASN1OctetString(digest) })
	})
	return b.Bytes()
}

func addAlgorithm(b *cryptobyte.Builder, oid string) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addOID(b, oid) })
}
