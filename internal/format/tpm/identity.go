package tpm

// KeyKind names the keys that our own programs make in a TPM.
type KeyKind string

// The kinds of keys, with the hash that goes with each.
const (
	RSA2048 KeyKind = "rsa2048" // SHA-256
	RSA3072 KeyKind = "rsa3072" // SHA-384
	RSA4096 KeyKind = "rsa4096" // SHA-512
	ECP256  KeyKind = "p256"    // SHA-256
	ECP384  KeyKind = "p384"    // SHA-384
	ECP521  KeyKind = "p521"    // SHA-512
)

const bound = FixedTPM | FixedParent | SensitiveDataOrigin | UserWithAuth

// AKTemplate returns the TPMT_PUBLIC from which our agent makes an attestation
// key: restricted, signing, bound to its TPM, with RSASSA or ECDSA. It returns nil
// for a kind that there is not.
func AKTemplate(k KeyKind) []byte {
	return k.template(func(a *area) { a.attributes = bound | Restricted | Sign | NoDA })
}

// SubjectTemplate returns the TPMT_PUBLIC from which our agent makes a key to be
// certified: signing, unrestricted, bound to its TPM, with any scheme, as TLS asks
// for. It returns nil for a kind that there is not.
func SubjectTemplate(k KeyKind) []byte {
	return k.template(func(a *area) {
		a.attributes = bound | Sign | NoDA
		a.scheme = Scheme{Alg: AlgNull}
	})
}

// StorageTemplate returns the TPMT_PUBLIC of the storage root key on P-256, below
// which our keys are kept. Its last field is empty, as readers of key files have it
// that make this key anew (draft-bottomley-tpm2-keys, section 3.1.8); with zeros
// there, as in the TCG's Provisioning Guidance, it would be another key.
func StorageTemplate() []byte {
	a := area{
		kind: AlgECC, curve: P256, nameAlg: AlgSHA256, attributes: bound | Restricted | Decrypt | NoDA,
		symmetric: Symmetric{AlgAES, 128, AlgCFB}, scheme: Scheme{Alg: AlgNull},
	}
	return a.withUnique(nil, nil)
}

// What the TCG's document on keys for device identity writes into the last field
// of its templates (section 7.3.1).
const (
	uniqueIDevID = "IDEVID"
	uniqueIAK    = "IAK"
)

// IDevIDTemplate returns the TCG's template for the IDevID key, a primary key of
// the endorsement hierarchy (TPM 2.0 Keys for Device Identity and Attestation,
// section 7.3.4, tables 3 and 4); nil for a kind that there is not.
func IDevIDTemplate(k KeyKind) []byte {
	return k.identity(uniqueIDevID, policiesIDevID, func(a *area) {
		a.attributes = bound | AdminWithPolicy | Sign
		if a.kind == AlgRSA {
			a.scheme = Scheme{Alg: AlgNull}
		}
	})
}

// IAKTemplate returns the TCG's template for the initial attestation key, beside
// that of the IDevID key; nil for a kind that there is not.
func IAKTemplate(k KeyKind) []byte {
	return k.identity(uniqueIAK, policiesIAK, func(a *area) {
		a.attributes = bound | AdminWithPolicy | Sign | Restricted
		if a.kind == AlgRSA {
			a.scheme.Alg = AlgRSAPSS
		}
	})
}

// The policies of these keys (section 7.3.6.6, table 19) by their name algorithm, as
// the document gives them: the same for all devices. We use the keys by password, so
// that nothing here depends on what the policies allow.
var (
	policiesIDevID = map[Alg]string{
		AlgSHA256: "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea",
		AlgSHA384: "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33",
		AlgSHA512: "7dd7500fd6c1b94f97a6af910da147301ef28f662fee06f225a4ccadda3b4e6b38e66b2f3ad5dee1a0503cd2daedb1e68cfe4f84b03a8cd22bb6a976f071a72f",
	}
	policiesIAK = map[Alg]string{
		AlgSHA256: "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07",
		AlgSHA384: "129d94ebf84556652c6eef43bbb757512ac87e52be7b349ca6ce4d826f749fcf672f51716c5cbb605f313bf345aab312",
		AlgSHA512: "8060d1fb31716a29e48a6e5fece088bcfc1b278fc162255e81c3eca3544cd44af94410c3715d561cccd9e39a6cb2646d43535bb54ea88710deb5f7836bd9b586",
	}
)

func (k KeyKind) template(finish func(*area)) []byte {
	a, ok := k.area()
	if !ok {
		return nil
	}
	finish(&a)
	return a.withUnique(nil, nil)
}

func (k KeyKind) identity(unique string, policies map[Alg]string, finish func(*area)) []byte {
	a, ok := k.area()
	if !ok {
		return nil
	}
	a.policy = octets(policies[a.nameAlg])
	finish(&a)
	return a.withUnique([]byte(unique), []byte(unique))
}

func (k KeyKind) area() (area, bool) {
	rsa := func(bits int, hash Alg) (area, bool) {
		return area{kind: AlgRSA, bits: bits, nameAlg: hash, symmetric: Symmetric{Alg: AlgNull}, scheme: Scheme{AlgRSASSA, hash}}, true
	}
	ecc := func(curve Curve, hash Alg) (area, bool) {
		return area{kind: AlgECC, curve: curve, nameAlg: hash, symmetric: Symmetric{Alg: AlgNull}, scheme: Scheme{AlgECDSA, hash}}, true
	}
	switch k {
	case RSA2048:
		return rsa(2048, AlgSHA256)
	case RSA3072:
		return rsa(3072, AlgSHA384)
	case RSA4096:
		return rsa(4096, AlgSHA512)
	case ECP256:
		return ecc(P256, AlgSHA256)
	case ECP384:
		return ecc(P384, AlgSHA384)
	case ECP521:
		return ecc(P521, AlgSHA512)
	}
	return area{}, false
}
