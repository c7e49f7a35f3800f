package request

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// signers returns a key of each type that devices may have, made once.
func signers(t testing.TB) map[profile.KeyType]crypto.Signer {
	t.Helper()
	keys, err := allSigners()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

var allSigners = sync.OnceValues(func() (map[profile.KeyType]crypto.Signer, error) {
	keys := map[profile.KeyType]crypto.Signer{}
	var errs [6]error
	keys[profile.P256], errs[0] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	keys[profile.P384], errs[1] = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, keys[profile.Ed25519], errs[2] = ed25519.GenerateKey(rand.Reader)
	keys[profile.RSA2048], errs[3] = rsa.GenerateKey(rand.Reader, 2048)
	if !testing.Short() {
		keys[profile.RSA3072], errs[4] = rsa.GenerateKey(rand.Reader, 3072)
		keys[profile.RSA4096], errs[5] = rsa.GenerateKey(rand.Reader, 4096)
	}
	return keys, errors.Join(errs[:]...)
})

var fullTemplate = x509.CertificateRequest{
	Subject: pkix.Name{
		Country: []string{"DE"}, Organization: []string{"Acme GmbH & Co. KG"},
		OrganizationalUnit: []string{"Gerätebau"}, CommonName: "sensor-0042", SerialNumber: "SN_0042",
	},
	DNSNames:       []string{"sensor-0042.example.com", "*.example.com", "_x.example"},
	EmailAddresses: []string{"ops@example.com"},
	IPAddresses:    []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")},
	URIs:           []*url.URL{{Scheme: "urn", Opaque: "dev:ops:1"}, {Scheme: "https", Host: "[2001:db8::1]:8443", Path: "/d"}},
}

func TestParseAcceptsEveryKeyTypeAndAlgorithm(t *testing.T) {
	algorithms := map[profile.KeyType][]x509.SignatureAlgorithm{
		profile.P256:    {0, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512},
		profile.P384:    {0, x509.ECDSAWithSHA256, x509.ECDSAWithSHA512},
		profile.Ed25519: {x509.PureEd25519},
		profile.RSA2048: {
			0, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
			x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		},
	}
	for kind, key := range signers(t) {
		for _, algorithm := range append(algorithms[kind], x509.UnknownSignatureAlgorithm) {
			template := fullTemplate
			template.SignatureAlgorithm = algorithm
			der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(der)
			if err != nil {
				t.Errorf("%s with %s: %v", kind, algorithm, err)
				continue
			}
			compareWithX509(t, got, der)
			if got.KeyType != kind {
				t.Errorf("key type %s, want %s", got.KeyType, kind)
			}
		}
	}
}

// compareWithX509 holds a request against what crypto/x509 reads in it.
func compareWithX509(t testing.TB, got *Request, der []byte) {
	t.Helper()
	want, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatalf("crypto/x509 refuses what passed: %v", err)
	}
	if err := want.CheckSignature(); err != nil {
		t.Fatalf("crypto/x509 refuses the signature of what passed: %v", err)
	}
	if got.SPKIDigest != sha256.Sum256(got.SPKI) {
		t.Error("digest of the SPKI differs")
	}
	compareStructure(t, got, der)
}

// compareStructure holds everything but the signature against crypto/x509.
func compareStructure(t testing.TB, got *Request, der []byte) {
	t.Helper()
	want, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatalf("crypto/x509 refuses what passed: %v", err)
	}
	if k, ok := got.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(want.PublicKey) {
		t.Errorf("public key %v, want %v", got.PublicKey, want.PublicKey)
	}
	if !bytes.Equal(got.SPKI, want.RawSubjectPublicKeyInfo) {
		t.Error("SPKI differs")
	}
	if !bytes.Equal(got.Subject, want.RawSubject) {
		t.Error("subject differs")
	}
	var san []byte
	for _, e := range want.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			san = e.Value
		}
	}
	if !bytes.Equal(got.SAN, san) {
		t.Errorf("SAN %x, want %x", got.SAN, san)
	}
}

func TestParseReadsChallengePassword(t *testing.T) {
	for _, tag := range []cbasn1.Tag{cbasn1.UTF8String, cbasn1.PrintableString, cbasn1.IA5String} {
		der := draft{attributes: attribute(oidChallengePassword, element(tag, []byte("s3cret+Word=")))}.sign(t, p256Key(t))
		got, err := Parse(der)
		if err != nil {
			t.Fatal(err)
		}
		if got.Challenge != "s3cret+Word=" {
			t.Errorf("challenge %q", got.Challenge)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	challenge := attribute(oidChallengePassword, element(cbasn1.UTF8String, []byte("one")))
	keyUsage := extension(prefixCE+"\x0f", []byte{3, 2, 7, 0x80})
	unstructured := func(last byte) []byte {
		return attribute("\x2a\x03"+string([]byte{last}), element(cbasn1.UTF8String, []byte("x")))
	}
	var many []byte
	for i := range byte(MaxAttributes + 1) {
		many = append(many, unstructured(i)...)
	}
	var manyExtensions [][]byte
	for i := range byte(MaxExtensions + 1) {
		manyExtensions = append(manyExtensions, extension("\x2a\x03"+string([]byte{i}), []byte{5, 0}))
	}
	explicitFalse := element(cbasn1.SEQUENCE, oidElement(prefixCE+"\x0f"), element(cbasn1.BOOLEAN, []byte{0}),
		element(cbasn1.OCTET_STRING, []byte{3, 2, 7, 0x80}))
	oddTrue := element(cbasn1.SEQUENCE, oidElement(prefixCE+"\x0f"), element(cbasn1.BOOLEAN, []byte{1}),
		element(cbasn1.OCTET_STRING, []byte{3, 2, 7, 0x80}))

	for name, c := range map[string]struct {
		draft draft
		want  fault.Code
	}{
		"control":                     {draft{}, 0},
		"16 attributes":               {draft{attributes: many[:len(many)-len(unstructured(0))]}, 0},
		"an unknown attribute":        {draft{attributes: unstructured(1)}, 0},
		"an unknown extension":        {draft{attributes: extensions(extension("\x2a\x03\x04", []byte("raw")))}, 0},
		"not a CA":                    {draft{attributes: extensions(extension(oidBasicConstraints, []byte{0x30, 0}))}, 0},
		"ECDSA with NULL":             {draft{algorithm: []byte("\x06\x08" + oidECDSAWithSHA256 + derNull)}, 0},
		"17 attributes":               {draft{attributes: many}, fault.RequestAttributes},
		"an attribute twice":          {draft{attributes: append(unstructured(1), unstructured(1)...)}, fault.RequestAttributes},
		"challenge twice":             {draft{attributes: append(challenge, challenge...)}, fault.RequestAttributes},
		"two challenge values":        {draft{attributes: attribute(oidChallengePassword, element(cbasn1.UTF8String, []byte("a")), element(cbasn1.UTF8String, []byte("b")))}, fault.RequestAttributes},
		"long challenge":              {draft{attributes: attribute(oidChallengePassword, element(cbasn1.UTF8String, bytes.Repeat([]byte("a"), 256)))}, fault.RequestAttributes},
		"empty challenge":             {draft{attributes: attribute(oidChallengePassword, element(cbasn1.UTF8String))}, fault.RequestAttributes},
		"challenge with NUL":          {draft{attributes: attribute(oidChallengePassword, element(cbasn1.UTF8String, []byte("a\x00b")))}, fault.RequestAttributes},
		"attribute without a value":   {draft{attributes: attribute("\x2a\x03\x04")}, fault.RequestAttributes},
		"attribute of wrong shape":    {draft{attributes: element(cbasn1.SET, oidElement("\x2a\x03"))}, fault.RequestMalformed},
		"attribute OID not minimal":   {draft{attributes: attribute("\x2a\x80\x03", []byte{5, 0})}, fault.RequestMalformed},
		"attribute OID cut short":     {draft{attributes: attribute("\x2a\x83", []byte{5, 0})}, fault.RequestMalformed},
		"attribute OID arc of 2^31":   {draft{attributes: attribute("\x2a\x88\x80\x80\x80\x00", []byte{5, 0})}, fault.RequestMalformed},
		"two extensionRequests":       {draft{attributes: append(extensions(keyUsage), extensions(keyUsage)...)}, fault.RequestAttributes},
		"two lists in one":            {draft{attributes: attribute(oidExtensionRequest, element(cbasn1.SEQUENCE, keyUsage), element(cbasn1.SEQUENCE, keyUsage))}, fault.RequestMalformed},
		"Microsoft's extension place": {draft{attributes: attribute(oidMicrosoftExtensions, element(cbasn1.SEQUENCE, keyUsage))}, fault.ExtensionRefused},
		"no extensions":               {draft{attributes: extensions()}, fault.ExtensionRefused},
		"33 extensions":               {draft{attributes: extensions(manyExtensions...)}, fault.ExtensionRefused},
		"an extension twice":          {draft{attributes: extensions(keyUsage, keyUsage)}, fault.ExtensionRefused},
		"an unknown extension twice":  {draft{attributes: extensions(manyExtensions[0], manyExtensions[0])}, fault.ExtensionRefused},
		"critical FALSE written":      {draft{attributes: extensions(explicitFalse)}, fault.RequestMalformed},
		"critical TRUE as 1":          {draft{attributes: extensions(oddTrue)}, fault.RequestMalformed},
		"empty EKU":                   {draft{attributes: extensions(extension(prefixCE+"\x25", []byte{0x30, 0}))}, fault.ExtensionRefused},
		"empty AIA":                   {draft{attributes: extensions(extension(prefixPE+"\x01", []byte{0x30, 0}))}, fault.ExtensionRefused},
		"EKU with a tail":             {draft{attributes: extensions(extension(prefixCE+"\x25", []byte{0x30, 2, 6, 0, 0}))}, fault.ExtensionRefused},
		"version 1":                   {draft{version: []byte{1}}, fault.RequestVersion},
		"version 00 00":               {draft{version: []byte{0, 0}}, fault.RequestVersion},
		"version -1":                  {draft{version: []byte{0xff}}, fault.RequestVersion},
		"subject not a Name":          {draft{subject: element(cbasn1.SET)}, fault.RequestMalformed},
		"key not a SEQUENCE":          {draft{spki: []byte{5, 0}}, fault.RequestMalformed},
		"unused bits":                 {draft{unused: 1}, fault.RequestMalformed},
		"no signature":                {draft{signature: []byte{}}, fault.ProofOfPossession},
		"signature of zeros":          {draft{signature: []byte{0x30, 6, 2, 1, 0, 2, 1, 0}}, fault.ProofOfPossession},
		"RSA's algorithm":             {draft{algorithm: []byte("\x06\x09" + oidSHA256WithRSA + derNull)}, fault.ProofOfPossession},
		"Ed25519's algorithm":         {draft{algorithm: []byte("\x06\x03" + oidEd25519)}, fault.ProofOfPossession},
		"another hash":                {draft{algorithm: []byte("\x06\x08" + oidECDSAWithSHA384)}, fault.ProofOfPossession},
		"ECDSA with SHA-1":            {draft{algorithm: []byte("\x06\x07\x2a\x86\x48\xce\x3d\x04\x01")}, fault.SignatureAlgorithm},
		"ECDSA with parameters":       {draft{algorithm: []byte("\x06\x08" + oidECDSAWithSHA256 + "\x02\x01\x00")}, fault.SignatureAlgorithm},
		"PSS without parameters":      {draft{algorithm: []byte("\x06\x09" + oidRSAPSS)}, fault.SignatureAlgorithm},
		"no algorithm":                {draft{algorithm: []byte{}}, fault.SignatureAlgorithm},
	} {
		_, err := Parse(c.draft.sign(t, p256Key(t)))
		if c.want == 0 && err != nil || c.want != 0 && !fault.Has(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestParseRefusesEd25519WithParameters(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := draft{algorithm: []byte("\x06\x03" + oidEd25519 + derNull)}.sign(t, key)
	if _, err := Parse(der); !fault.Has(err, fault.SignatureAlgorithm) {
		t.Errorf("%v", err)
	}
}

func TestParseRefusesAnotherKeysSignature(t *testing.T) {
	der := draft{spki: spkiOf(t, p256Key(t).Public())}.sign(t, p256Key(t))
	if _, err := Parse(der); !fault.Has(err, fault.ProofOfPossession) {
		t.Errorf("%v", err)
	}
}

func TestParseRefusesEveryChange(t *testing.T) {
	key := p256Key(t)
	der := draft{attributes: altNames(element(tagDNS, []byte("a.example")))}.sign(t, key)
	for i := range der {
		for bit := range 8 {
			changed := bytes.Clone(der)
			changed[i] ^= 1 << bit
			got, err := Parse(changed)
			if err != nil {
				if !ofThisBlock(err) {
					t.Fatalf("octet %d, bit %d: %v", i, bit, err)
				}
				continue
			}
			t.Errorf("octet %d, bit %d: passed as %+v", i, bit, got)
		}
	}
	for i := range der {
		if _, err := Parse(der[:i]); err == nil {
			t.Errorf("passed when cut to %d octets", i)
		}
		if _, err := Parse(append(bytes.Clone(der), der[:i+1]...)); !fault.Has(err, fault.RequestMalformed) {
			t.Errorf("with a tail: %v", err)
		}
	}
}

func TestParseSizeLimit(t *testing.T) {
	for size, want := range map[int]bool{MaxSize: true, MaxSize + 1: false} {
		padding := size - len(draft{attributes: attribute("\x2a\x03\x04", element(cbasn1.OCTET_STRING, make([]byte, 15000)))}.sign(t, fixedLength{p256Key(t)})) + 15000
		der := draft{attributes: attribute("\x2a\x03\x04", element(cbasn1.OCTET_STRING, make([]byte, padding)))}.sign(t, fixedLength{p256Key(t)})
		if len(der) != size {
			t.Fatalf("%d octets, want %d", len(der), size)
		}
		_, err := Parse(der)
		if want && err != nil || !want && !fault.Has(err, fault.RequestTooLarge) {
			t.Errorf("%d octets: %v", size, err)
		}
	}
}

func TestParseReadsOpenSSLRequests(t *testing.T) {
	openssl := needs.OpenSSL(t)
	dir := t.TempDir()
	for name, args := range map[string]string{
		"p256":    "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
		"p384":    "-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384",
		"ed25519": "-newkey ed25519",
		"rsa2048": "-newkey rsa:2048",
		"rsa3072": "-newkey rsa:3072 -sha512 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest",
	} {
		out := filepath.Join(dir, name)
		command := strings.Fields("req -new -nodes -keyout " + out + ".key -out " + out + ".csr " + args)
		command = append(command, "-subj", "/C=DE/O=Acme/CN=sensor 42/serialNumber=SN-42+OU=Line 1",
			"-addext", "subjectAltName=DNS:a.example.com,IP:192.0.2.7,URI:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6,otherName:1.2.3;UTF8:x",
			"-addext", "basicConstraints=CA:FALSE", "-addext", "keyUsage=critical,digitalSignature")
		if text, err := exec.CommandContext(t.Context(), openssl, command...).CombinedOutput(); err != nil {
			t.Fatalf("openssl: %v: %s", err, text)
		}
		der, err := Decode(readFile(t, out+".csr"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(der)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		compareWithX509(t, got, der)
		if string(got.KeyType) != name {
			t.Errorf("%s: key type %s", name, got.KeyType)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	der := draft{attributes: altNames(element(tagDNS, []byte("a.example")))}.sign(b, p256Key(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(der); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParseWithoutSignature is what the gate costs besides the proof of
// possession: everything up to it, which a bad signature algorithm ends.
func BenchmarkParseWithoutSignature(b *testing.B) {
	der := draft{
		attributes: altNames(element(tagDNS, []byte("a.example"))),
		algorithm:  []byte("\x06\x07\x2a\x86\x48\xce\x3d\x04\x01"),
	}.sign(b, p256Key(b))
	b.ReportAllocs()
	for b.Loop() {
		sig, info, err := split(der)
		if err != nil {
			b.Fatal(err)
		}
		r := new(Request)
		if err := r.readInfo(info); err != nil {
			b.Fatal(err)
		}
		if r.PublicKey, r.KeyType, err = parseKey(r.SPKI); err != nil {
			b.Fatal(err)
		}
		sig.method()
		r.SPKIDigest = sha256.Sum256(r.SPKI)
	}
}

func BenchmarkParseRSA(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	der := draft{}.sign(b, key)
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			if _, err := Parse(der); err != nil {
				b.Fatal(err)
			}
		}
	})
	spki := spkiOf(b, key.Public())
	b.Run("before the signature", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := parseKey(spki); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkVerifyP256(b *testing.B) {
	key := p256Key(b)
	digest := sha256.Sum256([]byte("x"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig)
	}
}
