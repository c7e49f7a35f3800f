package signer

// Kind is what something to be signed is, judged from its bytes.
type Kind uint8

// The kinds of content. Numbers are in journals.
const (
	Unknown       Kind = iota
	CA                 // a certificate that may sign certificates or CRLs
	Responder          // a certificate for signing OCSP answers
	TLSServer          // a certificate that others may take for a server's
	Attestation        // a certificate of a TPM's attestation key
	Leaf               // any other certificate
	CRL                // a revocation list
	OCSP               // OCSP answers
	Certification      // a PKCS #10 request for the key's own certificate
)

var kindNames = [...]string{"unknown", "ca", "ocsp-responder", "server", "attestation", "device", "crl", "ocsp", "csr"}

// String returns the kind's name as the configuration spells it.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Unknown]
}

// ParseKind returns the kind that a configuration names. A request for a key's
// own certificate needs no permission, so it has no name there.
func ParseKind(name string) (Kind, bool) {
	for k := CA; k < Certification; k++ {
		if kindNames[k] == name {
			return k, true
		}
	}
	return Unknown, false
}

// certificate reports whether the kind is one of certificates.
func (k Kind) certificate() bool { return k >= CA && k <= Leaf }
