package chain

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strconv"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

type digest [sha256.Size]byte

// node is a certificate with what the rules need of it, worked out once.
type node struct {
	cert   *x509.Certificate
	bare   bool   // an anchor without a certificate
	id     digest // of the whole certificate
	keyID  digest // of its SubjectPublicKeyInfo
	tbs    []byte // what its issuer signed
	issuer string // canonical names, see name.go

	subject string
	rdns    []string      // the subject, one canonical string for each RDN
	sans    []generalName // all subject alternative names
	emails  []string      // emailAddress attributes of the subject

	keyUsagePresent    bool
	extKeyUsagePresent bool
	constraints        *constraints
	critical           []asn1.ObjectIdentifier // critical and not understood
	malformed          string                  // breaks a rule of form that an anchor may break
	unreadable         string                  // an extension that nobody may rely on
}

// newNode works out what the rules need. It never fails: what is wrong with a
// certificate is said when it turns up on a path.
func newNode(c *x509.Certificate) *node {
	n := &node{cert: c, id: sha256.Sum256(c.Raw), keyID: sha256.Sum256(c.RawSubjectPublicKeyInfo)}
	n.subject, n.rdns, n.emails = canonicalName(c.RawSubject)
	n.issuer, _, _ = canonicalName(c.RawIssuer)
	n.tbs, n.malformed = dissect(c.Raw)
	for i := range c.Extensions {
		if why := n.readExtension(c.Extensions[i].Id, c.Extensions[i].Value, c.Extensions[i].Critical); why != "" && n.unreadable == "" {
			n.unreadable = why
		}
	}
	if n.malformed == "" {
		n.malformed = n.disorder()
	}
	return n
}

func newBareNode(c *x509.Certificate) *node {
	n := &node{cert: c, bare: true, keyID: sha256.Sum256(c.RawSubjectPublicKeyInfo)}
	n.subject, n.rdns, _ = canonicalName(c.RawSubject)
	h := sha256.New()
	fmt.Fprintf(h, "bare anchor %d ", len(c.RawSubject))
	h.Write(c.RawSubject)
	h.Write(c.RawSubjectPublicKeyInfo)
	h.Sum(n.id[:0])
	return n
}

// label names the certificate in a fault's detail.
func (n *node) label() string {
	name := n.cert.Subject.String()
	if name == "" && n.cert.SerialNumber != nil {
		name = "serial " + n.cert.SerialNumber.Text(16)
	}
	if len(name) > 128 {
		name = name[:128] + "..."
	}
	return strconv.QuoteToASCII(name)
}

func (n *node) selfIssued() bool { return n.subject == n.issuer }

func (n *node) sameEntity(m *node) bool { return n.keyID == m.keyID && n.subject == m.subject }

func (n *node) isCA() bool {
	return n.cert.BasicConstraintsValid && n.cert.IsCA
}

// mayIssue says why a certificate cannot be an issuer, or nothing.
func (n *node) mayIssue() string {
	switch {
	case n.bare:
		return ""
	case !n.isCA():
		return "is not a CA certificate"
	case n.keyUsagePresent && n.cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return "may not sign certificates (keyUsage)"
	}
	return ""
}

// disorder finds extensions that contradict each other.
func (n *node) disorder() string {
	c := n.cert
	switch {
	case n.keyUsagePresent && c.KeyUsage&x509.KeyUsageCertSign != 0 && !n.isCA():
		return "keyCertSign in a certificate that is no CA" // RFC 5280, section 4.2.1.9
	case n.constraints != nil && !n.isCA():
		return "nameConstraints in a certificate that is no CA" // section 4.2.1.10
	case n.subject == "" && n.isCA():
		return "a CA without a name" // section 4.1.2.6
	case n.subject == "" && !n.criticalNames():
		return "neither a subject nor critical alternative names" // section 4.2.1.6
	}
	return ""
}

func (n *node) criticalNames() bool {
	for i := range n.cert.Extensions {
		if e := &n.cert.Extensions[i]; e.Critical && e.Id.Equal(oidSubjectAltName) {
			return true
		}
	}
	return false
}

// dissect walks over a certificate's DER, returns the part that is signed and
// says what of its form breaks RFC 5280. The parser of crypto/x509 reads the
// same bytes but lets leftovers pass.
func dissect(raw []byte) (tbs []byte, malformed string) {
	in := cryptobyte.String(raw)
	var outer, body, signature cryptobyte.String
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() ||
		!outer.ReadASN1Element(&body, cbasn1.SEQUENCE) {
		return nil, "the certificate cannot be read"
	}
	tbs = body
	if !outer.SkipASN1(cbasn1.SEQUENCE) || !outer.ReadASN1(&signature, cbasn1.BIT_STRING) || !outer.Empty() {
		return tbs, "bytes left over after the signature"
	}
	if len(signature) == 0 || signature[0] != 0 {
		return tbs, "the signature is not a whole number of bytes"
	}
	if !body.ReadASN1(&body, cbasn1.SEQUENCE) {
		return tbs, "the certificate cannot be read"
	}
	return tbs, dissectBody(body)
}

func dissectBody(in cryptobyte.String) string {
	version, why := dissectVersion(&in)
	if why != "" {
		return why
	}
	var number, issuer cryptobyte.String
	if !in.ReadASN1(&number, cbasn1.INTEGER) {
		return "the serial number cannot be read"
	}
	if why := certSerialDefect(number); why != "" {
		return why
	}
	if !in.SkipASN1(cbasn1.SEQUENCE) || !in.ReadASN1(&issuer, cbasn1.SEQUENCE) ||
		!in.SkipASN1(cbasn1.SEQUENCE) || !in.SkipASN1(cbasn1.SEQUENCE) || !in.SkipASN1(cbasn1.SEQUENCE) {
		return "the certificate cannot be read"
	}
	if issuer.Empty() {
		return "the issuer has no name" // RFC 5280, section 4.1.2.4
	}
	for _, tag := range []cbasn1.Tag{1, 2} {
		present := in.PeekASN1Tag(tag.ContextSpecific())
		if present && version < 2 {
			return "unique identifiers in a version 1 certificate"
		}
		if present && !in.SkipASN1(tag.ContextSpecific()) {
			return "the certificate cannot be read"
		}
	}
	extensions := cbasn1.Tag(3).ContextSpecific().Constructed()
	if in.PeekASN1Tag(extensions) {
		var wrapped, list cryptobyte.String
		if version < 3 {
			return "extensions in a certificate below version 3"
		}
		if !in.ReadASN1(&wrapped, extensions) || !wrapped.ReadASN1(&list, cbasn1.SEQUENCE) || !wrapped.Empty() || list.Empty() {
			return "the extensions cannot be read"
		}
	}
	if !in.Empty() {
		return "bytes left over after the extensions"
	}
	return ""
}

func dissectVersion(in *cryptobyte.String) (int, string) {
	tag := cbasn1.Tag(0).ContextSpecific().Constructed()
	if !in.PeekASN1Tag(tag) {
		return 1, ""
	}
	var v cryptobyte.String
	var version int
	if !in.ReadASN1(&v, tag) || !v.ReadASN1Integer(&version) || !v.Empty() || version < 1 || version > 2 {
		return 0, "the version is not 1, 2 or 3"
	}
	return version + 1, ""
}

// certSerialDefect applies RFC 5280, section 4.1.2.2, to an INTEGER's content.
func certSerialDefect(b []byte) string {
	switch {
	case len(b) == 0 || b[0]&0x80 != 0 || len(b) == 1 && b[0] == 0:
		return "the serial number is not positive"
	case len(b) > 20:
		return "the serial number has more than 20 bytes"
	}
	return ""
}
