package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"math/big"

	"github.com/birthmark/birthmark/internal/fault"
)

// Public is a TPMT_PUBLIC (TPM 2.0 Library, Part 2, section 12.2.4) of an RSA or
// ECC key with its parts. It is read strictly: each octet has one meaning, so what
// was read could be written again to the same octets.
type Public struct {
	Raw []byte // the octets it was read from

	Type       Alg // AlgRSA or AlgECC
	NameAlg    Alg // hash of the name: SHA-1, SHA-256, SHA-384 or SHA-512
	Attributes Attributes
	AuthPolicy []byte    // empty or as long as the NameAlg's digest
	Symmetric  Symmetric // AlgNull but for storage keys and EKs
	Scheme     Scheme    // AlgNull where the key is not bound to one
	KDF        Scheme    // ECC only; AlgNull where there is none

	Bits  int   // of the RSA modulus, or of the curve
	Curve Curve // zero for RSA

	Key  crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	SPKI []byte           // DER of the SubjectPublicKeyInfo
}

// Name returns the key's name: the NameAlg's number and the digest of Raw (TPM
// 2.0 Library, Part 1, section 16).
func (p *Public) Name() []byte {
	h := p.NameAlg.Hash().New()
	h.Write(p.Raw)
	name := make([]byte, 2, 2+h.Size())
	binary.BigEndian.PutUint16(name, uint16(p.NameAlg))
	return h.Sum(name)
}

// Binding returns what TPM2_Certify is given as qualifying data for the key of a
// request: SHA-256 over the nonce and the key's SubjectPublicKeyInfo.
func Binding(nonce, spki []byte) [32]byte {
	h := sha256.New()
	h.Write(nonce)
	h.Write(spki)
	return [32]byte(h.Sum(nil))
}

// ParsePublic reads a TPMT_PUBLIC. It refuses with AttestMalformed what no TPM
// makes: unknown attribute bits, a policy of the wrong length, a point that is not
// on its curve, octets too many; and keys other than RSA of 1024 to 4096 bits and
// ECC on P-256, P-384 and P-521. The result shares b's memory.
func ParsePublic(b []byte) (*Public, error) {
	r := &reader{rest: b}
	p := &Public{
		Raw:        b,
		Type:       r.alg(),
		NameAlg:    r.alg(),
		Attributes: Attributes(r.u32()),
		AuthPolicy: r.sized(maxDigest),
		Symmetric:  r.symmetric(),
	}
	var err error
	switch p.Type {
	case AlgRSA:
		err = p.parseRSA(r)
	case AlgECC:
		err = p.parseECC(r)
	default:
		err = malformed("public area: type")
	}
	if err != nil {
		return nil, err
	}
	if err := p.check(r); err != nil {
		return nil, err
	}
	if p.SPKI, err = x509.MarshalPKIXPublicKey(p.Key); err != nil {
		return nil, fault.Wrap(fault.AttestMalformed, err, "public area: key")
	}
	return p, nil
}

// maxDigest is the longest digest, maxName the longest name.
const (
	maxDigest = 64
	maxName   = 2 + maxDigest
)

func malformed(what string) error { return fault.New(fault.AttestMalformed, what) }

func (p *Public) check(r *reader) error {
	switch h := p.NameAlg.Hash(); {
	case !r.done():
		return malformed("public area: length")
	case h == 0:
		return malformed("public area: name algorithm")
	case p.Attributes&^knownAttributes != 0:
		return malformed("public area: unknown attributes")
	case len(p.AuthPolicy) != 0 && len(p.AuthPolicy) != h.Size():
		return malformed("public area: policy")
	}
	return nil
}

// symmetric reads a TPMT_SYM_DEF_OBJECT. Storage keys use CFB and nothing else
// (Part 2, section 11.1.8).
func (r *reader) symmetric() Symmetric {
	s := Symmetric{Alg: r.alg()}
	if s.Alg == AlgNull {
		return s
	}
	s.KeyBits, s.Mode = r.u16(), r.alg()
	known := s.Alg == AlgAES && s.Mode == AlgCFB && (s.KeyBits == 128 || s.KeyBits == 192 || s.KeyBits == 256)
	r.failed = r.failed || !known
	return s
}

// scheme reads a TPMT_RSA_SCHEME, TPMT_ECC_SCHEME or TPMT_KDF_SCHEME: an algorithm
// out of those that may stand there and, for most, its hash.
func (r *reader) scheme(allowed ...Alg) Scheme {
	s := Scheme{Alg: r.alg()}
	if s.Alg == AlgNull {
		return s
	}
	known := false
	for _, a := range allowed {
		known = known || a == s.Alg
	}
	r.failed = r.failed || !known
	if s.Alg == AlgRSAES {
		return s
	}
	s.Hash = r.alg()
	r.failed = r.failed || s.Hash.Hash() == 0
	return s
}

func (p *Public) parseRSA(r *reader) error {
	p.Scheme = r.scheme(AlgRSASSA, AlgRSAPSS, AlgRSAES, AlgOAEP)
	p.KDF = Scheme{Alg: AlgNull}
	bits, exponent := r.u16(), r.u32()
	modulus := r.sized(4096 / 8)
	p.Bits = int(bits)
	switch {
	case r.failed:
		return malformed("public area: RSA parameters")
	case bits != 1024 && bits != 2048 && bits != 3072 && bits != 4096:
		return malformed("public area: RSA size")
	case len(modulus) != p.Bits/8 || modulus[0]&0x80 == 0 || modulus[len(modulus)-1]&1 == 0:
		return malformed("public area: RSA modulus")
	case exponent == 0:
		exponent = defaultExponent
	case exponent < defaultExponent || exponent&1 == 0 || exponent > 1<<31-1:
		return malformed("public area: RSA exponent")
	}
	p.Key = &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(exponent)}
	return nil
}

// defaultExponent is what the exponent zero stands for (Part 2, section 12.2.3.5).
const defaultExponent = 1<<16 + 1

func (p *Public) parseECC(r *reader) error {
	p.Scheme = r.scheme(AlgECDSA, AlgECDH)
	p.Curve = Curve(r.u16())
	p.KDF = r.scheme(algKDF1SP80056A, algKDF1SP800108, algMGF1, algKDF2)
	curve := p.Curve.elliptic()
	if r.failed || curve == nil {
		return malformed("public area: ECC parameters")
	}
	p.Bits = curve.Params().BitSize
	size := (p.Bits + 7) / 8
	x, y := r.sized(size), r.sized(size)
	if r.failed || len(x) == 0 || len(y) == 0 {
		return malformed("public area: ECC point")
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x) // old TPMs leave leading zeros out
	copy(point[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return malformed("public area: ECC point")
	}
	p.Key = key
	return nil
}

// Key derivations that may stand in a public area; none is used here.
const (
	algMGF1         Alg = 0x0007
	algKDF1SP80056A Alg = 0x0020
	algKDF2         Alg = 0x0021
	algKDF1SP800108 Alg = 0x0022
)
