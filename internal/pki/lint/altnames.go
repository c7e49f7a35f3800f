package lint

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Numbers of the choices of GeneralName.
const (
	choiceOther     = 0
	choiceEmail     = 1
	choiceDNS       = 2
	choiceX400      = 3
	choiceDirectory = 4
	choiceEDI       = 5
	choiceURI       = 6
	choiceIP        = 7
	choiceID        = 8
)

// altNameRule makes a rule about each alternative name of one kind.
func altNameRule(id string, severity Severity, source string, choice uint8, check func(value []byte) string) rule {
	return rule{id, severity, source, func(c *certificate) string {
		for _, n := range c.altNames {
			if n.tag != choice {
				continue
			}
			if message := check(n.value); message != "" {
				return message
			}
		}
		return ""
	}}
}

// altNameRules look at the subject's alternative names.
var altNameRules = []rule{
	{"alt_name_empty", Error, "RFC 5280, section 4.2.1.6", func(c *certificate) string {
		if c.extension(oidSubjectAltName) != nil && len(c.altNames) == 0 {
			return "the alternative name is there and empty"
		}
		return ""
	}},
	{"alt_name_critical", Warning, "RFC 5280, section 4.2.1.6", func(c *certificate) string {
		if e := c.extension(oidSubjectAltName); e != nil && e.critical && len(c.subject) > 0 {
			return "the alternative name should not be critical beside a subject"
		}
		return ""
	}},
	{"alt_name_twice", Warning, "RFC 5280, section 4.2.1.6", func(c *certificate) string {
		seen := make(map[string]bool)
		for _, n := range c.altNames {
			key := string(rune(n.tag)) + string(n.value)
			if seen[key] {
				return "an alternative name is there twice"
			}
			seen[key] = true
		}
		return ""
	}},
	{"alt_name_kind", Warning, "RFC 5280, section 4.2.1.6", func(c *certificate) string {
		for _, n := range c.altNames {
			if n.tag == choiceX400 || n.tag == choiceEDI || n.tag == choiceID {
				return fmt.Sprintf("alternative names with tag %d are not supported anywhere", n.tag)
			}
		}
		return ""
	}},
	altNameRule("alt_name_dns", Error, "RFC 5280, section 4.2.1.6; RFC 1034, section 3.5", choiceDNS, func(v []byte) string {
		if !profile.DNSName(string(v)) {
			return fmt.Sprintf("the alternative name %q is not a DNS name", v)
		}
		return ""
	}),
	altNameRule("alt_name_wildcard", Notice, "RFC 9525, section 6.3", choiceDNS, func(v []byte) string {
		if strings.HasPrefix(string(v), "*.") {
			return fmt.Sprintf("the alternative name %q stands for many hosts", v)
		}
		return ""
	}),
	altNameRule("alt_name_underscore", Error, "RFC 5280, section 4.2.1.6", choiceDNS, func(v []byte) string {
		if strings.Contains(string(v), "_") {
			return fmt.Sprintf("the alternative name %q has an underscore", v)
		}
		return ""
	}),
	altNameRule("alt_name_uri", Error, "RFC 5280, section 4.2.1.6; RFC 3986", choiceURI, func(v []byte) string {
		if !profile.URI(string(v)) {
			return fmt.Sprintf("the alternative name %q is not an absolute URI", v)
		}
		return ""
	}),
	altNameRule("alt_name_ip", Error, "RFC 5280, section 4.2.1.6", choiceIP, func(v []byte) string {
		if len(v) != 4 && len(v) != 16 {
			return fmt.Sprintf("an IP address of %d octets", len(v))
		}
		return ""
	}),
	altNameRule("alt_name_email", Error, "RFC 5280, section 4.2.1.6", choiceEmail, func(v []byte) string {
		if !profile.Email(string(v)) {
			return fmt.Sprintf("the alternative name %q is not a mail address", v)
		}
		return ""
	}),
	altNameRule("alt_name_directory", Error, "RFC 5280, section 4.2.1.6", choiceDirectory, func(v []byte) string {
		if name, ok := readName(v); !ok || len(name) == 0 {
			return "a directoryName is empty or cannot be read"
		}
		return ""
	}),
	altNameRule("alt_name_other", Error, "RFC 5280, section 4.2.1.6", choiceOther, func(v []byte) string {
		if _, _, ok := otherName(v); !ok {
			return "an otherName is not a type and an explicit value"
		}
		return ""
	}),
	altNameRule("alt_name_hardware_module", Error, "RFC 4108, section 5", choiceOther, func(v []byte) string {
		oid, content, ok := otherName(v)
		if !ok || oid != oidHardwareName {
			return ""
		}
		var hwType string
		if hwSerial, ok := readHardwareModule(content, &hwType); !ok || len(hwSerial) == 0 {
			return "a hardwareModuleName is not a type and a serial number"
		}
		return ""
	}),
	altNameRule("alt_name_permanent_id", Error, "RFC 4043, section 2", choiceOther, func(v []byte) string {
		oid, content, ok := otherName(v)
		if !ok || oid != oidPermanentID {
			return ""
		}
		var seq, skip cryptobyte.String
		var value, assigner bool
		if !content.ReadASN1(&seq, asn1.SEQUENCE) || !content.Empty() || !seq.ReadOptionalASN1(&skip, &value, asn1.UTF8String) ||
			!seq.ReadOptionalASN1(&skip, &assigner, asn1.OBJECT_IDENTIFIER) || !seq.Empty() {
			return "a permanentIdentifier is not a UTF8String and an OID"
		}
		return ""
	}),
	altNameRule("alt_name_ek_digest", Error, "TCG TPM 2.0 Keys for Device Identity and Attestation", choiceOther, checkEKDigest),
	{"alt_name_server", Warning, "RFC 9525, section 6.1", func(c *certificate) string {
		if c.has(oidServerAuth) && !c.isCA() && c.extension(oidSubjectAltName) == nil {
			return "clients look for a server's name in the alternative name, and there is none"
		}
		return ""
	}},
}

func readHardwareModule(content cryptobyte.String, hwType *string) (hwSerial cryptobyte.String, ok bool) {
	var seq cryptobyte.String
	ok = content.ReadASN1(&seq, asn1.SEQUENCE) && content.Empty() && readOID(&seq, hwType) &&
		seq.ReadASN1(&hwSerial, asn1.OCTET_STRING) && seq.Empty()
	return hwSerial, ok
}

// addressRules look at addresses of status and issuer.
var addressRules = []rule{
	{"access_empty", Error, "RFC 5280, section 4.2.2.1", func(c *certificate) string {
		if c.extension(oidAuthorityInfo) != nil && len(c.access) == 0 {
			return "authorityInfoAccess is there and empty"
		}
		return ""
	}},
	{"access_uri", Warning, "RFC 5280, section 4.2.2.1", func(c *certificate) string {
		for _, a := range c.access {
			if a.location.tag != choiceURI || !fetchable(a.location.value) {
				return "authorityInfoAccess has a location that is not an http or ldap address"
			}
		}
		return ""
	}},
	{"access_https", Warning, "RFC 5280, section 8", func(c *certificate) string {
		for _, a := range c.access {
			if strings.HasPrefix(string(a.location.value), "https:") {
				return "authorityInfoAccess needs https, whose own certificate would have to be checked first"
			}
		}
		return ""
	}},
	{"access_method", Notice, "RFC 5280, section 4.2.2.1", func(c *certificate) string {
		for _, a := range c.access {
			if a.method != oidAccessOCSP && a.method != oidAccessIssuers {
				return "authorityInfoAccess has the unknown method " + a.method
			}
		}
		return ""
	}},
	{"points_empty", Error, "RFC 5280, section 4.2.1.13", func(c *certificate) string {
		if c.extension(oidCRLPoints) != nil && len(c.points) == 0 {
			return "cRLDistributionPoints is there and empty"
		}
		return ""
	}},
	{"points_reasons_only", Error, "RFC 5280, section 4.2.1.13", func(c *certificate) string {
		for _, p := range c.points {
			if !p.hasName && !p.hasIssuer {
				return "a distribution point must not consist of reasons alone"
			}
		}
		return ""
	}},
	{"points_uri", Warning, "RFC 5280, section 4.2.1.13", func(c *certificate) string {
		for _, p := range c.points {
			for _, n := range p.names {
				if n.tag != choiceURI || !fetchable(n.value) {
					return "a distribution point has a name that is not an http or ldap address"
				}
			}
		}
		return ""
	}},
	{"points_https", Warning, "RFC 5280, section 8", func(c *certificate) string {
		for _, p := range c.points {
			for _, n := range p.names {
				if strings.HasPrefix(string(n.value), "https:") {
					return "a distribution point needs https, whose own certificate would have to be checked first"
				}
			}
		}
		return ""
	}},
	{"points_reasons", Notice, "RFC 5280, section 4.2.1.13", func(c *certificate) string {
		for _, p := range c.points {
			if p.hasReason && p.hasName {
				return "CRLs that are split by reason are rarely supported"
			}
		}
		return ""
	}},
	{"status_address", Notice, "RFC 5280, section 3.3", func(c *certificate) string {
		if c.selfIssued() || c.extension(oidNoCheck) != nil || len(c.points) > 0 {
			return ""
		}
		for _, a := range c.access {
			if a.method == oidAccessOCSP {
				return ""
			}
		}
		return "the certificate does not say where its status can be asked"
	}},
}

func fetchable(value []byte) bool {
	text := string(value)
	for _, scheme := range []string{"http://", "https://", "ldap://", "ldaps://"} {
		if strings.HasPrefix(text, scheme) {
			return profile.URI(text)
		}
	}
	return false
}
