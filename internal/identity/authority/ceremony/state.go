package ceremony

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
)

// state is where a ceremony stands after its entries. The same code replays a
// folder before every act and checks a transcript: what it refuses in one it
// refuses in the other.
type state struct {
	id        string
	rehearsal bool
	plan      *Plan
	key       *ecdsa.PublicKey // of the ceremony

	count int
	head  string // SHA-256 of the last entry
	last  time.Time
	// program is the SHA-256 of the one that made the first step.
	program string
	notes   []note // of all entries

	root      *Root
	rootX509  *x509.Certificate
	keyStep   int          // number of the step whose folder has the key file
	keySum    string       // SHA-256 of that file
	opened    map[int]bool // shares of the current split that their custodians opened
	crlNumber uint64
	crlUpdate time.Time
	revoked   []Revoked
	names     map[string]int   // certificates by name: number of their step
	keys      map[[32]byte]int // and by key
	finished  bool
}

func newState() *state {
	return &state{opened: make(map[int]bool), names: make(map[string]int), keys: make(map[[32]byte]int)}
}

// apply checks the next entry in every respect and moves on. It returns
// fault.TranscriptInvalid with the entry's number.
func (s *state) apply(raw, signature []byte) (*Entry, error) {
	number := s.count + 1
	bad := func(what string) error {
		return fault.New(fault.TranscriptInvalid, fmt.Sprintf("entry %d: %s", number, what))
	}
	e, canonical := decodeEntry(raw)
	switch {
	case !canonical:
		return nil, bad("it is not in its canonical form")
	case e.Number != number:
		return nil, bad("it is out of order")
	case e.Previous != s.head:
		return nil, bad("it does not follow the entry before")
	}
	if what := s.applyFrame(e); what != "" {
		return nil, bad(what)
	}
	if digest := sha256.Sum256(raw); !ecdsa.VerifyASN1(s.key, digest[:], signature) {
		return nil, bad("the signature of the ceremony's key does not verify")
	}
	if what := s.applyAct(e); what != "" {
		return nil, bad(what)
	}
	s.count, s.head, s.last = number, sum(raw), e.At
	for _, text := range e.Notes {
		s.note(text, number)
	}
	if s.program == "" {
		s.program = e.Machine.Binary
	}
	if e.Machine.Binary != s.program {
		s.note("another program than in the first step", number)
	}
	return e, nil
}

// note is what a reader should know, and of which steps.
type note struct {
	text  string
	steps []string
}

func (s *state) note(text string, step int) {
	i := slices.IndexFunc(s.notes, func(n note) bool { return n.text == text })
	if i < 0 {
		i, s.notes = len(s.notes), append(s.notes, note{text: text})
	}
	s.notes[i].steps = append(s.notes[i].steps, strconv.Itoa(step))
}

// noted returns the notes, each once.
func (s *state) noted() []string {
	var all []string
	for _, n := range s.notes {
		steps := "step "
		if len(n.steps) > 1 {
			steps = "steps "
		}
		all = append(all, printable(steps+strings.Join(n.steps, ", ")+": "+n.text))
	}
	return all
}

// applyFrame checks what all entries have in common.
func (s *state) applyFrame(e *Entry) string {
	if (e.Act == ActBegin) != (s.count == 0) || (e.Plan != nil) != (e.Act == ActBegin) {
		return "a ceremony begins once"
	}
	if e.Act == ActBegin {
		if what := s.begin(e); what != "" {
			return what
		}
	}
	switch {
	case s.finished:
		return "the ceremony is finished"
	case e.Ceremony != s.id || e.Rehearsal != s.rehearsal:
		return "it is of another ceremony"
	case e.At.Before(s.last) || e.At.Nanosecond() != 0 || e.At.Location() != time.UTC:
		return "its time is before the entry's before"
	case !onlyFields(e):
		return "it says what its act does not say"
	}
	for _, name := range e.Present {
		if !s.mayBePresent(name) {
			return "somebody took part who was not to"
		}
	}
	return ""
}

// onlyFields reports whether exactly the fields of the act are set.
func onlyFields(e *Entry) bool {
	return (e.Root != nil) == (e.Act == ActRoot) && (e.Certificate != nil) == (e.Act == ActSign) &&
		(e.CRL != nil) == (e.Act == ActCRL) && (e.Share != nil) == (e.Act == ActShare) && (e.Custody != nil) == (e.Act == ActCustodians)
}

func (s *state) mayBePresent(name string) bool {
	if slices.Contains(s.plan.Participants, name) {
		return true
	}
	named := func(c Custodian) bool { return c.Name == name }
	if slices.ContainsFunc(s.plan.Custodians, named) {
		return true
	}
	return s.root != nil && s.root.Custody != nil &&
		slices.ContainsFunc(s.root.Custody.Shares, func(h Held) bool { return named(h.Custodian) })
}

func (s *state) begin(e *Entry) string {
	if err := e.Plan.check(); err != nil {
		return "the plan is not one"
	}
	public, err := x509.ParsePKIXPublicKey(e.Plan.CeremonyKey)
	if err != nil {
		return "the ceremony's key is none"
	}
	key, ok := public.(*ecdsa.PublicKey)
	if id, err := hex.DecodeString(e.Ceremony); !ok || err != nil || len(id) != 16 {
		return "the ceremony's key or name is none"
	}
	s.id, s.rehearsal, s.plan, s.key = e.Ceremony, e.Rehearsal, e.Plan, key
	return ""
}

func (s *state) applyAct(e *Entry) string {
	if e.Act != ActBegin && e.Act != ActRoot && s.root == nil {
		return "there is no root yet"
	}
	switch e.Act {
	case ActBegin:
		return s.applyEarlier(e)
	case ActRoot:
		if s.root != nil {
			return "there is a root already"
		}
		if what := s.applyRoot(e.Root, e); what != "" {
			return what
		}
		return outputIs(e, "root.pem", certificatePEM(e.Root.Certificate))
	case ActShare:
		return s.applyShare(e.Share)
	case ActSign:
		return s.applyCertificate(e)
	case ActCRL:
		return s.applyCRL(e)
	case ActCustodians:
		return s.applyCustody(e.Custody, e)
	case ActFinish:
		s.finished = true
		return ""
	}
	return "its act is unknown"
}

func (s *state) applyEarlier(e *Entry) string {
	a := e.Plan.After
	if a == nil {
		return ""
	}
	if !slices.ContainsFunc(e.Inputs, func(f File) bool { return f.Name == earlierTranscript && f.SHA256 == a.Transcript }) {
		return "the transcript of the earlier ceremony is not the one described"
	}
	if what := s.applyRoot(&a.Root, e); what != "" {
		return what
	}
	s.crlNumber, s.crlUpdate, s.revoked = a.CRLNumber, a.CRLUpdate, a.Revoked
	return outputIs(e, "root.pem", certificatePEM(a.Root.Certificate))
}

func (s *state) applyRoot(r *Root, e *Entry) string {
	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil || !cert.IsCA || !bytes.Equal(cert.RawSubject, cert.RawIssuer) ||
		cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) != nil {
		return "the root's certificate is not that of a root"
	}
	if authority.Rehearsed(cert) != s.rehearsal {
		return "the root's certificate and the ceremony differ in whether it is a rehearsal"
	}
	if (r.Custody != nil) != (s.plan.Key == KeyFile) {
		return "the custody of the root's key is not as planned"
	}
	s.root, s.rootX509 = &Root{Certificate: r.Certificate}, cert
	s.names[s.plan.Authority], s.keys[sha256.Sum256(cert.RawSubjectPublicKeyInfo)] = e.Number, e.Number
	if r.Custody == nil {
		return ""
	}
	return s.applyCustody(r.Custody, e)
}

func (s *state) applyCustody(c *Custody, e *Entry) string {
	if s.plan.Key != KeyFile {
		return "the root's key is in hardware"
	}
	split, err := hex.DecodeString(c.Split)
	if err != nil || len(split) != 16 || c.Threshold < 2 || c.Threshold > len(c.Shares) {
		return "the custody is not well formed"
	}
	custodians := make([]Custodian, len(c.Shares))
	for i, h := range c.Shares {
		if h.Index != i+1 || len(h.Commitment) != 64 {
			return "the custody is not well formed"
		}
		custodians[i] = h.Custodian
	}
	if checkCustodians(custodians, c.Threshold) != nil {
		return "the custody is not well formed"
	}
	s.root.Custody, s.keyStep, s.keySum = c, e.Number, ""
	clear(s.opened)
	for _, f := range e.Outputs {
		if f.Name == keyFolder+"/"+keyFileName {
			s.keySum = f.SHA256
		}
	}
	if s.keySum == "" {
		return "there is no key file"
	}
	return ""
}

func (s *state) applyShare(o *OpenedShare) string {
	c := s.root.Custody
	if c == nil || o.Split != c.Split || o.Index < 1 || o.Index > len(c.Shares) || c.Shares[o.Index-1].Name != o.Name {
		return "the share is not one of the root's"
	}
	s.opened[o.Index] = true
	return ""
}

func (s *state) applyCertificate(e *Entry) string {
	cert, err := x509.ParseCertificate(e.Certificate.DER)
	if err != nil || !bytes.Equal(cert.RawIssuer, s.rootX509.RawSubject) || cert.CheckSignatureFrom(s.rootX509) != nil {
		return "the root has not signed the certificate"
	}
	if authority.Rehearsed(cert) != s.rehearsal {
		return "the certificate and the ceremony differ in whether it is a rehearsal"
	}
	if strings.EqualFold(cert.Subject.String(), s.rootX509.Subject.String()) {
		return "the certificate has the root's own name"
	}
	digest := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	if s.names[e.Certificate.Name] != 0 || s.keys[digest] != 0 || !authorityName.MatchString(e.Certificate.Name) {
		return "the certificate's name or key was used before"
	}
	s.names[e.Certificate.Name], s.keys[digest] = e.Number, e.Number
	return outputIs(e, e.Certificate.Name+".pem", certificatePEM(cert.Raw))
}

func (s *state) applyCRL(e *Entry) string {
	list, err := x509.ParseRevocationList(e.CRL.DER)
	if err != nil || list.CheckSignatureFrom(s.rootX509) != nil {
		return "the root has not signed the CRL"
	}
	if list.Number == nil || !list.Number.IsUint64() || list.Number.Uint64() != e.CRL.Number || e.CRL.Number <= s.crlNumber ||
		!list.ThisUpdate.Equal(e.CRL.ThisUpdate) || !list.NextUpdate.Equal(e.CRL.NextUpdate) || list.ThisUpdate.Before(s.crlUpdate) ||
		len(list.RevokedCertificateEntries) != len(e.CRL.Revoked) || len(e.CRL.Revoked) < len(s.revoked) {
		return "the CRL is not the one described"
	}
	for i, r := range list.RevokedCertificateEntries {
		said := &e.CRL.Revoked[i]
		if hex.EncodeToString(contentOctets(r.SerialNumber)) != said.CertSerial || !r.RevocationTime.Equal(said.At) || r.ReasonCode != reasons[said.Reason] {
			return "the CRL's entries are not those described"
		}
	}
	if !slices.Equal(s.revoked, e.CRL.Revoked[:len(s.revoked)]) {
		return "the CRL has forgotten what was revoked"
	}
	s.crlNumber, s.crlUpdate, s.revoked = e.CRL.Number, e.CRL.ThisUpdate, e.CRL.Revoked
	return outputIs(e, s.plan.Authority+".crl", e.CRL.DER)
}

// outputIs says what is wrong unless the step has made just this file.
func outputIs(e *Entry, name string, content []byte) string {
	want := File{Name: name, Size: int64(len(content)), SHA256: sum(content)}
	if !slices.Contains(e.Outputs, want) {
		return "the file " + name + " is not the one described"
	}
	return ""
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
