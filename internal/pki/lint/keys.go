package lint

import (
	"bytes"
	"crypto/ecdh"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// OIDs of key algorithms and curves.
const (
	oidRSA     = "1.2.840.113549.1.1.1"
	oidEC      = "1.2.840.10045.2.1"
	oidEd25519 = "1.3.101.112"
	oidP256    = "1.2.840.10045.3.1.7"
	oidP384    = "1.3.132.0.34"
	oidP521    = "1.3.132.0.35"
)

var curves = map[string]struct {
	curve ecdh.Curve
	size  int
}{
	oidP256: {ecdh.P256(), 32},
	oidP384: {ecdh.P384(), 48},
	oidP521: {ecdh.P521(), 66},
}

// curve returns the OID of a named curve, or nothing.
func (k *publicKey) curve() string {
	in := cryptobyte.String(k.params)
	var oid string
	if k.algorithm != oidEC || !readOID(&in, &oid) || !in.Empty() {
		return ""
	}
	return oid
}

// rsa returns modulus and exponent.
func (k *publicKey) rsa() (modulus *big.Int, exponent *big.Int, ok bool) {
	in := cryptobyte.String(k.bits)
	var seq cryptobyte.String
	modulus, exponent = new(big.Int), new(big.Int)
	ok = k.algorithm == oidRSA && in.ReadASN1(&seq, asn1.SEQUENCE) && in.Empty() &&
		seq.ReadASN1Integer(modulus) && seq.ReadASN1Integer(exponent) && seq.Empty()
	return modulus, exponent, ok
}

// rsaRule makes a rule about RSA keys that can be read.
func rsaRule(id string, severity Severity, source string, check func(modulus, exponent *big.Int) string) rule {
	return rule{id, severity, source, func(c *certificate) string {
		if modulus, exponent, ok := c.spki.rsa(); ok {
			return check(modulus, exponent)
		}
		return ""
	}}
}

// keyRules look at the subject's public key.
var keyRules = []rule{
	{"key_algorithm", Warning, "RFC 5280, section 4.1.2.7", func(c *certificate) string {
		switch c.spki.algorithm {
		case oidRSA, oidEC, oidEd25519:
			return ""
		}
		return "the key's algorithm " + c.spki.algorithm + " is not widely supported"
	}},
	{"key_rsa_form", Error, "RFC 3279, section 2.3.1", func(c *certificate) string {
		if _, _, ok := c.spki.rsa(); c.spki.algorithm == oidRSA && !ok {
			return "the RSA key is not a modulus and an exponent"
		}
		return ""
	}},
	{"key_rsa_parameters", Error, "RFC 3279, section 2.3.1", func(c *certificate) string {
		if c.spki.algorithm == oidRSA && !bytes.Equal(c.spki.params, []byte{5, 0}) {
			return "the parameters of an RSA key must be NULL"
		}
		return ""
	}},
	rsaRule("key_rsa_size", Error, "NIST SP 800-131A", func(n, _ *big.Int) string {
		if n.BitLen() < 2048 {
			return fmt.Sprintf("the RSA key has %d bits, less than 2048", n.BitLen())
		}
		return ""
	}),
	rsaRule("key_rsa_large", Notice, "NIST SP 800-57 part 1", func(n, _ *big.Int) string {
		if n.BitLen() > 4096 {
			return fmt.Sprintf("the RSA key has %d bits; small devices cannot check its signatures", n.BitLen())
		}
		return ""
	}),
	rsaRule("key_rsa_modulus", Error, "RFC 8017, section 3.1", func(n, _ *big.Int) string {
		if n.Sign() <= 0 || n.Bit(0) == 0 {
			return "the RSA modulus is not positive and odd"
		}
		return ""
	}),
	rsaRule("key_rsa_exponent", Error, "FIPS 186-5, section 5.1", func(_, e *big.Int) string {
		if e.Bit(0) == 0 || e.BitLen() < 17 || e.BitLen() > 256 {
			return "the RSA exponent is not odd and at least 65537"
		}
		return ""
	}),
	{"key_ec_named_curve", Error, "RFC 5480, section 2.1.1", func(c *certificate) string {
		if c.spki.algorithm == oidEC && c.spki.curve() == "" {
			return "an elliptic curve must be given by its name"
		}
		return ""
	}},
	{"key_ec_known_curve", Warning, "RFC 5480, section 2.1.1.1", func(c *certificate) string {
		if name := c.spki.curve(); name != "" && curves[name].size == 0 {
			return "the curve " + name + " is not widely supported"
		}
		return ""
	}},
	{"key_ec_uncompressed", Warning, "RFC 5480, section 2.2", func(c *certificate) string {
		if b := c.spki.bits; c.spki.curve() != "" && len(b) > 0 && (b[0] == 2 || b[0] == 3) {
			return "the point is compressed, which not every program reads"
		}
		return ""
	}},
	{"key_ec_on_curve", Error, "NIST SP 800-56A, section 5.6.2.3", func(c *certificate) string {
		k, known := curves[c.spki.curve()]
		b := c.spki.bits
		if !known || len(b) == k.size+1 && (b[0] == 2 || b[0] == 3) {
			return ""
		}
		if _, err := k.curve.NewPublicKey(b); err != nil {
			return "the key is not a point of its curve"
		}
		return ""
	}},
	{"key_ed25519_form", Error, "RFC 8410, sections 3 and 4", func(c *certificate) string {
		if c.spki.algorithm == oidEd25519 && (len(c.spki.params) > 0 || len(c.spki.bits) != 32) {
			return "an Ed25519 key is 32 octets without parameters"
		}
		return ""
	}},
}
