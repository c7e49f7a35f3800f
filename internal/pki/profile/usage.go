package profile

import (
	"crypto/x509"
	"fmt"
	"slices"
)

// Usage names a bit of keyUsage as RFC 5280, section 4.2.1.3, spells it, or
// UsageKeyEstablishment, whose bit depends on the key.
type Usage string

// The names of key usage.
const (
	UsageDigitalSignature Usage = "digitalSignature"
	UsageNonRepudiation   Usage = "nonRepudiation"
	UsageKeyEncipherment  Usage = "keyEncipherment"
	UsageDataEncipherment Usage = "dataEncipherment"
	UsageKeyAgreement     Usage = "keyAgreement"
	UsageCertSign         Usage = "keyCertSign"
	UsageCRLSign          Usage = "cRLSign"
	UsageEncipherOnly     Usage = "encipherOnly"
	UsageDecipherOnly     Usage = "decipherOnly"

	// UsageKeyEstablishment is keyAgreement for elliptic curves and
	// keyEncipherment for RSA.
	UsageKeyEstablishment Usage = "keyEstablishment"
)

var usageBits = map[Usage]x509.KeyUsage{
	UsageDigitalSignature: x509.KeyUsageDigitalSignature,
	UsageNonRepudiation:   x509.KeyUsageContentCommitment,
	UsageKeyEncipherment:  x509.KeyUsageKeyEncipherment,
	UsageDataEncipherment: x509.KeyUsageDataEncipherment,
	UsageKeyAgreement:     x509.KeyUsageKeyAgreement,
	UsageCertSign:         x509.KeyUsageCertSign,
	UsageCRLSign:          x509.KeyUsageCRLSign,
	UsageEncipherOnly:     x509.KeyUsageEncipherOnly,
	UsageDecipherOnly:     x509.KeyUsageDecipherOnly,
}

// RSA reports whether the type is an RSA size.
func (t KeyType) RSA() bool { return t == RSA2048 || t == RSA3072 || t == RSA4096 }

// UsageFor returns the bits of keyUsage that a certificate for a key of this
// type carries.
func (p *Profile) UsageFor(t KeyType) x509.KeyUsage {
	var bits x509.KeyUsage
	for _, u := range p.KeyUsage {
		bits |= usageBit(u, t)
	}
	return bits
}

func usageBit(u Usage, t KeyType) x509.KeyUsage {
	if u != UsageKeyEstablishment {
		return usageBits[u]
	}
	if t.RSA() {
		return x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageKeyAgreement
}

// usageAllowed says why a key of this type cannot have these bits: RFC 8410,
// section 5, for Ed25519; RFC 5480, section 3, and RFC 8813 for elliptic curves;
// RFC 3279, section 2.3.1, for RSA.
func usageAllowed(bits x509.KeyUsage, t KeyType) error {
	sign := x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	agree := x509.KeyUsageKeyAgreement | x509.KeyUsageEncipherOnly | x509.KeyUsageDecipherOnly
	encipher := x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment
	switch {
	case t == Ed25519 && bits&^sign != 0:
		return fmt.Errorf("an %s key can only sign", t)
	case t.RSA() && bits&^(sign|encipher) != 0:
		return fmt.Errorf("an %s key cannot agree on keys", t)
	case !t.RSA() && bits&^(sign|agree) != 0:
		return fmt.Errorf("a %s key cannot encipher", t)
	case bits&(x509.KeyUsageEncipherOnly|x509.KeyUsageDecipherOnly) != 0 && bits&x509.KeyUsageKeyAgreement == 0:
		return fmt.Errorf("encipherOnly and decipherOnly need keyAgreement")
	}
	return nil
}

type purposeName struct {
	name string
	oid  x509.OID
}

var purposes = []purposeName{
	{"serverAuth", oid("1.3.6.1.5.5.7.3.1")},
	{"clientAuth", oid("1.3.6.1.5.5.7.3.2")},
	{"codeSigning", oid("1.3.6.1.5.5.7.3.3")},
	{"emailProtection", oid("1.3.6.1.5.5.7.3.4")},
	{"timeStamping", oid("1.3.6.1.5.5.7.3.8")},
	{"OCSPSigning", oid("1.3.6.1.5.5.7.3.9")},
	{"eapOverLAN", oid("1.3.6.1.5.5.7.3.14")},
	{"ipsecIKE", oid("1.3.6.1.5.5.7.3.17")},
	{"cmcRA", oid("1.3.6.1.5.5.7.3.28")},
	{"documentSigning", oid("1.3.6.1.5.5.7.3.36")}, // RFC 9336
	{"anyExtendedKeyUsage", oid("2.5.29.37.0")},
	{"certificateRequestAgent", oid("1.3.6.1.4.1.311.20.2.1")},
	{"tcg-kp-EKCertificate", oid("2.23.133.8.1")},
	{"tcg-kp-PlatformAttributeCertificate", oid("2.23.133.8.2")},
	{"tcg-kp-AIKCertificate", oid("2.23.133.8.3")},
}

// ExtendedUsageByName returns the OID of an extended key usage from its name or
// its dotted form.
func ExtendedUsageByName(name string) (x509.OID, bool) {
	if i := slices.IndexFunc(purposes, func(p purposeName) bool { return p.name == name }); i >= 0 {
		return purposes[i].oid, true
	}
	o, err := x509.ParseOID(name)
	return o, err == nil
}

// ExtendedUsageName returns the name of an extended key usage, or its dotted
// form.
func ExtendedUsageName(o x509.OID) string {
	if i := slices.IndexFunc(purposes, func(p purposeName) bool { return p.oid.Equal(o) }); i >= 0 {
		return purposes[i].name
	}
	return o.String()
}
