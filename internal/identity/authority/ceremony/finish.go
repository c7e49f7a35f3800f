package ceremony

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	_ "embed"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// transcriptProfile is what the root certifies the ceremony's key under.
//
//go:embed transcript.yaml
var transcriptProfile string

// What the last step leaves. All of it follows from the entries and the
// certificate, so the entry itself does not name it.
const (
	transcriptFile  = "transcript.json"
	textFile        = "transcript.txt"
	pageFile        = "transcript.html"
	certificateFile = "transcript.pem"
)

var finishFiles = []string{transcriptFile, textFile, pageFile, certificateFile}

// format is the first thing in a transcript.
const format = "birthmark-ceremony-1"

// Finish ends the ceremony: the root certifies the key that has signed the
// entries, under the digest of the last one. Then that key is removed.
func (r *Session) Finish() (Step, error) {
	o := r.ceremony
	now, err := o.now()
	if err != nil {
		return Step{}, err
	}
	e := &Entry{Act: ActFinish, At: now}
	if c := o.state.root.Custody; c != nil {
		for _, h := range c.Shares {
			if !o.state.opened[h.Index] {
				e.Notes = append(e.Notes, fmt.Sprintf("the share of %s was not tried", h.Name))
			}
		}
	}
	if o.state.crlNumber == 0 {
		e.Notes = append(e.Notes, "the root has signed no CRL yet")
	}
	step, err := r.record(e, "finish", func(s *staging) error {
		s.last = func(entry, signature []byte) error { return r.conclude(s, e, entry, signature) }
		return nil
	})
	if err != nil {
		return Step{}, err
	}
	return step, removeKey(o.folder)
}

// conclude certifies the ceremony's key and writes the transcript.
func (r *Session) conclude(s *staging, e *Entry, entry, signature []byte) error {
	o := r.ceremony
	p, err := profile.Parse([]byte(strings.ReplaceAll(transcriptProfile, "ROOT", o.state.plan.Authority)))
	if err != nil {
		return err
	}
	values := o.values("", "Transcript of a key ceremony")
	values.URI = headURI(entry)
	certificate, err := r.certify(p, o.state.plan.CeremonyKey, values, e.At)
	if err != nil {
		return err
	}
	d := document{certificate: certificate}
	for i := range o.raw {
		d.entries = append(d.entries, signedEntry{o.raw[i], o.signed[i]})
	}
	d.entries = append(d.entries, signedEntry{entry, signature})
	transcript := d.encode()
	report, err := Verify(transcript)
	if err != nil {
		return err
	}
	for _, f := range []content{
		{transcriptFile, transcript},
		{textFile, report.Text()},
		{pageFile, report.Page()},
		{certificateFile, append(certificatePEM(certificate), certificatePEM(o.state.root.Certificate)...)},
	} {
		if err := s.write(f.name, f.data); err != nil {
			return err
		}
	}
	return nil
}

// headURI names the last entry by its digest (RFC 6920, section 3).
func headURI(entry []byte) string {
	digest := sha256.Sum256(entry)
	return "ni:///sha-256;" + base64.RawURLEncoding.EncodeToString(digest[:])
}

// document is a transcript as it is written.
type document struct {
	entries     []signedEntry
	certificate []byte // DER; nil while the ceremony goes on
}

type signedEntry struct{ raw, signature []byte }

// encode writes one entry to a line.
func (d *document) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"format\":%q,\"entries\":[\n", format)
	for i, e := range d.entries {
		if i > 0 {
			b.WriteString(",\n")
		}
		fmt.Fprintf(&b, "{\"entry\":%s,\"signature\":%q}", e.raw, base64.StdEncoding.EncodeToString(e.signature))
	}
	fmt.Fprintf(&b, "\n],\"certificate\":%q}\n", base64.StdEncoding.EncodeToString(d.certificate))
	return b.Bytes()
}

// decodeDocument reads what encode wrote, and nothing else.
func decodeDocument(text []byte) (*document, error) {
	var form struct {
		Format  string `json:"format"`
		Entries []struct {
			Entry     json.RawMessage `json:"entry"`
			Signature []byte          `json:"signature"`
		} `json:"entries"`
		Certificate []byte `json:"certificate"`
	}
	if len(text) > maxFile {
		return nil, fault.New(fault.TranscriptInvalid, "it is too large")
	}
	if err := json.Unmarshal(text, &form); err != nil || form.Format != format || len(form.Entries) == 0 {
		return nil, fault.New(fault.TranscriptInvalid, "it is not a transcript")
	}
	d := &document{certificate: form.Certificate}
	for _, e := range form.Entries {
		d.entries = append(d.entries, signedEntry{e.Entry, e.Signature})
	}
	return d, nil
}

// Transcript returns the transcript so far. Before the ceremony is finished
// only its own key vouches for it.
func (o *Ceremony) Transcript() ([]byte, error) {
	if o.state.finished {
		text, _, err := o.finished()
		return text, err
	}
	var d document
	for i := range o.raw {
		d.entries = append(d.entries, signedEntry{o.raw[i], o.signed[i]})
	}
	return d.encode(), nil
}

// finished returns the transcript of a finished ceremony after checking all
// that the last step has left.
func (o *Ceremony) finished() ([]byte, *Report, error) {
	if !o.state.finished {
		return nil, nil, fault.New(fault.CeremonyState, "the ceremony in", string(o.folder), "is not finished")
	}
	last := o.names[len(o.names)-1]
	files, err := o.folder.readStep(last)
	if err != nil {
		return nil, nil, err
	}
	report, err := Verify(files[transcriptFile])
	if err != nil {
		return nil, nil, err
	}
	want := map[string][]byte{
		textFile: report.Text(), pageFile: report.Page(),
		certificateFile: append(certificatePEM(report.Certificate.Raw), certificatePEM(o.state.root.Certificate)...),
	}
	for _, name := range []string{textFile, pageFile, certificateFile} {
		if !bytes.Equal(files[name], want[name]) {
			return nil, nil, fault.New(fault.TranscriptInvalid, "the file", last+"/"+name, "is not what the transcript says")
		}
	}
	if report.head != o.state.head {
		return nil, nil, fault.New(fault.TranscriptInvalid, "the file", last+"/"+transcriptFile, "is of another ceremony")
	}
	return files[transcriptFile], report, nil
}
