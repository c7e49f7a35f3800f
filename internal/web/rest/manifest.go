package rest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/web/server"
)

// Signer is a manifest signer that an operator pinned.
type Signer struct {
	Name        string     `json:"name"`
	Format      string     `json:"format"`
	Fingerprint string     `json:"fingerprint" doc:"SHA-256 of the certificate, hex"`
	PinnedBy    string     `json:"pinned_by"`
	PinnedAt    time.Time  `json:"pinned_at"`
	WithdrawnAt *time.Time `json:"withdrawn_at,omitempty"`
}

// Manifest is an imported list of chips.
type Manifest struct {
	ID          int64     `json:"id"`
	Name        string    `json:"name"`
	Format      string    `json:"format"`
	Digest      string    `json:"sha256" doc:"Of the file, hex"`
	Signer      string    `json:"signer,omitempty" doc:"Absent: unsigned"`
	Product     string    `json:"product,omitempty" doc:"Absent: any product that names the chip type"`
	ImportedAt  time.Time `json:"imported_at"`
	Chips       int64     `json:"chips"`
	NotProvable int64     `json:"not_provable" doc:"Entries without a key"`
	Findings    []string  `json:"findings,omitempty" doc:"Remarks that did not refuse it"`
	Complete    bool      `json:"complete" doc:"False while its chips are still staged"`
}

// Import is a line of an import's answer: how far it is, or the outcome, which is
// the last line.
type Import struct {
	Octets   int64           `json:"octets,omitempty" doc:"Read so far"`
	Total    int64           `json:"total,omitempty" doc:"Octets of the file, once all are received"`
	Chips    int64           `json:"chips,omitempty" doc:"Staged so far"`
	Manifest *Manifest       `json:"manifest,omitempty"`
	Again    bool            `json:"again,omitempty" doc:"The same file was imported before"`
	Problem  *server.Problem `json:"problem,omitempty" doc:"Why it was refused"`
	Findings []string        `json:"findings,omitempty"`
}

// maxManifest is the largest manifest that is read.
const maxManifest = 8 << 30

func (a *API) manifests() {
	read := access.FactoryRead
	add(a, op{method: http.MethodGet, path: "/signers", action: read, summary: "List pinned signers of manifests"}, a.listSigners)
	add(a, op{method: http.MethodPost, path: "/signers", action: access.ManifestManage, summary: "Pin a signer of manifests", everywhere: true, status: http.StatusCreated}, a.pinSigner)
	add(a, op{method: http.MethodPost, path: "/signers/{name}/withdrawal", action: access.ManifestManage, summary: "Trust a signer no more; what it signed stays", everywhere: true}, a.withdrawSigner)
	add(a, op{method: http.MethodGet, path: "/manifests", action: read, summary: "List manifests, newest first"}, a.listManifests)
	add(a, op{
		method: http.MethodPost, path: "/manifests", action: access.ManifestImport, maxBody: maxManifest, stream: pieceTime,
		summary: "Import a manifest, whole or not at all; with Accept: application/x-ndjson the answer is lines that say how far it is, the last one the outcome",
	}, a.importManifest)
	add(a, op{method: http.MethodGet, path: "/manifests/{id}", action: read, summary: "Show a manifest with its findings"}, a.showManifest)
}

func showSigner(s *factory.Signer) Signer {
	return Signer{
		Name: s.Name, Format: s.Format, Fingerprint: hex.EncodeToString(s.Fingerprint[:]), PinnedBy: s.PinnedBy, PinnedAt: s.PinnedAt,
		WithdrawnAt: unlessZero(s.WithdrawnAt),
	}
}

func (a *API) listSigners(ctx context.Context, c *access.Caller, _ *nothing) (*list[Signer], error) {
	rows, err := a.cfg.Factory.Signers(ctx, *c)
	if err != nil {
		return nil, err
	}
	items := make([]Signer, len(rows))
	for i := range rows {
		items[i] = showSigner(&rows[i])
	}
	return newList(items, ""), nil
}

func (a *API) pinSigner(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		Name        string `json:"name" minLength:"1" maxLength:"64"`
		Format      string `json:"format" minLength:"1" maxLength:"32" doc:"Format of the manifests that it signs"`
		Certificate string `json:"certificate" minLength:"1" maxLength:"65536" doc:"PEM, or base64 of DER"`
	}
},
) (*one[Signer], error) {
	certificate := []byte(in.Body.Certificate)
	if !strings.Contains(in.Body.Certificate, "-----BEGIN") {
		var err error
		if certificate, err = base64.StdEncoding.DecodeString(in.Body.Certificate); err != nil {
			return nil, fault.New(fault.ParameterInvalid, "certificate: PEM, or base64 of DER")
		}
	}
	s, err := a.cfg.Factory.PinSigner(ctx, *c, in.Body.Name, in.Body.Format, certificate)
	if err != nil {
		return nil, err
	}
	return &one[Signer]{showSigner(&s)}, nil
}

func (a *API) withdrawSigner(ctx context.Context, c *access.Caller, in *named) (*one[Signer], error) {
	s, err := a.cfg.Factory.WithdrawSigner(ctx, *c, in.Name, in.Body.Reason)
	if err != nil {
		return nil, err
	}
	return &one[Signer]{showSigner(&s)}, nil
}

// manifestNames are what manifests are shown with besides numbers.
type manifestNames struct {
	*factory.Names
	signers map[int64]string
}

func (a *API) manifestNames(ctx context.Context, c *access.Caller) (*manifestNames, error) {
	names, err := a.cfg.Factory.Names(ctx)
	if err != nil {
		return nil, err
	}
	signers, err := a.cfg.Factory.Signers(ctx, *c)
	if err != nil {
		return nil, err
	}
	n := &manifestNames{names, make(map[int64]string, len(signers))}
	for _, s := range signers {
		n.signers[s.ID] = s.Name
	}
	return n, nil
}

func (n *manifestNames) manifest(m *factory.Manifest) Manifest {
	return Manifest{
		ID: m.ID, Name: m.Name, Format: m.Format, Digest: hex.EncodeToString(m.Digest[:]), Signer: n.signers[m.Signer],
		Product: n.Product(m.Product), ImportedAt: m.ImportedAt, Chips: m.Chips, NotProvable: m.NotProvable,
		Findings: m.Findings, Complete: m.Visible,
	}
}

func (a *API) listManifests(ctx context.Context, c *access.Caller, in *Page) (*list[Manifest], error) {
	rows, next, err := a.cfg.Factory.Manifests(ctx, *c, factory.Page{After: in.After, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	names, err := a.manifestNames(ctx, c)
	if err != nil {
		return nil, err
	}
	items := make([]Manifest, len(rows))
	for i := range rows {
		items[i] = names.manifest(&rows[i])
	}
	return newList(items, next), nil
}

func (a *API) showManifest(ctx context.Context, c *access.Caller, in *IDPath) (*one[Manifest], error) {
	m, err := a.cfg.Factory.Manifest(ctx, *c, in.ID)
	if err != nil {
		return nil, err
	}
	names, err := a.manifestNames(ctx, c)
	if err != nil {
		return nil, err
	}
	return &one[Manifest]{names.manifest(&m)}, nil
}

// importing is how a manifest comes in: its octets are the body.
type importing struct {
	Name    string `query:"name" maxLength:"200" doc:"File name, for people"`
	Format  string `query:"format" required:"true" maxLength:"32" doc:"microchip, birthmark, espressif, tpm-ek, infineon, csv, ndjson"`
	Product string `query:"product" maxLength:"64" doc:"Absent: any product that names the chip type"`
	Vendor  string `query:"vendor" maxLength:"64" doc:"For formats that do not name it"`
	Type    string `query:"chip_type" maxLength:"64" doc:"For formats that do not name it"`
	Accept  string `header:"Accept"`
}

func (a *API) importManifest(_ context.Context, c *access.Caller, in *importing) (*huma.StreamResponse, error) {
	lines := strings.Contains(in.Accept, linesType)
	contentType := "application/json"
	if lines {
		contentType = linesType
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		answer(hc, contentType, func(ctx context.Context, w io.Writer) error {
			var progress func(factory.ImportProgress)
			if lines {
				progress = progressLines(w.(*stream), a.now)
			}
			done, err := a.importBody(ctx, c, in, hc.BodyReader(), progress)
			if err != nil && !lines {
				return err
			}
			if err != nil {
				f := fault.Of(err)
				done.Problem = server.NewProblem(server.HTTPStatus(f), f)
			}
			return json.NewEncoder(w).Encode(done)
		})
	}}, nil
}

// linesType is the media type of JSON objects, one a line.
const linesType = "application/x-ndjson"

// progressEvery is the least time between two lines that say how far it is.
const progressEvery = 500 * time.Millisecond

// progressLines tells now and then how far an import is.
func progressLines(w *stream, now func() time.Time) func(factory.ImportProgress) {
	var mu sync.Mutex
	var last time.Time // guarded by mu
	return func(p factory.ImportProgress) {
		mu.Lock()
		defer mu.Unlock()
		if now().Sub(last) < progressEvery {
			return
		}
		last = now()
		if json.NewEncoder(w).Encode(Import{Octets: p.Octets, Total: p.Total, Chips: p.Chips}) == nil {
			w.flush()
		}
	}
}

func (a *API) importBody(ctx context.Context, c *access.Caller, in *importing, body io.Reader, progress func(factory.ImportProgress)) (Import, error) {
	if progress == nil {
		progress = func(factory.ImportProgress) {}
	}
	read := &faultyBody{Reader: body}
	done, err := a.cfg.Factory.ImportManifest(ctx, *c, factory.ImportRequest{
		Name: in.Name, Format: in.Format, Product: in.Product, Vendor: in.Vendor, Type: in.Type, Spool: a.cfg.Spool, Body: read,
	}, progress)
	if read.err != nil { // what the importer says of half a file is not the reason
		err = read.err
	}
	out := Import{Again: done.Again, Findings: done.Findings}
	if err != nil {
		return out, err
	}
	names, err := a.manifestNames(ctx, c)
	if err != nil {
		return out, err
	}
	shown := names.manifest(&done.Manifest)
	out.Manifest = &shown
	return out, nil
}

// faultyBody remembers why a body could not be read to its end.
type faultyBody struct {
	io.Reader
	err error
}

// Read reads a piece.
func (b *faultyBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		b.err = bodyFault(err)
		err = b.err
	}
	return n, err
}
