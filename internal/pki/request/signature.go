package request

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// signature is the proof of possession: what was signed, how, and with what
// result.
type signature struct {
	message   []byte
	algorithm cryptobyte.String // content of the AlgorithmIdentifier
	value     []byte
}

// OIDs as the content octets of their DER form, so that they can be compared
// without decoding.
const (
	oidECDSAWithSHA256 = "\x2a\x86\x48\xce\x3d\x04\x03\x02"
	oidECDSAWithSHA384 = "\x2a\x86\x48\xce\x3d\x04\x03\x03"
	oidECDSAWithSHA512 = "\x2a\x86\x48\xce\x3d\x04\x03\x04"
	oidSHA256WithRSA   = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"
	oidSHA384WithRSA   = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c"
	oidSHA512WithRSA   = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d"
	oidRSAPSS          = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
	oidEd25519         = "\x2b\x65\x70"
)

const derNull = "\x05\x00"

// The only parameters of RSASSA-PSS that are accepted: one hash throughout, a
// salt as long as the hash (RFC 4055, section 3.1). DER leaves one way to
// write each.
const (
	pssSHA256 = "\x30\x34\xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00" +
		"\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00" +
		"\xa2\x03\x02\x01\x20"
	pssSHA384 = "\x30\x34\xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00" +
		"\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00" +
		"\xa2\x03\x02\x01\x30"
	pssSHA512 = "\x30\x34\xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00" +
		"\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00" +
		"\xa2\x03\x02\x01\x40"
)

// scheme is a kind of signature without its hash.
type scheme uint8

const (
	schemeECDSA scheme = iota + 1
	schemeEd25519
	schemePKCS1
	schemePSS
)

// verify checks the signature with the request's own key.
func (s *signature) verify(pub crypto.PublicKey) error {
	kind, hash := s.method()
	if kind == 0 {
		return fault.New(fault.SignatureAlgorithm)
	}
	var room [sha512.Size]byte
	digest := sum(hash, s.message, room[:0])
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = kind == schemeECDSA && ecdsa.VerifyASN1(k, digest, s.value)
	case ed25519.PublicKey:
		ok = kind == schemeEd25519 && ed25519.Verify(k, s.message, s.value)
	case *rsa.PublicKey:
		switch kind {
		case schemePKCS1:
			ok = rsa.VerifyPKCS1v15(k, hash, digest, s.value) == nil
		case schemePSS:
			opts := rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
			ok = rsa.VerifyPSS(k, hash, digest, s.value, &opts) == nil
		}
	}
	if !ok {
		return fault.New(fault.ProofOfPossession)
	}
	return nil
}

// method names scheme and hash of the signature, or zero for whatever is not on
// the list.
func (s *signature) method() (scheme, crypto.Hash) {
	var oid cryptobyte.String
	params := s.algorithm
	if !params.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) {
		return 0, 0
	}
	switch string(oid) {
	case oidEd25519:
		if params.Empty() {
			return schemeEd25519, 0
		}
		return 0, 0
	case oidRSAPSS:
		switch string(params) {
		case pssSHA256:
			return schemePSS, crypto.SHA256
		case pssSHA384:
			return schemePSS, crypto.SHA384
		case pssSHA512:
			return schemePSS, crypto.SHA512
		}
		return 0, 0
	}
	// RSA has NULL here and ECDSA nothing, but mbed TLS before 3.5 writes NULL
	// for ECDSA as well, and RFC 4055 wants RSA without NULL accepted. This
	// field is not signed and decides nothing.
	if !params.Empty() && string(params) != derNull {
		return 0, 0
	}
	switch string(oid) {
	case oidECDSAWithSHA256:
		return schemeECDSA, crypto.SHA256
	case oidECDSAWithSHA384:
		return schemeECDSA, crypto.SHA384
	case oidECDSAWithSHA512:
		return schemeECDSA, crypto.SHA512
	case oidSHA256WithRSA:
		return schemePKCS1, crypto.SHA256
	case oidSHA384WithRSA:
		return schemePKCS1, crypto.SHA384
	case oidSHA512WithRSA:
		return schemePKCS1, crypto.SHA512
	}
	return 0, 0
}

// sum appends the digest of message to room; without a hash there is none.
func sum(hash crypto.Hash, message, room []byte) []byte {
	switch hash {
	case crypto.SHA256:
		d := sha256.Sum256(message)
		return append(room, d[:]...)
	case crypto.SHA384:
		d := sha512.Sum384(message)
		return append(room, d[:]...)
	case crypto.SHA512:
		d := sha512.Sum512(message)
		return append(room, d[:]...)
	}
	return room
}
