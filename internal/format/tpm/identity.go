package tpm

// KeyKind names the keys that our own programs make in a TPM.
type KeyKind string

// The kinds of keys.
const (
	RSA2048 KeyKind = "rsa2048" // RSASSA with SHA-256
	ECP256  KeyKind = "p256"    // ECDSA with SHA-256
	ECP384  KeyKind = "p384"    // ECDSA with SHA-384
)

const bound = FixedTPM | FixedParent | SensitiveDataOrigin | UserWithAuth

// AKTemplate returns the TPMT_PUBLIC from which our agent makes an attestation
// key: restricted, signing, bound to its TPM. Kinds are ECP256, ECP384 and RSA2048;
// nil for others.
func AKTemplate(k KeyKind) []byte { return template(k, bound|Restricted|Sign|NoDA, true) }

// SubjectTemplate returns the TPMT_PUBLIC from which our agent makes a key to be
// certified: signing, unrestricted, bound to its TPM, with any scheme. Kinds are
// ECP256, ECP384 and RSA2048; nil for others.
func SubjectTemplate(k KeyKind) []byte { return template(k, bound|Sign|NoDA, false) }

// StorageTemplate returns the TPMT_PUBLIC of the storage root key on P-256 (TCG
// TPM 2.0 Provisioning Guidance, section 7.5.1), below which our keys are kept.
func StorageTemplate() []byte {
	a := area{
		kind: AlgECC, bits: 256, curve: P256, nameAlg: AlgSHA256, attributes: bound | Restricted | Decrypt | NoDA,
		symmetric: Symmetric{AlgAES, 128, AlgCFB}, scheme: Scheme{Alg: AlgNull},
	}
	return a.withUnique(nil, nil)
}

func template(k KeyKind, attributes Attributes, fixedScheme bool) []byte {
	a, ok := k.area()
	if !ok {
		return nil
	}
	a.attributes = attributes
	if !fixedScheme {
		a.scheme = Scheme{Alg: AlgNull}
	}
	return a.withUnique(nil, nil)
}

func (k KeyKind) area() (area, bool) {
	none := Symmetric{Alg: AlgNull}
	switch k {
	case RSA2048:
		return area{kind: AlgRSA, bits: 2048, nameAlg: AlgSHA256, symmetric: none, scheme: Scheme{AlgRSASSA, AlgSHA256}}, true
	case ECP256:
		return area{kind: AlgECC, bits: 256, curve: P256, nameAlg: AlgSHA256, symmetric: none, scheme: Scheme{AlgECDSA, AlgSHA256}}, true
	case ECP384:
		return area{kind: AlgECC, bits: 384, curve: P384, nameAlg: AlgSHA384, symmetric: none, scheme: Scheme{AlgECDSA, AlgSHA384}}, true
	}
	return area{}, false
}
