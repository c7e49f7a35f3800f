package request

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// draft is a request in the making: every part can be replaced by hostile
// bytes, and the whole is signed all the same.
type draft struct {
	version    []byte // content of the INTEGER
	subject    []byte // DER Name
	spki       []byte // DER
	attributes []byte // content of [0]
	algorithm  []byte // content of the AlgorithmIdentifier
	signature  []byte // instead of the real one
	unused     byte   // unused bits of the signature
}

// sign completes the draft with this key and returns the request.
func (d draft) sign(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	if d.version == nil {
		d.version = []byte{0}
	}
	if d.subject == nil {
		d.subject = name(utf8Attribute(oidCommonName, "device-1"))
	}
	if d.spki == nil {
		d.spki = spkiOf(t, key.Public())
	}
	info := build(func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addBytes(b, asn1.INTEGER, d.version)
			b.AddBytes(d.subject)
			b.AddBytes(d.spki)
			addBytes(b, asn1.Tag(0).ContextSpecific().Constructed(), d.attributes)
		})
	})
	algorithm, digest, hash := []byte("\x06\x08"+oidECDSAWithSHA256), info, crypto.Hash(0)
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		algorithm = []byte("\x06\x03" + oidEd25519)
	} else {
		if _, ok := key.Public().(*ecdsa.PublicKey); !ok {
			algorithm = []byte("\x06\x09" + oidSHA256WithRSA + derNull)
		}
		sum := sha256.Sum256(info)
		digest, hash = sum[:], crypto.SHA256
	}
	if d.signature == nil {
		sig, err := key.Sign(rand.Reader, digest, hash)
		if err != nil {
			t.Fatal(err)
		}
		d.signature = sig
	}
	if d.algorithm == nil {
		d.algorithm = algorithm
	}
	return build(func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(info)
			addBytes(b, asn1.SEQUENCE, d.algorithm)
			addBytes(b, asn1.BIT_STRING, append([]byte{d.unused}, d.signature...))
		})
	})
}

func build(f cryptobyte.BuilderContinuation) []byte {
	var b cryptobyte.Builder
	f(&b)
	return b.BytesOrPanic()
}

func addBytes(b *cryptobyte.Builder, tag asn1.Tag, content []byte) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(content) })
}

// element returns one DER element.
func element(tag asn1.Tag, content ...[]byte) []byte {
	return build(func(b *cryptobyte.Builder) {
		b.AddASN1(tag, func(b *cryptobyte.Builder) {
			for _, c := range content {
				b.AddBytes(c)
			}
		})
	})
}

func oidElement(oid string) []byte { return element(asn1.OBJECT_IDENTIFIER, []byte(oid)) }

// name returns a Name with one attribute in each RDN.
func name(attributes ...[]byte) []byte {
	var rdns []byte
	for _, a := range attributes {
		rdns = append(rdns, element(asn1.SET, a)...)
	}
	return element(asn1.SEQUENCE, rdns)
}

func nameAttribute(oid string, tag asn1.Tag, value string) []byte {
	return element(asn1.SEQUENCE, oidElement(oid), element(tag, []byte(value)))
}

func utf8Attribute(oid, value string) []byte { return nameAttribute(oid, asn1.UTF8String, value) }

// attribute returns a PKCS #10 attribute.
func attribute(oid string, values ...[]byte) []byte {
	var all []byte
	for _, v := range values {
		all = append(all, v...)
	}
	return element(asn1.SEQUENCE, oidElement(oid), element(asn1.SET, all))
}

// extensions returns an extensionRequest attribute.
func extensions(list ...[]byte) []byte {
	var all []byte
	for _, e := range list {
		all = append(all, e...)
	}
	return attribute(oidExtensionRequest, element(asn1.SEQUENCE, all))
}

func extension(oid string, value []byte) []byte {
	return element(asn1.SEQUENCE, oidElement(oid), element(asn1.OCTET_STRING, value))
}

// altNames returns an extensionRequest with a subjectAltName.
func altNames(names ...[]byte) []byte {
	var all []byte
	for _, n := range names {
		all = append(all, n...)
	}
	return extensions(extension(oidSubjectAltName, element(asn1.SEQUENCE, all)))
}

func spkiOf(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func p256Key(t testing.TB) *ecdsa.PrivateKey { return ecKey(t, elliptic.P256()) }

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
