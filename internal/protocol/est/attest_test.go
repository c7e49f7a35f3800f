package est_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/cms"
	"github.com/birthmark/birthmark/internal/protocol/est"
	"github.com/birthmark/birthmark/internal/web/server"
)

// field is a world that trusts a TPM maker and has a product whose keys live in
// TPMs.
type field struct {
	*world
	maker *tpmtest.Maker
}

func newField(t *testing.T) *field {
	t.Helper()
	f := &field{world: newWorld(t, server.DefaultLimits())}
	f.maker = tpmtest.NewMaker(t, "Test TPMs", tpmtest.MakerOptions{Now: f.Now()})
	bundle := tpmtest.Bundle(1, f.maker)
	content, err := json.Marshal(bundle)
	must(t, err)
	_, err = f.Store.AddRoots(t.Context(), attest.Roots{
		Name: bundle.Name, Version: bundle.Version, Content: content, Digest: sha256.Sum256(content), Signer: []byte("signer"),
		ImportedBy: "system", ImportedAt: f.Now(),
	}, ledger.Entry{Kind: ledger.RootsImported, At: f.Now(), Actor: "system", Body: ledger.JSON(struct{}{})})
	must(t, err)
	f.Product(t, "gateway", "ldevid-tpm", "attestation-key")
	must(t, f.Authority.SetLabel(t.Context(), "system", authority.Label{Name: "ak", Profile: "attestation-key"}))
	_, err = f.Authority.Refresh(t.Context())
	must(t, err)
	return f
}

// tpmDevice is a device with a TPM; once it has a certificate, it shows that.
type tpmDevice struct {
	*tpmtest.TPM
	deviceSerial string
	ak, key      *tpmtest.Key
	who          enroll.Requester
	akCert       []byte
}

// enrolled has certificates for its key and its attestation key.
func (f *field) enrolled(t *testing.T, deviceSerial string) *tpmDevice {
	t.Helper()
	x := tpmtest.New(t, f.maker, tpmtest.Options{})
	d := &tpmDevice{TPM: x, deviceSerial: deviceSerial, ak: x.NewAK(tpm.ECP256), key: x.NewSubject(tpm.ECP256)}
	added := f.Device(t, "gateway", deviceSerial)
	d.who = enroll.Requester{DeviceSerial: deviceSerial, Secret: []byte(added.Secret)}
	first := f.issue(t, d, "", d.key)
	leaf, err := x509.ParseCertificate(first)
	must(t, err)
	d.who = enroll.Requester{Chain: []*x509.Certificate{leaf}}
	f.certs[deviceSerial] = &tls.Certificate{Certificate: [][]byte{first}, PrivateKey: d.key.Signer, Leaf: leaf}
	d.akCert = f.issue(t, d, "ak", nil)
	return d
}

// issue answers a challenge; without subject the certificate is for the AK.
func (f *field) issue(t *testing.T, d *tpmDevice, label string, subject *tpmtest.Key) []byte {
	t.Helper()
	c, err := f.Enroller.Challenge(t.Context(), enroll.ChallengeRequest{Requester: d.who, Label: label, Claim: d.Claim(d.ak)})
	must(t, err)
	return f.answer(t, d, label, subject, c)
}

func (f *field) answer(t *testing.T, d *tpmDevice, label string, subject *tpmtest.Key, c *tpm.Challenge) []byte {
	t.Helper()
	a, err := d.Answer(d.ak, subject, c)
	must(t, err)
	r := enroll.Request{Operation: enroll.Enroll, Requester: d.who, Label: label, TPM: &a}
	if subject != nil {
		r.CSR = subject.CSR(t, &x509.CertificateRequest{})
	}
	made, err := f.Enroller.Enroll(t.Context(), r)
	must(t, err)
	return made.Credential.DER
}

// nonce asks for a nonce.
func (c *client) nonce(t *testing.T) []byte {
	t.Helper()
	status, header, body := c.do(t, http.MethodGet, "nonce", "", nil)
	if status != http.StatusOK || header.Get("Content-Type") != "application/est-attestation-freshness+json" || header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s", status, header, body)
	}
	var got struct {
		Nonce  string
		Expiry int
	}
	must(t, json.Unmarshal([]byte(body), &got))
	nonce, err := base64.RawURLEncoding.DecodeString(got.Nonce)
	must(t, err)
	if len(nonce) != 32 || got.Expiry < 590 || got.Expiry > 600 {
		t.Fatalf("a nonce of %d octets for %d seconds", len(nonce), got.Expiry)
	}
	return nonce
}

func (c *client) do(t *testing.T, method, operation, contentType string, body []byte) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, c.base+operation, bytes.NewReader(body))
	must(t, err)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(r)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, resp.Header, string(text)
}

// attested returns a request for a key of the device with an attestation attribute.
func attested(t *testing.T, d *tpmDevice, key *tpmtest.Key, bundle []byte) []byte {
	t.Helper()
	var info cryptobyte.Builder
	info.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddBytes(d.who.Chain[0].RawSubject)
		b.AddBytes(key.SPKI())
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(tpm.OIDAttestation)
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(bundle) })
			})
		})
	})
	message := info.BytesOrPanic()
	digest := sha256.Sum256(message)
	signature, err := key.Signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	must(t, err)
	var csr cryptobyte.Builder
	csr.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(message)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier([]int{1, 2, 840, 10045, 4, 3, 2}) // ecdsa-with-SHA256
		})
		b.AddASN1BitString(signature)
	})
	return csr.BytesOrPanic()
}

// bundle is the evidence that the device's AK makes for a key under a nonce.
func (d *tpmDevice) bundle(key *tpmtest.Key, nonce []byte) *tpm.Bundle {
	b := &tpm.Bundle{Public: key.Public(), Certificates: [][]byte{d.akCert}}
	b.Attest, b.Signature = d.Certify(d.ak, key, nonce)
	return b
}

func marshal(t *testing.T, b *tpm.Bundle) []byte {
	t.Helper()
	der, err := b.Marshal()
	must(t, err)
	return der
}

func TestAttestationAttribute(t *testing.T) {
	f := newField(t)
	d := f.enrolled(t, "GW-1")
	c := f.client(t, "GW-1")
	key := d.NewSubject(tpm.ECP256)
	csr := attested(t, d, key, marshal(t, d.bundle(key, c.nonce(t))))
	status, body := c.post(t, "simplereenroll", "", "", based(csr))
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	der, err := base64.StdEncoding.DecodeString(body)
	must(t, err)
	certs, err := cms.ParseCertsOnly(der)
	must(t, err)
	leaf, err := x509.ParseCertificate(certs[0])
	must(t, err)
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, key.SPKI()) {
		t.Error("the certificate is for another key")
	}
	row, err := f.Store.CredentialBySerial(t.Context(), access.Everything(), leaf.SerialNumber.Bytes())
	must(t, err)
	kept, err := f.Store.Evidence(t.Context(), access.Everything(), row.ID)
	must(t, err)
	if kept.Claims != attest.KeyInChip|attest.Fresh|attest.Genuine {
		t.Errorf("claims %s", kept.Claims)
	}
	// The same request again gets the same certificate.
	if status, again := c.post(t, "simplereenroll", "", "", based(csr)); status != http.StatusOK || again != body {
		t.Errorf("again: %d %s", status, again)
	}
}

func TestAttestationAttributesRefused(t *testing.T) {
	f := newField(t)
	d, other := f.enrolled(t, "GW-1"), f.enrolled(t, "GW-2")
	c := f.client(t, "GW-1")
	used := c.nonce(t)
	key := d.NewSubject(tpm.ECP256)
	if status, body := c.post(t, "simplereenroll", "", "", based(attested(t, d, key, marshal(t, d.bundle(key, used))))); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	for name, tt := range map[string]struct {
		make func(key *tpmtest.Key) []byte
		want string
	}{
		"no evidence":           {func(key *tpmtest.Key) []byte { return nil }, "BM-9001"},
		"a nonce that was used": {func(key *tpmtest.Key) []byte { return marshal(t, d.bundle(key, used)) }, "BM-9062"},
		"a nonce of nobody":     {func(key *tpmtest.Key) []byte { return marshal(t, d.bundle(key, make([]byte, 32))) }, "BM-9062"},
		"no nonce":              {func(key *tpmtest.Key) []byte { return marshal(t, d.bundle(key, nil)) }, "BM-9062"},
		"about another key":     {func(*tpmtest.Key) []byte { return marshal(t, d.bundle(d.key, c.nonce(t))) }, "BM-9046"},
		"the AK of another":     {func(key *tpmtest.Key) []byte { return marshal(t, other.bundle(key, c.nonce(t))) }, "BM-9061"},
		"an old bundle":         {func(*tpmtest.Key) []byte { return []byte{0x30, 4, 0x30, 2, 0x30, 0} }, "BM-9003"},
		"no statement of a TPM": {func(*tpmtest.Key) []byte { return []byte{0x30, 2, 0x30, 0} }, "BM-9003"},
		"without the key's area": {func(key *tpmtest.Key) []byte {
			b := d.bundle(key, c.nonce(t))
			b.Public = nil
			return marshal(t, b)
		}, "BM-9003"},
		"signed by another AK": {func(key *tpmtest.Key) []byte {
			b := d.bundle(key, c.nonce(t))
			b.Attest, b.Signature = d.Certify(d.NewAK(tpm.ECP256), key, c.nonce(t))
			return marshal(t, b)
		}, "BM-9042"},
	} {
		t.Run(name, func(t *testing.T) {
			key := d.NewSubject(tpm.ECP256)
			csr := key.CSR(t, &x509.CertificateRequest{RawSubject: d.who.Chain[0].RawSubject})
			if bundle := tt.make(key); bundle != nil {
				csr = attested(t, d, key, bundle)
			}
			status, body := c.post(t, "simplereenroll", "", "", based(csr))
			if status/100 != 4 || !strings.HasPrefix(body, tt.want) {
				t.Errorf("%d %s, want %s", status, body, tt.want)
			}
		})
	}
}

func TestNonces(t *testing.T) {
	f := newField(t)
	f.enrolled(t, "GW-1")
	c := f.client(t, "GW-1")
	if bytes.Equal(c.nonce(t), c.nonce(t)) {
		t.Error("one nonce twice")
	}
	const media = "application/est-attestation-freshness+json"
	for name, tt := range map[string]struct {
		contentType, body string
		status            int
		want              string
	}{
		"of the length that we have":    {media, `{"len":32}`, 200, `{"nonce":"`},
		"of a type that we do not know": {media + "; charset=utf-8", `{"type":"1.2.3","reqInfo":{"pcr-index":[0]}}`, 200, `{"nonce":"`},
		"of another length":             {media, `{"len":8}`, 400, "BM-5033"},
		"no JSON":                       {media, `len=32`, 400, "BM-5033"},
		"a list, as in older drafts":    {media, `[{"len":32}]`, 400, "BM-5033"},
		"of another media type":         {"application/json", `{}`, 415, "BM-1004"},
		"too long":                      {media, `{"type":"` + strings.Repeat("1", 5000) + `"}`, 413, "BM-1002"},
	} {
		status, _, body := c.do(t, http.MethodPost, "nonce", tt.contentType, []byte(tt.body))
		if status != tt.status || !strings.HasPrefix(body, tt.want) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, _, body := f.client(t, "").do(t, http.MethodGet, "nonce", "", nil); status != http.StatusUnauthorized {
		t.Errorf("a stranger: %d %s", status, body)
	}
}

// tcgCSR is what a device of the TCG's document sends: the IAK and the IDevID key
// that it certified.
func (d *tpmDevice) tcgCSR(t *testing.T, edit func(*tpm.CSRIDevID)) []byte {
	t.Helper()
	c := &tpm.CSRIDevID{
		HashAlg: tpm.AlgSHA256, Model: []byte("gateway"), DeviceSerial: []byte(d.deviceSerial), EKCertificate: d.EKCertificate,
		CAData: bytes.Join(d.EKChain, nil), AttestPublic: d.ak.Public(), SigningPublic: d.key.Public(),
	}
	c.SigningCertify, c.SigningCertifySign = d.Certify(d.ak, d.key, nil)
	if edit != nil {
		edit(c)
	}
	b, err := c.Build(func(content []byte) ([]byte, error) {
		digest := sha256.Sum256(content)
		return d.key.Signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	})
	must(t, err)
	return b
}

func TestTCGCSRLeadsToBothCertificates(t *testing.T) {
	f := newField(t)
	x := tpmtest.New(t, f.maker, tpmtest.Options{})
	d := &tpmDevice{TPM: x, deviceSerial: "GW-1", ak: x.NewAK(tpm.ECP256), key: x.NewSubject(tpm.ECP256)}
	added := f.Device(t, "gateway", d.deviceSerial)
	d.who = enroll.Requester{DeviceSerial: d.deviceSerial, Secret: []byte(added.Secret)}

	challenge := func(c *client, path string) *tpm.Challenge {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+path, bytes.NewReader(d.tcgCSR(t, nil)))
		must(t, err)
		r.Header.Set("Content-Type", "application/octet-stream")
		if len(d.who.Secret) > 0 {
			r.SetBasicAuth(d.deviceSerial, string(d.who.Secret))
		}
		resp, err := c.http.Do(r)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		out := new(tpm.Challenge)
		must(t, json.Unmarshal(body, out))
		return out
	}
	c := challenge(f.client(t, ""), "tcg-csr")
	a, err := d.Answer(d.ak, d.key, c)
	must(t, err)
	// The same form is the request for the IDevID key.
	made, err := f.Enroller.Enroll(t.Context(), enroll.Request{Operation: enroll.Enroll, Requester: d.who, TPM: &a, CSR: d.tcgCSR(t, nil)})
	must(t, err)
	first := made.Credential.DER
	leaf, err := x509.ParseCertificate(first)
	must(t, err)
	d.who = enroll.Requester{Chain: []*x509.Certificate{leaf}}
	f.certs["GW-1"] = &tls.Certificate{Certificate: [][]byte{first}, PrivateKey: d.key.Signer, Leaf: leaf}
	ak, err := x509.ParseCertificate(f.answer(t, d, "ak", nil, challenge(f.client(t, "GW-1"), "ak/tcg-csr")))
	must(t, err)
	if !bytes.Equal(ak.RawSubjectPublicKeyInfo, d.ak.SPKI()) {
		t.Error("the second certificate is not the IAK's")
	}
}

func TestTCGCSRLDevID(t *testing.T) {
	f := newField(t)
	d := f.enrolled(t, "GW-1")
	c := f.client(t, "GW-1")
	build := func(key, by *tpmtest.Key, nonce []byte) []byte {
		q := &tpm.CSRLDevID{HashAlg: tpm.AlgSHA256, IAKCertificate: d.akCert, Public: key.Public()}
		q.Certify, q.CertifySignature = d.Certify(d.ak, key, nonce)
		b, err := q.Build(func(content []byte) ([]byte, error) { return by.Sign(t, content), nil })
		must(t, err)
		return b
	}
	area := tpmtest.SubjectArea(tpm.ECP256)
	area.Scheme = tpm.Scheme{Alg: tpm.AlgECDSA, Hash: tpm.AlgSHA256} // so that it signs as a TPM does
	newKey := func() *tpmtest.Key { return tpmtest.NewKey(t, d.TPM, area, tpmtest.Owner) }
	key := newKey()
	status, header, body := c.do(t, http.MethodPost, "tcg-csr", est.TCGCSRType, build(key, key, c.nonce(t)))
	if status != http.StatusOK || header.Get("Content-Type") != "application/pkcs7-mime; smime-type=certs-only" {
		t.Fatalf("%d %s", status, body)
	}
	der, err := base64.StdEncoding.DecodeString(body)
	must(t, err)
	certs, err := cms.ParseCertsOnly(der)
	must(t, err)
	leaf, err := x509.ParseCertificate(certs[0])
	must(t, err)
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, key.SPKI()) {
		t.Error("the certificate is for another key")
	}
	key = newKey()
	for name, tt := range map[string]struct {
		body []byte
		want string
	}{
		"signed by another key": {build(key, newKey(), c.nonce(t)), "BM-1010"},
		"without a nonce":       {build(key, key, nil), "BM-9062"},
	} {
		if status, _, body := c.do(t, http.MethodPost, "tcg-csr", est.TCGCSRType, tt.body); status/100 != 4 || !strings.HasPrefix(body, tt.want) {
			t.Errorf("%s: %d %s, want %s", name, status, body, tt.want)
		}
	}
}

func TestTCGCSRRefused(t *testing.T) {
	f := newField(t)
	d := f.enrolled(t, "GW-1")
	c := f.client(t, "GW-1")
	stranger := tpmtest.New(t, tpmtest.NewMaker(t, "Nobody", tpmtest.MakerOptions{Now: f.Now()}), tpmtest.Options{})
	good := d.tcgCSR(t, nil)
	for name, tt := range map[string]struct {
		contentType string
		body        []byte
		want        string
	}{
		"of another media type": {"application/pkcs10", good, "BM-1004"},
		"cut":                   {est.TCGCSRType, good[:len(good)-1], "BM-9003"},
		"a changed signature":   {est.TCGCSRType, append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), "BM-1010"},
		"signed by another key": {est.TCGCSRType, d.tcgCSR(t, func(c *tpm.CSRIDevID) { c.SigningPublic = d.NewSubject(tpm.ECP256).Public() }), "BM-1010"},
		"no public area":        {est.TCGCSRType, d.tcgCSR(t, func(c *tpm.CSRIDevID) { c.SigningPublic = []byte("key") }), "BM-9003"},
		"no EK certificate":     {est.TCGCSRType, d.tcgCSR(t, func(c *tpm.CSRIDevID) { c.EKCertificate = nil }), "BM-9010"},
		"of a maker of nobody":  {est.TCGCSRType, d.tcgCSR(t, func(c *tpm.CSRIDevID) { c.EKCertificate = stranger.EKCertificate }), "BM-9011"},
		"an AK that is none":    {est.TCGCSRType, d.tcgCSR(t, func(c *tpm.CSRIDevID) { c.AttestPublic = d.key.Public() }), "BM-9020"},
	} {
		status, _, body := c.do(t, http.MethodPost, "tcg-csr", tt.contentType, tt.body)
		if status/100 != 4 || !strings.HasPrefix(body, tt.want) {
			t.Errorf("%s: %d %s, want %s", name, status, body, tt.want)
		}
	}
	if status, _, body := f.client(t, "").do(t, http.MethodPost, "tcg-csr", est.TCGCSRType, good); status != http.StatusUnauthorized {
		t.Errorf("a stranger: %d %s", status, body)
	}
	// Nor does a stranger make us check signatures.
	bad := append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1)
	if status, _, body := f.client(t, "").do(t, http.MethodPost, "tcg-csr", est.TCGCSRType, bad); status != http.StatusUnauthorized {
		t.Errorf("a stranger with a changed signature: %d %s", status, body)
	}
}
