// Package chain decides whether a certificate can be trusted. It starts from
// the certificate, climbs from issuer to issuer until it meets a trust anchor,
// and holds each path it finds against RFC 5280, section 6: signatures,
// validity, basic constraints, path length, key usages, name constraints,
// policies, critical extensions and revocation. Several paths may exist
// (cross-certificates, renewed keys); one good path is enough.
//
// Two callers share it. The TLS listeners judge what a device presents, request
// by request, through a Verifier that remembers which authorities' signatures
// it has checked. The command line judges any certificate of the world, with
// CRLs from files.
//
// It refuses rather than guesses: what it does not understand and is marked
// critical, what is weak, what would cost too much to examine. A certificate
// that may not issue never does, even when it was named as an anchor.
package chain

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Usage is what the certificate is going to be used for.
type Usage string

// The usages. UsageAny asks for no particular one.
const (
	UsageAny         Usage = "any"
	UsageClient      Usage = "client"
	UsageServer      Usage = "server"
	UsageOCSP        Usage = "ocsp"
	UsageCodeSigning Usage = "codesigning"
)

// Usages returns all usages.
func Usages() []Usage {
	return []Usage{UsageAny, UsageClient, UsageServer, UsageOCSP, UsageCodeSigning}
}

// Limits that hold for every verification. They are far above what honest
// chains need and keep a hostile one cheap.
const (
	DefaultMaxChain = 6
	DefaultMaxWork  = 100_000
	MaxChainBytes   = 64 << 10
	maxPresented    = 16
)

// Options says what to trust and what to ask of a path.
type Options struct {
	Anchors       *Pool // where trust starts
	Intermediates *Pool // authorities that the operator knows, trusted for nothing
	// Presented holds the further certificates that a peer sent. At most 16 and,
	// with the leaf, 64 KiB are looked at; more is fault.ChainLimit.
	Presented []*x509.Certificate
	At        time.Time // the moment to judge for; required
	Usage     Usage     // empty means UsageAny
	Host      string    // if not empty: the DNS name or IP address that the leaf must carry

	Status        StatusChecker // nil: revocation is not looked at
	RequireStatus bool          // an unknown status refuses; without a StatusChecker everything is unknown

	// AcceptExpired lets the leaf be expired by this much, for re-enrollment. It
	// never applies to issuers.
	AcceptExpired time.Duration

	MaxChain   int // certificates of a path, anchor included; 0 means DefaultMaxChain
	MaxWork    int // units of work: about 500 for a P-256 signature, 1 for a comparison of names; 0 means DefaultMaxWork
	MinRSABits int // smallest RSA key; 0 means 2048
}

// Path is a certificate with everything that makes it trusted.
type Path struct {
	// Certificates runs from the leaf to the anchor's own certificate, which is
	// missing when the anchor is a bare name and key.
	Certificates []*x509.Certificate
	Anchor       Anchor
}

// Verify returns a path from leaf to an anchor that keeps all rules. If there
// is none, the error is the most telling fault of the paths that were tried:
// that of the path with the fewest things wrong. Errors of the StatusChecker
// end the verification and come back as they are if they are faults.
func Verify(ctx context.Context, leaf *x509.Certificate, o Options) (*Path, error) {
	return verify(ctx, leaf, o, nil)
}

func verify(ctx context.Context, leaf *x509.Certificate, o Options, v *Verifier) (*Path, error) {
	if o.At.IsZero() {
		return nil, errors.New("verify certificate: no time given")
	}
	o = o.withDefaults()
	if err := checkSizes(leaf, o.Presented); err != nil {
		return nil, err
	}
	s := &search{o: o, cache: v, leaf: newNode(leaf), budget: budget{left: o.MaxWork}}
	s.addPresented(o.Presented)
	return s.run(ctx)
}

func (o Options) withDefaults() Options {
	if o.Usage == "" {
		o.Usage = UsageAny
	}
	if o.MaxChain <= 0 {
		o.MaxChain = DefaultMaxChain
	}
	if o.MaxWork <= 0 {
		o.MaxWork = DefaultMaxWork
	}
	if o.MinRSABits <= 0 {
		o.MinRSABits = minRSABits
	}
	if o.AcceptExpired < 0 {
		o.AcceptExpired = 0
	}
	// RFC 5280 times have whole seconds and both ends belong to the validity.
	o.At = o.At.Truncate(time.Second)
	return o
}

// checkSizes refuses oversized input before anything of it is looked at.
func checkSizes(leaf *x509.Certificate, presented []*x509.Certificate) error {
	if leaf == nil || len(leaf.Raw) == 0 {
		return fault.New(fault.CertificateInvalid, "no certificate")
	}
	if len(presented) > maxPresented {
		return fault.New(fault.ChainLimit, "more than", maxPresented, "certificates were presented")
	}
	size := len(leaf.Raw)
	for _, c := range presented {
		if c == nil || len(c.Raw) == 0 {
			return fault.New(fault.CertificateInvalid, "an empty certificate was presented")
		}
		size += len(c.Raw)
	}
	if size > MaxChainBytes {
		return fault.New(fault.ChainLimit, "the certificates have more than", MaxChainBytes, "bytes")
	}
	return nil
}
