package lint

import (
	"crypto/x509"
	"regexp"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// OIDs of TPMs (TCG OID registry).
const (
	oidTPMManufacturer = "2.23.133.2.1"
	oidTPMModel        = "2.23.133.2.2"
	oidTPMVersion      = "2.23.133.2.3"
	oidTPMModule       = "2.23.133.1.2" // hardware type of a TPM 2.0
	oidAttestationKey  = "2.23.133.8.3"
	oidEKDigest        = "2.23.133.12.1" // assigner: SHA-256 of the EK certificate
)

const ekProfile = "TCG EK Credential Profile for TPM Family 2.0, section 3.2.9"

var (
	vendorID = regexp.MustCompile(`^id:[0-9A-F]{8}$`)
	tpmID    = regexp.MustCompile(`^id:[0-9A-Fa-f]{8}$`)
	sha256ID = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)
)

// attestationRules hold what those who rely on a TPM's attestation keys look for.
var attestationRules = []profileRule{
	{"attestation_subject", Error, "WebAuthn Level 3, section 8.3.1", func(c *certificate, _ *profile.Profile) string {
		if len(c.subject) > 0 {
			return "an attestation key's certificate has no subject"
		}
		return ""
	}},
	{"attestation_tpm", Error, ekProfile, func(c *certificate, _ *profile.Profile) string {
		found := c.tpmAttributes()
		for _, id := range []string{oidTPMManufacturer, oidTPMModel, oidTPMVersion} {
			if a, ok := found[id]; !ok || a.tag != asn1.UTF8String || len(a.value) == 0 {
				return "the alternative name does not hold " + attributeName(id) + " as a UTF8String"
			}
		}
		return ""
	}},
	{"attestation_tpm_form", Warning, ekProfile, func(c *certificate, _ *profile.Profile) string {
		found := c.tpmAttributes()
		if a, ok := found[oidTPMManufacturer]; ok && !vendorID.Match(a.value) {
			return "tpmManufacturer is not id: and eight hexadecimal digits in upper case"
		}
		if a, ok := found[oidTPMVersion]; ok && !tpmID.Match(a.value) {
			return "tpmVersion is not id: and eight hexadecimal digits"
		}
		return ""
	}},
	{"attestation_purpose", Error, "WebAuthn Level 3, section 8.3.1", func(c *certificate, _ *profile.Profile) string {
		if !slices.Contains(c.purposes, oidAttestationKey) {
			return "extendedKeyUsage does not name tcg-kp-AIKCertificate"
		}
		return ""
	}},
	{"attestation_leaf", Error, "WebAuthn Level 3, section 8.3.1", func(c *certificate, _ *profile.Profile) string {
		if c.basic == nil || c.basic.ca {
			return "basicConstraints must be there and say that this is no authority"
		}
		return ""
	}},
	{"attestation_key_usage", Error, "TCG TPM 2.0 Keys for Device Identity and Attestation", func(c *certificate, _ *profile.Profile) string {
		e := c.extension(oidKeyUsage)
		if e == nil || !e.critical || c.usage == nil || c.usage.bits != x509.KeyUsageDigitalSignature {
			return "an attestation key has critical keyUsage with digitalSignature alone"
		}
		return ""
	}},
}

// tpmAttributes returns the attributes of the directoryNames among the
// alternative names, by their OID.
func (c *certificate) tpmAttributes() map[string]attribute {
	found := make(map[string]attribute)
	for _, n := range c.altNames {
		if n.tag != choiceDirectory {
			continue
		}
		name, _ := readName(n.value)
		for _, a := range name {
			found[a.oid] = a
		}
	}
	return found
}

// checkEKDigest looks at permanentIdentifiers whose assigner says that they are
// digests of EK certificates.
func checkEKDigest(v []byte) string {
	oid, content, ok := otherName(v)
	if !ok || oid != oidPermanentID {
		return ""
	}
	var seq, value cryptobyte.String
	var assigner string
	if !content.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadASN1(&value, asn1.UTF8String) || !readOID(&seq, &assigner) {
		return ""
	}
	if assigner == oidEKDigest && !sha256ID.Match(value) {
		return "a permanentIdentifier of an EK certificate is not a SHA-256 in hexadecimal digits"
	}
	return ""
}
