package manifest

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
)

// espressif reads the CSV of Espressif's provisioning service: MAC address, common
// name and certificate of each module. The file is unsigned; what it is worth
// follows from the chain of the certificates.
func (im *importing) espressif() error {
	im.remark(0, noteUnsigned)
	rows := newRows(im)
	columns := []string{"MAC", "cn", "cert"}
	head, err := rows.header(columns)
	if err != nil {
		return err
	}
	if len(head) != len(columns) {
		return fault.New(fault.ManifestFormat, "the first row lacks one of the columns MAC, cn, cert")
	}
	mac, cn, cert := slices.Index(head, "MAC"), slices.Index(head, "cn"), slices.Index(head, "cert")
	return run(im, rows.next, func(row []string, remark func(string)) (Chip, error) {
		return im.espressifChip(strings.TrimSpace(row[mac]), row[cn], strings.TrimSpace(row[cert]), remark)
	})
}

func (im *importing) espressifChip(mac, cn, cert string, remark func(string)) (Chip, error) {
	c := Chip{Vendor: string(Espressif), UID: mac, ChipType: cmp.Or(im.ChipType, string(Espressif))}
	if b, err := hex.DecodeString(mac); err != nil || len(b) != 6 {
		return c, bad("the MAC %.32q is not six octets in hex", mac)
	}
	if err := c.name(); err != nil {
		return c, err
	}
	chain, err := certificates(cert)
	if err != nil {
		return c, err
	}
	if len(chain) == 0 {
		return c, bad("the row has no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return c, bad("the certificate is malformed")
	}
	if leaf.Subject.CommonName != cn {
		return c, bad("the certificate is for %.64q, not %.64q", leaf.Subject.CommonName, cn)
	}
	k := Key{Slot: "0", SPKI: leaf.RawSubjectPublicKeyInfo, Chain: chain}
	if err := im.admit(&k, remark); err != nil {
		return c, err
	}
	c.Keys = []Key{k}
	return c, nil
}
