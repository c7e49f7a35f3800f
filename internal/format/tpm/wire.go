// Package tpm is what a device's TPM 2.0 and the server say to each other, as
// both ends see it: the messages of a TPM enrollment (JSON), the structures of the
// TPM in them (TPM 2.0 Library, Part 2, big-endian), and the forms in which others
// carry the same (TCG-CSR-IDEVID, the attestation bundle of a CSR). Nothing here
// decides: package identity/attest/tpm does.
//
// An enrollment has two steps. The device says which TPM it has (Claim) and gets
// a Challenge: a credential that only this TPM can open, for this AK only, and a
// nonce. It comes back with an Answer: the opened credential, the subject key
// certified by the AK under the nonce, and a quote where one is asked for.
package tpm

import "time"

// Prefix is where the routes of devices are, on the device listener. Stations
// have theirs, see package station.
const Prefix = "/attest/v1"

// Paths below Prefix. Requests and replies are streams of JSON objects, one to a
// line; each item has its own outcome, in any order.
const (
	ChallengePath = Prefix + "/challenge" // POST lines of ChallengeRequest -> lines of Result
	EnrollPath    = Prefix + "/enroll"    // POST lines of EnrollRequest -> lines of Result
)

// Claim is what a device says of its TPM; nothing of it is believed before the
// Answer.
type Claim struct {
	EKCertificate []byte   `json:"ekCertificate,omitempty"` // DER; empty: the TPM has none
	EKChain       [][]byte `json:"ekChain,omitempty"`       // DER of intermediates the TPM carries, in any order
	EKPublic      []byte   `json:"ekPublic"`                // TPMT_PUBLIC
	AKPublic      []byte   `json:"akPublic"`                // TPMT_PUBLIC
}

// ChallengeRequest asks for a challenge. The requester is the device, by
// certificate or one-time secret.
type ChallengeRequest struct {
	ID    string `json:"id"`              // the caller's tag, returned with the result
	Label string `json:"label,omitempty"` // EST label that the enrollment will use
	Claim Claim  `json:"claim"`
}

// Challenge is what only the TPM of the claim can answer, once and soon.
type Challenge struct {
	Ticket     []byte        `json:"ticket"`     // returned with the answer as it is; sealed by the server
	Credential []byte        `json:"credential"` // TPM2B_ID_OBJECT, with its size
	Secret     []byte        `json:"secret"`     // TPM2B_ENCRYPTED_SECRET, with its size
	Nonce      []byte        `json:"nonce"`      // 32 octets
	ExpiresAt  time.Time     `json:"expiresAt"`
	Quote      *QuoteRequest `json:"quote,omitempty"` // a quote is asked for
}

// QuoteRequest says which registers are to be quoted.
type QuoteRequest struct {
	Bank string `json:"bank"` // "sha256", "sha384", "sha512"
	PCRs []int  `json:"pcrs"` // rising
}

// Answer is what the TPM makes of a challenge.
type Answer struct {
	Ticket    []byte `json:"ticket"`
	Secret    []byte `json:"secret"`              // what the credential held
	Public    []byte `json:"public,omitempty"`    // TPMT_PUBLIC of the subject key; empty: the AK itself is to be certified
	Attest    []byte `json:"attest,omitempty"`    // TPMS_ATTEST of TPM2_Certify over it, extraData = Binding(nonce, SPKI)
	Signature []byte `json:"signature,omitempty"` // TPMT_SIGNATURE by the AK
	Quote     *Quote `json:"quote,omitempty"`
}

// Quote is TPM2_Quote with the values behind it; extraData is the nonce.
type Quote struct {
	Attest    []byte         `json:"attest"`    // TPMS_ATTEST
	Signature []byte         `json:"signature"` // TPMT_SIGNATURE by the AK
	PCRs      map[int][]byte `json:"pcrs"`      // value of each quoted register
	EventLog  []byte         `json:"eventLog,omitempty"`
}

// EnrollRequest asks for a certificate with an answered challenge: for the CSR's
// key or, without a CSR, for the AK.
type EnrollRequest struct {
	ID     string `json:"id"`
	Label  string `json:"label,omitempty"` // as in the ChallengeRequest
	CSR    []byte `json:"csr,omitempty"`   // DER
	Answer Answer `json:"answer"`
}

// Result is the outcome of one item.
type Result struct {
	ID       string `json:"id"`
	OK       bool   `json:"ok"`
	Replayed bool   `json:"replayed,omitempty"` // the same request was answered before

	Challenge   *Challenge `json:"challenge,omitempty"`
	Certificate []byte     `json:"certificate,omitempty"` // DER
	Chain       [][]byte   `json:"chain,omitempty"`       // DER of the issuing authorities, issuer first

	Code    string `json:"code,omitempty"` // BM-9012
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
}

// MaxLine is the longest line of a stream in octets: an event log may be long.
const MaxLine = 512 << 10
