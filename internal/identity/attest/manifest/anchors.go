package manifest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/samekey"
)

// maxIssuers bounds the cache of intermediate certificates: a chip maker has
// dozens, a hostile file one for each entry.
const maxIssuers = 4096

// anchors proves that chips' certificates lead to a chip maker's root. Each
// intermediate certificate is parsed and checked once.
type anchors struct {
	roots map[[32]byte]*issuer // by SHA-256 of the certificate
	named map[string][]*issuer // roots by subject

	verifiers *samekey.Verifiers

	mu      sync.Mutex
	issuers map[[32]byte]*issuer
}

// issuer is a CA certificate of a chain, whether it leads to a root, and when all
// certificates from it to the root are valid.
type issuer struct {
	cert      *x509.Certificate
	anchored  bool
	from, end time.Time
	ecdsa     *samekey.Verifier // nil: the key is of another kind
}

func (a *anchors) newIssuer(cert *x509.Certificate, anchored bool) *issuer {
	i := &issuer{cert: cert, anchored: anchored, from: cert.NotBefore, end: cert.NotAfter}
	if pub, ok := cert.PublicKey.(*ecdsa.PublicKey); ok {
		i.ecdsa = a.verifiers.Key(pub)
	}
	return i
}

func newAnchors(roots [][]byte) (*anchors, error) {
	a := &anchors{
		roots:   make(map[[32]byte]*issuer, len(roots)),
		named:   make(map[string][]*issuer, len(roots)),
		issuers: make(map[[32]byte]*issuer),

		verifiers: samekey.New(),
	}
	for _, der := range roots {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fault.Wrap(fault.ManifestFormat, err, "a chip maker's root certificate is malformed")
		}
		root := a.newIssuer(cert, true)
		a.roots[sha256.Sum256(der)] = root
		a.named[string(cert.RawSubject)] = append(a.named[string(cert.RawSubject)], root)
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
	if err := parent.signed(leaf); err != nil {
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
		if root.signed(cert) == nil {
			return root, nil
		}
	}
	return nil, nil
}

// issuer returns the first certificate of chain, checked.
func (a *anchors) issuer(chain [][]byte) (*issuer, error) {
	id := sha256.Sum256(chain[0])
	if root, ok := a.roots[id]; ok {
		return root, nil
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
	i := a.newIssuer(cert, false)
	switch parent, err := a.parent(cert, chain[1:]); {
	case err != nil:
		return nil, err
	case parent != nil:
		if err := parent.signed(cert); err != nil {
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

// signed checks one link: names, the right to sign certificates, signature.
func (i *issuer) signed(cert *x509.Certificate) error {
	if string(cert.RawIssuer) != string(i.cert.RawSubject) {
		return bad("a certificate of the chain was issued by another name than the next one's")
	}
	if !i.signature(cert) {
		return bad("a certificate of the chain is not signed by the next one")
	}
	return nil
}

// signature is x509.Certificate.CheckSignatureFrom, quick for an issuer of many.
func (i *issuer) signature(cert *x509.Certificate) bool {
	if i.ecdsa == nil || cert.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return cert.CheckSignatureFrom(i.cert) == nil
	}
	mayNot := i.cert.KeyUsage != 0 && i.cert.KeyUsage&x509.KeyUsageCertSign == 0
	if i.cert.Version != 3 || !i.cert.BasicConstraintsValid || !i.cert.IsCA || mayNot {
		return false
	}
	in := cryptobyte.String(cert.Signature)
	var body cryptobyte.String
	r, s := new(big.Int), new(big.Int)
	if !in.ReadASN1(&body, asn1.SEQUENCE) || !in.Empty() || !body.ReadASN1Integer(r) || !body.ReadASN1Integer(s) || !body.Empty() {
		return false
	}
	digest := sha256.Sum256(cert.RawTBSCertificate)
	return i.ecdsa.Verify(digest[:], r, s)
}
