package ceremony

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"html"
	"strings"
	"time"
	"unicode"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// section is one part of a transcript as people read it.
type section struct {
	title string
	rows  [][2]string
}

var acts = map[Act]string{
	ActBegin: "The ceremony begins", ActRoot: "The root is made", ActShare: "A custodian tries a share",
	ActSign: "The root signs a certificate", ActCRL: "The root signs its CRL",
	ActCustodians: "The key is shared out anew", ActFinish: "The ceremony ends",
}

// banner tells a rehearsal from a ceremony at one glance.
func (r *Report) banner() string {
	if r.Rehearsal {
		return "REHEARSAL: NOTHING IN THIS TRANSCRIPT IS REAL. NOBODY MAY TRUST ITS ROOT."
	}
	if !r.Finished {
		return "NOT FINISHED: the root does not vouch for this transcript yet."
	}
	return ""
}

func (r *Report) title() string {
	if r.Rehearsal {
		return "REHEARSAL of a key ceremony: " + r.Entries[0].Plan.Title
	}
	return "Key ceremony: " + r.Entries[0].Plan.Title
}

// sections returns what is to be read, in order.
func (r *Report) sections() []section {
	all := []section{r.summary()}
	for _, e := range r.Entries {
		s := section{title: fmt.Sprintf("%d. %s", e.Number, acts[e.Act])}
		s.add("time", stamp(e.At))
		s.add("took part", strings.Join(e.Present, ", "))
		s.addAct(e)
		for _, n := range e.Notes {
			s.add("note", n)
		}
		for _, f := range e.Inputs {
			s.add("given", file(f))
		}
		for _, f := range e.Outputs {
			s.add("made", file(f))
		}
		s.addMachine(&e.Machine)
		if raw, err := e.encode(); err == nil {
			s.add("entry's SHA-256", sum(raw))
		}
		all = append(all, s)
	}
	return all
}

func (r *Report) summary() section {
	s := section{title: "In short"}
	s.add("ceremony", r.Ceremony)
	s.add("steps", fmt.Sprint(len(r.Entries)))
	s.add("from", stamp(r.Entries[0].At))
	s.add("to", stamp(r.Entries[len(r.Entries)-1].At))
	if r.Root != nil {
		s.addCertificate("root", r.Root)
	}
	for _, e := range r.Entries {
		if e.Certificate != nil {
			s.add("signed", e.Certificate.Name)
		}
	}
	if r.Certificate != nil {
		s.add("vouched for by", "a certificate of the root for the key of this ceremony, serial "+certSerial(r.Certificate))
		s.add("under the digest", r.head)
	}
	for _, n := range r.Notes {
		s.add("note", n)
	}
	return s
}

func (s *section) add(name, value string) {
	if value != "" {
		s.rows = append(s.rows, [2]string{name, printable(value)})
	}
}

// addAct says what the act was about.
func (s *section) addAct(e *Entry) {
	switch {
	case e.Plan != nil:
		s.addPlan(e.Plan)
	case e.Root != nil:
		s.addRoot(e.Root)
	case e.Certificate != nil:
		s.add("name", e.Certificate.Name)
		s.add("profile", e.Certificate.Profile)
		if cert, err := x509.ParseCertificate(e.Certificate.DER); err == nil {
			s.addCertificate("certificate", cert)
		}
	case e.CRL != nil:
		s.add("number", fmt.Sprint(e.CRL.Number))
		s.add("this update", stamp(e.CRL.ThisUpdate))
		s.add("next update", stamp(e.CRL.NextUpdate))
		for _, v := range e.CRL.Revoked {
			s.add("revoked", fmt.Sprintf("%s (serial %s), %s, %s", v.Subject, strings.ToUpper(v.CertSerial), v.Reason, stamp(v.At)))
		}
	case e.Share != nil:
		s.add("share", fmt.Sprintf("%d, of %s: the one that was handed out", e.Share.Index, e.Share.Name))
	case e.Custody != nil:
		s.addCustody(e.Custody)
	}
}

func (s *section) addPlan(p *Plan) {
	s.add("title", p.Title)
	s.add("organization", p.Organization)
	s.add("root's name", p.Authority)
	s.add("status URL", p.StatusURL)
	s.add("participants", strings.Join(p.Participants, ", "))
	if p.Key == KeyFile {
		s.add("root's key", "a file, its passphrase split among custodians")
	} else {
		s.add("root's key", p.Key)
	}
	s.add("hardware, as declared", p.Hardware)
	if p.Threshold > 0 {
		s.add("needed", fmt.Sprintf("%d of %d custodians", p.Threshold, len(p.Custodians)))
	}
	for _, c := range p.Custodians {
		s.add("custodian", c.Name+", key "+short(c.Recipient))
	}
	digest := sha256.Sum256(p.CeremonyKey)
	s.add("key of the ceremony", "SHA-256 "+hex.EncodeToString(digest[:]))
	if a := p.After; a != nil {
		s.add("goes on from", "ceremony "+a.Ceremony+", transcript's SHA-256 "+a.Transcript)
		s.addRoot(&a.Root)
	}
}

func (s *section) addRoot(r *Root) {
	if cert, err := x509.ParseCertificate(r.Certificate); err == nil {
		s.addCertificate("root", cert)
	}
	if r.Custody != nil {
		s.addCustody(r.Custody)
	}
}

func (s *section) addCustody(c *Custody) {
	s.add("needed", fmt.Sprintf("%d of %d shares", c.Threshold, len(c.Shares)))
	for _, h := range c.Shares {
		s.add("share "+fmt.Sprint(h.Index), fmt.Sprintf("%s, key %s, file %s, recognized by %s", h.Name, short(h.Recipient), h.File, h.Commitment))
	}
}

func (s *section) addCertificate(what string, cert *x509.Certificate) {
	s.add(what, cert.Subject.String())
	s.add("serial", certSerial(cert))
	s.add("valid", stamp(cert.NotBefore)+" to "+stamp(cert.NotAfter))
	if t, err := profile.KeyTypeOf(cert.PublicKey); err == nil {
		s.add("key", string(t))
	}
	digest := sha256.Sum256(cert.Raw)
	s.add("SHA-256 fingerprint", grouped(digest[:]))
}

func (s *section) addMachine(m *Machine) {
	s.add("program", fmt.Sprintf("birthmark %s, %s, SHA-256 %s", m.Version, m.System, m.Binary))
	s.add("network up", strings.Join(m.Interfaces, ", "))
	s.add("swap", strings.Join(m.Swap, ", "))
}

func certSerial(cert *x509.Certificate) string { return strings.ToUpper(cert.SerialNumber.Text(16)) }

// grouped writes a digest so that two people can compare it aloud.
func grouped(digest []byte) string {
	text := strings.ToUpper(hex.EncodeToString(digest))
	var b strings.Builder
	for i := 0; i < len(text); i += 4 {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(text[i:min(i+4, len(text))])
	}
	return b.String()
}

// short shows enough of a long recipient to recognize it.
func short(recipient string) string {
	if len(recipient) <= 80 {
		return recipient
	}
	return recipient[:24] + "... (SHA-256 " + sum([]byte(recipient)) + ")"
}

func file(f File) string { return fmt.Sprintf("%s, %d octets, SHA-256 %s", f.Name, f.Size, f.SHA256) }

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// printable replaces what could make a line read as another.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// signers returns who signs the printed transcript by hand.
func (r *Report) signers() []string {
	plan := r.Entries[0].Plan
	names := append([]string{}, plan.Participants...)
	for _, c := range plan.Custodians {
		names = append(names, c.Name)
	}
	return names
}

// Text returns the transcript for a terminal or a printer.
func (r *Report) Text() []byte {
	var b bytes.Buffer
	banner := func() {
		if text := r.banner(); text != "" {
			fmt.Fprintf(&b, "\n*** %s ***\n", text)
		}
	}
	fmt.Fprintf(&b, "%s\n", printable(r.title()))
	banner()
	for _, s := range r.sections() {
		mark := "" // a printer may break pages anywhere
		if r.banner() != "" {
			mark = "REHEARSAL: "
		}
		fmt.Fprintf(&b, "\n%s%s\n", mark, s.title)
		for _, row := range s.rows {
			fmt.Fprintf(&b, "  %-22s %s\n", row[0], row[1])
		}
	}
	b.WriteString("\nWe were there, and it was so:\n")
	for _, name := range r.signers() {
		fmt.Fprintf(&b, "\n  %-22s ______________________________  date ______________\n", printable(name))
	}
	banner()
	return b.Bytes()
}

const style = `body{font:10.5pt/1.4 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#111}
h1{font-size:1.5em}h2{font-size:1.1em;margin:1.6em 0 .3em;break-after:avoid}section{break-inside:avoid-page}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.15em .6em .15em 0;border-top:1px solid #ddd}
th{width:11em;font-weight:normal;color:#555}td{font:9pt/1.5 monospace;overflow-wrap:anywhere}
.banner{border:3px solid #b00;color:#b00;font-weight:bold;padding:.6em;margin:1em 0}
.sign{break-inside:avoid}.sign td{height:3em;border-bottom:1px solid #111}.sign thead th{border:0}tr{break-inside:avoid}.mark{display:none}
@page{margin:18mm 16mm}
@media print{body{margin:0;padding:0;max-width:none}.mark{display:block;position:fixed;top:40%;left:0;right:0;text-align:center;font-size:5em;font-weight:bold;color:#b00;opacity:.2;transform:rotate(-30deg)}}`

// Page returns the transcript as an HTML page that needs nothing else, runs
// nothing and prints well.
func (r *Report) Page() []byte {
	var b bytes.Buffer
	text := func(s string) string { return html.EscapeString(printable(s)) }
	banner := func() {
		if line := r.banner(); line != "" {
			fmt.Fprintf(&b, "<p class=\"banner\">%s</p>\n", text(line))
		}
	}
	fmt.Fprintf(&b, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"+
		"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"+
		"<title>%s</title>\n<style>%s</style>\n</head>\n<body>\n<h1>%s</h1>\n", text(r.title()), style, text(r.title()))
	banner()
	for _, s := range r.sections() {
		fmt.Fprintf(&b, "<section>\n<h2>%s</h2>\n<table>\n", text(s.title))
		for _, row := range s.rows {
			fmt.Fprintf(&b, "<tr><th scope=\"row\">%s</th><td>%s</td></tr>\n", text(row[0]), text(row[1]))
		}
		b.WriteString("</table>\n</section>\n")
	}
	b.WriteString("<section>\n<h2>We were there, and it was so</h2>\n<table class=\"sign\">\n" +
		"<thead><tr><th scope=\"col\">role</th><th scope=\"col\">name and signature</th><th scope=\"col\">date</th></tr></thead>\n")
	for _, name := range r.signers() {
		fmt.Fprintf(&b, "<tr><th scope=\"row\">%s</th><td></td><td></td></tr>\n", text(name))
	}
	b.WriteString("</table>\n</section>\n")
	banner()
	if r.banner() != "" {
		b.WriteString("<p class=\"mark\" aria-hidden=\"true\">REHEARSAL</p>\n") // fixed: printed on every page
	}
	b.WriteString("</body>\n</html>\n")
	return b.Bytes()
}
