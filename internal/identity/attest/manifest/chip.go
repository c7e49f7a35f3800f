package manifest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

const (
	maxUID  = 128
	maxName = 64
	// maxChain is how many certificates may stand beside a key.
	maxChain = 6
	// maxKeys is how many keys a chip may have.
	maxKeys = 16
	// futureTolerance is how far a maker's clock may be ahead without a remark.
	futureTolerance = 24 * time.Hour
)

// bad refuses an entry.
func bad(format string, args ...any) error {
	return fault.New(fault.ManifestEntry, fmt.Sprintf(format, args...))
}

// quoted shows a text of the file, short and printable.
func quoted(s string) string { return fmt.Sprintf("%.32q", s) }

func unpinned(fingerprint [32]byte) error {
	return fault.New(fault.ManifestSigner, "no pinned signer has the fingerprint", hex.EncodeToString(fingerprint[:]))
}

// name checks and lowers the chip's names, which become keys of the register.
func (c *Chip) name() error {
	c.Vendor, c.UID = strings.ToLower(c.Vendor), strings.ToLower(c.UID)
	switch {
	case c.Vendor == "":
		return bad("the chip's vendor is not named")
	case !plain(c.Vendor, maxName):
		return bad("the vendor's name has characters that names do not have, or is too long")
	case c.UID == "":
		return bad("the chip has no uid")
	case !plain(c.UID, maxUID):
		return bad("the uid has characters that a uid does not have, or is too long")
	case !printable(c.ChipType, maxName) || !printable(c.Model, maxName) || !printable(c.DeviceSerial, maxUID):
		return bad("the chip type or serial has characters that do not print, or is too long")
	}
	return nil
}

// plain reports whether a name is of lower-case letters, digits and a few marks.
func plain(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', strings.IndexByte("-_.:", c) >= 0:
		default:
			return false
		}
	}
	return true
}

func printable(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// admit checks a key: one that signs, and the one its certificate certifies.
func (im *importing) admit(k *Key, remark func(string)) error {
	if !printable(k.Slot, maxName) {
		return bad("the slot's name has characters that do not print, or is too long")
	}
	if err := checkKey(k.SPKI); err != nil {
		return err
	}
	if len(k.Chain) == 0 {
		return nil
	}
	if len(k.Chain) > maxChain {
		return fault.New(fault.ManifestLimit, "a key has more than", maxChain, "certificates")
	}
	leaf, err := x509.ParseCertificate(k.Chain[0])
	if err != nil {
		return bad("the certificate in slot %s is malformed", k.Slot)
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, k.SPKI) {
		return bad("the certificate in slot %s is for another key", k.Slot)
	}
	k.VendorProof, err = im.anchors.prove(leaf, k.Chain[1:], im.Now(), remark)
	return err
}

// p256Prefix is what the SubjectPublicKeyInfo of each P-256 key begins with, up to
// the octet that says that the point is uncompressed.
var p256Prefix = []byte{
	0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
	0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
}

// checkKey refuses keys that are malformed, weak, or of a kind we do not check.
func checkKey(spki []byte) error {
	if len(spki) == len(p256Prefix)+64 && bytes.HasPrefix(spki, p256Prefix) {
		_, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), spki[len(p256Prefix)-1:])
		if err != nil {
			return bad("the public key is not a point of its curve")
		}
		return nil
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return bad("the public key is malformed")
	}
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P224() {
			return bad("P-224 keys are too weak")
		}
		return nil
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if pub.N.BitLen() < 2048 || pub.N.BitLen() > 8192 {
			return bad("an RSA key has %d bits; 2048 to 8192 are taken", pub.N.BitLen())
		}
		return nil
	}
	return bad("keys of this kind are not taken")
}
