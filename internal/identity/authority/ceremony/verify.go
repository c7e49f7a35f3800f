package ceremony

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
)

// Report is what a checked transcript says.
type Report struct {
	Ceremony  string
	Rehearsal bool
	// Finished says that the root vouches for the transcript. Otherwise only the
	// ceremony's own key does, and who made the transcript could have made another.
	Finished    bool
	Entries     []*Entry
	Root        *x509.Certificate // nil before there is one
	Certificate *x509.Certificate // of the ceremony's key; nil before the end
	Notes       []string          // of all entries

	head       string
	state      *state
	transcript []byte
}

// Summary is a report in short.
type Summary struct {
	Ceremony    string    `json:"ceremony"`
	Title       string    `json:"title"`
	Rehearsal   bool      `json:"rehearsal"`
	Finished    bool      `json:"finished"`
	Steps       int       `json:"steps"`
	From        time.Time `json:"from"`
	To          time.Time `json:"to"`
	Root        string    `json:"root,omitempty"`             // subject
	Fingerprint string    `json:"root_fingerprint,omitempty"` // SHA-256
	Notes       []string  `json:"notes"`
}

// Summary returns the report in short.
func (r *Report) Summary() Summary {
	s := Summary{
		Ceremony: r.Ceremony, Title: r.Entries[0].Plan.Title, Rehearsal: r.Rehearsal, Finished: r.Finished, Steps: len(r.Entries),
		From: r.Entries[0].At, To: r.Entries[len(r.Entries)-1].At, Notes: append([]string{}, r.Notes...),
	}
	if r.Root != nil {
		digest := sha256.Sum256(r.Root.Raw)
		s.Root, s.Fingerprint = printable(r.Root.Subject.String()), grouped(digest[:])
	}
	return s
}

// Transcript returns the transcript that was checked.
func (r *Report) Transcript() []byte { return r.transcript }

// Verify checks a transcript in every respect. It returns
// fault.TranscriptInvalid, with the first entry that does not hold. Whether the
// root is the one that the reader trusts is for the reader to compare.
func Verify(transcript []byte) (*Report, error) {
	d, err := decodeDocument(transcript)
	if err != nil {
		return nil, err
	}
	s := newState()
	r := new(Report)
	for _, one := range d.entries {
		e, err := s.apply(one.raw, one.signature)
		if err != nil {
			return nil, err
		}
		r.Entries = append(r.Entries, e)
	}
	r.Ceremony, r.Rehearsal, r.Finished = s.id, s.rehearsal, s.finished
	r.Root, r.Notes, r.head, r.state, r.transcript = s.rootX509, s.noted(), s.head, s, transcript
	if s.finished {
		r.Certificate, err = s.vouched(d)
	} else if len(d.certificate) > 0 {
		err = fault.New(fault.TranscriptInvalid, "entries are missing at the end")
	}
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(d.encode(), transcript) {
		return nil, fault.New(fault.TranscriptInvalid, "it is not in its canonical form")
	}
	return r, nil
}

// vouched checks the certificate by which the root vouches for the last entry.
func (s *state) vouched(d *document) (*x509.Certificate, error) {
	bad := func(what string) error {
		return fault.New(fault.TranscriptInvalid, fmt.Sprintf("entry %d: the root's certificate for it %s", s.count, what))
	}
	cert, err := x509.ParseCertificate(d.certificate)
	if err != nil {
		return nil, bad("is missing or damaged")
	}
	last := d.entries[len(d.entries)-1].raw
	documentSigning := slices.ContainsFunc(cert.UnknownExtKeyUsage, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 36}.Equal)
	switch {
	case !bytes.Equal(cert.RawIssuer, s.rootX509.RawSubject) || cert.CheckSignatureFrom(s.rootX509) != nil:
		return nil, bad("was not signed by the root")
	case !bytes.Equal(cert.RawSubjectPublicKeyInfo, s.plan.CeremonyKey):
		return nil, bad("is for another key")
	case len(cert.URIs) != 1 || cert.URIs[0].String() != headURI(last):
		return nil, bad("names another entry")
	case cert.IsCA || !documentSigning || authority.Rehearsed(cert) != s.rehearsal:
		return nil, bad("is of another kind")
	}
	return cert, nil
}

// VerifyFolder checks a ceremony's folder: the transcript, and that every file
// is the one that it speaks of.
func VerifyFolder(dir string) (*Report, error) {
	o := &Ceremony{folder: folder(dir)}
	if err := o.replay(); err != nil {
		return nil, err
	}
	if o.state.finished {
		_, report, err := o.finished()
		return report, err
	}
	text, err := o.Transcript()
	if err != nil {
		return nil, err
	}
	return Verify(text)
}
