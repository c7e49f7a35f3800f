package ceremony

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/issuing"
)

// reasons are those for which a root revokes what it has signed (RFC 5280,
// section 5.3.1).
var reasons = map[string]int{
	"unspecified": issuing.ReasonUnspecified, "keyCompromise": issuing.ReasonKeyCompromise,
	"cACompromise": issuing.ReasonCACompromise, "affiliationChanged": issuing.ReasonAffiliationChanged,
	"superseded": issuing.ReasonSuperseded, "cessationOfOperation": issuing.ReasonCessationOfOperation,
	"privilegeWithdrawn": issuing.ReasonPrivilegeWithdrawn,
}

// Reasons returns the reasons for which a root revokes.
func Reasons() []string { return slices.Sorted(maps.Keys(reasons)) }

// Revocation names a certificate of the root's to revoke.
type Revocation struct {
	Certificate *x509.Certificate
	Reason      string
}

// crlLife is how long a root's list is valid, unless it is told otherwise.
const crlLife = 365 * 24 * time.Hour

// SignCRL signs the root's next list: all that was revoked before, also in
// earlier ceremonies, and what is revoked now.
func (r *Session) SignCRL(revoke []Revocation) (Step, error) {
	o := r.ceremony
	now, err := o.now()
	if err != nil {
		return Step{}, err
	}
	list := CRL{Number: o.state.crlNumber + 1, ThisUpdate: now, NextUpdate: now.Add(crlLife), Revoked: slices.Clone(o.state.revoked)}
	if end := o.state.rootX509.NotAfter; list.NextUpdate.After(end) {
		list.NextUpdate = end
	}
	var inputs []content
	for i := range revoke {
		entry, err := o.revocation(&revoke[i], now)
		if err != nil {
			return Step{}, err
		}
		if slices.ContainsFunc(list.Revoked, func(other Revoked) bool { return other.CertSerial == entry.CertSerial }) {
			return Step{}, fault.New(fault.CeremonyState, entry.Subject, "was revoked before")
		}
		list.Revoked = append(list.Revoked, entry)
		inputs = append(inputs, content{"revoked-" + entry.CertSerial + ".pem", certificatePEM(revoke[i].Certificate.Raw)})
	}
	var entries [][]byte
	for _, e := range list.Revoked {
		octets, err := hex.DecodeString(e.CertSerial)
		if err != nil {
			return Step{}, fault.Wrap(fault.CertificateInvalid, err)
		}
		entries = append(entries, issuing.AppendCRLEntry(nil, octets, e.At, reasons[e.Reason]))
	}
	list.DER, err = issuing.SignCRL(r.issuer(), issuing.CRL{
		Number: list.Number, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate,
	}, entries)
	if err != nil {
		return Step{}, err
	}
	return r.record(&Entry{Act: ActCRL, At: now, CRL: &list}, "crl", func(s *staging) error {
		return s.writeAll(inputs, []content{{o.state.plan.Authority + ".crl", list.DER}})
	})
}

// revocation returns the entry of a certificate that the root has signed.
func (o *Ceremony) revocation(v *Revocation, now time.Time) (Revoked, error) {
	cert := v.Certificate
	if _, known := reasons[v.Reason]; !known {
		return Revoked{}, fault.New(fault.ParameterInvalid, "the reason is one of", strings.Join(Reasons(), ", "))
	}
	if !bytes.Equal(cert.RawIssuer, o.state.rootX509.RawSubject) || bytes.Equal(cert.Raw, o.state.root.Certificate) ||
		cert.CheckSignatureFrom(o.state.rootX509) != nil {
		return Revoked{}, fault.New(fault.AuthorityMismatch, cert.Subject, "was not certified by this root")
	}
	return Revoked{
		CertSerial: hex.EncodeToString(contentOctets(cert.SerialNumber)), Subject: cert.Subject.String(), At: now, Reason: v.Reason,
	}, nil
}
