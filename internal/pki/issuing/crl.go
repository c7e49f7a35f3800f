package issuing

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// CRL is what a certificate revocation list says besides its entries.
type CRL struct {
	Number                 uint64
	ThisUpdate, NextUpdate time.Time
	Shard, Shards          int    // Shards > 1: the list covers the certificates that name this shard
	DistributionPoint      string // address that those certificates carry; empty: made from the issuer's status URL
	CAOnly                 bool   // the list covers certificates of authorities alone
}

// Reasons of RFC 5280, section 5.3.1, as CRL entries and OCSP answers carry
// them.
const (
	ReasonUnspecified          = 0
	ReasonKeyCompromise        = 1
	ReasonCACompromise         = 2
	ReasonAffiliationChanged   = 3
	ReasonSuperseded           = 4
	ReasonCessationOfOperation = 5
	ReasonCertificateHold      = 6
	ReasonRemoveFromCRL        = 8
	ReasonPrivilegeWithdrawn   = 9
	ReasonAACompromise         = 10
)

func reasonOK(reason int) bool {
	return reason >= ReasonUnspecified && reason <= ReasonAACompromise && reason != 7
}

var (
	errEntries = errors.New("issuing: the entries are not a sequence of CRL entries")
	errUpdate  = errors.New("issuing: a CRL needs thisUpdate before nextUpdate, in whole seconds")
)

// AppendCRLEntry appends the encoded entry of one revoked certificate. Entries
// are kept and joined by SignCRL as they are. An unspecified reason is left out
// (RFC 5280, section 5.3.1).
func AppendCRLEntry(dst, certSerial []byte, revokedAt time.Time, reason int) []byte {
	start := len(dst)
	dst = appendTLV(dst, tagInteger, certSerial)
	dst = appendTime(dst, revokedAt.UTC())
	if reason != ReasonUnspecified && reasonOK(reason) {
		// SEQUENCE { SEQUENCE { cRLReasons, OCTET STRING { ENUMERATED } } }
		dst = append(dst, tagSequence, 12, tagSequence, 10)
		dst = append(dst, extReason...)
		dst = append(dst, tagOctetString, 3, tagEnumerated, 1, byte(reason))
	}
	return wrap(dst, start, tagSequence)
}

// SignCRL makes a CRL of chunks of encoded entries. It costs one copy of the
// entries, and hashes them once to sign and once to check; the check covers the
// signature, the header, and that every entry is where it was put.
func SignCRL(iss *Issuer, c CRL, entries [][]byte) ([]byte, error) {
	a, err := newAuthority(iss)
	if err != nil {
		return nil, err
	}
	if a.certificate == nil {
		return nil, fault.New(fault.AuthorityInvalid, iss.Name, "has no certificate")
	}
	if err := a.needs(x509.KeyUsageCRLSign, "signing CRLs"); err != nil {
		return nil, err
	}
	if !whole(c.ThisUpdate) || !whole(c.NextUpdate) || !c.ThisUpdate.Before(c.NextUpdate) {
		return nil, errUpdate
	}
	if c.Shards > 1 && (c.Shard < 0 || c.Shard >= c.Shards) {
		return nil, fmt.Errorf("issuing: CRL shard %d of %d", c.Shard, c.Shards)
	}
	extensions := a.crlExtensions(iss, &c)
	total := 0
	for _, chunk := range entries {
		if !entriesOK(chunk) {
			return nil, errEntries
		}
		total += len(chunk)
	}
	dst := a.appendCRL(&c, entries, total, extensions)
	tbsLen := len(dst)
	if dst, err = a.sealInPlace(dst, tbsLen); err != nil {
		return nil, err
	}
	if err := a.compareCRL(dst, &c, entries, total, extensions); err != nil {
		return nil, fault.Wrap(fault.SignatureFault, err)
	}
	return dst, nil
}

// entriesOK walks the outer headers of entries, which are all shorter than 128
// octets.
func entriesOK(chunk []byte) bool {
	for len(chunk) > 0 {
		if len(chunk) < 2 || chunk[0] != tagSequence || chunk[1] >= 0x80 || int(chunk[1])+2 > len(chunk) {
			return false
		}
		chunk = chunk[int(chunk[1])+2:]
	}
	return true
}

func (a *authority) crlExtensions(iss *Issuer, c *CRL) []byte {
	id := appendTLV(nil, implicit(0), a.keyID)
	dst := appendExtension(nil, extAuthorityKeyID, false, wrap(id, 0, tagSequence))
	dst = appendExtension(dst, extCRLNumber, false, appendUint(nil, c.Number))
	if c.Shards > 1 || c.CAOnly {
		var point []byte
		if url := c.point(iss); url != "" {
			point = distributionPointName(nil, url)
		}
		if c.CAOnly {
			point = append(point, implicit(2), 1, 0xff)
		}
		// RFC 5280, section 5.2.5: issuingDistributionPoint is critical.
		dst = appendExtension(dst, extIDP, true, wrap(point, 0, tagSequence))
	}
	dst = wrap(dst, 0, tagSequence)
	return wrap(dst, 0, explicit(0))
}

func (c *CRL) point(iss *Issuer) string {
	switch {
	case c.DistributionPoint != "":
		return c.DistributionPoint
	case iss.StatusURL != "":
		return CRLURL(iss.StatusURL, iss.Name, c.Shard)
	}
	return ""
}

// crlRoom is kept free before a CRL's TBS, so that its outer header can be put
// there without moving tens of megabytes.
const crlRoom = 6

// appendCRL returns crlRoom octets and the to-be-signed CRL, with room for the
// signature.
func (a *authority) appendCRL(c *CRL, entries [][]byte, total int, extensions []byte) []byte {
	head := appendUint(nil, 1) // v2
	head = append(head, a.id...)
	head = append(head, a.subject...)
	head = appendTime(head, c.ThisUpdate.UTC())
	head = appendTime(head, c.NextUpdate.UTC())
	if total > 0 {
		// An empty list of entries must be absent (RFC 5280, section 5.1.2.6).
		head = appendHeader(head, tagSequence, total)
	}
	n := len(head) + total + len(extensions)
	dst := make([]byte, crlRoom, crlRoom+headerLen(n)+n+len(a.id)+8+a.size)
	dst = appendHeader(dst, tagSequence, n)
	dst = append(dst, head...)
	for _, chunk := range entries {
		dst = append(dst, chunk...)
	}
	return append(dst, extensions...)
}

// sealInPlace does what seal does for bytes that have crlRoom before them.
func (a *authority) sealInPlace(dst []byte, tbsEnd int) ([]byte, error) {
	signature, err := a.sign(dst[crlRoom:tbsEnd])
	if err != nil {
		return nil, err
	}
	dst = append(dst, a.id...)
	dst = appendHeader(dst, tagBitString, len(signature)+1)
	dst = append(dst, 0)
	dst = append(dst, signature...)
	n := len(dst) - crlRoom
	first := crlRoom - headerLen(n)
	appendHeader(dst[:first], tagSequence, n)
	dst = dst[first:]

	tbs, algorithmID, signature, rest, err := open(dst)
	if err != nil || len(tbs) != tbsEnd-crlRoom || len(rest) > 0 || !bytes.Equal(algorithmID, a.id) {
		return nil, fault.Wrap(fault.SignatureFault, err)
	}
	return dst, a.verify(tbs, signature)
}

// compareCRL holds a signed CRL against what was meant.
func (a *authority) compareCRL(der []byte, c *CRL, entries [][]byte, total int, extensions []byte) error {
	element, _, _, _, err := open(der)
	if err != nil {
		return err
	}
	in := cryptobyte.String(element)
	var tbs, alg, issuer, list cryptobyte.String
	var version int
	if !in.ReadASN1(&tbs, asn1.SEQUENCE) || !tbs.ReadASN1Integer(&version) || version != 1 ||
		!tbs.ReadASN1Element(&alg, asn1.SEQUENCE) || !bytes.Equal(alg, a.id) ||
		!tbs.ReadASN1Element(&issuer, asn1.SEQUENCE) || !bytes.Equal(issuer, a.subject) {
		return mismatch("CRL header")
	}
	for _, want := range []time.Time{c.ThisUpdate, c.NextUpdate} {
		if t, err := readTime(&tbs); err != nil || !t.Equal(want) {
			return mismatch("CRL time")
		}
	}
	if total > 0 && !tbs.ReadASN1(&list, asn1.SEQUENCE) {
		return mismatch("CRL entries")
	}
	for _, chunk := range entries {
		var got []byte
		if !list.ReadBytes(&got, len(chunk)) || !bytes.Equal(got, chunk) {
			return mismatch("CRL entries")
		}
	}
	if !list.Empty() || !bytes.Equal(tbs, extensions) {
		return mismatch("CRL extensions")
	}
	return nil
}
