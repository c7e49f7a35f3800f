package manifest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// tpmEK reads a list of endorsement keys: certificates in PEM one after another,
// or a JSON object in each line with ekCert or ekPub. A TPM has no number of its
// own that it could prove; its uid is the SHA-256 of the endorsement key.
func (im *importing) tpmEK() error {
	im.remark(0, noteUnsigned)
	in := newLines(im.source, im.Limits.Entry)
	first, err := in.in.Peek(1)
	if err != nil {
		return fault.Wrap(fault.ManifestFormat, err, "the file is empty")
	}
	if first[0] != '{' {
		return run(im, in.certificatePEM, func(block []byte, remark func(string)) (Chip, error) {
			chain, err := certificates(string(block))
			if err != nil {
				return Chip{}, err
			}
			return im.ekChip(nil, chain, nil, remark)
		})
	}
	return run(im, in.next, im.ekLine)
}

// ekLine reads one line of the NDJSON form.
func (im *importing) ekLine(line []byte, remark func(string)) (Chip, error) {
	var pub []byte
	var chain [][]byte
	var rest [][]byte
	named := make(map[string]string)
	err := members(line, func(name string, value []byte) (err error) {
		switch name {
		case "ekPub":
			if pub, err = hexOrBase64(value); err == nil {
				pub, err = ekPublic(pub)
			}
		case "ekCert":
			var der []byte
			der, err = hexOrBase64(value)
			chain = [][]byte{der}
		case "chain":
			err = elements(value, func(value []byte) error {
				der, err := hexOrBase64(value)
				if rest = append(rest, der); len(rest) >= maxChain {
					return fault.New(fault.ManifestLimit, "a key has more than", maxChain, "certificates")
				}
				return err
			})
		case "vendor", "chipType":
			named[name], err = text(value)
		}
		return err
	})
	if err != nil {
		return Chip{}, malformed("the line", err)
	}
	if len(chain) == 0 && len(rest) > 0 {
		return Chip{}, bad("the line has a chain and no ekCert")
	}
	return im.ekChip(pub, append(chain, rest...), named, remark)
}

// hexOrBase64 reads the octets of a JSON string in either form; PEM is taken for a
// certificate too.
func hexOrBase64(value []byte) ([]byte, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	if s = strings.TrimSpace(s); s == "" {
		return nil, bad("the key or certificate is empty")
	}
	if strings.HasPrefix(s, "-----BEGIN ") {
		return derOf(s, "CERTIFICATE")
	}
	if b, err := hex.DecodeString(s); err == nil {
		return b, nil
	}
	return base64.StdEncoding.Strict().DecodeString(s)
}

func (im *importing) ekChip(pub []byte, chain [][]byte, named map[string]string, remark func(string)) (Chip, error) {
	c := Chip{Vendor: cmp.Or(named["vendor"], im.Vendor), ChipType: cmp.Or(named["chipType"], im.ChipType, "tpm2.0")}
	k := Key{Slot: "ek", SPKI: pub, Chain: chain}
	if len(chain) > 0 {
		if err := im.ekCertificate(&c, &k, named, remark); err != nil {
			return c, err
		}
	}
	if k.SPKI == nil {
		return c, bad("the entry has neither ekCert nor ekPub")
	}
	if err := checkKey(k.SPKI); err != nil {
		return c, err
	}
	id := sha256.Sum256(k.SPKI)
	c.UID, c.Keys = hex.EncodeToString(id[:]), []Key{k}
	if c.Vendor == "" {
		c.Vendor = "tpm"
	}
	return c, c.name()
}

// ekKeyPurpose is tcg-kp-EKCertificate.
var ekKeyPurpose = asn1.ObjectIdentifier{2, 23, 133, 8, 1}

// ekCertificate checks an endorsement key's certificate and takes over what it
// says about its TPM.
func (im *importing) ekCertificate(c *Chip, k *Key, named map[string]string, remark func(string)) error {
	leaf, err := x509.ParseCertificate(k.Chain[0])
	if err != nil {
		return bad("the certificate is malformed")
	}
	spki, err := plainRSA(leaf.RawSubjectPublicKeyInfo)
	if err != nil {
		return err
	}
	if k.SPKI != nil && !bytes.Equal(k.SPKI, spki) {
		return bad("ekPub and ekCert are different keys")
	}
	k.SPKI = spki
	if leaf.IsCA {
		return bad("the certificate is that of an authority, not of an endorsement key")
	}
	if !slices.ContainsFunc(leaf.UnknownExtKeyUsage, ekKeyPurpose.Equal) {
		remark("the certificate does not say that it is for an endorsement key")
	}
	tpm, ok := tpmNames(leaf)
	if !ok {
		remark("the certificate does not name the TPM's manufacturer and model")
	}
	c.Vendor = cmp.Or(named["vendor"], tpm.vendor, im.Vendor)
	c.Model = tpm.model
	k.VendorProof, err = im.anchors.prove(leaf, k.Chain[1:], im.Now(), remark)
	return err
}

// oidRSA and oidOAEP are the two names under which certificates list RSA keys of
// TPMs.
var (
	oidRSA  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidOAEP = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
)

// plainRSA rewrites an RSA key that is listed for OAEP alone as plain RSA, so that
// the same endorsement key has one name.
func plainRSA(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var outer, algorithm cryptobyte.String
	var oid asn1.ObjectIdentifier
	var key asn1.BitString
	if !in.ReadASN1(&outer, casn1.SEQUENCE) || !outer.ReadASN1(&algorithm, casn1.SEQUENCE) ||
		!algorithm.ReadASN1ObjectIdentifier(&oid) || !outer.ReadASN1BitString(&key) {
		return nil, bad("the public key is malformed")
	}
	if !oid.Equal(oidOAEP) {
		return spki, nil
	}
	return rsaKey(key.Bytes)
}

func rsaKey(pkcs1 []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidRSA)
			b.AddASN1NULL()
		})
		b.AddASN1BitString(pkcs1)
	})
	return b.Bytes()
}

// tpmNaming is what the subject alternative name of an endorsement key's
// certificate says.
type tpmNaming struct{ vendor, model string }

var (
	oidAltName         = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidTPMManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidTPMModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
)

// tpmNames reads the directory name in the subject alternative name, which
// crypto/x509 leaves alone. RDNs may each hold one attribute, or one all three.
func tpmNames(cert *x509.Certificate) (names tpmNaming, ok bool) {
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidAltName) {
			continue
		}
		in := cryptobyte.String(ext.Value)
		var general, directory, name cryptobyte.String
		if !in.ReadASN1(&general, casn1.SEQUENCE) ||
			!general.ReadASN1(&directory, casn1.Tag(4).ContextSpecific().Constructed()) ||
			!directory.ReadASN1(&name, casn1.SEQUENCE) {
			return names, false
		}
		for !name.Empty() {
			var rdn cryptobyte.String
			if !name.ReadASN1(&rdn, casn1.SET) || !names.attributes(rdn) {
				return names, false
			}
		}
	}
	return names, names.vendor != "" && names.model != ""
}

func (n *tpmNaming) attributes(rdn cryptobyte.String) bool {
	for !rdn.Empty() {
		var attribute, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var tag casn1.Tag
		if !rdn.ReadASN1(&attribute, casn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&oid) ||
			!attribute.ReadAnyASN1(&value, &tag) {
			return false
		}
		switch {
		case oid.Equal(oidTPMManufacturer):
			n.vendor = tpmVendor(string(value))
		case oid.Equal(oidTPMModel):
			n.model = string(value)
		}
	}
	return true
}

// tpmVendor turns "id:49465800" into "ifx"; a number that is no letters stays one.
func tpmVendor(id string) string {
	b, err := hex.DecodeString(strings.TrimPrefix(id, "id:"))
	if err != nil {
		return ""
	}
	vendor := strings.ToLower(strings.TrimRight(string(b), "\x00 "))
	if !plain(vendor, maxName) || vendor == "" {
		return hex.EncodeToString(b)
	}
	return vendor
}

// ekPublic returns the SubjectPublicKeyInfo of an endorsement key given as such,
// or as the TPM writes it: TPMT_PUBLIC, with or without its length before it.
func ekPublic(b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] == 0x30 { // a SEQUENCE; no TPM algorithm begins so
		return plainRSA(b)
	}
	in := cryptobyte.String(b)
	var inner cryptobyte.String
	if in.ReadUint16LengthPrefixed(&inner) && in.Empty() {
		return tpmPublic(inner)
	}
	return tpmPublic(b)
}

// Algorithm and curve numbers of the TPM 2.0 library specification, part 2.
const (
	tpmRSA     = 0x0001
	tpmECC     = 0x0023
	tpmNull    = 0x0010
	tpmNISTP   = 0x0003
	tpmDefault = 0x0000 // exponent 0 stands for 65537
)

// tpmPublic reads TPMT_PUBLIC of a storage key: type, name algorithm, attributes,
// policy, symmetric algorithm, scheme, then key size and exponent or curve and
// derivation, then the key.
func tpmPublic(b []byte) ([]byte, error) {
	in := cryptobyte.String(b)
	var kind, nameAlg, symmetric, scheme uint16
	var attributes uint32
	var policy cryptobyte.String
	ok := in.ReadUint16(&kind) && in.ReadUint16(&nameAlg) && in.ReadUint32(&attributes) &&
		in.ReadUint16LengthPrefixed(&policy) && in.ReadUint16(&symmetric) &&
		(symmetric == tpmNull || in.Skip(4)) && in.ReadUint16(&scheme) && scheme == tpmNull
	switch {
	case ok && kind == tpmRSA:
		return tpmRSAPublic(in)
	case ok && kind == tpmECC:
		return tpmECCPublic(in)
	}
	return nil, bad("ekPub is neither a SubjectPublicKeyInfo nor the TPMT_PUBLIC of a storage key")
}

func tpmRSAPublic(in cryptobyte.String) ([]byte, error) {
	var bits uint16
	var exponent uint32
	var modulus cryptobyte.String
	if !in.ReadUint16(&bits) || !in.ReadUint32(&exponent) || !in.ReadUint16LengthPrefixed(&modulus) ||
		!in.Empty() || len(modulus)*8 != int(bits) {
		return nil, bad("ekPub is malformed")
	}
	if exponent == tpmDefault {
		exponent = 65537
	}
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(casn1.INTEGER, func(b *cryptobyte.Builder) {
			b.AddUint8(0) // the modulus has its upper bit set
			b.AddBytes(modulus)
		})
		b.AddASN1Uint64(uint64(exponent))
	})
	pkcs1, err := b.Bytes()
	if err != nil || len(modulus) == 0 || modulus[0] < 0x80 {
		return nil, bad("ekPub is malformed")
	}
	return rsaKey(pkcs1)
}

func tpmECCPublic(in cryptobyte.String) ([]byte, error) {
	var curve, kdf uint16
	var x, y cryptobyte.String
	if !in.ReadUint16(&curve) || !in.ReadUint16(&kdf) || kdf != tpmNull ||
		!in.ReadUint16LengthPrefixed(&x) || !in.ReadUint16LengthPrefixed(&y) || !in.Empty() {
		return nil, bad("ekPub is malformed")
	}
	if curve != tpmNISTP || len(x) != 32 || len(y) != 32 {
		return nil, bad("ekPub is on a curve that is not taken without a certificate")
	}
	return slices.Concat(p256Prefix, x, y), nil
}
