package profile

// Config is a profile as its author wrote it: known keys with values of the
// right type, and nothing checked beyond that. The comments are the manual.
type Config struct {
	Name        string    `yaml:"name"`        // lower-case letters, digits and dashes
	Description string    `yaml:"description"` // one line for people
	Kind        Kind      `yaml:"kind"`
	Issuer      string    `yaml:"issuer"`  // name of the authority that signs; default "issuing"
	Purpose     string    `yaml:"purpose"` // of an LDevID, for example cloud
	Keys        []KeyType `yaml:"keys"`    // allowed types of the subject's key

	Validity ValidityConfig `yaml:"validity"`

	Subject        []NameConfig    `yaml:"subject"`
	SubjectAltName []AltNameConfig `yaml:"subjectAltName"`

	KeyUsage                 []Usage                `yaml:"keyUsage"`                 // names of RFC 5280, or keyEstablishment
	ExtendedKeyUsage         []string               `yaml:"extendedKeyUsage"`         // names or OIDs
	ExtendedKeyUsageCritical bool                   `yaml:"extendedKeyUsageCritical"` // default false
	PathLen                  *int                   `yaml:"pathLen"`                  // of an issuing CA; default 0; -1: no limit
	NameConstraints          *NameConstraintsConfig `yaml:"nameConstraints"`          // of a CA
	Policies                 []string               `yaml:"policies"`                 // OIDs
	Extensions               []ExtensionConfig      `yaml:"extensions"`               // additional, never critical
	SubjectKeyIdentifier     *bool                  `yaml:"subjectKeyIdentifier"`     // default true
	NoCheck                  bool                   `yaml:"noCheck"`                  // of an OCSP responder

	Status      StatusConfig `yaml:"status"`
	CRLShards   int          `yaml:"crlShards"`   // 1 to 256; default 1
	FixedLength bool         `yaml:"fixedLength"` // for chips that store certificates in compressed form

	Trusts            []string   `yaml:"trusts"`             // authorities whose certificates may authenticate a first enrollment
	LeastEvidence     string     `yaml:"leastEvidence"`      // level of evidence; default "none", or "tpm" for an attestation key
	RequireHardware   bool       `yaml:"requireHardwareKey"` // the key must be proven to live in a chip; no key of ours, no software key
	ServerKeys        ServerKeys `yaml:"serverKeygen"`       // keys made by us over EST: none (default), sealed (to a certificate of the requester) or tls (also protected by the connection alone)
	RequireApproval   bool       `yaml:"requireApproval"`    // a second operator approves each certificate
	RenewSameKey      bool       `yaml:"renewSameKey"`       // re-enrollment may keep the key
	AcceptExpiredDays int        `yaml:"acceptExpiredDays"`  // how long after expiry a certificate may still renew itself
	OverlapDays       *int       `yaml:"overlapDays"`        // days the old credential lives after its successor's first use; default: until it expires
}

// ValidityConfig is Validity as written.
type ValidityConfig struct {
	Years      int    `yaml:"years"`
	Days       int    `yaml:"days"`
	Hours      int    `yaml:"hours"`
	NoExpiry   bool   `yaml:"noExpiry"`   // 99991231235959Z
	Shorten    bool   `yaml:"shorten"`    // shorten when the issuer ends earlier, instead of refusing
	Backdate   string `yaml:"backdate"`   // at most and by default 5m
	AlignHour  bool   `yaml:"alignHour"`  // notBefore is a full hour
	WholeYears bool   `yaml:"wholeYears"` // notAfter differs from notBefore in the year alone
}

// ValueConfig is Value as written; it stands inside NameConfig and AltNameConfig.
type ValueConfig struct {
	Value    string `yaml:"value"`    // fixed text
	From     Source `yaml:"from"`     // value of the register
	Or       Source `yaml:"or"`       // in its place when the register has none
	Prefix   string `yaml:"prefix"`   // before a value of the register
	Suffix   string `yaml:"suffix"`   // after it
	Optional bool   `yaml:"optional"` // leave the field out when there is no value
	Length   int    `yaml:"length"`   // octets the text must have
}

// NameConfig is NameField as written.
type NameConfig struct {
	Attribute   string `yaml:"attribute"` // name or OID
	ValueConfig `yaml:",inline"`
}

// AltNameConfig is AltName as written.
type AltNameConfig struct {
	Type         AltNameType  `yaml:"type"`
	HardwareType string       `yaml:"hardwareType"` // OID, of a hardwareModuleName
	Hex          bool         `yaml:"hex"`          // serial of a hardwareModuleName is hexadecimal
	Assigner     string       `yaml:"assigner"`     // OID, of a permanentIdentifier
	Directory    []NameConfig `yaml:"directory"`    // of a directoryName
	ValueConfig  `yaml:",inline"`
}

// NameConstraintsConfig is NameConstraints as written.
type NameConstraintsConfig struct {
	Permitted NameSetConfig `yaml:"permitted"`
	Excluded  NameSetConfig `yaml:"excluded"`
}

// NameSetConfig is NameSet as written.
type NameSetConfig struct {
	DNS   []string `yaml:"dns"`
	IP    []string `yaml:"ip"` // CIDR
	Email []string `yaml:"email"`
	URI   []string `yaml:"uri"` // host names
}

// ExtensionConfig is Extension as written.
type ExtensionConfig struct {
	OID string `yaml:"oid"`
	Hex string `yaml:"hex"` // DER of the content
}

// StatusConfig says which addresses of status and issuer a certificate carries.
type StatusConfig struct {
	OCSP      *bool `yaml:"ocsp"`      // default true, except for a root and an OCSP responder
	CAIssuers *bool `yaml:"caIssuers"` // default true, except for a root
	CRL       *bool `yaml:"crl"`       // default true, except for a root and an OCSP responder
}
