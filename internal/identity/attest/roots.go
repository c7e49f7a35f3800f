package attest

import (
	"context"
	"crypto/sha256"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// RootsImport is a bundle to import.
type RootsImport struct {
	Bundle []byte // see Bundle
	// Fingerprint is the signer's as the importer got it from whoever issues the
	// bundle: 64 hex digits, case and colons do not matter. Empty: not compared.
	Fingerprint string
	// Repin accepts another signer than that of the version before.
	Repin bool
}

// ImportedRoots is the outcome of an import.
type ImportedRoots struct {
	Roots  Roots
	File   *RootsFile
	Again  bool // these octets were imported before
	Pinned bool // the signer is pinned from now on: the name's first version, or a new signer
}

// ImportRoots imports a version of a bundle and trusts its makers from then on, in
// place of the version before. The signer of a name's first version is pinned: later
// versions must be signed by it, unless the importer accepts another. Refusals:
// fault.RootsInvalid, RootsSigner, RootsOlder.
func (s *Service) ImportRoots(ctx context.Context, by access.Caller, r RootsImport) (ImportedRoots, error) {
	b, err := ParseBundle(r.Bundle)
	if err != nil {
		return ImportedRoots{}, err
	}
	if want := strings.ToLower(strings.ReplaceAll(r.Fingerprint, ":", "")); want != "" && want != Fingerprint(b.Signer) {
		return ImportedRoots{}, fault.New(fault.RootsSigner, "the bundle's signer has the fingerprint", Fingerprint(b.Signer))
	}
	file, err := s.parseRoots(b.Content)
	if err != nil {
		return ImportedRoots{}, err
	}
	plane, err := s.store.AttestPlane(ctx)
	if err != nil {
		return ImportedRoots{}, err
	}
	x := Roots{
		Name: file.Name, Version: file.Version, Content: b.Content, Digest: sha256.Sum256(b.Content), Signer: b.Signer,
		ImportedBy: by.Name, ImportedAt: moment(s.now()),
	}
	before, known := plane.RootsNamed(file.Name)
	if known && before.Digest == x.Digest {
		return ImportedRoots{Roots: before, File: file, Again: true}, nil
	}
	x.Repinned = known && r.Repin && Fingerprint(before.Signer) != Fingerprint(x.Signer)
	if x.ID, err = s.store.AddRoots(ctx, x, s.entry(ledger.RootsImported, by.Name, rootsEntryBody(&x))); err != nil {
		return ImportedRoots{}, err
	}
	s.log.Info("TPM makers' roots imported", "name", x.Name, "version", x.Version, "signer", Fingerprint(x.Signer), "operator", by.Name)
	return ImportedRoots{Roots: x, File: file, Pinned: !known || x.Repinned}, nil
}

// Roots returns the newest version of each bundle.
func (s *Service) Roots(ctx context.Context, _ access.Caller) ([]Roots, error) {
	p, err := s.store.AttestPlane(ctx)
	return p.Roots, err
}

// RootsHistory returns all versions of a bundle, newest first, or
// fault.RootsUnknown.
func (s *Service) RootsHistory(ctx context.Context, _ access.Caller, name string) ([]Roots, error) {
	all, err := s.store.RootsHistory(ctx, name)
	if err == nil && len(all) == 0 {
		err = fault.New(fault.RootsUnknown, name)
	}
	return all, err
}
