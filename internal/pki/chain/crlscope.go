package chain

import (
	"crypto/x509"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// reasons is a set of CRL reason flags as in ReasonFlags: bit n for reason n.
type reasons uint16

const allReasons reasons = 0x1fe // bits 1 to 8

// issuingPoint is an issuingDistributionPoint (section 5.2.5).
type issuingPoint struct {
	names               []generalName
	named               bool
	userOnly, caOnly    bool
	attributeOnly, some bool
	reasons             reasons
}

// point is one entry of a certificate's cRLDistributionPoints.
type point struct {
	names   []generalName
	reasons reasons
}

func readIssuingPoint(b []byte) (p issuingPoint, why string) {
	const unreadable = "the CRL's issuing distribution point cannot be read"
	in := cryptobyte.String(b)
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return p, unreadable
	}
	var name cryptobyte.String
	if !list.ReadOptionalASN1(&name, &p.named, cbasn1.Tag(0).ContextSpecific().Constructed()) {
		return p, unreadable
	}
	if p.named {
		var ok bool
		if p.names, ok = readGeneralNames(name, cbasn1.Tag(0).ContextSpecific().Constructed()); !ok {
			return p, "the CRL is for a distribution point without a full name"
		}
	}
	var flags cryptobyte.String
	indirect := false
	if !implicitBool(&list, 1, &p.userOnly) || !implicitBool(&list, 2, &p.caOnly) ||
		!list.ReadOptionalASN1(&flags, &p.some, cbasn1.Tag(3).ContextSpecific()) ||
		!implicitBool(&list, 4, &indirect) || !implicitBool(&list, 5, &p.attributeOnly) || !list.Empty() {
		return p, unreadable
	}
	if p.some {
		p.reasons = reasonFlags(flags)
	}
	if indirect {
		return p, "the CRL is indirect"
	}
	return p, ""
}

// implicitBool reads a [tag] IMPLICIT BOOLEAN DEFAULT FALSE.
func implicitBool(in *cryptobyte.String, tag uint8, to *bool) bool {
	var b cryptobyte.String
	var present bool
	if !in.ReadOptionalASN1(&b, &present, cbasn1.Tag(tag).ContextSpecific()) {
		return false
	}
	if present && (len(b) != 1 || b[0] != 0 && b[0] != 0xff) {
		return false
	}
	*to = present && b[0] == 0xff
	return true
}

// reasonFlags reads the content of a BIT STRING.
func reasonFlags(b []byte) reasons {
	var r reasons
	for i := 1; i < min(len(b), 3); i++ {
		for bit := range 8 {
			if b[i]&(0x80>>bit) != 0 {
				r |= 1 << (8*(i-1) + bit)
			}
		}
	}
	return r
}

// outside says why a certificate is not in the scope, or nothing.
func (p *issuingPoint) outside(cert *x509.Certificate, points []point) string {
	isCA := cert.BasicConstraintsValid && cert.IsCA
	switch {
	case p.attributeOnly:
		return "the CRL is for attribute certificates"
	case p.userOnly && isCA:
		return "the CRL is not for CA certificates"
	case p.caOnly && !isCA:
		return "the CRL is only for CA certificates"
	case !p.named:
		return ""
	}
	if slices.ContainsFunc(points, p.matches) {
		return ""
	}
	return "the CRL is for another distribution point"
}

func (p *issuingPoint) matches(q point) bool {
	for _, a := range p.names {
		for _, b := range q.names {
			if a.kind == b.kind && string(a.value) == string(b.value) {
				return true
			}
			if a.kind == kindDirectory && b.kind == kindDirectory && sameName(a.value, b.value) {
				return true
			}
		}
	}
	return false
}

func sameName(a, b []byte) bool {
	x, _, _ := canonicalName(a)
	y, _, _ := canonicalName(b)
	return x == y
}

// readPoints reads the certificate's distribution points. Those of other CRL
// issuers and those without a full name are left out: nothing here matches them.
// A certificate without any has that of its issuer's name (section 6.3.3).
func readPoints(cert *x509.Certificate) []point {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidDistributionPoints) {
			continue
		}
		in := cryptobyte.String(e.Value)
		var list cryptobyte.String
		var points []point
		if !in.ReadASN1(&list, cbasn1.SEQUENCE) {
			return nil
		}
		for !list.Empty() {
			var one cryptobyte.String
			if !list.ReadASN1(&one, cbasn1.SEQUENCE) {
				return nil
			}
			if p, ok := readPoint(one); ok {
				points = append(points, p)
			}
		}
		return points
	}
	return []point{{names: []generalName{{kindDirectory, cert.RawIssuer}}, reasons: allReasons}}
}

func readPoint(in cryptobyte.String) (point, bool) {
	var name, flags, other cryptobyte.String
	var named, some, indirect bool
	if !in.ReadOptionalASN1(&name, &named, cbasn1.Tag(0).ContextSpecific().Constructed()) ||
		!in.ReadOptionalASN1(&flags, &some, cbasn1.Tag(1).ContextSpecific()) ||
		!in.ReadOptionalASN1(&other, &indirect, cbasn1.Tag(2).ContextSpecific().Constructed()) ||
		!in.Empty() || !named || indirect {
		return point{}, false
	}
	names, ok := readGeneralNames(name, cbasn1.Tag(0).ContextSpecific().Constructed())
	p := point{names: names, reasons: allReasons}
	if some {
		p.reasons = reasonFlags(flags)
	}
	return p, ok
}

// covers returns the reasons that the CRL and the certificate's distribution
// points make it responsible for.
func (l *crl) covers(points []point) reasons {
	r := allReasons
	if l.idp.some {
		r = l.idp.reasons & allReasons
	}
	if !l.idp.named {
		return r
	}
	var asked reasons
	for _, p := range points {
		if l.idp.matches(p) {
			asked |= p.reasons
		}
	}
	return r & asked
}
