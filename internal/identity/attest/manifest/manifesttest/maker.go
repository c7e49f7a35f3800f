// Package manifesttest is a chip maker that does not exist: it ships as many chips
// as one likes, with their keys, certificates and signed manifests. Everything
// follows from its name, so that the simulated chip in a fixture and the manifest
// imported a week before agree without a file between them.
//
// Tests, benchmarks and the quickstart use it. Its keys are worth nothing: whoever
// knows the name has them.
package manifesttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"time"

	format "github.com/birthmark/birthmark/internal/format/manifest"
)

// Maker is the chip maker. Chips are numbered from 0.
type Maker struct {
	name     string
	made     time.Time
	signer   *ecdsa.PrivateKey
	cert     []byte
	root     authority
	issuing  authority
	chipType string
}

type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// New returns the maker of this name, whose certificates are valid for 40 years
// from made.
func New(name string, made time.Time) (*Maker, error) {
	m := &Maker{name: name, made: made.UTC().Truncate(time.Hour), chipType: "SIM608"}
	var err error
	if m.signer, err = m.key("signer", 0); err != nil {
		return nil, err
	}
	if m.root, err = m.authority("Root", nil); err != nil {
		return nil, err
	}
	if m.issuing, err = m.authority("Issuing", &m.root); err != nil {
		return nil, err
	}
	cert := m.certificate("Manifest Signer", 3)
	cert.KeyUsage = x509.KeyUsageDigitalSignature
	cert.SubjectKeyId = m.seed("signer's key identifier", 0)[:20]
	m.cert, err = x509.CreateCertificate(nil, cert, cert, &m.signer.PublicKey, m.signer)
	return m, err
}

func (m *Maker) authority(name string, parent *authority) (authority, error) {
	key, err := m.key(name, 0)
	if err != nil {
		return authority{}, err
	}
	cert := m.certificate(name+" CA", int64(1+len(name)))
	cert.IsCA, cert.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	by := authority{key, cert}
	if parent != nil {
		by = *parent
	}
	der, err := x509.CreateCertificate(nil, cert, by.cert, &key.PublicKey, by.key)
	if err != nil {
		return authority{}, err
	}
	cert, err = x509.ParseCertificate(der)
	return authority{key, cert}, err
}

func (m *Maker) certificate(commonName string, certSerial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(certSerial),
		Subject:               pkix.Name{Organization: []string{m.name}, CommonName: commonName},
		NotBefore:             m.made,
		NotAfter:              m.made.AddDate(40, 0, 0),
		BasicConstraintsValid: true,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
}

// seed returns 32 octets that follow from the maker's name.
func (m *Maker) seed(what string, i int64) []byte {
	h := hmac.New(sha256.New, []byte(m.name))
	h.Write([]byte(what))
	h.Write([]byte{0})
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(i)))
	return h.Sum(nil)
}

func (m *Maker) key(what string, i int64) (*ecdsa.PrivateKey, error) {
	// A scalar over the order of the curve has odds of one in 2^32, and is an error.
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), m.seed(what, i))
}

// Signer returns the certificate to pin, DER.
func (m *Maker) Signer() []byte { return m.cert }

// SignerKey returns the key that signs the manifests.
func (m *Maker) SignerKey() *ecdsa.PrivateKey { return m.signer }

// Root returns the maker's root certificate, DER.
func (m *Maker) Root() []byte { return m.root.cert.Raw }

// Issuing returns the certificate of the CA that issues chips' certificates, DER.
func (m *Maker) Issuing() []byte { return m.issuing.cert.Raw }

// Vendor returns the vendor of the chips in manifests of our format.
func (m *Maker) Vendor() string { return "simulated" }

// ChipType returns the type of all chips.
func (m *Maker) ChipType() string { return m.chipType }

// UID returns the unique number of chip i: nine octets that begin with 0123.
func (m *Maker) UID(i int64) string {
	uid := m.seed("uid", i)[:9]
	uid[0], uid[1], uid[8] = 0x01, 0x23, 0x01
	binary.BigEndian.PutUint32(uid[2:], uint32(i)^binary.BigEndian.Uint32(m.seed("mask", 0)))
	return hex.EncodeToString(uid)
}

// Key returns the private key of chip i.
func (m *Maker) Key(i int64) (*ecdsa.PrivateKey, error) { return m.key("chip", i) }

// SPKI returns the public key of chip i, DER.
func (m *Maker) SPKI(i int64) ([]byte, error) {
	key, err := m.Key(i)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(&key.PublicKey)
}

// Certificate returns the certificate of chip i, DER.
func (m *Maker) Certificate(i int64) ([]byte, error) {
	key, err := m.Key(i)
	if err != nil {
		return nil, err
	}
	cert := m.certificate("sn"+upper(m.UID(i)), 1000+i)
	cert.KeyUsage = x509.KeyUsageDigitalSignature
	return x509.CreateCertificate(nil, cert, m.issuing.cert, &key.PublicKey, m.issuing.key)
}

func upper(uid string) string {
	raw, err := hex.DecodeString(uid)
	if err != nil {
		return uid
	}
	return fmt.Sprintf("%X", raw)
}

// Write writes a manifest of our format with n chips beginning with number first.
func (m *Maker) Write(w io.Writer, first, n int64) error {
	out, err := format.NewWriter(w, format.Header{
		Maker: m.name, Created: m.made, Vendor: m.Vendor(), ChipType: m.chipType, Count: n,
	}, m.cert, m.signer)
	if err != nil {
		return err
	}
	for i := range n {
		e, err := m.Entry(first + i)
		if err != nil {
			return err
		}
		if err := out.Write(e); err != nil {
			return err
		}
	}
	return out.Close()
}

// Entry returns the line of chip i in our format.
func (m *Maker) Entry(i int64) (*format.Entry, error) {
	spki, err := m.SPKI(i)
	if err != nil {
		return nil, err
	}
	return &format.Entry{UID: m.UID(i), Keys: []format.Key{{Slot: "0", SPKI: spki}}}, nil
}

// WriteCSV writes a plain CSV of n chips beginning with number first.
func (m *Maker) WriteCSV(w io.Writer, first, n int64) error {
	if _, err := io.WriteString(w, "uid,chip_type,vendor,slot,spki\n"); err != nil {
		return err
	}
	for i := range n {
		spki, err := m.SPKI(first + i)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s,%s,%s,0,%s\n", m.UID(first+i), m.chipType, m.Vendor(), base64.StdEncoding.EncodeToString(spki))
		if err != nil {
			return err
		}
	}
	return nil
}

// Issue returns a certificate of any form from the CA that issues chips'
// certificates.
func (m *Maker) Issue(cert *x509.Certificate, key *ecdsa.PublicKey) ([]byte, error) {
	return x509.CreateCertificate(nil, cert, m.issuing.cert, key, m.issuing.key)
}
