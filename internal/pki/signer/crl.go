package signer

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/sha256"
	"hash"
	"io"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of the parts of a CRL.
const (
	maxHead    = 64 << 10 // of algorithm, issuer, extensions
	maxEntry   = 1 << 10
	walkBuffer = 64 << 10
	maxHeld    = 64 << 20 // of a CRL for an Ed25519 key, which must be held whole
	maxHeldAll = 4 * maxHeld
)

// walker reads DER from a stream.
type walker struct {
	buffered *bufio.Reader
}

// hashed is a reader that hashes what goes through it.
type hashed struct {
	r    io.Reader
	sum  hash.Hash     // SHA-256, for the journal
	also hash.Hash     // of the key, if it is another
	held *bytes.Buffer // for a key that signs messages and not digests
	hold func(n int) bool
}

// Read reads and hashes.
func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.sum.Write(p[:n])
	if h.also != nil {
		h.also.Write(p[:n])
	}
	if h.held != nil {
		if h.held.Len()+n > maxHeld || !h.hold(n) {
			return 0, malformed("a CRL of this size needs another type of key")
		}
		h.held.Write(p[:n])
	}
	return n, err
}

// readStream reads a TBSCertList (RFC 5280, section 5.1) entry by entry, without
// holding it, and returns what a key with this hash signs for it, and its
// SHA-256. For Ed25519 it must be held; hold is asked before each piece.
func readStream(r io.Reader, h crypto.Hash, hold func(int) bool) (f facts, digest []byte, sum [32]byte, err error) {
	source := &hashed{r: r, sum: sha256.New()}
	switch h {
	case crypto.SHA256:
	case 0:
		source.held, source.hold = new(bytes.Buffer), hold
	default:
		source.also = h.New()
	}
	w := &walker{bufio.NewReaderSize(source, walkBuffer)}
	if f, err = w.list(); err != nil {
		return f, nil, sum, err
	}
	source.sum.Sum(sum[:0])
	switch {
	case source.held != nil:
		digest = source.held.Bytes()
	case source.also != nil:
		digest = source.also.Sum(nil)
	default:
		digest = sum[:]
	}
	return f, digest, sum, nil
}

var errCRL = malformed("the CRL is malformed")

// head reads tag and length of an element and returns how many octets both
// have, and the content.
func (w *walker) head(tag byte) (head, content int, err error) {
	peek, err := w.buffered.Peek(2)
	if err != nil || peek[0] != tag {
		return 0, 0, errCRL
	}
	n := int(peek[1])
	if n < 0x80 {
		_, err = w.buffered.Discard(2)
		return 2, n, err
	}
	octets := n - 0x80
	if octets < 1 || octets > 4 {
		return 0, 0, errCRL
	}
	if peek, err = w.buffered.Peek(2 + octets); err != nil {
		return 0, 0, errCRL
	}
	n = 0
	for _, b := range peek[2:] {
		n = n<<8 | int(b)
	}
	// DER has one form of each length.
	if peek[2] == 0 || n < 0x80 {
		return 0, 0, errCRL
	}
	_, err = w.buffered.Discard(2 + octets)
	return 2 + octets, n, err
}

// element reads a whole element of at most so many octets of content.
func (w *walker) element(tag byte, most int) ([]byte, error) {
	head, n, err := w.head(tag)
	if err != nil || n > most {
		return nil, errCRL
	}
	// Only one form was accepted, so it can be written again.
	out := make([]byte, 0, head+n)
	out = append(out, tag)
	switch head {
	case 2:
		out = append(out, byte(n))
	case 3:
		out = append(out, 0x81, byte(n))
	default:
		out = append(out, 0x82, byte(n>>8), byte(n))
	}
	start := len(out)
	out = out[:start+n]
	if start != head {
		return nil, errCRL
	}
	if _, err := io.ReadFull(w.buffered, out[start:]); err != nil {
		return nil, errCRL
	}
	return out, nil
}

// list reads the list. left counts what the outer length says is still to come.
func (w *walker) list() (f facts, err error) {
	_, left, err := w.head(0x30)
	if err != nil {
		return f, err
	}
	take := func(tag byte, most int) (e []byte) {
		if err == nil {
			if e, err = w.element(tag, most); err == nil {
				left -= len(e)
			}
		}
		return e
	}
	version := take(0x02, 1)
	f.algorithm = take(0x30, 1024)
	f.issuer = take(0x30, maxHead-1)
	if err != nil || !bytes.Equal(version, []byte{0x02, 1, 1}) {
		return f, errCRL
	}
	for _, out := range []*time.Time{&f.from, &f.to} {
		tag := byte(0x17)
		if peek, err := w.buffered.Peek(1); err == nil && peek[0] == 0x18 {
			tag = 0x18
		}
		at := cryptobyte.String(take(tag, 32))
		if err != nil || !readTime(&at, out) {
			return f, errCRL
		}
	}
	if peek, err := w.buffered.Peek(1); err != nil {
		return f, errCRL
	} else if peek[0] == 0x30 {
		n, err := w.entries(&f)
		if err != nil {
			return f, err
		}
		left -= n
	}
	extensions := take(0xa0, maxHead-1)
	if err != nil || left != 0 {
		return f, errCRL
	}
	if _, err := w.buffered.Peek(1); err != io.EOF {
		return f, errCRL
	}
	f.kind = CRL
	return f, f.readCRLExtensions(extensions)
}

// entries walks revokedCertificates and returns how many octets it has.
func (w *walker) entries(f *facts) (octets int, err error) {
	head, n, err := w.head(0x30)
	if err != nil || n == 0 {
		return 0, errCRL
	}
	for left := n; left > 0; {
		size, content, err := w.head(0x30)
		if err != nil || content > maxEntry || size+content > left {
			return 0, errCRL
		}
		entry, err := w.buffered.Peek(content)
		if err != nil || !entryOK(entry) {
			return 0, errCRL
		}
		if _, err := w.buffered.Discard(content); err != nil {
			return 0, errCRL
		}
		left -= size + content
		f.entries++
	}
	return head + n, nil
}

// entryOK reads one revoked certificate.
func entryOK(entry []byte) bool {
	in := cryptobyte.String(entry)
	var number, extensions cryptobyte.String
	if !in.ReadASN1(&number, asn1.INTEGER) || !positive(number) {
		return false
	}
	if !in.SkipASN1(asn1.UTCTime) && !in.SkipASN1(asn1.GeneralizedTime) {
		return false
	}
	return in.Empty() || in.ReadASN1(&extensions, asn1.SEQUENCE) && in.Empty() && entryExtensionsOK(extensions)
}

// entryExtensionsOK refuses an entry about another issuer's certificate.
func entryExtensionsOK(all cryptobyte.String) bool {
	ok := !all.Empty()
	for ok && !all.Empty() {
		var one, oid cryptobyte.String
		ok = all.ReadASN1(&one, asn1.SEQUENCE) && readOID(&one, &oid) && string(oid) != oidCertificateIssuer
	}
	return ok
}

// readCRLExtensions takes key identifier, number and scope. Every list needs a
// number (RFC 5280, section 5.2.3); delta lists are not signed.
func (f *facts) readCRLExtensions(extensions cryptobyte.String) error {
	var outer cryptobyte.String
	if !extensions.ReadASN1(&outer, explicit(0)) {
		return errCRL
	}
	var delta bool
	var point []byte
	err := extensionsOf(outer, func(oid, value string) bool {
		v := cryptobyte.String(value)
		switch oid {
		case oidAuthorityKeyID:
			return readKeyID(v, &f.keyID)
		case oidCRLNumber:
			var number cryptobyte.String
			if !v.ReadASN1(&number, asn1.INTEGER) || !v.Empty() || !positive(number) {
				return false
			}
			f.number = number
		case oidIDP:
			point = []byte(value)
			return pointOK(v)
		case oidDeltaCRL:
			delta = true
		}
		return true
	})
	if err != nil {
		return err
	}
	if f.number == nil || delta {
		return malformed("a CRL needs a number, and delta CRLs are not signed")
	}
	// Shards that carry no address cannot be told apart, so neither can their
	// numbers be compared.
	if f.scoped = !bytes.Equal(point, []byte{0x30, 0}); f.scoped {
		f.scope = sha256.Sum256(point)
	}
	return nil
}

// pointOK reads an issuingDistributionPoint (RFC 5280, section 5.2.5) and refuses
// lists of other issuers' certificates, of some reasons, or of attribute
// certificates.
func pointOK(v cryptobyte.String) bool {
	var all cryptobyte.String
	if !v.ReadASN1(&all, asn1.SEQUENCE) || !v.Empty() {
		return false
	}
	if !all.SkipOptionalASN1(explicit(0)) {
		return false
	}
	for n := range uint8(2) { // onlyContainsUserCerts, onlyContainsCACerts
		if !all.SkipOptionalASN1(asn1.Tag(n + 1).ContextSpecific()) {
			return false
		}
	}
	return all.Empty()
}
