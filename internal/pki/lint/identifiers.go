package lint

import "fmt"

// identifierRules look at the identifiers of subject's and issuer's keys.
var identifierRules = []rule{
	{"authority_key_id_present", Error, "RFC 5280, section 4.2.1.1", func(c *certificate) string {
		if c.extension(oidAuthorityKeyID) == nil && !c.selfIssued() {
			return "the certificate does not say which key of its issuer signed it"
		}
		return ""
	}},
	{"authority_key_id_value", Error, "RFC 5280, section 4.2.1.1", func(c *certificate) string {
		if a := c.authorityID; a != nil && (!a.hasKeyID || len(a.keyID) == 0) {
			return "authorityKeyIdentifier has no keyIdentifier"
		}
		return ""
	}},
	{"authority_key_id_pair", Error, "RFC 5280, section 4.2.1.1", func(c *certificate) string {
		if a := c.authorityID; a != nil && a.hasName != a.hasSerial {
			return "authorityKeyIdentifier has issuer or serial number, but not both"
		}
		return ""
	}},
	{"authority_key_id_serial", Notice, "RFC 4158, section 3.5.12", func(c *certificate) string {
		if a := c.authorityID; a != nil && a.hasName && a.hasSerial {
			return "authorityKeyIdentifier names one certificate of the issuer, so that a new one would not match"
		}
		return ""
	}},
	{"authority_key_id_self", Error, "RFC 5280, section 4.2.1.1", func(c *certificate) string {
		if a := c.authorityID; a != nil && a.hasKeyID && c.subjectID != nil && !c.selfIssued() && string(a.keyID) == string(c.subjectID) {
			return "subject and issuer have the same key identifier but different names"
		}
		return ""
	}},
	{"subject_key_id_ca", Error, "RFC 5280, section 4.2.1.2", func(c *certificate) string {
		if c.isCA() && c.extension(oidSubjectKeyID) == nil {
			return "an authority needs subjectKeyIdentifier"
		}
		return ""
	}},
	{"subject_key_id_leaf", Notice, "RFC 5280, section 4.2.1.2", func(c *certificate) string {
		if !c.isCA() && c.extension(oidSubjectKeyID) == nil {
			return "subjectKeyIdentifier should be there"
		}
		return ""
	}},
	{"subject_key_id_length", Warning, "RFC 5280, section 4.2.1.2; RFC 7093, section 2", func(c *certificate) string {
		if n := len(c.subjectID); c.subjectID != nil && (n < 8 || n > 64) {
			return fmt.Sprintf("subjectKeyIdentifier has %d octets", n)
		}
		return ""
	}},
}
