// Package cms writes and reads CMS messages (RFC 5652). One form needs no key:
// SignedData without content and signers, in which EST, SCEP and CMP hand out
// certificates. Its writer is on the road of every enrollment, so it computes all
// lengths first and fills one buffer; the reader takes what other servers send
// and refuses everything that is not exactly this form, with limits on size and
// number before it looks at a certificate. The other form is the envelope, in
// which a private key that we made travels to one recipient. It is only written
// here; devices and stations open it.
package cms

import (
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// Limits of [ParseCertsOnly].
const (
	MaxSize         = 64 << 10
	MaxCertificates = 16
)

const (
	oidSignedData = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"
	oidData       = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"

	tagSequence = 0x30
	tagZero     = 0xa0 // [0], constructed
)

// What stands before and after the certificates in SignedData.
const (
	// version 1, no digest algorithms, content type data without content.
	head = "\x02\x01\x01" + "\x31\x00" + "\x30\x0b\x06\x09" + oidData
	// no signers
	tail = "\x31\x00"
	// content type of the whole
	contentType = "\x06\x09" + oidSignedData
)

// CertsOnly returns a DER SignedData message that carries these DER
// certificates, in this order: readers take the first for the one they asked
// for, so the order of a SET OF, which DER would want here, is not imposed (RFC
// 5652 wants DER only for what is signed).
func CertsOnly(certs ...[]byte) []byte {
	set := 0
	for _, c := range certs {
		set += len(c)
	}
	signedData := len(head) + len(tail)
	if len(certs) > 0 {
		signedData += elementSize(set)
	}
	wrapped := elementSize(signedData)
	content := len(contentType) + elementSize(wrapped)

	out := make([]byte, 0, elementSize(content))
	out = appendHeader(out, tagSequence, content)
	out = append(out, contentType...)
	out = appendHeader(out, tagZero, wrapped)
	out = appendHeader(out, tagSequence, signedData)
	out = append(out, head...)
	if len(certs) > 0 {
		out = appendHeader(out, tagZero, set)
	}
	for _, c := range certs {
		out = append(out, c...)
	}
	return append(out, tail...)
}

// elementSize returns the length of an element with so much content.
func elementSize(content int) int {
	size := 2 + content
	if content >= 0x80 {
		for n := content; n > 0; n >>= 8 {
			size++
		}
	}
	return size
}

func appendHeader(out []byte, tag byte, content int) []byte {
	if content < 0x80 {
		return append(out, tag, byte(content))
	}
	octets := elementSize(content) - content - 2
	out = append(out, tag, 0x80|byte(octets))
	for i := octets - 1; i >= 0; i-- {
		out = append(out, byte(content>>(8*i)))
	}
	return out
}

// ParseCertsOnly returns the DER certificates of a certs-only message in its
// order, or fault.CertsOnlyMalformed. CRLs that ride along are skipped. The
// certificates alias der and are not looked into.
func ParseCertsOnly(der []byte) ([][]byte, error) {
	if len(der) > MaxSize {
		return nil, fault.New(fault.CertsOnlyMalformed, "more than", MaxSize, "octets")
	}
	set, ok := certificateSet(der)
	if !ok {
		return nil, fault.New(fault.CertsOnlyMalformed)
	}
	var certs [][]byte
	for !set.Empty() {
		var cert cryptobyte.String
		if len(certs) == MaxCertificates {
			return nil, fault.New(fault.CertsOnlyMalformed, "more than", MaxCertificates, "certificates")
		}
		// Attribute certificates and the other choices carry context tags.
		if !set.ReadASN1Element(&cert, asn1.SEQUENCE) {
			return nil, fault.New(fault.CertsOnlyMalformed, "an entry is not a certificate")
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fault.New(fault.CertsOnlyMalformed, "no certificates")
	}
	return certs, nil
}

// certificateSet returns the content of the certificates field.
func certificateSet(der []byte) (set cryptobyte.String, ok bool) {
	var outer, oid, wrapped, signedData, algorithms, content, signers cryptobyte.String
	var version int64
	zero, one := asn1.Tag(0).ContextSpecific().Constructed(), asn1.Tag(1).ContextSpecific().Constructed()
	input := cryptobyte.String(der)
	ok = input.ReadASN1(&outer, asn1.SEQUENCE) && input.Empty() &&
		outer.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) && string(oid) == oidSignedData &&
		outer.ReadASN1(&wrapped, zero) && outer.Empty() &&
		wrapped.ReadASN1(&signedData, asn1.SEQUENCE) && wrapped.Empty() &&
		// Version 3 and above belong to other content or other certificates.
		signedData.ReadASN1Integer(&version) && version == 1 &&
		signedData.ReadASN1(&algorithms, asn1.SET) && algorithms.Empty() &&
		signedData.ReadASN1(&content, asn1.SEQUENCE) &&
		content.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) && string(oid) == oidData && content.Empty() &&
		signedData.ReadOptionalASN1(&set, nil, zero) &&
		signedData.SkipOptionalASN1(one) &&
		signedData.ReadASN1(&signers, asn1.SET) && signers.Empty() && signedData.Empty()
	return set, ok
}
