package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/web/rest"
)

type manifestCmd struct {
	Import manifestImportCmd `cmd:"" help:"Import a chip maker's list of chips, whole or not at all."`
	List   manifestListCmd   `cmd:"" help:"List manifests."`
	Show   manifestShowCmd   `cmd:"" help:"Show a manifest and what was remarked about it."`
}

type manifestImportCmd struct {
	remote   `embed:""`
	File     string `arg:"" help:"The manifest." type:"existingfile"`
	Format   string `help:"microchip, birthmark, espressif, tpm-ek, infineon, csv or ndjson." required:""`
	Signer   string `help:"Certificate of the signer: pins it, if you may." placeholder:"CERT" type:"existingfile"`
	Product  string `help:"Only for this product."`
	Vendor   string `help:"Maker of the chips, where the format does not say."`
	ChipType string `help:"Type of the chips, where the format does not say."`
}

// Run imports a manifest and shows how far it is.
func (c *manifestImportCmd) Run(ctx context.Context, io *streams) error {
	f, err := os.Open(c.File)
	if err != nil {
		return fault.Wrap(fault.ParameterInvalid, err, c.File, "cannot be read")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return c.with(ctx, func(a *api) error {
		if c.Signer != "" {
			if err := c.pin(ctx, a); err != nil {
				return err
			}
		}
		bar := &importBar{io: io, size: info.Size()}
		done, err := c.send(ctx, a, f, bar)
		bar.clear()
		if err != nil {
			return err
		}
		return c.print(io, done)
	})
}

// pin pins the signer. Who may not do that imports by a signer that is pinned
// already, or is refused.
func (c *manifestImportCmd) pin(ctx context.Context, a *api) error {
	certificate, name, err := signerCertificate(c.Signer)
	if err != nil {
		return err
	}
	in := map[string]string{"name": name, "format": c.Format, "certificate": certificate}
	err = a.do(ctx, http.MethodPost, "/signers", in, nil)
	if fault.Has(err, fault.SignerExists) || fault.Has(err, fault.NotAllowed) {
		return nil
	}
	return err
}

// signerCertificate reads a certificate as PEM and names its signer.
func signerCertificate(file string) (text, name string, err error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", "", fault.Wrap(fault.ParameterInvalid, err, file, "cannot be read")
	}
	der, err := certificateDER(raw)
	if err != nil {
		return "", "", err
	}
	return namedCertificate(der, file)
}

// namedCertificate names a signer by its certificate's common name and
// fingerprint, in letters that a name may have.
func namedCertificate(der []byte, file string) (text, name string, err error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return "", "", fault.Wrap(fault.ParameterInvalid, err, file, "holds no certificate")
	}
	name = strings.Map(func(r rune) rune {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '-'
	}, cmp.Or(cert.Subject.CommonName, "signer"))
	name = strings.Trim(name[:min(len(name), 40)], "-")
	fingerprint := sha256.Sum256(der)
	name = strings.TrimPrefix(fmt.Sprintf("%s-%x", name, fingerprint[:4]), "-")
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), name, nil
}

// signerInside returns the certificate that a birthmark-manifest brings along; ok
// is false for any other file.
func signerInside(file string) (der []byte, ok bool) {
	f, err := os.Open(file)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	head, err := bufio.NewReader(io.LimitReader(f, 64<<10)).ReadBytes('\n')
	var h manifest.Header
	if err != nil || json.Unmarshal(head, &h) != nil || h.Format != manifest.Format {
		return nil, false
	}
	return h.Signer, true
}

// send uploads the file and follows the server's lines to the outcome.
func (c *manifestImportCmd) send(ctx context.Context, a *api, f io.Reader, bar *importBar) (*rest.Import, error) {
	q := query("name", shortName(c.File), "format", c.Format, "product", c.Product, "vendor", c.Vendor, "chip_type", c.ChipType)
	header := http.Header{"Content-Type": {"application/octet-stream"}, "Accept": {"application/x-ndjson"}}
	resp, err := a.octets(ctx, http.MethodPost, "/manifests?"+q.Encode(), header, &countingReader{Reader: f, seen: bar.sent})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var line rest.Import
		err := lines.Decode(&line)
		switch {
		case err != nil:
			return nil, fault.Wrap(fault.ServerUnreached, err, "the import's outcome did not arrive; import the same file again")
		case line.Problem != nil:
			return nil, errors.Join(refusedFindings(bar.io, line.Findings), refusal(line.Problem))
		case line.Manifest != nil:
			return &line, nil
		}
		bar.staged(line.Octets, line.Chips)
	}
}

// shortName is a file's name within what the server takes.
func shortName(file string) string {
	name := []rune(filepath.Base(file))
	return string(name[max(0, len(name)-100):])
}

// refusedFindings prints what was found in a file that is refused.
func refusedFindings(io *streams, findings []string) error {
	for _, f := range findings {
		if _, err := fmt.Fprintln(io.err, " ", f); err != nil {
			return err
		}
	}
	return nil
}

func (c *manifestImportCmd) print(io *streams, done *rest.Import) error {
	if c.JSON {
		return printJSON(io.out, done)
	}
	verb := "Imported"
	if done.Again {
		verb = "Was imported before:"
	}
	m := done.Manifest
	fmt.Fprintf(io.out, "%s %s: %s chips (manifest %d, %s).\n", verb, m.Name, number(m.Chips), m.ID, cmp.Or(m.Signer, "unsigned"))
	if m.NotProvable > 0 {
		fmt.Fprintf(io.out, "  %s of them are listed without a key and cannot prove themselves.\n", number(m.NotProvable))
	}
	for _, f := range done.Findings {
		fmt.Fprintf(io.out, "  %s\n", f)
	}
	return nil
}

// importBar draws how far an import is: first what was sent, then what the
// server has checked.
type importBar struct {
	io    *streams
	size  int64
	at    int64
	drawn time.Time
}

func (b *importBar) sent(n int) {
	b.at += int64(n)
	b.draw("Sending", b.at, "")
}

func (b *importBar) staged(octets, chips int64) {
	if chips > 0 {
		b.draw("Checking", octets, ", "+number(chips)+" chips")
	}
}

func (b *importBar) draw(what string, at int64, more string) {
	if !b.io.terminal || time.Since(b.drawn) < 50*time.Millisecond {
		return
	}
	b.drawn = time.Now()
	fmt.Fprintf(b.io.out, "\r\033[K%s %s %s%s", what, bar(at, b.size), share(at, b.size), more)
}

func (b *importBar) clear() {
	if b.io.terminal {
		fmt.Fprint(b.io.out, "\r\033[K")
	}
}

type countingReader struct {
	io.Reader
	seen func(n int)
}

// Read reads and counts.
func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.seen(n)
	return n, err
}

type manifestListCmd struct {
	remote `embed:""`
	After  string `help:"Start after this cursor."`
	Limit  int    `help:"Most rows; 0 lists all." default:"100"`
}

// Run lists manifests.
func (c *manifestListCmd) Run(ctx context.Context, io *streams) error {
	header := []string{"ID", "NAME", "FORMAT", "SIGNER", "CHIPS", "NOT PROVABLE", "PRODUCT", "IMPORTED"}
	return listAll(ctx, &c.remote, io, "/manifests", query("after", c.After), c.Limit, header, func(m *rest.Manifest) []string {
		name := m.Name
		if !m.Complete {
			name += " (being imported)"
		}
		return []string{
			fmt.Sprint(m.ID), name, m.Format, cmp.Or(m.Signer, "unsigned"), number(m.Chips), number(m.NotProvable),
			cmp.Or(m.Product, "any"), day(m.ImportedAt),
		}
	})
}

type manifestShowCmd struct {
	remote `embed:""`
	ID     int64 `arg:"" help:"Number of the manifest."`
}

// Run shows a manifest.
func (c *manifestShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, fmt.Sprint("/manifests/", c.ID), nil, func(m *rest.Manifest) error {
		fmt.Fprintf(io.out, "%d  %s  %s\n", m.ID, m.Name, m.Format)
		err := printFields(io.out, [][2]string{
			{"signer", cmp.Or(m.Signer, "unsigned")},
			{"chips", number(m.Chips)},
			{"not provable", number(m.NotProvable)},
			{"product", cmp.Or(m.Product, "any that names the chip type")},
			{"imported", day(m.ImportedAt)},
			{"sha256", m.Digest},
		})
		for _, f := range m.Findings {
			fmt.Fprintf(io.out, "  %s\n", f)
		}
		return err
	})
}

type signerCmd struct {
	Pin      signerPinCmd      `cmd:"" help:"Pin a signer of manifests, after its fingerprint was checked with the chip maker."`
	List     signerListCmd     `cmd:"" help:"List pinned signers."`
	Withdraw signerWithdrawCmd `cmd:"" help:"Trust a signer no more; what it signed stays."`
}

type signerPinCmd struct {
	remote `embed:""`
	File   string `arg:"" help:"The signer's certificate, PEM or DER, or a birthmark-manifest that brings it along." type:"existingfile"`
	Format string `help:"Format of the manifests that it signs." required:""`
	Name   string `help:"Name; left out: the certificate's."`
}

// Run pins a signer. What a manifest says of its own signer proves nothing: the
// fingerprint is printed to be compared with what its maker says.
func (c *signerPinCmd) Run(ctx context.Context, io *streams) error {
	certificate, name, err := c.certificate()
	if err != nil {
		return err
	}
	in := map[string]string{"name": cmp.Or(c.Name, name), "format": c.Format, "certificate": certificate}
	return call(ctx, &c.remote, io, http.MethodPost, "/signers", in, func(s *rest.Signer) error {
		fmt.Fprintf(io.out, "Pinned %s for %s manifests.\n  fingerprint  %s\n", s.Name, s.Format, s.Fingerprint)
		fmt.Fprintln(io.out, "  Compare it with what the maker of the manifest says, on another way.")
		return nil
	})
}

func (c *signerPinCmd) certificate() (text, name string, err error) {
	if der, ok := signerInside(c.File); ok {
		return namedCertificate(der, c.File)
	}
	return signerCertificate(c.File)
}

type signerListCmd struct {
	remote `embed:""`
}

// Run lists signers.
func (c *signerListCmd) Run(ctx context.Context, io *streams) error {
	header := []string{"NAME", "FORMAT", "FINGERPRINT", "PINNED BY", "PINNED", "WITHDRAWN"}
	return listAll(ctx, &c.remote, io, "/signers", url.Values{}, 0, header, func(s *rest.Signer) []string {
		return []string{s.Name, s.Format, s.Fingerprint, s.PinnedBy, day(s.PinnedAt), moment(s.WithdrawnAt)}
	})
}

type signerWithdrawCmd struct {
	remote `embed:""`
	Name   string `arg:"" help:"Name of the signer."`
	Reason string `help:"Reason." required:""`
}

// Run withdraws a signer.
func (c *signerWithdrawCmd) Run(ctx context.Context, io *streams) error {
	path := "/signers/" + url.PathEscape(c.Name) + "/withdrawal"
	return call(ctx, &c.remote, io, http.MethodPost, path, rest.Reason{Reason: c.Reason}, func(s *rest.Signer) error {
		fmt.Fprintf(io.out, "Withdrew %s.\n", s.Name)
		return nil
	})
}
