package ceremony

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Act says what a step of a ceremony did.
type Act string

// The acts.
const (
	ActBegin      Act = "begin"
	ActRoot       Act = "root"
	ActShare      Act = "share"      // a custodian opened a share and it was the right one
	ActSign       Act = "sign"       // a subordinate authority, or an OCSP responder
	ActCRL        Act = "crl"        // the root's list of revoked certificates
	ActCustodians Act = "custodians" // the root's key was shared out anew
	ActFinish     Act = "finish"
)

// Entry is one step in a ceremony's transcript. Exactly the fields of its act
// are set. Its canonical form is what encoding/json makes of it.
type Entry struct {
	Number    int       `json:"number"`             // from 1
	Previous  string    `json:"previous,omitempty"` // SHA-256 of the entry before, in hexadecimal
	Ceremony  string    `json:"ceremony"`           // 32 hexadecimal digits
	Rehearsal bool      `json:"rehearsal"`
	At        time.Time `json:"at"` // UTC, whole seconds
	Act       Act       `json:"act"`
	Present   []string  `json:"present,omitempty"` // roles and custodians who took part
	Machine   Machine   `json:"machine"`
	Notes     []string  `json:"notes,omitempty"` // what a reader should know or worry about

	Plan        *Plan        `json:"plan,omitempty"`
	Root        *Root        `json:"root,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	CRL         *CRL         `json:"crl,omitempty"`
	Share       *OpenedShare `json:"share,omitempty"`
	Custody     *Custody     `json:"custody,omitempty"`

	Inputs  []File `json:"inputs,omitempty"`
	Outputs []File `json:"outputs,omitempty"`
}

// File is a file in a step's folder.
type File struct {
	Name   string `json:"name"` // with slashes, relative to the step's folder
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Machine is what a transcript says of the machine and the program.
type Machine struct {
	Version    string   `json:"version"`
	Binary     string   `json:"binary_sha256"`
	System     string   `json:"system"` // such as linux/amd64
	Interfaces []string `json:"interfaces_up,omitempty"`
	Swap       []string `json:"swap,omitempty"`
}

// Plan is what was decided before the ceremony began.
type Plan struct {
	Title        string      `json:"title"`
	Authority    string      `json:"authority"` // the root's name in addresses of status
	Organization string      `json:"organization,omitempty"`
	StatusURL    string      `json:"status_url,omitempty"`
	Participants []string    `json:"participants,omitempty"` // roles
	Key          string      `json:"key"`                    // KeyFile, or the URI of a key in hardware
	Hardware     string      `json:"hardware,omitempty"`     // what holds the key, as declared
	Threshold    int         `json:"threshold,omitempty"`
	Custodians   []Custodian `json:"custodians,omitempty"`
	CeremonyKey  []byte      `json:"ceremony_key"` // SubjectPublicKeyInfo: signs every entry
	After        *Earlier    `json:"after,omitempty"`
}

// KeyFile as a plan's key means a file whose passphrase custodians share.
const KeyFile = "file"

// Custodian is who gets a share: a role, and an age recipient of that person's.
type Custodian struct {
	Name      string `json:"name"`
	Recipient string `json:"recipient"`
}

// Earlier is the ceremony that this one goes on from.
type Earlier struct {
	Ceremony   string    `json:"ceremony"`
	Transcript string    `json:"transcript_sha256"`
	Root       Root      `json:"root"`
	CRLNumber  uint64    `json:"crl_number"`
	CRLUpdate  time.Time `json:"crl_update,omitzero"`
	Revoked    []Revoked `json:"revoked,omitempty"`
}

// Root is the record of the root.
type Root struct {
	Certificate []byte   `json:"certificate"` // DER
	Custody     *Custody `json:"custody,omitempty"`
}

// Custody says who holds the shares of the key file's passphrase.
type Custody struct {
	Split     string `json:"split"` // 32 hexadecimal digits, in every share
	Threshold int    `json:"threshold"`
	Shares    []Held `json:"shares"`
}

// Held is one custodian's share.
type Held struct {
	Custodian
	Index      int    `json:"index"`
	File       string `json:"file"`
	Commitment string `json:"commitment_sha256"` // by which the share is recognized; tells nothing about it
}

// OpenedShare says that a custodian's share was opened and was the right one.
type OpenedShare struct {
	Name  string `json:"custodian"`
	Index int    `json:"index"`
	Split string `json:"split"`
}

// Certificate is one that the root signed.
type Certificate struct {
	Name    string `json:"name"`
	Profile string `json:"profile"`
	DER     []byte `json:"der"`
}

// CRL is a list that the root signed.
type CRL struct {
	Number     uint64    `json:"number"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
	Revoked    []Revoked `json:"revoked,omitempty"`
	DER        []byte    `json:"der"`
}

// Revoked is an entry of a CRL.
type Revoked struct {
	CertSerial string    `json:"certificate_serial"` // hexadecimal content octets
	Subject    string    `json:"subject"`
	At         time.Time `json:"at"`
	Reason     string    `json:"reason"`
}

// encode returns the canonical form of an entry.
func (e *Entry) encode() ([]byte, error) { return json.Marshal(e) }

// decodeEntry reads an entry and accepts its canonical form alone.
func decodeEntry(raw []byte) (*Entry, bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var e Entry
	if err := d.Decode(&e); err != nil {
		return nil, false
	}
	canonical, err := e.encode()
	return &e, err == nil && bytes.Equal(canonical, raw)
}

// sum returns a SHA-256 in hexadecimal.
func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}
