package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
)

// CSRIDevID is a TCG-CSR-IDEVID (TCG TPM 2.0 Keys for Device Identity and
// Attestation, section 13.1): the request of a device for its IAK and IDevID
// certificates, signed with the IDevID key.
type CSRIDevID struct {
	Content   []byte // what Signature is over
	Signature []byte // by the IDevID key: a TPMT_SIGNATURE, or as X.509 has it
	HashAlg   Alg    // of Signature, and of the hash in Content

	Model              []byte
	DeviceSerial       []byte
	CAData             []byte // whatever a CA asks for besides
	BootEventLog       []byte
	EKCertificate      []byte // DER
	AttestPublic       []byte // TPMT_PUBLIC of the IAK
	AttestTicket       []byte // of the IAK's creation; may be empty, as the next two
	AttestCertify      []byte // TPMS_ATTEST of the IAK
	AttestSignature    []byte // TPMT_SIGNATURE over it
	SigningPublic      []byte // TPMT_PUBLIC of the IDevID key
	SigningCertify     []byte // TPMS_ATTEST: the IAK certifies the IDevID key
	SigningCertifySign []byte // TPMT_SIGNATURE over it, by the IAK
}

// CSRLDevID is a TCG-CSR-LDEVID (section 13.2): the request for the certificate of
// a further key, which the IAK certifies. The certificates of EK and platform may
// be empty.
type CSRLDevID struct {
	Content   []byte // what Signature is over
	Signature []byte // by the key of Public
	HashAlg   Alg

	EKCertificate       []byte // DER
	IAKCertificate      []byte // DER
	PlatformCertificate []byte // DER
	Public              []byte // TPMT_PUBLIC of the key
	Certify             []byte // TPMS_ATTEST: the IAK certifies the key
	CertifySignature    []byte // TPMT_SIGNATURE over it, by the IAK
}

// fields lists where the octet strings of the content go, in their order.
func (c *CSRIDevID) fields() []*[]byte {
	return []*[]byte{
		&c.Model, &c.DeviceSerial, &c.CAData, &c.BootEventLog, &c.EKCertificate, &c.AttestPublic, &c.AttestTicket,
		&c.AttestCertify, &c.AttestSignature, &c.SigningPublic, &c.SigningCertify, &c.SigningCertifySign,
	}
}

func (c *CSRLDevID) fields() []*[]byte {
	return []*[]byte{
		&c.EKCertificate, &c.IAKCertificate, &c.PlatformCertificate, &c.Public, &c.Certify, &c.CertifySignature,
	}
}

// MaxCSR is the longest TCG-CSR in octets: an event log may be long.
const MaxCSR = 512 << 10

const (
	csrVersion = 0x00000100
	csrAlign   = 16 // octets to a multiple of which the content is padded
)

// ParseCSRIDevID reads a TCG-CSR-IDEVID; refusals are AttestMalformed. All sizes
// must add up to the octets there are, neither more nor less. The result shares
// b's memory.
func ParseCSRIDevID(b []byte) (*CSRIDevID, error) {
	c := &CSRIDevID{}
	var err error
	if c.Content, c.Signature, err = openCSR(b, "TCG-CSR-IDEVID"); err != nil {
		return nil, err
	}
	if c.HashAlg, err = readContent(c.Content, c.fields(), "TCG-CSR-IDEVID"); err != nil {
		return nil, err
	}
	for _, needed := range [][]byte{c.AttestPublic, c.SigningPublic, c.SigningCertify, c.SigningCertifySign} {
		if len(needed) == 0 {
			return nil, malformed("TCG-CSR-IDEVID: a field is empty")
		}
	}
	return c, nil
}

// ParseCSRLDevID reads a TCG-CSR-LDEVID as ParseCSRIDevID does its like.
func ParseCSRLDevID(b []byte) (*CSRLDevID, error) {
	c := &CSRLDevID{}
	var err error
	if c.Content, c.Signature, err = openCSR(b, "TCG-CSR-LDEVID"); err != nil {
		return nil, err
	}
	if c.HashAlg, err = readContent(c.Content, c.fields(), "TCG-CSR-LDEVID"); err != nil {
		return nil, err
	}
	for _, needed := range [][]byte{c.IAKCertificate, c.Public, c.Certify, c.CertifySignature} {
		if len(needed) == 0 {
			return nil, malformed("TCG-CSR-LDEVID: a field is empty")
		}
	}
	return c, nil
}

// openCSR takes the outer structure apart: version, size of content, size of
// signature, content, signature.
func openCSR(b []byte, what string) (content, signature []byte, err error) {
	r := &reader{rest: b}
	version, contentSize, signatureSize := r.u32(), r.u32(), r.u32()
	// Sizes are added as 64 bits, so that no sum wraps around.
	if r.failed || len(b) > MaxCSR || version != csrVersion || uint64(contentSize)+uint64(signatureSize) != uint64(len(r.rest)) {
		return nil, nil, malformed(what + ": sizes")
	}
	content, signature = r.take(int(contentSize)), r.take(int(signatureSize))
	if len(signature) == 0 || !r.done() {
		return nil, nil, malformed(what + ": sizes")
	}
	return content, signature, nil
}

// readContent reads version, hash, sizes and the octet strings after them. The
// document places a hash of all that follows behind its size; some writers give
// its size alone. Both are read: the hash, where it is there, must be right, so
// that no content can be read both ways.
func readContent(content []byte, fields []*[]byte, what string) (Alg, error) {
	r := &reader{rest: content}
	version, alg, size := r.u32(), r.u32(), r.u32()
	hash := Alg(alg)
	if r.failed || version != csrVersion || alg > 0xFFFF || hash.Hash() == 0 || int(size) != hash.Hash().Size() {
		return 0, malformed(what + ": hash")
	}
	withHash := &reader{rest: r.rest}
	if sum := withHash.take(int(size)); sum != nil {
		h := hash.Hash().New()
		h.Write(withHash.rest)
		if string(sum) == string(h.Sum(nil)) {
			r = withHash
		}
	}
	sizes := make([]uint32, len(fields)+1) // the last is the padding's
	sum := uint64(0)
	for i := range sizes {
		sizes[i] = r.u32()
		sum += uint64(sizes[i])
	}
	if r.failed || sum != uint64(len(r.rest)) || sizes[len(fields)] >= csrAlign {
		return 0, malformed(what + ": sizes")
	}
	for i, f := range fields {
		*f = r.take(int(sizes[i]))
	}
	return hash, nil
}

// Build fills Content from the other fields, has it signed and returns the whole
// request.
func (c *CSRIDevID) Build(sign func(content []byte) ([]byte, error)) ([]byte, error) {
	return build(&c.Content, &c.Signature, c.HashAlg, c.fields(), sign)
}

// Build fills Content from the other fields, has it signed and returns the whole
// request.
func (c *CSRLDevID) Build(sign func(content []byte) ([]byte, error)) ([]byte, error) {
	return build(&c.Content, &c.Signature, c.HashAlg, c.fields(), sign)
}

func build(content, signature *[]byte, alg Alg, fields []*[]byte, sign func([]byte) ([]byte, error)) ([]byte, error) {
	hash := alg.Hash()
	if hash == 0 {
		return nil, malformed("TCG-CSR: hash")
	}
	head := []uint32{csrVersion, uint32(alg), uint32(hash.Size())}
	size := 4*len(head) + hash.Size() + 4*(len(fields)+1)
	var sizes []uint32
	for _, f := range fields {
		sizes = append(sizes, uint32(len(*f)))
		size += len(*f)
	}
	if size+csrAlign > MaxCSR {
		return nil, malformed("TCG-CSR: length")
	}
	padding := make([]byte, -size&(csrAlign-1))
	tail := appendU32(nil, append(sizes, uint32(len(padding)))...)
	for _, f := range fields {
		tail = append(tail, *f...)
	}
	tail = append(tail, padding...)
	h := hash.New()
	h.Write(tail)
	*content = append(h.Sum(appendU32(nil, head...)), tail...)
	var err error
	if *signature, err = sign(*content); err != nil {
		return nil, err
	}
	b := appendU32(nil, csrVersion, uint32(len(*content)), uint32(len(*signature)))
	return append(append(b, *content...), *signature...), nil
}

func appendU32(b []byte, values ...uint32) []byte {
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// Verifies says whether the request is signed with the key.
func (c *CSRIDevID) Verifies(key crypto.PublicKey) bool {
	return contentVerifies(key, c.HashAlg, c.Content, c.Signature)
}

// Verifies says whether the request is signed with the key.
func (c *CSRLDevID) Verifies(key crypto.PublicKey) bool {
	return contentVerifies(key, c.HashAlg, c.Content, c.Signature)
}

// contentVerifies takes a signature as the TPM returns it (TPMT_SIGNATURE) or as
// X.509 has it: the document does not say which.
func contentVerifies(key crypto.PublicKey, alg Alg, content, signature []byte) bool {
	if s, err := ParseSignature(signature); err == nil {
		return s.Scheme.Hash != AlgSHA1 && s.Verifies(key, content)
	}
	hash := alg.Hash()
	if alg == AlgSHA1 || hash == 0 {
		return false
	}
	h := hash.New()
	h.Write(content)
	digest := h.Sum(nil)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil || rsa.VerifyPSS(key, hash, digest, signature, nil) == nil
	}
	return false
}
