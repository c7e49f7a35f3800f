package chain

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strconv"

	"github.com/birthmark/birthmark/internal/fault"
)

// search looks for a path by depth first. The first pass drops a path at its
// first fault. If nothing is found, the second pass follows signatures alone up
// to the anchors and notes what is wrong with each path, so that the refusal
// can name it.
type search struct {
	o         Options
	cache     *Verifier // nil: nothing is remembered
	budget    budget
	leaf      *node
	presented []*node

	path      []*node // from the leaf up
	bytes     int     // of the certificates on it
	faults    []*fault.Error
	diagnosis bool // the second pass

	edges     map[edge]bool // signatures checked in this search
	statuses  map[edge]*fault.Error
	best      *fault.Error // of the least faulty complete path
	bestCount int
	complete  int // complete paths seen in the second pass

	weak, forged, tooLong string // near misses below any complete path
}

// edge is an issuer's key and the certificate that it signed.
type edge struct{ key, cert digest }

const maxDiagnosed = 16

// errDiagnosed ends a second pass that has seen enough.
var errDiagnosed = errors.New("enough paths seen")

func (s *search) addPresented(certs []*x509.Certificate) {
	for _, c := range certs {
		n := s.cache.node(c)
		if n.id != s.leaf.id && !slices.ContainsFunc(s.presented, func(m *node) bool { return m.id == n.id }) {
			s.presented = append(s.presented, n)
		}
	}
}

func (s *search) run(ctx context.Context) (*Path, error) {
	s.path, s.bytes = append(make([]*node, 0, s.o.MaxChain), s.leaf), len(s.leaf.cert.Raw)
	s.faults = s.leafFaults()
	if a := s.o.Anchors.exactly(s.leaf.id); a != nil {
		return s.trustedItself(a)
	}
	if len(s.faults) == 0 {
		p, err := s.climb(ctx)
		if p != nil {
			s.cache.remember(s.path)
		}
		if p != nil || err != nil {
			return p, err
		}
	}
	s.diagnosis = true
	if _, err := s.climb(ctx); err != nil && !errors.Is(err, errDiagnosed) {
		if s.best == nil || !fault.Has(err, fault.ChainLimit) {
			return nil, err
		}
	}
	return nil, s.verdict()
}

// trustedItself is the path of a certificate that is an anchor byte for byte.
func (s *search) trustedItself(a *node) (*Path, error) {
	if f := worst(s.faults); f != nil {
		return nil, f
	}
	return &Path{Certificates: []*x509.Certificate{s.leaf.cert}, Anchor: a.anchor()}, nil
}

func (s *search) climb(ctx context.Context) (*Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	tip := s.path[len(s.path)-1]
	candidates := s.issuers(tip)
	if err := s.budget.spend(len(candidates)); err != nil {
		return nil, err
	}
	for _, c := range candidates {
		if err := s.budget.spend(costStep + len(s.path)); err != nil {
			return nil, err
		}
		if s.repeats(c) || !s.fits(c) {
			continue
		}
		if p, err := s.step(ctx, tip, c); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

// step puts c above tip if it may be there, and goes on from it.
func (s *search) step(ctx context.Context, tip *node, c issuer) (*Path, error) {
	faults, err := s.issuerFaults(c.node)
	if err != nil || len(faults) > 0 && !s.diagnosis {
		return nil, err
	}
	if ok, err := s.signed(tip, c.node); err != nil || !ok {
		return nil, err
	}
	mark := len(s.faults)
	s.faults = append(s.faults, faults...)
	s.path = append(s.path, c.node)
	s.bytes += len(c.cert.Raw)
	var p *Path
	if c.anchor {
		p, err = s.finish(ctx)
	} else {
		p, err = s.climb(ctx)
	}
	if p == nil {
		s.bytes -= len(c.cert.Raw)
		s.path = s.path[:len(s.path)-1]
		s.faults = s.faults[:mark]
	}
	return p, err
}

// issuer is a candidate with the part it would play.
type issuer struct {
	*node
	anchor bool
}

// issuers returns who may have signed tip, the most promising first: anchors
// before intermediates, fitting key identifiers before others, valid ones
// before expired ones. Identifiers are hints; only the signature counts.
func (s *search) issuers(tip *node) []issuer {
	anchors, known := s.o.Anchors.named(tip.issuer), s.o.Intermediates.named(tip.issuer)
	found := make([]issuer, 0, len(anchors)+len(known)+len(s.presented))
	for _, n := range anchors {
		found = append(found, issuer{n, true})
	}
	for _, n := range known {
		if !n.bare {
			found = append(found, issuer{n, false})
		}
	}
	for _, n := range s.presented {
		if n.subject == tip.issuer && s.o.Intermediates.exactly(n.id) == nil {
			found = append(found, issuer{n, false})
		}
	}
	if len(found) > 1 {
		slices.SortStableFunc(found, func(a, b issuer) int {
			return cmp.Compare(s.promise(tip, a), s.promise(tip, b))
		})
	}
	return found
}

// promise is small for a likely issuer.
func (s *search) promise(tip *node, c issuer) int {
	score := 0
	if !c.anchor {
		score = 2
	}
	switch identifiersFit(tip.cert, c.cert) {
	case fits:
	case silent:
		score += 4
	case differs:
		score += 8
	}
	if !c.bare && (s.o.At.Before(c.cert.NotBefore) || s.o.At.After(c.cert.NotAfter)) {
		score++
	}
	return score
}

type fit uint8

const (
	fits fit = iota
	silent
	differs
)

func identifiersFit(cert, issuer *x509.Certificate) fit {
	switch {
	case len(cert.AuthorityKeyId) == 0 || len(issuer.SubjectKeyId) == 0:
		return silent
	case string(cert.AuthorityKeyId) == string(issuer.SubjectKeyId):
		return fits
	}
	return differs
}

// repeats reports whether the path has this certificate, or another authority
// with its name and key (RFC 4158, section 2.4.2). The leaf does not count as
// one: its issuer may have signed it for its own name and key.
func (s *search) repeats(c issuer) bool {
	if c.id == s.leaf.id {
		return true
	}
	return slices.ContainsFunc(s.path[1:], c.sameEntity)
}

func (s *search) fits(c issuer) bool {
	if len(s.path) >= s.o.MaxChain {
		s.tooLong = "more than " + strconv.Itoa(s.o.MaxChain) + " certificates"
		return false
	}
	if s.bytes+len(c.cert.Raw) > MaxChainBytes {
		s.tooLong = "more than " + strconv.Itoa(MaxChainBytes) + " bytes"
		return false
	}
	return true
}

// signed checks tip's signature with c's key, once in a search, and not at all
// where the cache knows it.
func (s *search) signed(tip, c *node) (bool, error) {
	cost, why := verifiable(tip.cert.SignatureAlgorithm, c.cert.PublicKey, s.o.MinRSABits)
	if why != "" {
		if why != mismatch {
			s.weak = tip.label() + " from " + c.label() + ": " + why
		}
		return false, nil
	}
	e := edge{c.keyID, tip.id}
	if ok, known := s.edges[e]; known {
		return ok, nil
	}
	if s.cache.verified(e) {
		return true, nil
	}
	if err := s.budget.spend(cost); err != nil {
		return false, err
	}
	ok := c.cert.CheckSignature(tip.cert.SignatureAlgorithm, tip.tbs, tip.cert.Signature) == nil
	if s.edges == nil {
		s.edges = make(map[edge]bool, 4)
	}
	s.edges[e] = ok
	// A self-issued certificate with another key is a stranger, not a forgery.
	if f := identifiersFit(tip.cert, c.cert); !ok && (f == fits || f == silent && !tip.selfIssued()) {
		s.forged = "that of " + tip.label()
	}
	return ok, nil
}

// finish judges what needs the whole path: policies and revocation.
func (s *search) finish(ctx context.Context) (*Path, error) {
	below := s.path[:len(s.path)-1]
	faults := slices.Clone(s.faults)
	if ok, err := policiesHold(below, &s.budget); err != nil {
		return nil, err
	} else if !ok {
		faults = append(faults, fault.New(fault.ChainPolicy))
	}
	revoked, err := s.revocationFaults(ctx)
	if err != nil {
		return nil, err
	}
	faults = append(faults, revoked...)
	if len(faults) == 0 {
		return s.result(), nil
	}
	if !s.diagnosis {
		return nil, nil
	}
	if f := worst(faults); s.best == nil || len(faults) < s.bestCount || len(faults) == s.bestCount && rank(f) < rank(s.best) {
		s.best, s.bestCount = f, len(faults)
	}
	if s.complete++; s.complete >= maxDiagnosed {
		return nil, errDiagnosed
	}
	return nil, nil
}

func (s *search) result() *Path {
	top := s.path[len(s.path)-1]
	p := &Path{Certificates: make([]*x509.Certificate, 0, len(s.path)), Anchor: top.anchor()}
	for _, n := range s.path {
		if !n.bare {
			p.Certificates = append(p.Certificates, n.cert)
		}
	}
	return p
}

// verdict is the refusal when no path is good.
func (s *search) verdict() error {
	switch {
	case s.best != nil:
		return s.best
	case s.weak != "":
		return fault.New(fault.ChainWeak, s.weak)
	case s.forged != "":
		return fault.New(fault.ChainSignature, s.forged)
	case s.tooLong != "":
		return fault.New(fault.ChainLimit, s.tooLong)
	}
	return fault.New(fault.ChainUntrusted)
}

// telling is the order in which faults of one path are named.
var telling = [...]fault.Code{
	fault.ChainRevoked, fault.CertificateInvalid, fault.ChainCritical, fault.ChainNotCA, fault.ChainPathLength,
	fault.ChainName, fault.ChainPolicy, fault.ChainUsage, fault.ChainHost, fault.ChainWeak,
	fault.ChainExpired, fault.ChainNotYetValid, fault.ChainStatus,
}

func rank(f *fault.Error) int {
	if i := slices.Index(telling[:], f.Code); i >= 0 {
		return i
	}
	return len(telling)
}

func worst(faults []*fault.Error) *fault.Error {
	if len(faults) == 0 {
		return nil
	}
	return slices.MinFunc(faults, func(a, b *fault.Error) int { return cmp.Compare(rank(a), rank(b)) })
}
