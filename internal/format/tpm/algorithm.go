package tpm

import (
	"crypto"
	"crypto/elliptic"
	"fmt"
)

// Alg is a TPM_ALG_ID (TCG Algorithm Registry).
type Alg uint16

// The algorithms that occur here.
const (
	AlgRSA    Alg = 0x0001
	AlgSHA1   Alg = 0x0004
	AlgAES    Alg = 0x0006
	AlgSHA256 Alg = 0x000B
	AlgSHA384 Alg = 0x000C
	AlgSHA512 Alg = 0x000D
	AlgNull   Alg = 0x0010
	AlgRSASSA Alg = 0x0014
	AlgRSAES  Alg = 0x0015
	AlgRSAPSS Alg = 0x0016
	AlgOAEP   Alg = 0x0017
	AlgECDSA  Alg = 0x0018
	AlgECDH   Alg = 0x0019
	AlgECDAA  Alg = 0x001A
	AlgECC    Alg = 0x0023
	AlgCFB    Alg = 0x0043
)

var algNames = map[Alg]string{
	AlgRSA: "RSA", AlgSHA1: "SHA-1", AlgAES: "AES", AlgSHA256: "SHA-256", AlgSHA384: "SHA-384",
	AlgSHA512: "SHA-512", AlgNull: "none", AlgRSASSA: "RSASSA", AlgRSAES: "RSAES", AlgRSAPSS: "RSAPSS",
	AlgOAEP: "OAEP", AlgECDSA: "ECDSA", AlgECDH: "ECDH", AlgECDAA: "ECDAA", AlgECC: "ECC", AlgCFB: "CFB",
}

// String returns the algorithm's name as people write it.
func (a Alg) String() string {
	if s, ok := algNames[a]; ok {
		return s
	}
	return fmt.Sprintf("algorithm %#04x", uint16(a))
}

// Hash returns the hash function that the algorithm is, or zero where it is none
// of SHA-1, SHA-256, SHA-384 and SHA-512.
func (a Alg) Hash() crypto.Hash {
	switch a {
	case AlgSHA1:
		return crypto.SHA1
	case AlgSHA256:
		return crypto.SHA256
	case AlgSHA384:
		return crypto.SHA384
	case AlgSHA512:
		return crypto.SHA512
	}
	return 0
}

// Banks are the names that QuoteRequest.Bank takes; SHA-1 registers prove nothing.
var banks = map[string]Alg{"sha256": AlgSHA256, "sha384": AlgSHA384, "sha512": AlgSHA512}

// Bank returns the algorithm of a bank of registers by its name in a
// QuoteRequest, or zero where there is no such bank.
func Bank(name string) Alg { return banks[name] }

// Curve is a TPM_ECC_CURVE.
type Curve uint16

// The curves of NIST.
const (
	P256 Curve = 0x0003
	P384 Curve = 0x0004
	P521 Curve = 0x0005
)

// elliptic returns the curve of the standard library, nil where it has none.
func (c Curve) elliptic() elliptic.Curve {
	switch c {
	case P256:
		return elliptic.P256()
	case P384:
		return elliptic.P384()
	case P521:
		return elliptic.P521()
	}
	return nil
}

// Attributes is a TPMA_OBJECT: what a key may do and where it may go.
type Attributes uint32

// The attributes (TPM 2.0 Library, Part 2, section 8.3).
const (
	FixedTPM             Attributes = 1 << 1  // never leaves this TPM
	STClear              Attributes = 1 << 2  // does not outlive a restart
	FixedParent          Attributes = 1 << 4  // never leaves its parent
	SensitiveDataOrigin  Attributes = 1 << 5  // the TPM itself made the private part
	UserWithAuth         Attributes = 1 << 6  // may be used with its password
	AdminWithPolicy      Attributes = 1 << 7  // administered by its policy only
	FirmwareLimited      Attributes = 1 << 8  // bound to this firmware
	SVNLimited           Attributes = 1 << 9  // bound to this security version of the firmware
	NoDA                 Attributes = 1 << 10 // wrong passwords are not counted
	EncryptedDuplication Attributes = 1 << 11 // duplicated only encrypted
	Restricted           Attributes = 1 << 16 // signs or decrypts only what the TPM made
	Decrypt              Attributes = 1 << 17 // may decrypt or agree on keys
	Sign                 Attributes = 1 << 18 // may sign
	X509Sign             Attributes = 1 << 19 // signs only certificates that the TPM parsed

	knownAttributes = FixedTPM | STClear | FixedParent | SensitiveDataOrigin | UserWithAuth | AdminWithPolicy |
		FirmwareLimited | SVNLimited | NoDA | EncryptedDuplication | Restricted | Decrypt | Sign | X509Sign
)

// Has says whether all of the wanted attributes are set.
func (a Attributes) Has(want Attributes) bool { return a&want == want }

// Any says whether at least one of the given attributes is set.
func (a Attributes) Any(of Attributes) bool { return a&of != 0 }

// Scheme is how a key signs or decrypts; its zero-like value is AlgNull: any.
type Scheme struct {
	Alg  Alg
	Hash Alg // zero where the scheme has none
}

// Symmetric is the cipher with which a storage key protects its children.
type Symmetric struct {
	Alg     Alg // AlgNull: not a storage key
	KeyBits uint16
	Mode    Alg
}
