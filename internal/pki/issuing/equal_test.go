package issuing

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"net"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// authorityTypes are the key types that authorities sign with in tests; larger
// RSA keys differ from the smallest in their size alone.
var authorityTypes = []profile.KeyType{profile.P256, profile.P384, profile.Ed25519, profile.RSA3072}

func TestBytesEqualCreateCertificate(t *testing.T) {
	roots, issuers := make(map[profile.KeyType]*Issuer), make(map[profile.KeyType]*Issuer)
	for _, at := range authorityTypes {
		roots[at], issuers[at] = testRoot(t, at), testIssuer(t, at)
	}
	texts := map[string]string{"everything": everything, "constrained": constrained, "nameless": nameless}
	for _, name := range profile.Presets() {
		text, _ := profile.Preset(name)
		texts[name] = string(text)
	}
	for name, text := range texts {
		p := parse(t, text)
		for _, at := range authorityTypes {
			iss := issuers[at]
			switch {
			case p.Kind == profile.KindRoot:
				iss = &Issuer{Name: "root", Key: testKey(t, at), StatusURL: testURL}
			case p.Issuer == "root":
				iss = roots[at]
			}
			c := compiled(t, p, iss)
			for _, kt := range p.Keys {
				if p.Kind == profile.KindRoot && kt != at {
					continue // a root's subject is its own key
				}
				t.Run(name+"/"+string(at)+"/"+string(kt), func(t *testing.T) { equalsStandard(t, c, iss, kt) })
			}
		}
	}
}

func equalsStandard(t *testing.T, c *Compiled, iss *Issuer, kt profile.KeyType) {
	spki := sampleKey(t, kt)
	if iss.Certificate == nil {
		spki = mustSPKI(t, iss.Key.Public())
	}
	in := input(t, c, spki)
	der := issue(t, c, in)
	template := standardTemplate(t, c.profile, iss, in, kt)
	parent := template
	if iss.Certificate != nil {
		parent = parseCertificate(t, iss.Certificate)
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		t.Fatal(err)
	}
	want, err := x509.CreateCertificate(rand.Reader, template, parent, public, iss.Key)
	if err != nil {
		t.Fatal(err)
	}
	got, std := parseCertificate(t, der), parseCertificate(t, want)
	if !bytes.Equal(got.RawTBSCertificate, std.RawTBSCertificate) {
		t.Errorf("TBS differ:\n  got %x\n want %x", got.RawTBSCertificate, std.RawTBSCertificate)
	}
	if iss.Certificate != nil {
		err = got.CheckSignatureFrom(parent)
	} else {
		err = got.CheckSignatureFrom(got)
	}
	if err != nil {
		t.Errorf("signature: %v", err)
	}
}

// standardTemplate says for crypto/x509 what a profile says.
func standardTemplate(t *testing.T, p *profile.Profile, iss *Issuer, in Input, kt profile.KeyType) *x509.Certificate {
	cert := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(in.CertSerial), NotBefore: in.NotBefore, NotAfter: in.NotAfter,
		RawSubject: standardName(t, p.Subject, &in.Values), KeyUsage: p.UsageFor(kt),
	}
	for _, o := range p.ExtendedKeyUsage {
		cert.UnknownExtKeyUsage = append(cert.UnknownExtKeyUsage, intOID(t, o.String()))
	}
	if p.Kind.CA() {
		cert.BasicConstraintsValid, cert.IsCA, cert.MaxPathLen, cert.MaxPathLenZero = true, true, p.PathLen, p.PathLen == 0
	}
	if p.Kind == profile.KindAttestation {
		cert.BasicConstraintsValid = true
	}
	if p.SubjectKeyID {
		bits, err := publicKeyBits(in.SPKI)
		if err != nil {
			t.Fatal(err)
		}
		id := keyID(bits)
		cert.SubjectKeyId = id[:]
	}
	base := iss.StatusURL
	if p.OCSP {
		cert.OCSPServer = []string{base + "/ocsp/" + iss.Name}
	}
	if p.CAIssuers {
		cert.IssuingCertificateURL = []string{base + "/ca/" + iss.Name + ".cer"}
	}
	shard := Shard(in.CertSerial, p.CRLShards)
	if p.CRL {
		cert.CRLDistributionPoints = []string{CRLURL(base, iss.Name, shard)}
	}
	cert.Policies = p.Policies
	standardConstraints(cert, p)
	other := standardSAN(t, cert, p, &in.Values)
	if other != nil {
		// With other-names crypto/x509 puts the extension at the end, so what
		// follows it has to be given in the same way.
		cert.ExtraExtensions = append(cert.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: len(p.Subject) == 0, Value: other})
		cert.ExtraExtensions = append(cert.ExtraExtensions, following(t, cert)...)
	}
	if p.NoCheck {
		cert.ExtraExtensions = append(cert.ExtraExtensions, pkix.Extension{Id: intOID(t, "1.3.6.1.5.5.7.48.1.5"), Value: []byte{5, 0}})
	}
	for _, e := range p.Extensions {
		cert.ExtraExtensions = append(cert.ExtraExtensions, pkix.Extension{Id: intOID(t, e.OID.String()), Value: e.Value})
	}
	return cert
}

// following has crypto/x509 itself write the extensions that come after the
// alternative name.
func following(t *testing.T, cert *x509.Certificate) []pkix.Extension {
	key := testKey(t, profile.P256)
	only := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, RawSubject: cert.RawSubject,
		Policies: cert.Policies, CRLDistributionPoints: cert.CRLDistributionPoints,
	}
	der, err := x509.CreateCertificate(rand.Reader, only, only, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert.Policies, cert.CRLDistributionPoints = nil, nil
	return parseCertificate(t, der).Extensions
}

func standardConstraints(cert *x509.Certificate, p *profile.Profile) {
	c := p.NameConstraints
	if c == nil {
		return
	}
	cert.PermittedDNSDomainsCritical = true
	cert.PermittedDNSDomains, cert.ExcludedDNSDomains = c.Permitted.DNS, c.Excluded.DNS
	cert.PermittedEmailAddresses, cert.ExcludedEmailAddresses = c.Permitted.Email, c.Excluded.Email
	cert.PermittedURIDomains, cert.ExcludedURIDomains = c.Permitted.URI, c.Excluded.URI
	for _, x := range c.Permitted.IP {
		_, n, _ := net.ParseCIDR(x.String())
		cert.PermittedIPRanges = append(cert.PermittedIPRanges, n)
	}
	for _, x := range c.Excluded.IP {
		_, n, _ := net.ParseCIDR(x.String())
		cert.ExcludedIPRanges = append(cert.ExcludedIPRanges, n)
	}
}

func standardValue(v profile.Value, values *profile.Values) string {
	if v.From == "" {
		return v.Fixed
	}
	s := values.Get(v.From)
	if s == "" && v.Or != "" {
		s = values.Get(v.Or)
	}
	if s == "" {
		return ""
	}
	return v.Prefix + s + v.Suffix
}

func standardName(t *testing.T, fields []profile.NameField, values *profile.Values) []byte {
	rdns := pkix.RDNSequence{}
	for _, f := range fields {
		s := standardValue(f.Value, values)
		if s == "" {
			continue
		}
		var v any = s
		if f.Attribute.Name == "domainComponent" {
			v = asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(s)}
		}
		if strings.HasPrefix(f.Attribute.Name, "tpm") {
			v = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(s)}
		}
		rdns = append(rdns, pkix.RelativeDistinguishedNameSET{{Type: intOID(t, f.Attribute.OID.String()), Value: v}})
	}
	return marshal(t, rdns)
}

// standardSAN fills the fields that crypto/x509 has; if other kinds of names are
// there too it returns the extension's value instead.
func standardSAN(t *testing.T, cert *x509.Certificate, p *profile.Profile, values *profile.Values) []byte {
	var raw []asn1.RawValue
	other := false
	for _, n := range p.AltNames {
		s := standardValue(n.Value, values)
		switch {
		case n.Value.From == profile.FromHosts:
			for _, h := range values.Hosts {
				ip := net.ParseIP(h)
				if ip == nil && n.Type == profile.AltDNS {
					cert.DNSNames = append(cert.DNSNames, h)
					raw = append(raw, asn1.RawValue{Class: 2, Tag: 2, Bytes: []byte(h)})
				}
				if ip != nil && n.Type == profile.AltIP {
					if four := ip.To4(); four != nil {
						ip = four
					}
					cert.IPAddresses = append(cert.IPAddresses, ip)
					raw = append(raw, asn1.RawValue{Class: 2, Tag: 7, Bytes: ip})
				}
			}
		case n.Type == profile.AltDirectoryName:
			other = true
			raw = append(raw, asn1.RawValue{Class: 2, Tag: 4, IsCompound: true, Bytes: standardName(t, n.Directory, values)})
		case s == "":
		case n.Type == profile.AltEmail:
			cert.EmailAddresses = append(cert.EmailAddresses, s)
			raw = append(raw, asn1.RawValue{Class: 2, Tag: 1, Bytes: []byte(s)})
		case n.Type == profile.AltDNS:
			raw = append(raw, asn1.RawValue{Class: 2, Tag: 2, Bytes: []byte(s)})
			other = true
		case n.Type == profile.AltURI:
			raw = append(raw, asn1.RawValue{Class: 2, Tag: 6, Bytes: []byte(s)})
			other = true
		case n.Type == profile.AltIP:
			raw = append(raw, asn1.RawValue{Class: 2, Tag: 7, Bytes: net.ParseIP(s).To4()})
			other = true
		default:
			other = true
			raw = append(raw, asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: standardOther(t, n, s)})
		}
	}
	if !other {
		return nil
	}
	cert.DNSNames, cert.IPAddresses, cert.EmailAddresses = nil, nil, nil
	return marshal(t, raw)
}

func standardOther(t *testing.T, n profile.AltName, s string) []byte {
	var value []byte
	id := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4}
	if n.Type == profile.AltHardwareModuleName {
		octets := []byte(s)
		if n.Hex {
			octets, _ = hex.DecodeString(s)
		}
		value = marshal(t, struct {
			Type   asn1.ObjectIdentifier
			Serial []byte
		}{intOID(t, n.OID.String()), octets})
	} else {
		id[8] = 3
		if n.HasOID {
			value = marshal(t, struct {
				Value    string `asn1:"utf8"`
				Assigner asn1.ObjectIdentifier
			}{s, intOID(t, n.OID.String())})
		} else {
			value = marshal(t, struct {
				Value string `asn1:"utf8"`
			}{s})
		}
	}
	return append(marshal(t, id), marshal(t, asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: value})...)
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func intOID(t *testing.T, s string) asn1.ObjectIdentifier {
	t.Helper()
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(s, ".") {
		n, ok := new(big.Int).SetString(part, 10)
		if !ok || !n.IsInt64() {
			t.Fatalf("OID %s", s)
		}
		oid = append(oid, int(n.Int64()))
	}
	return oid
}

// everything uses each kind of field that the presets leave out.
const everything = `
name: everything
kind: ldevid
purpose: test
keys: [p256, p384, ed25519, rsa2048, rsa3072, rsa4096]
validity: {years: 100, shorten: true}
subject:
  - {attribute: countryName, value: DE}
  - {attribute: domainComponent, value: example}
  - {attribute: organizationName, value: "Ümläut & Söhne"}
  - {attribute: organizationalUnitName, value: "A*B"}
  - {attribute: 1.3.6.1.4.1.37244.2.1, value: FFF1}
  - {attribute: commonName, from: deviceSerial, prefix: "urn:", suffix: ";x"}
  - {attribute: title, from: product}
subjectAltName:
  - {type: uniformResourceIdentifier, from: uri}
  - {type: dNSName, value: "*.example.com"}
  - {type: iPAddress, value: 10.1.2.3}
  - {type: rfc822Name, value: a@example.com}
  - {type: hardwareModuleName, hardwareType: 1.3.6.1.4.1.32473.7, from: hardwareSerial, hex: true}
  - {type: permanentIdentifier, from: deviceId, assigner: 1.3.6.1.4.1.32473.8}
  - {type: permanentIdentifier, from: deviceSerial}
  - {type: directoryName, directory: [{attribute: commonName, from: deviceSerial}, {attribute: organizationName, value: X}]}
keyUsage: [digitalSignature, nonRepudiation]
extendedKeyUsage: [clientAuth, 1.3.6.1.4.1.45605.1]
policies: [2.5.29.32.0, 1.3.6.1.4.1.40732.1.1]
crlShards: 256
extensions: [{oid: 1.3.6.1.4.1.32473.9, hex: "0403010203"}]
`

const constrained = `
name: constrained
kind: issuing
issuer: root
keys: [p256, rsa2048]
validity: {days: 3650}
subject: [{attribute: commonName, from: commonName}]
keyUsage: [keyCertSign, cRLSign, digitalSignature]
pathLen: 3
nameConstraints:
  permitted: {dns: [example.com], ip: [10.0.0.0/8, "2001:db8::/32"], email: [example.com], uri: [.example.com]}
  excluded: {dns: [bad.example.com], ip: [10.9.0.0/16]}
policies: [1.3.6.1.4.1.32473.5]
`

const nameless = `
name: nameless
kind: ldevid
purpose: test
keys: [p256]
validity: {hours: 24}
subject: []
subjectAltName: [{type: dNSName, from: hosts}]
keyUsage: [digitalSignature, keyAgreement]
subjectKeyIdentifier: false
status: {ocsp: false, caIssuers: false, crl: false}
`
