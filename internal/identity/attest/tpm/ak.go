package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
)

// AK is an attestation key: restricted, signing, never outside of its TPM. What it
// signs was made by that TPM or, at least, does not look as if it were.
type AK struct {
	key    crypto.PublicKey
	spki   []byte
	name   []byte
	scheme wire.Scheme
	// unmasked are the qualified names under which this key's TPM does not mask
	// counts and firmware.
	unmasked [][]byte
}

// What an AK must be, and what it must not. fixedTPM, fixedParent: it was never
// elsewhere. sensitiveDataOrigin: nobody brought it. restricted: it signs nothing
// that pretends to be the TPM's word. sign, not decrypt: the same key never answers
// credentials. Not x509sign: that signs certificates instead. Not
// encryptedDuplication: that is for keys which leave.
const (
	akMust    = wire.FixedTPM | wire.FixedParent | wire.SensitiveDataOrigin | wire.Restricted | wire.Sign
	akMustNot = wire.Decrypt | wire.X509Sign | wire.EncryptedDuplication
)

// ParseAK reads a TPMT_PUBLIC and refuses what no attestation key may be:
// fault.AttestMalformed, AKAttributes, AKAlgorithm.
func ParseAK(public []byte) (*AK, error) {
	p, err := wire.ParsePublic(public)
	if err != nil {
		return nil, err
	}
	if why := attributesWrong(p.Attributes, akMust, akMustNot); why != "" {
		return nil, fault.New(fault.AKAttributes, why)
	}
	if why := akAlgorithmWrong(p); why != "" {
		return nil, fault.New(fault.AKAlgorithm, why)
	}
	k := &AK{key: p.Key, spki: p.SPKI, name: p.Name(), scheme: p.Scheme}
	for _, hierarchy := range []uint32{endorsement, platform} {
		k.unmasked = append(k.unmasked, qualified(p.NameAlg, binary.BigEndian.AppendUint32(nil, hierarchy), k.name))
	}
	return k, nil
}

// Hierarchies whose keys tell the TPM's own counts and firmware (Part 2, section
// 7.4).
const (
	endorsement uint32 = 0x4000000B
	platform    uint32 = 0x4000000C
)

// qualified returns the name that says below which parents a key is (Part 1, section
// 16): the hash of the parent's qualified name and the key's name.
func qualified(alg wire.Alg, parent, name []byte) []byte {
	h := alg.Hash().New()
	h.Write(parent)
	h.Write(name)
	return h.Sum(binary.BigEndian.AppendUint16(nil, uint16(alg)))
}

// attributesWrong names the first attribute that is missing or too many.
func attributesWrong(have, must, mustNot wire.Attributes) string {
	for _, a := range attributeNames {
		if must.Has(a.attribute) && !have.Has(a.attribute) {
			return a.name + " is not set"
		}
		if mustNot.Has(a.attribute) && have.Has(a.attribute) {
			return a.name + " is set"
		}
	}
	return ""
}

var attributeNames = []struct {
	attribute wire.Attributes
	name      string
}{
	{wire.FixedTPM, "fixedTPM"},
	{wire.FixedParent, "fixedParent"},
	{wire.SensitiveDataOrigin, "sensitiveDataOrigin"},
	{wire.EncryptedDuplication, "encryptedDuplication"},
	{wire.Restricted, "restricted"},
	{wire.Decrypt, "decrypt"},
	{wire.Sign, "sign"},
	{wire.X509Sign, "x509sign"},
}

// akAlgorithmWrong says why an AK's algorithms are not accepted, or nothing.
func akAlgorithmWrong(p *wire.Public) string {
	switch {
	case !strong(p.NameAlg):
		return "its name is made with " + p.NameAlg.String()
	case p.Symmetric.Alg != wire.AlgNull:
		return "it has a cipher, as only storage keys have"
	case p.KDF.Alg != 0 && p.KDF.Alg != wire.AlgNull:
		return "it derives keys"
	case p.Scheme.Alg == wire.AlgNull:
		return "it is bound to no scheme"
	case !schemeFits(p.Scheme, p.Key):
		return "its scheme is " + p.Scheme.Alg.String()
	case !strong(p.Scheme.Hash):
		return "it signs with " + p.Scheme.Hash.String()
	}
	return keyWrong(p.Key)
}

func strong(hash wire.Alg) bool {
	return hash == wire.AlgSHA256 || hash == wire.AlgSHA384 || hash == wire.AlgSHA512
}

func schemeFits(s wire.Scheme, key crypto.PublicKey) bool {
	switch key.(type) {
	case *rsa.PublicKey:
		return s.Alg == wire.AlgRSASSA || s.Alg == wire.AlgRSAPSS
	case *ecdsa.PublicKey:
		return s.Alg == wire.AlgECDSA
	}
	return false
}

const rsaExponent = 1<<16 + 1

// keyWrong says why a public key is too weak, or nothing.
func keyWrong(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 {
			return "an RSA key shorter than 2048 bits"
		}
		if key.E != rsaExponent {
			return "an RSA key with an unusual exponent"
		}
		return ""
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() || key.Curve == elliptic.P521() {
			return ""
		}
	}
	return "a key of another kind"
}

// Key returns the public key.
func (k *AK) Key() crypto.PublicKey { return k.key }

// SPKI returns the DER SubjectPublicKeyInfo.
func (k *AK) SPKI() []byte { return k.spki }

// Name returns the TPM's Name of the key: algorithm and digest.
func (k *AK) Name() []byte { return k.name }

// signed reports whether a signature over an attestation is this key's, made with
// its scheme.
func (k *AK) signed(s *wire.Signature, message []byte) bool {
	return s.Scheme == k.scheme && s.Verifies(k.key, message)
}

// counters returns what an attestation of this key tells of its TPM's past.
func (k *AK) counters(a *wire.Attest) Counters {
	return Counters{
		AK:         sha256.Sum256(k.spki),
		Plain:      slices.ContainsFunc(k.unmasked, func(name []byte) bool { return string(name) == string(a.QualifiedSigner) }),
		ResetCount: a.Clock.ResetCount, RestartCount: a.Clock.RestartCount,
		Clock: a.Clock.Clock, Safe: a.Clock.Safe, Firmware: a.FirmwareVersion,
	}
}
