package issuing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"embed"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/pki/lint"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Public keys of every type whose private keys were thrown away.
//
//go:embed samples/*.der
var samples embed.FS

// SampleKey returns a SubjectPublicKeyInfo of a type, of which nobody has the
// private key.
func SampleKey(t profile.KeyType) ([]byte, error) {
	return samples.ReadFile("samples/" + string(t) + ".der")
}

// SampleValues returns values for every source, as long as a profile's fixed
// lengths want them.
func SampleValues(p *profile.Profile) profile.Values {
	v := profile.Values{
		CommonName: "Sample", DeviceSerial: "SAMPLE-0001", DeviceID: "sample-device", Product: "sample",
		Organization: "Sample Ltd", OrganizationalUnit: "Sample", Owner: "sample-owner", Site: "sample-site", Country: "XX",
		HardwareSerial: "0123456789ABCDEF01", Email: "sample@example.com", URI: "urn:sample",
		Hosts:           []string{"sample.example.com", "192.0.2.1"},
		TPMManufacturer: "id:53414D50", TPMModel: "Sample", TPMVersion: "id:00010002", EKDigest: strings.Repeat("0123456789abcdef", 4),
	}
	fields := slices.Clone(p.Subject)
	for i := range p.AltNames {
		n := &p.AltNames[i]
		fields = append(fields, n.Directory...)
		fields = append(fields, profile.NameField{Value: n.Value})
		if n.Type == profile.AltHardwareModuleName && !n.HasOID {
			v.HardwareType = "1.3.6.1.4.1.32473.1"
		}
		if n.Hex {
			v.Set(n.Value.From, "0123456789ABCDEF01")
		}
	}
	for _, f := range fields {
		if n := f.Value.Length - len(f.Value.Prefix) - len(f.Value.Suffix); f.Value.Length > 0 {
			v.Set(f.Value.From, strings.Repeat("0", max(1, n)))
		}
	}
	return v
}

// sample returns a certificate for a key of type t with a signature that says
// nothing: linting must not cost the authority's key a signature.
func (c *Compiled) sample(t profile.KeyType) ([]byte, error) {
	spki, err := SampleKey(t)
	if err != nil {
		return nil, err
	}
	return c.sampleWith(spki, SampleValues(c.profile))
}

func (c *Compiled) sampleWith(spki []byte, values profile.Values) ([]byte, error) {
	now := time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	if c.authority.certificate != nil {
		// Two days on, no alignment of notBefore reaches back before the issuer's.
		life := c.authority.notAfter.Sub(c.authority.notBefore)
		now = c.authority.notBefore.Add(min(48*time.Hour, life/2))
	}
	notBefore, notAfter, err := c.Validity(now)
	if err != nil {
		return nil, err
	}
	in := Input{CertSerial: []byte("sample certificate"), NotBefore: notBefore, NotAfter: notAfter, Values: values, SPKI: spki}
	l, err := c.layoutFor(spki)
	if err != nil {
		return nil, err
	}
	dst, err := c.tbs(l, &in)
	if err != nil {
		return nil, err
	}
	dst = append(dst, c.authority.id...)
	dst = appendTLV(dst, tagBitString, append([]byte{0}, emptySignature(c.authority.public)...))
	return wrap(dst, 0, tagSequence), nil
}

func emptySignature(public crypto.PublicKey) []byte {
	if _, ok := public.(*ecdsa.PublicKey); ok {
		return []byte{tagSequence, 6, tagInteger, 1, 1, tagInteger, 1, 1}
	}
	return make([]byte, signatureSize(public))
}

// Lint returns what is to be said about the certificates that a profile makes,
// for each key type that it allows. No authority is needed: the samples are as
// if a P-256 authority with a public status URL had signed them.
func Lint(p *profile.Profile) (map[profile.KeyType][]lint.Finding, error) {
	iss, err := sampleIssuer(p.Kind)
	if err != nil {
		return nil, err
	}
	c, err := compile(p, iss)
	if err != nil {
		return nil, err
	}
	all := make(map[profile.KeyType][]lint.Finding)
	for _, t := range p.Keys {
		der, err := c.sample(t)
		if err != nil {
			return nil, err
		}
		all[t] = append(lint.Certificate(der), lint.AgainstProfile(der, p)...)
	}
	return all, nil
}

// sampleIssuer returns an authority that cannot sign.
func sampleIssuer(kind profile.Kind) (*Issuer, error) {
	spki, err := SampleKey("authority")
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	iss := &Issuer{Name: "sample", Key: sampleSigner{public}, StatusURL: "http://pki.example.com"}
	if kind == profile.KindRoot {
		return iss, nil
	}
	text, _ := profile.Preset("root")
	root, err := profile.Parse(text)
	if err != nil {
		return nil, err
	}
	c, err := compile(root, iss)
	if err != nil {
		return nil, err
	}
	iss.Certificate, err = c.sampleWith(spki, profile.Values{CommonName: "Sample Root"})
	return iss, err
}

var errSampleKey = errors.New("issuing: a sample key cannot sign")

// sampleSigner has a public key and nothing else.
type sampleSigner struct{ public crypto.PublicKey }

func (s sampleSigner) Public() crypto.PublicKey { return s.public }

func (sampleSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errSampleKey
}

func (sampleSigner) SignMessage(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errSampleKey
}
