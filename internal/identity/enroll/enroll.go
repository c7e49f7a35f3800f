// Package enroll is the registration authority and the one road to a
// certificate: authenticate the requester, find the device, look at the
// evidence, decide under a profile, issue, and have it stored before anyone
// sees it. Every protocol ends in Enroller.Enroll; a protocol package only
// translates bytes.
package enroll

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Operation is what a requester wants.
type Operation uint8

// The operations. Numbers are part of idempotency keys.
const (
	Enroll Operation = iota + 1
	Reenroll
)

// Request is one request for one certificate, whatever protocol it came by.
type Request struct {
	Operation Operation
	Requester Requester
	Label     string // EST label or the protocol's equivalent; empty: default
	CSR       []byte // DER PKCS #10 as it arrived, not yet looked at; empty: TPM's attestation key
	// TPM is what the device's TPM made of a challenge (Enroller.Challenge), with
	// which it proves the key of the CSR or, without one, its attestation key; nil:
	// no evidence of a TPM.
	TPM *tpm.Answer
	// Attestation is evidence of a TPM whose attestation key has a certificate of
	// ours, for the key of the CSR; nil: none. Not both.
	Attestation *Attestation
	// IdempotencyKey is an explicit key (REST, stations), scoped to the
	// requester; empty: derived from requester, operation, profile and key.
	IdempotencyKey string
	RemoteAddress  string // for the log only

	serverKey *serverKey // not nil: we make the key
}

// Requester is who asks, as the transport saw it; nothing here is believed
// before Enroll judged it.
type Requester struct {
	// DeviceSerial and Secret are HTTP Basic's user and password.
	DeviceSerial string
	Secret       []byte
	// Chain is what the TLS client presented, leaf first, unverified except
	// for possession of the leaf's key.
	Chain []*x509.Certificate
}

// Response is an issued certificate.
type Response struct {
	Credential device.Credential
	Chain      [][]byte // DER of the issuing authorities below the root, issuer first
	Wrap       int      // base64 line length the label asks for, 0: unbroken
	Replayed   bool     // the same request was answered before with this certificate
}

// Waiting is returned (as an error) while an approval is outstanding.
type Waiting struct {
	Approval   int64
	RetryAfter time.Duration
}

// Error says that the request waits.
func (w *Waiting) Error() string { return "the request waits for an approval" }

// Service is what protocols need of the Enroller.
type Service interface {
	// Enroll answers one request. Errors are faults or *Waiting.
	Enroll(ctx context.Context, r Request) (*Response, error)
	// EnrollServerKey answers one request for a certificate with a key that we
	// make. The key in the request's CSR and its signature are not looked at.
	EnrollServerKey(ctx context.Context, r Request) (*KeyResponse, error)
	// Authorities returns the DER certificates for a label's /cacerts: issuing
	// authority first, its root last, then older and other roots that the
	// devices of this label must trust.
	Authorities(ctx context.Context, label string) (certs [][]byte, wrap int, err error)
	// Attributes returns the DER CsrAttrs (RFC 8951, RFC 9908) for a label.
	Attributes(ctx context.Context, label string, r Requester) (der []byte, wrap int, err error)
}
