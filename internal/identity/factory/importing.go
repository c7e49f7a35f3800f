package factory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// stageAtOnce is how many chips one transaction stages.
const stageAtOnce = 500

// maxManifest is the largest file that is taken, in octets.
const maxManifest = 16 << 30

// ImportRequest is a manifest to import.
type ImportRequest struct {
	Name    string // file name, for people
	Format  string // as package manifest names it
	Product string // name; empty: any product that names the chip type
	Vendor  string // of entries that name none, in formats that leave it open
	Type    string // chip type, in the same way
	Spool   string // folder for temporary files, on a disk with room for the file; empty: the system's
	Body    io.Reader
}

// ImportProgress says how far an import is.
type ImportProgress struct {
	Octets int64 // of the file, first received, then read
	Total  int64 // of the file, 0 while it is being received
	Chips  int64 // staged
}

// Imported is the outcome of an import.
type Imported struct {
	Manifest Manifest
	Again    bool     // the same file was imported before
	Findings []string // also of a refused file
}

// ImportManifest imports a manifest whole or not at all; the same file again is
// answered with the manifest that is there. A caller without
// access.ManifestManage may import only what a pinned signer signed. Findings
// are in the result also when the error says that it was refused.
func (s *Service) ImportManifest(ctx context.Context, by access.Caller, r ImportRequest, progress func(ImportProgress)) (Imported, error) {
	if progress == nil {
		progress = func(ImportProgress) {}
	}
	m, err := s.toImport(ctx, by, &r)
	if err != nil {
		return Imported{}, err
	}
	spool, err := receive(&r, func(n int64) { progress(ImportProgress{Octets: n}) })
	if err != nil {
		return Imported{}, err
	}
	defer spool.close()
	m.Digest = spool.sum()
	if !s.importing.begin(m.Digest) {
		return Imported{}, fault.New(fault.ManifestBusy)
	}
	defer s.importing.end(m.Digest)
	m, err = s.begin(ctx, by, &r, m)
	if err != nil {
		return Imported{}, err
	}
	if m.Visible {
		return Imported{Manifest: m, Again: true, Findings: m.Findings}, nil
	}
	im := &importing{service: s, by: by, manifest: m, request: &r, total: spool.size, progress: progress}
	return im.run(ctx, spool.file)
}

// begin records the manifest. An import of the same file that was cut off is
// continued, if it said the same of the chips; if not it is thrown away.
func (s *Service) begin(ctx context.Context, by access.Caller, r *ImportRequest, m Manifest) (Manifest, error) {
	entry := ledger.Entry{Kind: ledger.ManifestStaged, At: s.now(), Actor: by.Name, Body: manifestEntryBody(&m, "")}
	begun, err := s.store.BeginManifest(ctx, m, entry)
	if err != nil || begun.Visible || begun.Chips == 0 {
		return begun, err
	}
	if begun.Product == m.Product && begun.Format == m.Format && r.Vendor == "" && r.Type == "" {
		return begun, nil
	}
	if err := s.discard(ctx, by.Name, &begun, "begun anew"); err != nil {
		return Manifest{}, err
	}
	return s.store.BeginManifest(ctx, m, entry)
}

func (s *Service) discard(ctx context.Context, actor string, m *Manifest, code string) error {
	return s.store.DiscardManifest(ctx, m.ID, ledger.Entry{
		Kind: ledger.ManifestDiscarded, At: s.now(), Actor: actor, Body: manifestEntryBody(m, code),
	})
}

// underWay is the files that this process imports now.
type underWay struct {
	mu    sync.Mutex
	files map[[32]byte]bool
}

func (u *underWay) begin(digest [32]byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.files[digest] {
		return false
	}
	if u.files == nil {
		u.files = make(map[[32]byte]bool)
	}
	u.files[digest] = true
	return true
}

func (u *underWay) end(digest [32]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.files, digest)
}

// toImport checks the request and who asks.
func (s *Service) toImport(ctx context.Context, by access.Caller, r *ImportRequest) (Manifest, error) {
	format := manifest.Format(r.Format)
	if !format.Known() {
		return Manifest{}, fault.New(fault.ManifestFormat, fmt.Sprintf("there is no format %q", r.Format))
	}
	if !by.May(access.ManifestManage) && (!format.Signed() || !by.May(access.ManifestImport)) {
		return Manifest{}, fault.New(fault.NotAllowed, "only manifests of a pinned signer; an unsigned list needs", string(access.ManifestManage))
	}
	name := filepath.Base(strings.ReplaceAll(r.Name, `\`, "/"))
	if !printable(name, 255) || r.Body == nil {
		return Manifest{}, fault.New(fault.ParameterInvalid, "the file name or the file")
	}
	m := Manifest{Name: name, Format: r.Format, Importer: by.Name, ImportedAt: moment(s.now())}
	if r.Product != "" {
		p, err := s.productByName(ctx, by.Scope, r.Product)
		if err != nil {
			return Manifest{}, err
		}
		m.Product = p.ID
	} else if len(by.Scope.Products()) > 0 {
		return Manifest{}, fault.New(fault.NotAllowed, "name a product of your scope")
	}
	return m, nil
}

// spooled is the file on disk, so that what it is is known before any of it is
// believed.
type spooled struct {
	file   *os.File
	digest hash.Hash
	size   int64
}

func receive(r *ImportRequest, progress func(int64)) (*spooled, error) {
	f, err := os.CreateTemp(r.Spool, "manifest-*")
	if err != nil {
		return nil, fmt.Errorf("spool of a manifest: %w", err)
	}
	x := &spooled{file: f, digest: sha256.New()}
	if err := x.fill(r.Body, progress); err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

func (x *spooled) fill(body io.Reader, progress func(int64)) error {
	buf := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(body, buf)
		x.digest.Write(buf[:n])
		if _, err := x.file.Write(buf[:n]); err != nil {
			return fmt.Errorf("spool of a manifest: %w", err)
		}
		if x.size += int64(n); x.size > maxManifest {
			return fault.New(fault.ManifestLimit, "the file is larger than", int64(maxManifest), "octets")
		}
		progress(x.size)
		switch {
		case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
			_, err = x.file.Seek(0, io.SeekStart)
			return err
		case err != nil:
			return err
		}
	}
}

func (x *spooled) sum() [32]byte { return [32]byte(x.digest.Sum(nil)) }

func (x *spooled) close() {
	x.file.Close()
	os.Remove(x.file.Name())
}

// importing is one import under way.
type importing struct {
	service  *Service
	by       access.Caller
	manifest Manifest
	request  *ImportRequest
	total    int64
	progress func(ImportProgress)

	pending []Chip
	staged  int64
}

func (im *importing) run(ctx context.Context, file io.Reader) (Imported, error) {
	s, r := im.service, im.request
	signers, ids, err := s.pinned(ctx, manifest.Format(r.Format))
	if err != nil {
		return Imported{}, err
	}
	roots, err := s.makersRoots(ctx)
	if err != nil {
		return Imported{}, err
	}
	summary, err := manifest.Import(ctx, file, manifest.Options{
		Format: manifest.Format(r.Format), Signers: signers, VendorRoots: roots, Vendor: r.Vendor, ChipType: r.Type,
		Limits: manifest.Limits{Bytes: maxManifest}, Now: s.now, TempDir: r.Spool,
	}, func(chips []manifest.Chip) error { return im.take(ctx, chips) }, func(read, _ int64) {
		im.progress(ImportProgress{Octets: read, Total: im.total, Chips: im.staged})
	})
	if err == nil {
		err = im.stage(ctx, len(im.pending))
	}
	im.manifest.Findings = findings(summary.Findings)
	im.manifest.Signer, im.manifest.Chips, im.manifest.NotProvable = ids[summary.Signer], summary.Chips, summary.NotProvable
	if err == nil {
		err = im.publish(ctx)
	}
	if err != nil {
		return Imported{Findings: im.manifest.Findings}, im.refuse(ctx, err)
	}
	im.progress(ImportProgress{Octets: im.total, Total: im.total, Chips: im.staged})
	return Imported{Manifest: im.manifest, Findings: im.manifest.Findings}, nil
}

// makersRoots returns the chip makers' authorities that were imported: chains that
// end in one are vendor proof. Whoever imports a manifest cannot name others.
func (s *Service) makersRoots(ctx context.Context) ([][]byte, error) {
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var roots [][]byte
	for _, m := range snap.Trusted() {
		if m.KeyURI == "" && m.Parent == 0 {
			roots = append(roots, m.Certificate)
		}
	}
	return roots, nil
}

// maxFindings is how many remarks are kept of a manifest.
const maxFindings = 100

func findings(found []manifest.Finding) []string {
	lines := make([]string, 0, len(found))
	for _, f := range found[:min(len(found), maxFindings)] {
		lines = append(lines, f.String())
	}
	return lines
}

// take gathers chips and stages them in equal pieces.
func (im *importing) take(ctx context.Context, chips []manifest.Chip) error {
	for i := range chips {
		im.pending = append(im.pending, im.chip(&chips[i]))
	}
	for len(im.pending) >= stageAtOnce {
		if err := im.stage(ctx, stageAtOnce); err != nil {
			return err
		}
	}
	return nil
}

func (im *importing) chip(c *manifest.Chip) Chip {
	out := Chip{
		Vendor: c.Vendor, UID: c.UID, ChipType: c.ChipType,
		Manifest: im.manifest.ID, Entry: c.Entry, Product: im.manifest.Product, State: ChipListed,
	}
	if len(c.Keys) == 0 {
		out.State = ChipNotProvable
		return out
	}
	out.Keys = make([]ChipKey, len(c.Keys))
	for i, k := range c.Keys {
		out.Keys[i] = ChipKey(k)
	}
	return out
}

func (im *importing) stage(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	duplicates, err := im.service.store.StageChips(ctx, im.manifest.ID, im.pending[:n])
	if err != nil {
		return err
	}
	if len(duplicates) > 0 {
		return im.duplicated(&duplicates[0])
	}
	im.staged += int64(n)
	im.pending = im.pending[:copy(im.pending, im.pending[n:])]
	return nil
}

func (im *importing) duplicated(d *Duplicate) error {
	c := &im.pending[d.Index]
	what := "chip " + c.UID
	if d.Key {
		what = "a key of chip " + c.UID
	}
	if d.Manifest == im.manifest.ID {
		return fault.New(fault.ManifestDuplicate, "entry", c.Entry, ":", what, "is in the file twice")
	}
	return fault.New(fault.ManifestDuplicate, "entry", c.Entry, ":", what, "is listed by manifest", d.Manifest, "as chip", d.UID)
}

func (im *importing) publish(ctx context.Context) error {
	im.manifest.Visible = true
	m := &im.manifest
	return im.service.store.PublishManifest(ctx, *m, ledger.Entry{
		Kind: ledger.ManifestImported, At: im.service.now(), Actor: im.by.Name, Body: manifestEntryBody(m, ""),
	})
}

// discardTime is how long throwing away what was staged may take after the
// caller went away.
const discardTime = 5 * time.Minute

// refuse throws away what was staged of a file that is not good and raises the
// alarm that it deserves. An import that was merely cut off stays staged: the same
// file again continues it, and a sweep throws it away when nobody comes.
func (im *importing) refuse(ctx context.Context, cause error) error {
	refusal, ok := errors.AsType[*fault.Error](cause)
	if !ok || refusal.Kind == fault.Unavailable || refusal.Kind == fault.Internal || ctx.Err() != nil {
		return cause
	}
	im.alarm(cause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTime)
	defer cancel()
	if err := im.service.discard(ctx, im.by.Name, &im.manifest, refusal.Code.String()); err != nil {
		im.service.log.ErrorContext(ctx, "a refused manifest could not be discarded", "manifest", im.manifest.ID, "error", err)
	}
	return cause
}

func (im *importing) alarm(cause error) {
	m := &im.manifest
	a := Alarm{Key: fmt.Sprintf("%x", m.Digest[:16]), Product: m.Product}
	switch {
	case fault.Has(cause, fault.ManifestDuplicate):
		a.Kind = AlarmDuplicateChip
	case fault.Has(cause, fault.ManifestSignature), fault.Has(cause, fault.ManifestSigner):
		a.Kind = AlarmManifestSigner
	default:
		return
	}
	a.Message = fmt.Sprintf("manifest %s was refused: %s", m.Name, fault.Of(cause).Error())
	im.service.Raise(a)
}

// Manifest returns one manifest.
func (s *Service) Manifest(ctx context.Context, by access.Caller, id int64) (Manifest, error) {
	m, err := s.store.Manifest(ctx, id)
	if err == nil && m.Product != 0 && !by.Scope.Sees(m.Product, 0, 0) && len(by.Scope.Products()) > 0 {
		return Manifest{}, fault.New(fault.ManifestUnknown)
	}
	return m, err
}

// Manifests returns a page of manifests, newest first.
func (s *Service) Manifests(ctx context.Context, _ access.Caller, q Page) (page []Manifest, next string, err error) {
	return s.store.Manifests(ctx, q)
}
