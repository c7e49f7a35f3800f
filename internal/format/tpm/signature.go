package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"math/big"
)

// Signature is a TPMT_SIGNATURE (TPM 2.0 Library, Part 2, section 11.3.4) of
// RSASSA, RSAPSS or ECDSA.
type Signature struct {
	Raw []byte

	Scheme Scheme // Alg and Hash are both set
	RSA    []byte // of RSASSA and RSAPSS
	R, S   []byte // of ECDSA: big-endian, as sent
}

// ParseSignature reads a TPMT_SIGNATURE; refusals are AttestMalformed. The result
// shares b's memory.
func ParseSignature(b []byte) (*Signature, error) {
	r := &reader{rest: b}
	s := &Signature{Raw: b, Scheme: Scheme{Alg: r.alg(), Hash: r.alg()}}
	switch s.Scheme.Alg {
	case AlgRSASSA, AlgRSAPSS:
		s.RSA = r.sized(4096 / 8)
		r.failed = r.failed || len(s.RSA) == 0
	case AlgECDSA:
		s.R, s.S = r.sized(maxCoordinate), r.sized(maxCoordinate)
		r.failed = r.failed || len(s.R) == 0 || len(s.S) == 0
	default:
		return nil, malformed("signature: scheme")
	}
	if s.Scheme.Hash.Hash() == 0 {
		return nil, malformed("signature: hash")
	}
	if !r.done() {
		return nil, malformed("signature: length")
	}
	return s, nil
}

// maxCoordinate is the length of a number modulo P-521's order.
const maxCoordinate = 66

// Verifies says whether the signature over message is key's. It does not ask
// whether scheme and hash are those that the key is bound to, nor whether they are
// good enough.
func (s *Signature) Verifies(key crypto.PublicKey, message []byte) bool {
	hash := s.Scheme.Hash.Hash()
	h := hash.New()
	h.Write(message)
	digest := h.Sum(nil)
	switch key := key.(type) {
	case *rsa.PublicKey:
		switch s.Scheme.Alg {
		case AlgRSASSA:
			return rsa.VerifyPKCS1v15(key, hash, digest, s.RSA) == nil
		case AlgRSAPSS:
			// TPMs differ in the salt's length: the digest's, or the most that fits.
			return rsa.VerifyPSS(key, hash, digest, s.RSA, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
		}
	case *ecdsa.PublicKey:
		if s.Scheme.Alg == AlgECDSA {
			return ecdsa.Verify(key, digest, new(big.Int).SetBytes(s.R), new(big.Int).SetBytes(s.S))
		}
	}
	return false
}
