// Package manifest reads chip makers' lists of chips: from bytes to chips and
// findings, with nothing kept and nothing decided. Each format has its own
// importer; all share one road: a reader splits the file into entries, workers on
// all cores check and decode them, and the caller gets them in the order of the
// file, in batches, while memory stays the same for ten chips and a million.
//
// A file is good as a whole or not at all. A bad entry, a repeated chip or key, a
// signer that nobody pinned or a file that is cut off ends the import with the
// entry's number and the reason; the caller throws away what it was given so far
// and makes nothing visible before Import has returned without an error.
//
// Two different things make a listed key worth believing. A pinned signer vouches
// for the list. A chain from the key's certificate to the chip maker's own root
// (Key.VendorProof) vouches for the chip, whoever wrote the list.
package manifest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Format names a kind of manifest.
type Format string

// The formats.
const (
	Microchip Format = "microchip" // secure element manifest: signed entry by entry
	Birthmark Format = "birthmark" // ours: signed as a whole
	Espressif Format = "espressif" // CSV of the provisioning service
	TPMEK     Format = "tpm-ek"    // endorsement key certificates
	Infineon  Format = "infineon"  // OPTIGA bundle: certificates in nested 7z archives
	CSV       Format = "csv"       // unsigned
	NDJSON    Format = "ndjson"    // unsigned
)

// Formats lists all formats.
func Formats() []Format {
	return []Format{Microchip, Birthmark, Espressif, TPMEK, Infineon, CSV, NDJSON}
}

// Known reports whether there is such a format.
func (f Format) Known() bool { return slices.Contains(Formats(), f) }

// Signed reports whether files of this format are signed, so that they need a
// pinned signer.
func (f Format) Signed() bool { return f == Microchip || f == Birthmark }

// Signer is a manifest signer that an operator pinned.
type Signer struct {
	Fingerprint [32]byte // SHA-256 of the certificate
	Certificate []byte   // DER
}

// Limits bound what a file may ask for. Zero fields have the value in the
// comment.
type Limits struct {
	Bytes    int64 // of the file: 16 GiB
	Entries  int64 // 2,000,000
	Entry    int   // octets of one entry: 256 KiB
	Unpacked int64 // of an archive in archives, all together: 4 GiB
	Member   int64 // of one file in an archive: 1 GiB
	Ratio    int64 // unpacked to packed octets of an archive: 200
}

// Options say how to read a file.
type Options struct {
	Format      Format
	Signers     []Signer // those that are pinned for this format and not withdrawn
	VendorRoots [][]byte // chip makers' CA certificates, DER; a chain that ends in one is a vendor proof
	// Vendor and ChipType are those of entries that name none, in formats that
	// leave it open.
	Vendor   string
	ChipType string
	Limits   Limits
	Now      func() time.Time
	// Workers is how many entries are checked at a time; 0: one for each core.
	Workers int
	// TempDir is where an archive is unpacked, which needs random access; empty:
	// the system's folder for temporary files.
	TempDir string
}

// Chip is one entry of a manifest.
type Chip struct {
	Entry        int64 // number in the file, from 1
	Vendor       string
	UID          string // lower case
	ChipType     string // the part number where the maker gives one
	Model        string // what the part is a variant of, where the maker says so
	DeviceSerial string // of the device the chip is in, where the manifest says so
	Keys         []Key  // none: not provable

	by *signer // of the entry, until the import has looked at it
}

// Key is a public key that a manifest lists for a chip.
type Key struct {
	Slot        string   // as the format names it: a slot number, "ek"
	SPKI        []byte   // DER SubjectPublicKeyInfo
	Chain       [][]byte // DER, leaf first, where the manifest has one
	VendorProof bool     // the chain leads to a chip maker's root
}

// Finding is a remark that did not refuse the file.
type Finding struct {
	Text  string
	First int64 // the first entry it is about, 0: the file
	Count int64 // how many entries
}

// String returns the finding as a person reads it.
func (f Finding) String() string {
	switch {
	case f.First == 0:
		return f.Text
	case f.Count <= 1:
		return fmt.Sprintf("entry %d: %s", f.First, f.Text)
	default:
		return fmt.Sprintf("entry %d and %d more: %s", f.First, f.Count-1, f.Text)
	}
}

// maxFindings is how many different remarks are kept.
const maxFindings = 100

// Summary is what is known about a file once it was read, also of one that was
// refused.
type Summary struct {
	Format      Format
	Digest      [32]byte // SHA-256 of the file; only of a file that was read whole
	Bytes       int64
	Signer      [32]byte // fingerprint of the signer's certificate, zero: unsigned
	Maker       string   // who made the list, where it says so
	Product     string   // what for, where it says so
	Announced   int64    // how many chips the file announces, 0: it does not say
	Chips       int64
	Keys        int64
	NotProvable int64
	Findings    []Finding
}

// Import reads a manifest and hands its chips to emit in the order of the file, in
// batches that the callee may keep. An error of emit ends the import and is
// returned as it is. progress, which may be nil, is told after each batch how much
// was read and how many chips there were. What emit was given is to be believed
// only when Import has returned no error.
func Import(ctx context.Context, r io.Reader, o Options, emit func([]Chip) error, progress func(read, chips int64)) (Summary, error) {
	im, err := newImport(ctx, r, o)
	if err != nil {
		return Summary{Format: o.Format}, err
	}
	im.emit, im.progress = emit, progress
	defer im.cleanUp()
	err = im.read()
	if err == nil {
		err = im.source.drain()
	}
	im.summary.Bytes = im.source.read.Load()
	im.summary.Digest = im.source.sum()
	if err == nil && im.summary.Chips == 0 {
		err = fault.New(fault.ManifestFormat, "the file lists no chip")
	}
	return im.summary, err
}

// importing is one run of Import.
type importing struct {
	Options
	ctx      context.Context // of this call; the value does not outlive it
	source   *source
	signers  map[[32]byte]*signer
	anchors  *anchors
	emit     func([]Chip) error
	progress func(read, chips int64)
	summary  Summary
	chips    *seen
	keys     *seen
	clean    []func()
}

func newImport(ctx context.Context, r io.Reader, o Options) (*importing, error) {
	if !o.Format.Known() {
		return nil, fault.New(fault.ManifestFormat, fmt.Sprintf("there is no format %q", o.Format))
	}
	o.Limits = o.Limits.filled()
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Now == nil {
		return nil, fmt.Errorf("import of a manifest without a clock")
	}
	signers, err := parseSigners(o.Signers)
	if err != nil {
		return nil, err
	}
	anchors, err := newAnchors(o.VendorRoots)
	if err != nil {
		return nil, err
	}
	return &importing{
		Options: o, ctx: ctx, source: newSource(r, o.Limits.Bytes), signers: signers, anchors: anchors,
		summary: Summary{Format: o.Format}, chips: newSeen(), keys: newSeen(),
	}, nil
}

func (im *importing) read() error {
	switch im.Format {
	case Birthmark:
		return im.birthmark()
	case Microchip:
		return im.microchip()
	case Espressif:
		return im.espressif()
	case TPMEK:
		return im.tpmEK()
	case CSV:
		return im.csv()
	case NDJSON:
		return im.ndjson()
	default:
		return im.infineon()
	}
}

func (im *importing) cleanUp() {
	for _, f := range slices.Backward(im.clean) {
		f()
	}
}

func (l Limits) filled() Limits {
	set := func(v *int64, preset int64) {
		if *v <= 0 {
			*v = preset
		}
	}
	set(&l.Bytes, 16<<30)
	set(&l.Entries, 2_000_000)
	set(&l.Unpacked, 4<<30)
	set(&l.Member, 1<<30)
	set(&l.Ratio, 200)
	if l.Entry <= 0 {
		l.Entry = 256 << 10
	}
	return l
}

// signer is a pinned signer, parsed once.
type signer struct {
	fingerprint [32]byte
	cert        *x509.Certificate
}

func parseSigners(pinned []Signer) (map[[32]byte]*signer, error) {
	signers := make(map[[32]byte]*signer, len(pinned))
	for _, p := range pinned {
		cert, err := x509.ParseCertificate(p.Certificate)
		if err != nil {
			return nil, fault.Wrap(fault.ManifestSigner, err, "the pinned certificate is malformed")
		}
		if sha256.Sum256(p.Certificate) != p.Fingerprint {
			return nil, fault.New(fault.ManifestSigner, "the pinned certificate is not the one of its fingerprint")
		}
		signers[p.Fingerprint] = &signer{fingerprint: p.Fingerprint, cert: cert}
	}
	return signers, nil
}

// validAt refuses a signer whose certificate was not valid when it signed.
func (s *signer) validAt(at time.Time) error {
	if at.Before(s.cert.NotBefore) || at.After(s.cert.NotAfter) {
		return fault.New(fault.ManifestSigner, "the signer's certificate was not valid at", at.UTC().Format(time.RFC3339))
	}
	return nil
}
