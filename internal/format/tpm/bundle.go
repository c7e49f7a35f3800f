package tpm

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// OIDAttestation is the attribute of a CSR that carries a Bundle
// (id-aa-attestation, draft-ietf-lamps-csr-attestation-29, section 4).
var OIDAttestation = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 59}

// oidCertify is the TCG's statement of a TPM2_Certify (the same draft, appendix A.2).
var oidCertify = asn1.ObjectIdentifier{2, 23, 133, 20, 1}

// Bundle is what the attestation attribute of a CSR carries: one statement of a
// TPM and certificates that may help to judge it.
type Bundle struct {
	Attest       []byte   // TPMS_ATTEST
	Signature    []byte   // TPMT_SIGNATURE
	Public       []byte   // TPMT_PUBLIC; may be absent
	Certificates [][]byte // DER, in the order given
}

// What a bundle may hold at most.
const (
	maxStatements   = 16
	maxCertificates = 16
)

// ParseBundle reads an AttestationBundle. It needs exactly one statement of a TPM
// and passes over statements of other types, and over certificates that are not
// X.509. The shapes of older drafts (EvidenceBundle, statements with further
// fields) are refused; refusals are AttestMalformed. The result shares der's
// memory.
func ParseBundle(der []byte) (*Bundle, error) {
	outer := cryptobyte.String(der)
	var body, statements, certs cryptobyte.String
	var hasCerts bool
	if !outer.ReadASN1(&body, cbasn1.SEQUENCE) || !outer.Empty() ||
		!body.ReadASN1(&statements, cbasn1.SEQUENCE) ||
		!body.ReadOptionalASN1(&certs, &hasCerts, cbasn1.SEQUENCE) || !body.Empty() {
		return nil, malformed("attestation bundle: not one")
	}
	b := &Bundle{}
	if err := b.readStatements(statements); err != nil {
		return nil, err
	}
	if hasCerts && certs.Empty() {
		return nil, malformed("attestation bundle: no certificates in their list")
	}
	if err := b.readCertificates(certs); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Bundle) readStatements(list cryptobyte.String) error {
	known := 0
	for n := 0; !list.Empty(); n++ {
		var statement, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var tag cbasn1.Tag
		if n == maxStatements || !list.ReadASN1(&statement, cbasn1.SEQUENCE) || !statement.ReadASN1ObjectIdentifier(&oid) ||
			!statement.ReadAnyASN1(&value, &tag) || !statement.Empty() {
			return malformed("attestation bundle: statements")
		}
		if !oid.Equal(oidCertify) {
			continue
		}
		known++
		if tag != cbasn1.SEQUENCE || !b.readCertify(value) {
			return malformed("attestation bundle: TPM statement")
		}
	}
	if known != 1 {
		return malformed("attestation bundle: not exactly one TPM statement")
	}
	return nil
}

func (b *Bundle) readCertify(s cryptobyte.String) bool {
	var attest, signature, public cryptobyte.String
	var hasPublic bool
	if !s.ReadASN1(&attest, cbasn1.OCTET_STRING) || !s.ReadASN1(&signature, cbasn1.OCTET_STRING) ||
		!s.ReadOptionalASN1(&public, &hasPublic, cbasn1.OCTET_STRING) || !s.Empty() {
		return false
	}
	b.Attest, b.Signature, b.Public = attest, signature, public
	return len(attest) > 0 && len(signature) > 0 && hasPublic == (len(public) > 0)
}

func (b *Bundle) readCertificates(list cryptobyte.String) error {
	other := cbasn1.Tag(3).ContextSpecific().Constructed()
	for n := 0; !list.Empty(); n++ {
		var element cryptobyte.String
		var tag cbasn1.Tag
		if n == maxCertificates || !list.ReadAnyASN1Element(&element, &tag) || tag != cbasn1.SEQUENCE && tag != other {
			return malformed("attestation bundle: certificates")
		}
		if tag == cbasn1.SEQUENCE {
			b.Certificates = append(b.Certificates, element)
		}
	}
	return nil
}

// Marshal returns the AttestationBundle as DER.
func (b *Bundle) Marshal() ([]byte, error) {
	var out cryptobyte.Builder
	out.AddASN1(cbasn1.SEQUENCE, func(body *cryptobyte.Builder) {
		body.AddASN1(cbasn1.SEQUENCE, func(list *cryptobyte.Builder) {
			list.AddASN1(cbasn1.SEQUENCE, func(statement *cryptobyte.Builder) {
				statement.AddASN1ObjectIdentifier(oidCertify)
				statement.AddASN1(cbasn1.SEQUENCE, b.addCertify)
			})
		})
		if len(b.Certificates) == 0 {
			return
		}
		body.AddASN1(cbasn1.SEQUENCE, func(list *cryptobyte.Builder) {
			for _, c := range b.Certificates {
				list.AddBytes(c)
			}
		})
	})
	return out.Bytes()
}

func (b *Bundle) addCertify(s *cryptobyte.Builder) {
	s.AddASN1OctetString(b.Attest)
	s.AddASN1OctetString(b.Signature)
	if len(b.Public) > 0 {
		s.AddASN1OctetString(b.Public)
	}
}
