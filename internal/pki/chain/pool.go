package chain

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// Anchor is where trust starts: a name and a public key.
type Anchor struct {
	Name        []byte            // the distinguished name, DER
	SPKI        []byte            // the SubjectPublicKeyInfo, DER
	Certificate *x509.Certificate // nil for a bare anchor; if set, its constraints hold for every path
}

// Pool is a set of certificates or anchors. Fill it first, then share it; it
// may be read by any number of goroutines but not written at the same time.
type Pool struct {
	bySubject map[string][]*node
	byID      map[digest]*node
}

// NewPool returns a pool of these certificates, which must come from a parser.
// As anchors, certificates that may not issue are trusted for themselves only.
func NewPool(certs ...*x509.Certificate) *Pool {
	p := &Pool{bySubject: map[string][]*node{}, byID: map[digest]*node{}}
	p.Add(certs...)
	return p
}

// ParsePool returns a pool of the certificates in a PEM bundle or DER file.
func ParsePool(b []byte) (*Pool, error) {
	certs, err := ParseCertificates(b)
	if err != nil {
		return nil, err
	}
	return NewPool(certs...), nil
}

// Add adds certificates, each once.
func (p *Pool) Add(certs ...*x509.Certificate) {
	for _, c := range certs {
		if c == nil || len(c.Raw) == 0 {
			continue
		}
		p.add(newNode(c))
	}
}

// AddAnchor adds a trust anchor that is not a certificate: a DER name and a DER
// SubjectPublicKeyInfo.
func (p *Pool) AddAnchor(name, spki []byte) error {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(name, &rdns); err != nil || len(rest) != 0 || len(rdns) == 0 {
		return fault.Wrap(fault.CertificateInvalid, err, "the anchor's name is not a distinguished name")
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return fault.Wrap(fault.CertificateInvalid, err, "the anchor's public key cannot be read")
	}
	c := &x509.Certificate{RawSubject: name, RawSubjectPublicKeyInfo: spki, PublicKey: key}
	c.Subject.FillFromRDNSequence(&rdns)
	p.add(newBareNode(c))
	return nil
}

// Len returns the number of certificates and bare anchors.
func (p *Pool) Len() int {
	if p == nil {
		return 0
	}
	return len(p.byID)
}

func (p *Pool) add(n *node) {
	if _, there := p.byID[n.id]; there {
		return
	}
	p.byID[n.id] = n
	p.bySubject[n.subject] = append(p.bySubject[n.subject], n)
}

// named returns the entries whose subject is name in canonical form.
func (p *Pool) named(name string) []*node {
	if p == nil {
		return nil
	}
	return p.bySubject[name]
}

func (p *Pool) exactly(id digest) *node {
	if p == nil {
		return nil
	}
	return p.byID[id]
}

func (n *node) anchor() Anchor {
	a := Anchor{Name: n.cert.RawSubject, SPKI: n.cert.RawSubjectPublicKeyInfo}
	if !n.bare {
		a.Certificate = n.cert
	}
	return a
}
