package enroll

import (
	encodingasn1 "encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

var (
	oidECPublicKey     = encodingasn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidPrime256v1      = encodingasn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidSecp384r1       = encodingasn1.ObjectIdentifier{1, 3, 132, 0, 34}
	oidEd25519         = encodingasn1.ObjectIdentifier{1, 3, 101, 112}
	oidRSAEncryption   = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidECDSAWithSHA256 = encodingasn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = encodingasn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidSHA256WithRSA   = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
)

// csrAttributes returns CsrAttrs (RFC 8951, section 4: AttrOrOID): the kind of
// key to make and the signature algorithm to use, for the first key type that
// the profile lists. Naming one leaves a client no choice to get wrong.
func csrAttributes(p *profile.Profile) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if len(p.Keys) == 0 {
			return
		}
		switch p.Keys[0] {
		case profile.P256:
			addAttribute(b, oidECPublicKey, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidPrime256v1) })
			b.AddASN1ObjectIdentifier(oidECDSAWithSHA256)
		case profile.P384:
			addAttribute(b, oidECPublicKey, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidSecp384r1) })
			b.AddASN1ObjectIdentifier(oidECDSAWithSHA384)
		case profile.Ed25519:
			b.AddASN1ObjectIdentifier(oidEd25519)
		case profile.RSA2048:
			addRSA(b, 2048)
		case profile.RSA3072:
			addRSA(b, 3072)
		case profile.RSA4096:
			addRSA(b, 4096)
		}
	})
	return b.Bytes()
}

func addRSA(b *cryptobyte.Builder, bits int64) {
	addAttribute(b, oidRSAEncryption, func(b *cryptobyte.Builder) { b.AddASN1Int64(bits) })
	b.AddASN1ObjectIdentifier(oidSHA256WithRSA)
}

func addAttribute(b *cryptobyte.Builder, kind encodingasn1.ObjectIdentifier, value func(*cryptobyte.Builder)) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(kind)
		b.AddASN1(asn1.SET, value)
	})
}
