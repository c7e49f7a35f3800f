// Package lint holds a certificate against the rules that it should meet: RFC
// 5280 and its companions for every certificate, IEEE 802.1AR for device
// identities, and the profile it was made from. It reads the raw DER with a
// tolerant parser of its own, so that it can name what a strict parser would
// only reject. It runs on samples when a profile is imported or compiled, and
// on any file from the command line; never once per certificate.
package lint

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
