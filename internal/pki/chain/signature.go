package chain

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/birthmark/birthmark/internal/fault"
)

const (
	minRSABits  = 2048
	maxRSABits  = 8192
	rsaExponent = 65537
)

// Units of work. One is a cheap step, about a tenth of a microsecond.
const (
	costStep      = 2
	costSignature = 500
	costSlowCurve = 2500 // P-384 and RSA above 4096 bits
	costP521      = 6000
)

// budget is the work that one verification may still do.
type budget struct{ left int }

func (b *budget) spend(n int) error {
	if b.left -= n; b.left < 0 {
		return fault.New(fault.ChainLimit)
	}
	return nil
}

// scheme is what a signature algorithm needs.
type scheme uint8

const (
	schemeNone scheme = iota
	schemeRSA
	schemeECDSA
	schemeEd25519
)

func schemeOf(a x509.SignatureAlgorithm) scheme {
	switch a {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		return schemeRSA
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return schemeECDSA
	case x509.PureEd25519:
		return schemeEd25519
	}
	return schemeNone
}

// verifiable decides before any arithmetic whether a signature by this key is
// worth checking: what it costs, and why not, or nothing.
func verifiable(a x509.SignatureAlgorithm, key any, minBits int) (cost int, why string) {
	want := schemeOf(a)
	if want == schemeNone {
		return 0, "signed with " + a.String()
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		switch {
		case want != schemeRSA:
			return 0, mismatch
		case bits < minBits || bits > maxRSABits:
			return 0, fmt.Sprintf("an RSA key of %d bits", bits)
		case k.E != rsaExponent:
			return 0, fmt.Sprintf("an RSA key with exponent %d", k.E)
		case bits > 4096:
			return costSlowCurve, ""
		}
		return costSignature, ""
	case *ecdsa.PublicKey:
		if want != schemeECDSA {
			return 0, mismatch
		}
		switch k.Curve {
		case elliptic.P256():
			return costSignature, ""
		case elliptic.P384():
			return costSlowCurve, ""
		case elliptic.P521():
			return costP521, ""
		}
		return 0, "a key on an unsupported curve"
	case ed25519.PublicKey:
		if want != schemeEd25519 {
			return 0, mismatch
		}
		return costSignature, ""
	}
	return 0, "a key of an unsupported type"
}

// mismatch means that the key cannot have made the signature, which is not a
// weakness: another issuer of that name may have.
const mismatch = "signature and key do not fit"

// leafKeyDefect looks at the key that a certificate certifies. Only keys known
// to be weak are refused when nothing is going to be verified with them.
func leafKeyDefect(c *x509.Certificate, u Usage, minBits int) string {
	if c.PublicKeyAlgorithm == x509.DSA {
		return "a DSA key"
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minBits || bits > maxRSABits {
			return fmt.Sprintf("an RSA key of %d bits", bits)
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return "a key on P-224"
		}
	case ed25519.PublicKey:
	default:
		if u != UsageAny {
			return "a key of an unsupported type"
		}
	}
	return ""
}
