package chain

import (
	"cmp"
	"context"
	"crypto/x509"
	"strconv"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// quote shows a name of foreign origin within one line and a fault's length.
func quote(s string) string {
	if len(s) > 128 {
		s = s[:128] + "..."
	}
	return strconv.QuoteToASCII(s)
}

// leafFaults are those that no choice of path can mend.
func (s *search) leafFaults() []*fault.Error {
	var faults []*fault.Error
	n := s.leaf
	note := func(code fault.Code, detail ...any) { faults = append(faults, fault.New(code, detail...)) }
	if why := cmp.Or(n.unreadable, n.malformed); why != "" {
		note(fault.CertificateInvalid, n.label()+":", why)
	}
	if f := s.validityFault(n, s.o.AcceptExpired); f != nil {
		faults = append(faults, f)
	}
	if len(n.critical) > 0 {
		note(fault.ChainCritical, n.label()+":", n.critical[0])
	}
	if why := leafKeyDefect(n.cert, s.o.Usage, s.o.MinRSABits); why != "" {
		note(fault.ChainWeak, n.label()+":", why)
	}
	if !n.allows(s.o.Usage) || !n.keyAllows(s.o.Usage) {
		note(fault.ChainUsage, n.label()+":", s.o.Usage)
	}
	if s.o.Host != "" && !hostMatches(n.cert, s.o.Host) {
		note(fault.ChainHost, quote(s.o.Host))
	}
	return faults
}

// issuerFaults are those of putting c on top of the path as it is. For an
// anchor's certificate all rules hold too, but for those of form: its name and
// key are trusted already.
func (s *search) issuerFaults(c *node) ([]*fault.Error, error) {
	if c.bare {
		return nil, nil
	}
	var faults []*fault.Error
	note := func(code fault.Code, detail ...any) {
		faults = append(faults, fault.New(code, append([]any{c.label() + ":"}, detail...)...))
	}
	if c.unreadable != "" {
		note(fault.CertificateInvalid, c.unreadable)
	} else if c.malformed != "" && s.o.Anchors.exactly(c.id) == nil {
		note(fault.CertificateInvalid, c.malformed)
	}
	if f := s.validityFault(c, 0); f != nil {
		faults = append(faults, f)
	}
	if why := c.mayIssue(); why != "" {
		note(fault.ChainNotCA, why)
	}
	if s.beyondPathLength(c) {
		note(fault.ChainPathLength, "at most", c.cert.MaxPathLen, "authorities below")
	}
	if len(c.critical) > 0 {
		note(fault.ChainCritical, c.critical[0])
	}
	if !c.allows(s.o.Usage) {
		note(fault.ChainUsage, s.o.Usage)
	}
	f, err := s.nameFault(c)
	if f != nil {
		faults = append(faults, f)
	}
	return faults, err
}

// validityFault counts both ends of the validity as part of it.
func (s *search) validityFault(n *node, grace time.Duration) *fault.Error {
	switch {
	case s.o.At.Before(n.cert.NotBefore):
		return fault.New(fault.ChainNotYetValid, n.label(), "is valid from", n.cert.NotBefore.UTC().Format(time.RFC3339))
	case s.o.At.After(n.cert.NotAfter.Add(grace)):
		return fault.New(fault.ChainExpired, n.label(), "expired at", n.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// beyondPathLength counts the authorities between c and the leaf. Self-issued
// ones, as in a key rollover, do not count (RFC 5280, section 6.1.4 (l)).
func (s *search) beyondPathLength(c *node) bool {
	limit := c.cert.MaxPathLen
	if !c.cert.BasicConstraintsValid || limit < 0 {
		return false
	}
	below := 0
	for _, n := range s.path[1:] {
		if !n.selfIssued() {
			below++
		}
	}
	return below > limit
}

// nameFault holds everything below c against its name constraints. Self-issued
// authorities are exempt (section 6.1.3 (b)).
func (s *search) nameFault(c *node) (*fault.Error, error) {
	if c.constraints == nil {
		return nil, nil
	}
	if c.constraints.critical && c.constraints.foreign != "" {
		return fault.New(fault.ChainCritical, c.label()+": name constraints on", c.constraints.foreign), nil
	}
	for i, n := range s.path {
		if i > 0 && n.selfIssued() {
			continue
		}
		why, err := c.constraints.admits(n, &s.budget)
		if err != nil {
			return nil, err
		}
		if why != "" {
			return fault.New(fault.ChainName, why, "by", c.label()), nil
		}
	}
	return nil, nil
}

// purposes are the extended key usages that a usage needs, the same in each
// certificate of the path that has the extension.
var purposes = map[Usage]x509.ExtKeyUsage{
	UsageClient:      x509.ExtKeyUsageClientAuth,
	UsageServer:      x509.ExtKeyUsageServerAuth,
	UsageOCSP:        x509.ExtKeyUsageOCSPSigning,
	UsageCodeSigning: x509.ExtKeyUsageCodeSigning,
}

// allows applies extKeyUsage, in issuers as well: there it restricts what they
// can certify. A certificate without the extension is good for any usage.
func (n *node) allows(u Usage) bool {
	want, known := purposes[u]
	if !n.extKeyUsagePresent {
		// RFC 6960, section 4.2.2.2: an OCSP responder must be named as one.
		return u == UsageAny || known && (u != UsageOCSP || n.isCA())
	}
	if u == UsageAny {
		return true
	}
	for _, have := range n.cert.ExtKeyUsage {
		if known && have == want || known && have == x509.ExtKeyUsageAny && (u != UsageOCSP || n.isCA()) {
			return true
		}
	}
	return false
}

// keyAllows applies the leaf's keyUsage, where it is present.
func (n *node) keyAllows(u Usage) bool {
	if !n.keyUsagePresent {
		return true
	}
	const signature, agreement = x509.KeyUsageDigitalSignature, x509.KeyUsageKeyAgreement
	var enough x509.KeyUsage
	switch u {
	case UsageClient:
		enough = signature | agreement
	case UsageServer:
		enough = signature | agreement | x509.KeyUsageKeyEncipherment
	case UsageOCSP, UsageCodeSigning:
		enough = signature | x509.KeyUsageContentCommitment
	default:
		return true
	}
	return n.cert.KeyUsage&enough != 0
}

// revocationFaults asks for the status of each certificate below the anchor,
// from the top down.
func (s *search) revocationFaults(ctx context.Context) ([]*fault.Error, error) {
	if s.o.Status == nil && !s.o.RequireStatus {
		return nil, nil
	}
	var faults []*fault.Error
	top := len(s.path) - 1
	for i := top - 1; i >= 0; i-- {
		if s.path[i].sameEntity(s.path[top]) {
			continue // the anchor's own key certifying itself
		}
		f, err := s.revocationFault(ctx, s.path[i], s.path[i+1])
		if err != nil {
			return nil, err
		}
		if f != nil {
			faults = append(faults, f)
		}
	}
	return faults, nil
}

func (s *search) revocationFault(ctx context.Context, n, by *node) (*fault.Error, error) {
	e := edge{by.keyID, n.id}
	if f, known := s.statuses[e]; known {
		return f, nil
	}
	if err := s.budget.spend(costSignature); err != nil {
		return nil, err
	}
	status := Status{Detail: "nothing was given to check it with"}
	if s.o.Status != nil {
		var err error
		if status, err = s.o.Status.Status(ctx, n.cert, by.cert); err != nil {
			return nil, statusError(ctx, err)
		}
	}
	f := s.statusFault(n, status)
	if s.statuses == nil {
		s.statuses = make(map[edge]*fault.Error, 4)
	}
	s.statuses[e] = f
	return f, nil
}

func (s *search) statusFault(n *node, status Status) *fault.Error {
	switch status.State {
	case Good:
		return nil
	case Revoked, OnHold:
		detail := []any{n.label(), "is", status.State}
		if status.State == Revoked && reasonName(status.Reason) != "" {
			detail = append(detail, "("+reasonName(status.Reason)+")")
		}
		if !status.Since.IsZero() {
			detail = append(detail, "since", status.Since.UTC().Format(time.RFC3339))
		}
		return fault.New(fault.ChainRevoked, detail...)
	}
	if !s.o.RequireStatus {
		return nil
	}
	detail := []any{n.label()}
	if status.Detail != "" {
		detail = []any{n.label() + ":", status.Detail}
	}
	return fault.New(fault.ChainStatus, detail...)
}

// statusError keeps what the checker said if an edge can render it.
func statusError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if f := fault.Of(err); f.Code != fault.Unexpected {
		return f
	}
	return fault.Wrap(fault.ChainStatus, err)
}

var reasonNames = [...]string{
	"", "keyCompromise", "cACompromise", "affiliationChanged", "superseded",
	"cessationOfOperation", "certificateHold", "", "removeFromCRL", "privilegeWithdrawn", "aACompromise",
}

func reasonName(reason int) string {
	if reason < 0 || reason >= len(reasonNames) {
		return ""
	}
	return reasonNames[reason]
}
