package manifest

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
)

const (
	maxCertificateFile = 64 << 10
	// maxBundleCertificates bounds what is kept until all archives of a bundle were
	// read, since a chip's certificates are in several.
	maxBundleCertificates = 192 << 20
)

const noteFileNames = "that a certificate is a chip's rests on a file name alone, which nobody signed"

// infineon reads the bundle of OPTIGA chips: a 7z archive that holds one 7z
// archive for each certificate slot, which hold one PEM file for each chip, named
// for it. The archive of secret keys beside them is never opened. Nothing in the
// bundle is signed but the certificates.
func (im *importing) infineon() error {
	im.remark(0, noteUnsigned)
	im.remark(0, noteFileNames)
	spool, size, err := im.spool(im.source, im.Limits.Bytes)
	if err != nil {
		return err
	}
	b := &bundle{im: im, chips: make(map[string][]Key)}
	if err := b.archive(spool, size, b.outer); err != nil {
		return err
	}
	ids := slices.Sorted(maps.Keys(b.chips))
	next := func() (string, int, error) {
		if len(ids) == 0 {
			return "", 0, io.EOF
		}
		id := ids[0]
		ids = ids[1:]
		return id, len(id), nil
	}
	return run(im, next, func(id string, remark func(string)) (Chip, error) {
		c := Chip{Vendor: string(Infineon), UID: id, ChipType: cmp.Or(im.ChipType, "optiga-trust-m"), Keys: b.chips[id]}
		for i := range c.Keys {
			if err := im.admit(&c.Keys[i], remark); err != nil {
				return c, err
			}
		}
		return c, c.name()
	})
}

// bundle is what was read of a bundle so far.
type bundle struct {
	im       *importing
	chips    map[string][]Key
	kept     int   // octets of certificates
	unpacked int64 // octets of all archives
	members  int64
}

// archive hands the files of a 7z archive to each.
func (b *bundle) archive(r io.ReaderAt, size int64, each func(*member, io.Reader) error) error {
	z, err := openArchive(r, size, b.im.Limits.Entries)
	if err != nil {
		return err
	}
	b.unpacked += int64(z.unpacked)
	switch {
	case b.unpacked > b.im.Limits.Unpacked:
		return unsafeArchive("the bundle is too large unpacked")
	case int64(z.unpacked) > b.im.Limits.Ratio*size:
		return unsafeArchive("it is packed more than any list of certificates can be")
	}
	return z.each(func(m *member, content io.Reader) error { return b.member(m, content, each) })
}

// member looks at a file's name before its content.
func (b *bundle) member(m *member, content io.Reader, each func(*member, io.Reader) error) error {
	if err := b.im.ctx.Err(); err != nil {
		return err
	}
	if b.members++; b.members > 4*b.im.Limits.Entries {
		return unsafeArchive("it has too many files")
	}
	if !safeName(m.name) {
		return unsafeArchive("a file in it has the name " + quoted(m.name))
	}
	if m.file == nil {
		return nil
	}
	if m.file.size > uint64(b.im.Limits.Member) {
		return unsafeArchive("the file " + quoted(m.name) + " in it is too large")
	}
	return each(m, content)
}

// safeName refuses names that would lead out of a folder. Nothing is ever written
// under a name of a bundle; who sends such names has something else in mind than
// certificates.
func safeName(name string) bool {
	name = strings.TrimSuffix(name, "/")
	return len(name) <= 255 && name != "" && !strings.ContainsAny(name, "\\:") && printable(name, 255) &&
		filepath.IsLocal(name) && path.Clean(name) == name
}

// outer takes a file of the bundle itself.
func (b *bundle) outer(m *member, content io.Reader) error {
	name := strings.ToLower(path.Base(m.name))
	switch {
	case strings.HasSuffix(name, "_keys.7z"):
		b.im.remark(0, "the archive of secret keys is not read; keep it where secrets are kept")
	case strings.HasSuffix(name, "_certs.7z"):
		return b.slot(m, content)
	case strings.HasSuffix(name, ".pem"):
		return b.certificate(m, content)
	case strings.HasSuffix(name, ".7z"), strings.HasSuffix(name, ".zip"):
		return unsafeArchive("it holds the archive " + quoted(path.Base(m.name)) + ", whose kind is not known")
	}
	return nil
}

// slot reads the archive of one certificate slot.
func (b *bundle) slot(m *member, content io.Reader) error {
	spool, size, err := b.im.spool(content, int64(m.file.size))
	if err != nil {
		return err
	}
	return b.archive(spool, size, b.inner)
}

// inner takes a file of a slot's archive, which holds no further archive.
func (b *bundle) inner(m *member, content io.Reader) error {
	if !strings.HasSuffix(strings.ToLower(m.name), ".pem") {
		return unsafeArchive("it holds the file " + quoted(path.Base(m.name)) + ", which is no certificate")
	}
	return b.certificate(m, content)
}

// certificate reads <chip id>_<slot>.pem.
func (b *bundle) certificate(m *member, content io.Reader) error {
	base := path.Base(m.name)
	id, slot, ok := strings.Cut(strings.ToLower(base[:len(base)-len(".pem")]), "_")
	if raw, err := hex.DecodeString(id); !ok || err != nil || len(raw) != 10 || !isOPTIGASlot(slot) {
		return bad("the file %s is not named for a chip of ten octets in hex and a slot", quoted(base))
	}
	if slices.ContainsFunc(b.chips[id], func(k Key) bool { return k.Slot == slot }) {
		return fault.New(fault.ManifestDuplicate, "the chip", id, "has two certificates in slot", slot)
	}
	if int64(len(b.chips)) >= b.im.Limits.Entries && b.chips[id] == nil {
		return fault.New(fault.ManifestLimit, "the bundle has more than", b.im.Limits.Entries, "chips")
	}
	chain, err := readCertificates(m, content)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return bad("the certificate %s is malformed", quoted(base))
	}
	for _, der := range chain {
		b.kept += len(der)
	}
	if b.kept > maxBundleCertificates {
		return fault.New(fault.ManifestLimit, "the bundle has more certificates than are read at a time; split it by reel")
	}
	b.chips[id] = append(b.chips[id], Key{Slot: slot, SPKI: slices.Clone(leaf.RawSubjectPublicKeyInfo), Chain: chain})
	return nil
}

// isOPTIGASlot reports whether a slot is one of the data objects E0E0 to E0E3 that
// hold certificates.
func isOPTIGASlot(slot string) bool {
	return len(slot) == 4 && slot[:3] == "e0e" && slot[3] >= '0' && slot[3] <= '3'
}

func readCertificates(m *member, content io.Reader) ([][]byte, error) {
	if m.file.size > maxCertificateFile {
		return nil, unsafeArchive("the certificate " + quoted(path.Base(m.name)) + " is too large")
	}
	text, err := io.ReadAll(content)
	if err != nil {
		return nil, err
	}
	chain, err := certificates(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, err
	}
	if len(chain) == 0 {
		return nil, bad("the file %s is empty", quoted(path.Base(m.name)))
	}
	return chain, nil
}

// spool copies at most limit octets to a temporary file, since
// archives are read from their end.
func (im *importing) spool(r io.Reader, limit int64) (*os.File, int64, error) {
	f, err := os.CreateTemp(im.TempDir, "birthmark-manifest-*")
	if err != nil {
		return nil, 0, fmt.Errorf("make a temporary file: %w", err)
	}
	im.clean = append(im.clean, func() {
		f.Close()
		os.Remove(f.Name())
	})
	size, err := io.Copy(f, io.LimitReader(ctxReader{im, r}, limit+1))
	if err == nil && size > limit {
		err = unsafeArchive("it holds more than it says")
	}
	return f, size, err
}

// ctxReader ends a long copy with the import.
type ctxReader struct {
	im *importing
	r  io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.im.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
