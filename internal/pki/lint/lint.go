// Package lint holds a certificate against the rules that it should meet: RFC
// 5280 and its companions for every certificate, IEEE 802.1AR for device
// identities, and the profile it was made from. It reads the raw DER with a
// tolerant parser of its own, so that it can name what a strict parser would
// only reject. It runs on samples when a profile is imported or compiled, and
// on any file from the command line; never once per certificate.
package lint

import "slices"

// Severity says how bad a finding is.
type Severity string

// The severities. Only an Error makes a profile unusable.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Notice  Severity = "notice"
)

// Finding is one rule that a certificate does not meet.
type Finding struct {
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	Source   string   `json:"source"` // for example RFC 5280, section 4.1.2.2
	Message  string   `json:"message"`
}

// rule is one thing that must hold. check returns what is wrong, or nothing.
type rule struct {
	id       string
	severity Severity
	source   string
	check    func(*certificate) string
}

func (r *rule) finding(message string) Finding {
	return Finding{Rule: r.id, Severity: r.severity, Source: r.source, Message: message}
}

// wellFormed is the rule that everything else stands on.
var wellFormed = rule{id: "well_formed", severity: Error, source: "RFC 5280, section 4.1"}

// rules returns the rules for every certificate.
func rules() []rule {
	return slices.Concat(outlineRules, nameRules, validityRules, keyRules, extensionRules, usageRules, identifierRules, altNameRules, addressRules, authorityRules)
}

// Certificate returns what is to be said about a certificate, whoever made it.
func Certificate(der []byte) []Finding {
	c := parse(der)
	if c == nil {
		return []Finding{wellFormed.finding("these bytes are not a certificate in DER")}
	}
	var findings []Finding
	for _, r := range rules() {
		if message := r.check(c); message != "" {
			findings = append(findings, r.finding(message))
		}
	}
	return findings
}
