package manifest

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// maxIssuers bounds the cache of intermediate certificates: a chip maker has
// dozens, a hostile file one for each entry.
const maxIssuers = 4096

// anchors proves that chips' certificates lead to a chip maker's root. Each
// intermediate certificate is parsed and checked once.
type anchors struct {
	roots map[[32]byte]*x509.Certificate // by SHA-256 of the certificate
	named map[string][]*issuer           // roots by subject

	mu      sync.Mutex
	issuers map[[32]byte]*issuer
}

// issuer is a CA certificate of a chain, whether it leads to a root, and when all
// certificates from it to the root are valid.
type issuer struct {
	cert      *x509.Certificate
	anchored  bool
	from, end time.Time
}

func newIssuer(cert *x509.Certificate, anchored bool) *issuer {
	return &issuer{cert: cert, anchored: anchored, from: cert.NotBefore, end: cert.NotAfter}
}

func newAnchors(roots [][]byte) (*anchors, error) {
	a := &anchors{
		roots:   make(map[[32]byte]*x509.Certificate, len(roots)),
		named:   make(map[string][]*issuer, len(roots)),
		issuers: make(map[[32]byte]*issuer),
	}
	for _, der := range roots {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fault.Wrap(fault.ManifestFormat, err, "a chip maker's root certificate is malformed")
		}
		a.roots[sha256.Sum256(der)] = cert
		a.named[string(cert.RawSubject)] = append(a.named[string(cert.RawSubject)], newIssuer(cert, true))
	}
	return a, nil
}

// Remarks about chains, shared so that they are counted and not repeated.
const (
	noteNoRoot   = "no chip maker's root was given: certificates are no vendor proof"
	noteUnproved = "the certificate does not lead to a given chip maker's root"
	noteExpired  = "the certificate was not valid at the time that counts"
	noteTooLate  = "a certificate above the chip's was not valid at the time that counts: it is no vendor proof"
)

// prove checks each signature of a chain and reports whether it leads to a root. A
// link that does not hold refuses the entry; a chain that merely ends elsewhere is
// remarked. The time that counts is when the chip was made, where the manifest
// says so, else now.
func (a *anchors) prove(leaf *x509.Certificate, chain [][]byte, at time.Time, remark func(string)) (bool, error) {
	if at.Before(leaf.NotBefore) || at.After(leaf.NotAfter) {
		remark(noteExpired)
	}
	parent, err := a.parent(leaf, chain)
	if err != nil {
		return false, err
	}
	switch {
	case parent == nil && len(a.roots) == 0:
		remark(noteNoRoot)
		return false, nil
	case parent == nil:
		remark(noteUnproved)
		return false, nil
	}
	if err := signedBy(leaf, parent.cert); err != nil {
		return false, err
	}
	switch {
	case parent.anchored && !at.Before(parent.from) && !at.After(parent.end):
		return true, nil
	case parent.anchored:
		remark(noteTooLate)
	case len(a.roots) == 0:
		remark(noteNoRoot)
	default:
		remark(noteUnproved)
	}
	return false, nil
}

// parent returns who signed cert: the next certificate of its chain, or a root.
func (a *anchors) parent(cert *x509.Certificate, chain [][]byte) (*issuer, error) {
	if len(chain) > 0 {
		return a.issuer(chain)
	}
	for _, root := range a.named[string(cert.RawIssuer)] {
		if signedBy(cert, root.cert) == nil {
			return root, nil
		}
	}
	return nil, nil
}

// issuer returns the first certificate of chain, checked.
func (a *anchors) issuer(chain [][]byte) (*issuer, error) {
	id := sha256.Sum256(chain[0])
	if root, ok := a.roots[id]; ok {
		return newIssuer(root, true), nil
	}
	a.mu.Lock()
	known, ok := a.issuers[id]
	a.mu.Unlock()
	if ok {
		return known, nil
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, bad("a certificate of the chain is malformed")
	}
	i := newIssuer(cert, false)
	switch parent, err := a.parent(cert, chain[1:]); {
	case err != nil:
		return nil, err
	case parent != nil:
		if err := signedBy(cert, parent.cert); err != nil {
			return nil, err
		}
		i.anchored = parent.anchored
		if parent.from.After(i.from) {
			i.from = parent.from
		}
		if parent.end.Before(i.end) {
			i.end = parent.end
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.issuers) < maxIssuers {
		a.issuers[id] = i
	}
	return i, nil
}

// signedBy checks one link: names, the right to sign certificates, signature.
func signedBy(cert, parent *x509.Certificate) error {
	if string(cert.RawIssuer) != string(parent.RawSubject) {
		return bad("a certificate of the chain was issued by another name than the next one's")
	}
	if err := cert.CheckSignatureFrom(parent); err != nil {
		return bad("a certificate of the chain is not signed by the next one")
	}
	return nil
}
