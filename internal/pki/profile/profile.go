// Package profile says what a certificate may contain. An author writes YAML;
// Parse turns it into an unchecked Config and, if every rule holds, into an
// immutable Profile: typed fields, never text with holes. A field of the subject
// or of the alternative name is either fixed or taken from one named value of
// the register (Values), so nothing a requester sends can reach a certificate
// through a profile. Package lint checks what a profile would produce, package
// issuing compiles it to DER; both only read.
package profile

import (
	"crypto/x509"
	"net/netip"
	"slices"
	"time"
)

// Kind says what sort of certificate a profile is for. It decides which rules
// the profile itself must meet.
type Kind string

// The kinds of profile.
const (
	KindRoot          Kind = "root"
	KindIssuing       Kind = "issuing"
	KindIDevID        Kind = "idevid"
	KindLDevID        Kind = "ldevid"
	KindTLSServer     Kind = "tls-server"
	KindStation       Kind = "station"
	KindOperator      Kind = "operator"
	KindOCSPResponder Kind = "ocsp-responder"
	KindAttestation   Kind = "attestation" // of a TPM's attestation key
	KindTranscript    Kind = "transcript"  // of a key ceremony's transcript
)

// Kinds returns all kinds.
func Kinds() []Kind {
	return []Kind{
		KindRoot, KindIssuing, KindIDevID, KindLDevID, KindTLSServer, KindStation, KindOperator, KindOCSPResponder,
		KindAttestation, KindTranscript,
	}
}

// CA reports whether certificates of this kind may sign certificates.
func (k Kind) CA() bool { return k == KindRoot || k == KindIssuing }

// Device reports whether certificates of this kind belong to devices.
func (k Kind) Device() bool { return k == KindIDevID || k == KindLDevID || k == KindAttestation }

// PurposeAttestation is the purpose under which a device's attestation
// certificate is current; no LDevID has it.
const PurposeAttestation = "attestation"

// OverlapUntilExpiry is the OverlapDays of a profile whose old credentials stay
// valid until they expire.
const OverlapUntilExpiry = -1

// ServerKeys says whether we may make the subject's key, and how it may travel
// to the device that asks for it (RFC 7030, section 4.4).
type ServerKeys string

// The ways of server-side key generation.
const (
	ServerKeysNone   ServerKeys = "none"
	ServerKeysSealed ServerKeys = "sealed" // only encrypted to a certificate of the requester's
	ServerKeysTLS    ServerKeys = "tls"    // also with no other protection than the connection's
)

// Profile is a checked set of rules for one sort of certificate. It never
// changes after Parse; readers must not write to its slices.
type Profile struct {
	Name        string
	Description string
	Kind        Kind
	Issuer      string // name of the authority that signs; empty for a root
	Purpose     string // of an LDevID

	Keys     []KeyType // allowed for the subject's key
	Validity Validity

	Subject  []NameField
	AltNames []AltName

	KeyUsage             []Usage
	ExtendedKeyUsage     []x509.OID
	ExtendedKeyUsageCrit bool
	PathLen              int // of a CA; -1: no limit
	NameConstraints      *NameConstraints
	Policies             []x509.OID
	Extensions           []Extension

	SubjectKeyID bool // certificate carries subjectKeyIdentifier
	OCSP         bool // certificate carries the OCSP responder's address
	CAIssuers    bool // certificate carries the address of the issuer's certificate
	CRL          bool // certificate carries the address of its CRL
	NoCheck      bool // certificate says that its own status need not be asked (RFC 6960, section 4.2.2.2.1)
	CRLShards    int  // 1 to 256
	FixedLength  bool // every certificate of one key type has the same layout

	Trusts            []string // authorities whose certificates may authenticate a first enrollment
	LeastEvidence     string
	RequireHardware   bool // of the subject's key: proven to live in a chip; always true for KindAttestation
	ServerKeys        ServerKeys
	RequireApproval   bool
	RenewSameKey      bool
	AcceptExpiredDays int
	OverlapDays       int // OverlapUntilExpiry, or days after the successor's first use

	Text   []byte   // as imported
	Digest [32]byte // SHA-256 of Text
}

// Validity says how long a certificate lives. Exactly one of Years, Days, Hours
// and NoExpiry is set.
type Validity struct {
	Years, Days, Hours int
	NoExpiry           bool          // notAfter is 99991231235959Z (RFC 5280, section 4.1.2.5)
	Shorten            bool          // shorten rather than refuse when the issuer ends earlier
	Backdate           time.Duration // notBefore lies this far in the past
	AlignHour          bool          // notBefore is a full hour
	WholeYears         bool          // notAfter is notBefore with another year, to the second
}

// NameField is one attribute of a distinguished name.
type NameField struct {
	Attribute Attribute
	Value     Value
}

// Value is where a field's text comes from: fixed, or a value of the register
// between a fixed prefix and suffix.
type Value struct {
	Fixed          string // used when From is empty
	From           Source
	Or             Source // used when From has no value
	Prefix, Suffix string
	Optional       bool // field is left out when there is no value
	Length         int  // octets the text must have; 0: any
}

// AltName is one entry of the subject alternative name.
type AltName struct {
	Type      AltNameType
	Value     Value
	Hex       bool        // the value is hexadecimal and stands for its octets (hardwareModuleName)
	OID       x509.OID    // hwType of a hardwareModuleName, assigner of a permanentIdentifier
	HasOID    bool        // whether OID is set
	Directory []NameField // of a directoryName
}

// NameConstraints limits the names under a CA (RFC 5280, section 4.2.1.10).
type NameConstraints struct {
	Permitted, Excluded NameSet
}

// NameSet is one side of NameConstraints.
type NameSet struct {
	DNS   []string
	IP    []netip.Prefix
	Email []string
	URI   []string
}

// Empty reports whether the set names nothing.
func (s NameSet) Empty() bool { return len(s.DNS)+len(s.IP)+len(s.Email)+len(s.URI) == 0 }

// Extension is an additional, non-critical extension with a fixed value.
type Extension struct {
	OID   x509.OID
	Value []byte // DER of the extension's content
}

// Allows reports whether the profile certifies keys of this type.
func (p *Profile) Allows(t KeyType) bool { return slices.Contains(p.Keys, t) }
