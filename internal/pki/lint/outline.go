package lint

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// signatureAlgorithms are those whose security is not in doubt, with whether
// parameters must be NULL (RFC 4055, section 5) or absent (RFC 5758, section
// 3.2; RFC 8410, section 3).
var signatureAlgorithms = map[string]bool{
	"1.2.840.113549.1.1.11": true, // sha256WithRSAEncryption
	"1.2.840.113549.1.1.12": true,
	"1.2.840.113549.1.1.13": true,
	"1.2.840.10045.4.3.2":   false, // ecdsa-with-SHA256
	"1.2.840.10045.4.3.3":   false,
	"1.2.840.10045.4.3.4":   false,
	"1.3.101.112":           false, // id-Ed25519
}

const oidPSS = "1.2.840.113549.1.1.10"

// weakAlgorithms sign with MD2, MD5 or SHA-1.
var weakAlgorithms = []string{"1.2.840.113549.1.1.2", "1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5", "1.2.840.10045.4.1", "1.2.840.10040.4.3"}

// outlineRules look at what surrounds the names and extensions.
var outlineRules = []rule{
	{"trailing_data", Error, "ITU-T X.690, section 8.1", func(c *certificate) string {
		if c.trailing {
			return "there are octets behind the certificate"
		}
		return ""
	}},
	{"version_3", Error, "RFC 5280, section 4.1.2.1", func(c *certificate) string {
		if c.hasExtensions && c.version != 2 {
			return fmt.Sprintf("a certificate with extensions is version 3, not %d", c.version+1)
		}
		return ""
	}},
	{"extensions_present", Error, "RFC 5280, section 4.2", func(c *certificate) string {
		if !c.hasExtensions {
			return "a certificate needs extensions to say what it is for"
		}
		return ""
	}},
	{"extensions_empty", Error, "RFC 5280, section 4.1.2.9", func(c *certificate) string {
		if c.hasExtensions && len(c.extensions) == 0 {
			return "the list of extensions is there and empty"
		}
		return ""
	}},
	{"serial_positive", Error, "RFC 5280, section 4.1.2.2", func(c *certificate) string {
		if len(c.certSerial) == 0 || c.certSerial[0] >= 0x80 {
			return "the serial number is negative"
		}
		if len(bytes.Trim(c.certSerial, "\x00")) == 0 {
			return "the serial number is zero"
		}
		return ""
	}},
	{"serial_length", Error, "RFC 5280, section 4.1.2.2", func(c *certificate) string {
		if len(c.certSerial) > 20 {
			return fmt.Sprintf("the serial number has %d octets, more than 20", len(c.certSerial))
		}
		return ""
	}},
	{"serial_minimal", Error, "ITU-T X.690, section 8.3.2", func(c *certificate) string {
		s := c.certSerial
		if len(s) > 1 && (s[0] == 0 && s[1] < 0x80 || s[0] == 0xff && s[1] >= 0x80) {
			return "the serial number has octets too many in front"
		}
		return ""
	}},
	{"serial_entropy", Notice, "CA/Browser Forum Baseline Requirements, section 7.1", func(c *certificate) string {
		if len(bytes.TrimLeft(c.certSerial, "\x00")) < 8 && !(c.selfIssued() && c.isCA()) {
			return "the serial number has less than 64 bits and can be guessed"
		}
		return ""
	}},
	{"algorithms_equal", Error, "RFC 5280, section 4.1.1.2", func(c *certificate) string {
		if !bytes.Equal(c.innerAlg, c.alg) {
			return "the two places that name the signature algorithm differ"
		}
		return ""
	}},
	{"algorithm_strong", Error, "RFC 9155; NIST SP 800-131A", func(c *certificate) string {
		oid, _ := algorithmOf(c.alg)
		if slices.Contains(weakAlgorithms, oid) {
			return "the signature uses a hash that is broken"
		}
		return ""
	}},
	{"algorithm_known", Warning, "RFC 5280, section 4.1.1.2", func(c *certificate) string {
		oid, _ := algorithmOf(c.alg)
		if _, ok := signatureAlgorithms[oid]; !ok && oid != oidPSS && !slices.Contains(weakAlgorithms, oid) {
			return "the signature algorithm " + oid + " is not widely supported"
		}
		return ""
	}},
	{"algorithm_parameters", Error, "RFC 4055, section 5; RFC 5758, section 3.2; RFC 8410, section 3", func(c *certificate) string {
		oid, params := algorithmOf(c.alg)
		null, known := signatureAlgorithms[oid]
		switch {
		case !known:
			return ""
		case null && !bytes.Equal(params, []byte{5, 0}):
			return "the parameters of an RSA signature must be NULL"
		case !null && len(params) > 0:
			return "the parameters of the signature algorithm must be absent"
		}
		return ""
	}},
	{"signature_bits", Error, "RFC 5280, section 4.1.1.3", func(c *certificate) string {
		if len(c.signature) < 2 || c.signature[0] != 0 {
			return "the signature is empty or not whole octets"
		}
		return ""
	}},
	{"signature_ecdsa_form", Error, "RFC 3279, section 2.2.3", func(c *certificate) string {
		oid, _ := algorithmOf(c.alg)
		if !strings.HasPrefix(oid, "1.2.840.10045.4.") || len(c.signature) < 2 {
			return ""
		}
		in := cryptobyte.String(c.signature[1:])
		var seq, r, s cryptobyte.String
		if !in.ReadASN1(&seq, asn1.SEQUENCE) || !in.Empty() || !seq.ReadASN1(&r, asn1.INTEGER) || !seq.ReadASN1(&s, asn1.INTEGER) || !seq.Empty() {
			return "an ECDSA signature is a sequence of two integers"
		}
		return ""
	}},
	{"unique_identifiers", Error, "RFC 5280, section 4.1.2.8", func(c *certificate) string {
		if c.uniqueIDs {
			return "unique identifiers of issuer or subject must not be used"
		}
		return ""
	}},
}

// algorithmOf returns the OID of an AlgorithmIdentifier and its parameters.
func algorithmOf(element []byte) (oid string, params []byte) {
	in := cryptobyte.String(element)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !readOID(&seq, &oid) {
		return "", nil
	}
	return oid, seq
}
