// Package station is the station protocol as both ends see it: JSON over HTTPS
// on the device listener under /station/v1, judged by the station's
// certificate. Where many items go at once, request and reply are streams of
// JSON objects, one to a line; each item has its own outcome, in any order. The
// protocol is described in docs/protocols/station.md.
package station

import (
	"time"

	"github.com/birthmark/birthmark/internal/format/tpm"
)

// Prefix is where the routes are.
const Prefix = "/station/v1"

// Paths below Prefix.
const (
	EnrollPath  = Prefix + "/enroll"  // POST EnrollRequest -> Enrolled; no certificate yet
	RenewPath   = Prefix + "/renew"   // POST RenewRequest -> Enrolled
	StatusPath  = Prefix + "/status"  // GET -> Status
	NoncesPath  = Prefix + "/nonces"  // POST NoncesRequest -> Nonces
	UnitsPath   = Prefix + "/units"   // POST lines of Unit -> lines of Result
	ConfirmPath = Prefix + "/confirm" // POST lines of Confirm -> lines of Result
	ScrapPath   = Prefix + "/scrap"   // POST lines of Scrap -> lines of Result
	FailedPath  = Prefix + "/failed"  // POST lines of Failed -> lines of Result
	ChipsPath   = Prefix + "/chips"   // POST ChipsRequest -> Chips
	// ChallengePath is for units with a TPM.
	ChallengePath = Prefix + "/challenge" // POST lines of ChallengeRequest -> lines of Result
)

// LinesType is the media type of a stream of JSON objects.
const LinesType = "application/x-ndjson"

// EnrollRequest spends a station's one-time code.
type EnrollRequest struct {
	Code string `json:"code"`
	CSR  []byte `json:"csr"` // DER
}

// RenewRequest asks for the next certificate of the station that presents its
// current one.
type RenewRequest struct {
	CSR []byte `json:"csr"`
}

// Enrolled is a station's certificate.
type Enrolled struct {
	Station     string   `json:"station"`
	Site        string   `json:"site"`
	Certificate []byte   `json:"certificate"` // DER
	Chain       [][]byte `json:"chain"`       // DER, issuer first, root last
}

// Status is what a station may do now.
type Status struct {
	Station string    `json:"station"`
	Site    string    `json:"site"`
	Now     time.Time `json:"now"` // the server's clock
	Orders  []Order   `json:"orders"`
}

// Order is a production order as the stations assigned to it see it.
type Order struct {
	Number   string `json:"number"`
	State    string `json:"state"`
	Product  string `json:"product"`
	KeyModel string `json:"keyModel"`
	Proof    bool   `json:"proof"` // the product demands the chip's proof
	// Evidence is the least level of evidence that product and profile demand,
	// such as "tpm"; see identity/attest.
	Evidence   string   `json:"evidence,omitempty"`
	ChipTypes  []string `json:"chipTypes,omitempty"`
	Quantity   int64    `json:"quantity"`
	Spares     int64    `json:"spares"`
	Issued     int64    `json:"issued"`
	Live       int64    `json:"live"`
	Confirmed  int64    `json:"confirmed"`
	Scrapped   int64    `json:"scrapped"`
	Left       int64    `json:"left"`
	SerialFrom string   `json:"serialFrom,omitempty"`
	SerialTo   string   `json:"serialTo,omitempty"`
	TaktMillis int64    `json:"taktMillis,omitempty"`
	// StatementKey is the server's public key (DER SubjectPublicKeyInfo, P-256)
	// for nonce blocks and batch replies.
	StatementKey []byte `json:"statementKey,omitempty"`
}

// NoncesRequest asks for nonces of one order.
type NoncesRequest struct {
	Order string `json:"order"`
	Count int    `json:"count"`
	// Offline asks for a signed block that lasts for a batch without a link.
	Offline bool `json:"offline,omitempty"`
	// Ahead says that no unit waits for them: an order that is full then is no
	// attempt at a unit beyond it.
	Ahead bool `json:"ahead,omitempty"`
}

// Nonces are single-use values for the units of one order at one station.
type Nonces struct {
	Order     string    `json:"order"`
	Station   string    `json:"station"`
	Nonces    [][]byte  `json:"nonces"` // 32 octets each
	ExpiresAt time.Time `json:"expiresAt"`
	// Signature is over the object without this member as canonical JSON (the
	// order of members is this declaration's), ECDSA P-256 with SHA-256, DER; only
	// for an offline block.
	Signature []byte `json:"signature,omitempty"`
}

// Unit asks for the initial identity of one unit.
type Unit struct {
	ID           string `json:"id"` // the caller's tag, returned with the result
	Order        string `json:"order"`
	DeviceSerial string `json:"serial"`              // device serial
	Reference    string `json:"reference,omitempty"` // the MES's own name of the unit
	CSR          []byte `json:"csr,omitempty"`       // DER; absent where the key is the chip's or ours
	Chip         *Chip  `json:"chip,omitempty"`
	Nonce        []byte `json:"nonce,omitempty"`
	Proof        []byte `json:"proof,omitempty"` // signature of the chip, see package proof
	// Recipient and Form say how an injected key is wrapped: a DER certificate
	// for "cms", nothing for "pkcs12", whose one-time password is Password.
	Recipient []byte  `json:"recipient,omitempty"`
	Form      string  `json:"form,omitempty"`
	Password  string  `json:"password,omitempty"`
	Rework    *Rework `json:"rework,omitempty"`
	// TPM is the answer to a challenge; Chip, Nonce and Proof are absent then.
	TPM *tpm.Answer `json:"tpm,omitempty"`
}

// ChallengeRequest asks for the challenge of a unit with a TPM.
type ChallengeRequest struct {
	ID           string    `json:"id"`
	Order        string    `json:"order"`
	DeviceSerial string    `json:"serial"`
	Claim        tpm.Claim `json:"claim"`
}

// Chip names the chip of a unit and which of its keys signed.
type Chip struct {
	Vendor string `json:"vendor,omitempty"` // as the manifest names it; needed only where a UID is ambiguous
	UID    string `json:"uid"`
	Slot   string `json:"slot,omitempty"` // empty: the first key that the manifest lists
}

// Rework says that the unit had an identity before.
type Rework struct {
	Reason string `json:"reason"` // in words
}

// Result is the outcome of one item.
type Result struct {
	ID           string `json:"id"`
	DeviceSerial string `json:"serial,omitempty"`
	OK           bool   `json:"ok"`
	Replayed     bool   `json:"replayed,omitempty"` // the same request was answered before

	Certificate  []byte   `json:"certificate,omitempty"`  // DER
	Chain        [][]byte `json:"chain,omitempty"`        // DER of the issuing authorities, issuer first
	ConfirmNonce []byte   `json:"confirmNonce,omitempty"` // to be signed with the new key
	Wrapped      []byte   `json:"wrapped,omitempty"`      // the injected key in the form that was asked for

	Challenge *tpm.Challenge `json:"challenge,omitempty"` // for a ChallengeRequest

	Code    string `json:"code,omitempty"` // BM-8023
	Kind    string `json:"kind,omitempty"` // limit-reached
	Message string `json:"message,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
	Who     string `json:"who,omitempty"` // may unblock it
}

// Confirm returns what the device has after provisioning.
type Confirm struct {
	ID           string `json:"id"`
	Order        string `json:"order"`
	DeviceSerial string `json:"serial"`
	Certificate  []byte `json:"certificate"` // DER as read back from the device
	Signature    []byte `json:"signature"`   // over proof.Confirm
	CycleMillis  int64  `json:"cycleMillis,omitempty"`
	FirstPass    bool   `json:"firstPass,omitempty"`
}

// Scrap ends a unit.
type Scrap struct {
	ID           string    `json:"id"`
	Order        string    `json:"order"`
	DeviceSerial string    `json:"serial"`
	Reason       string    `json:"reason"`
	At           time.Time `json:"at,omitzero"`
}

// Failed reports an attempt that failed at the line, for yield and causes.
type Failed struct {
	ID           string    `json:"id"`
	Order        string    `json:"order"`
	DeviceSerial string    `json:"serial,omitempty"`
	Code         string    `json:"code"` // BM code
	Detail       string    `json:"detail,omitempty"`
	At           time.Time `json:"at,omitzero"`
}

// ChipsRequest asks whether chips of a reel may be used for an order.
type ChipsRequest struct {
	Order string   `json:"order"`
	UIDs  []string `json:"uids"` // at most 100
}

// Chips answers for each UID.
type Chips struct {
	Chips []ChipAnswer `json:"chips"`
}

// ChipAnswer says what is known of a chip, as it concerns the order.
type ChipAnswer struct {
	UID     string `json:"uid"`
	OK      bool   `json:"ok"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

// Bundle is a batch collected without a link: lines of Unit in one file, signed
// by the station.
type Bundle struct {
	Station     string `json:"station"`
	Order       string `json:"order"`
	Certificate []byte `json:"certificate"` // the station's, DER
	Units       []Unit `json:"units"`
	// Signature is by the station's key over the object without this member.
	Signature []byte `json:"signature,omitempty"`
}

// Reply is what a batch brings back to the station.
type Reply struct {
	Station string   `json:"station"`
	Order   string   `json:"order"`
	Bundle  []byte   `json:"bundle"` // SHA-256 of the bundle's octets
	Results []Result `json:"results"`
	// Signature is by the server's statement key.
	Signature []byte `json:"signature,omitempty"`
}

// MaxLine is the longest line of a stream in octets: a unit may bring its TPM's
// event log.
const MaxLine = tpm.MaxLine

// MaxNonces is how many nonces one call draws while there is a link, and
// MaxOffline how many a block without one holds.
const (
	MaxNonces  = 256
	MaxOffline = 100_000
)
