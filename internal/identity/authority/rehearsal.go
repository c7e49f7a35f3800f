package authority

import (
	"crypto/x509"
	"strings"
)

// RehearsalMark begins the common name of every certificate that the rehearsal
// of a key ceremony makes. No installation takes such an authority in.
const RehearsalMark = "REHEARSAL "

// Rehearsed reports whether a certificate was made in a rehearsal.
func Rehearsed(cert *x509.Certificate) bool {
	return strings.HasPrefix(cert.Subject.CommonName, RehearsalMark)
}
