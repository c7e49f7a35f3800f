package est_test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/cms"
	"github.com/birthmark/birthmark/internal/protocol/est"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// keyRequest is a request for a key of the server's: another's key fills the
// place, the signature is none. decrypt names the certificate to seal for.
func keyRequest(t *testing.T, subject, decrypt []byte) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(webtest.NewKey(t).Public())
	must(t, err)
	if subject == nil {
		subject = []byte{0x30, 0x00}
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(0)
			b.AddBytes(subject)
			b.AddBytes(spki)
			b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				if decrypt == nil {
					return
				}
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier([]int{1, 2, 840, 113549, 1, 9, 16, 2, 54})
					b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { b.AddASN1OctetString(decrypt) })
				})
			})
		})
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier([]int{1, 2, 840, 10045, 4, 3, 2}) })
		b.AddASN1BitString([]byte("no signature"))
	})
	der, err := b.Bytes()
	must(t, err)
	return based(der)
}

// part is one part of an answer.
type part struct {
	kind    string
	content []byte
}

// askKey posts a request for a key and returns status, parts and, of a refusal,
// the text.
func (w *world) askKey(t *testing.T, label, user, secret string, cert *tls.Certificate, body []byte) (int, []part, string) {
	t.Helper()
	config := &tls.Config{RootCAs: w.roots, ServerName: "localhost"}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	t.Cleanup(client.CloseIdleConnections)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+w.Address+est.Prefix+label+"serverkeygen", bytes.NewReader(body))
	must(t, err)
	r.Header.Set("Content-Type", "application/pkcs10")
	if user != "" {
		r.SetBasicAuth(user, secret)
	}
	resp, err := client.Do(r)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, nil, string(text)
	}
	kind, parameters, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	must(t, err)
	if kind != "multipart/mixed" || resp.Header.Get("Cache-Control") != "no-store" || resp.ContentLength <= 0 {
		t.Errorf("headers %v", resp.Header)
	}
	var parts []part
	for reader := multipart.NewReader(resp.Body, parameters["boundary"]); ; {
		p, err := reader.NextPart()
		if err == io.EOF {
			return resp.StatusCode, parts, ""
		}
		must(t, err)
		text, err := io.ReadAll(p)
		must(t, err)
		if p.Header.Get("Content-Transfer-Encoding") != "base64" {
			t.Errorf("part %v", p.Header)
		}
		content, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
		must(t, err)
		parts = append(parts, part{p.Header.Get("Content-Type"), content})
	}
}

// certificate returns the certificate of an answer and the row on record.
func (w *world) certificate(t *testing.T, parts []part) (*x509.Certificate, device.Credential) {
	t.Helper()
	if len(parts) != 2 || parts[1].kind != "application/pkcs7-mime; smime-type=certs-only" {
		t.Fatalf("%d parts, the last of type %s", len(parts), parts[len(parts)-1].kind)
	}
	certs, err := cms.ParseCertsOnly(parts[1].content)
	must(t, err)
	cert, err := x509.ParseCertificate(certs[0])
	must(t, err)
	row, err := w.Store.CredentialBySerial(t.Context(), access.Everything(), cert.SerialNumber.Bytes())
	must(t, err)
	if row.KeyKind != device.KeyInjected {
		t.Errorf("the key is on record as %s", row.KeyKind)
	}
	return cert, row
}

func ofCertificate(t *testing.T, cert *x509.Certificate, pkcs8 []byte) crypto.Signer {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	must(t, err)
	signer := key.(crypto.Signer)
	if !signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(cert.PublicKey) {
		t.Error("the key is not the certificate's")
	}
	return signer
}

func TestServerKeyGen(t *testing.T) {
	w := newWorld(t, server.DefaultLimits())
	w.Product(t, "keyless", "served")
	d := w.Device(t, "keyless", "K-1")
	status, parts, text := w.askKey(t, "", "K-1", d.Secret, nil, keyRequest(t, nil, nil))
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	if parts[0].kind != "application/pkcs8" {
		t.Errorf("key of type %s", parts[0].kind)
	}
	cert, _ := w.certificate(t, parts)
	key := ofCertificate(t, cert, parts[0].content)
	if cert.Subject.CommonName != "K-1" {
		t.Errorf("certificate of %s", cert.Subject)
	}
	// The secret is spent, and the key is not here any more.
	status, _, text = w.askKey(t, "", "K-1", d.Secret, nil, keyRequest(t, nil, nil))
	if status != http.StatusUnauthorized || !strings.HasPrefix(text, "BM-2012") {
		t.Errorf("a second time: %d %s", status, text)
	}
	// The certificate asks for the next key, with its own subject and no other.
	shown := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	status, _, text = w.askKey(t, "", "", "", shown, keyRequest(t, nil, nil))
	if status != http.StatusForbidden || !strings.HasPrefix(text, "BM-2016") {
		t.Errorf("another subject: %d %s", status, text)
	}
	status, parts, text = w.askKey(t, "", "", "", shown, keyRequest(t, cert.RawSubject, nil))
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	next, row := w.certificate(t, parts)
	ofCertificate(t, next, parts[0].content)
	if row.Previous == 0 || bytes.Equal(next.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) {
		t.Error("no new key")
	}
}

func TestServerKeyGenRefuses(t *testing.T) {
	w := newWorld(t, server.DefaultLimits())
	for product, profile := range map[string]string{"plain": "ldevid-cloud", "sealing": "sealed", "hard": "hardware", "keyless": "served"} {
		w.Product(t, product, profile)
	}
	for name, tt := range map[string]struct {
		product string
		body    []byte
		status  int
		code    string
	}{
		"profile that says nothing": {"plain", keyRequest(t, nil, nil), http.StatusForbidden, "BM-8066"},
		"key in the open":           {"sealing", keyRequest(t, nil, nil), http.StatusForbidden, "BM-8066"},
		"hardware key":              {"hard", keyRequest(t, nil, nil), http.StatusForbidden, "BM-8066"},
		"nobody's certificate":      {"sealing", keyRequest(t, nil, []byte{1, 2, 3}), http.StatusBadRequest, "BM-8068"},
		"nonsense":                  {"keyless", based([]byte{0x30, 0x00}), http.StatusBadRequest, "BM-1"},
	} {
		t.Run(name, func(t *testing.T) {
			serial := strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "'", "")
			d := w.Device(t, tt.product, serial)
			status, _, text := w.askKey(t, "", serial, d.Secret, nil, tt.body)
			if status != tt.status || !strings.HasPrefix(text, tt.code) {
				t.Errorf("%d %s", status, text)
			}
			if n := len(w.credentials(t, serial)); n != 0 {
				t.Errorf("%d certificates on record", n)
			}
		})
	}
	status, _, text := w.askKey(t, "", "plain", "wrong", nil, keyRequest(t, nil, nil))
	if status != http.StatusUnauthorized {
		t.Errorf("a stranger: %d %s", status, text)
	}
}

// A device with an encryption certificate gets its signing key sealed for that.
func TestServerKeyGenSealed(t *testing.T) {
	w := newWorld(t, server.DefaultLimits())
	w.Product(t, "sealing", "ldevid-encryption", "sealed")
	must(t, w.Authority.SetLabel(t.Context(), "system", authority.Label{Name: "sealed", Profile: "sealed"}))
	d := w.Device(t, "sealing", "S-1")
	own := webtest.NewKey(t)
	c := w.client(t, "")
	status, text := c.post(t, "simpleenroll", "S-1", d.Secret, based(webtest.NewCSR(t, own, nil)))
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	der, err := base64.StdEncoding.DecodeString(text)
	must(t, err)
	certs, err := cms.ParseCertsOnly(der)
	must(t, err)
	encryption, err := x509.ParseCertificate(certs[0])
	must(t, err)
	shown := &tls.Certificate{Certificate: [][]byte{encryption.Raw}, PrivateKey: own}
	status, parts, text := w.askKey(t, "sealed/", "", "", shown, keyRequest(t, nil, encryption.SubjectKeyId))
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	if parts[0].kind != "application/pkcs7-mime; smime-type=server-generated-key" {
		t.Errorf("key of type %s", parts[0].kind)
	}
	cert, _ := w.certificate(t, parts)
	signed := opened(t, parts[0].content, encryption, own)
	ofCertificate(t, cert, packaged(t, signed))
}

// opened is what openssl reads of an envelope.
func opened(t *testing.T, sealed []byte, cert *x509.Certificate, key any) []byte {
	t.Helper()
	openssl := needs.OpenSSL(t)
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, content, 0o600))
		return path
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	out := filepath.Join(dir, "out")
	text, err := exec.CommandContext(t.Context(), openssl, "cms", "-decrypt", "-binary", "-inform", "DER", "-in", file("sealed", sealed), "-out", out,
		"-inkey", file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"-recip", file("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	got, err := os.ReadFile(out)
	must(t, err)
	return got
}

// packaged returns the one key of the package that SignedData holds.
func packaged(t *testing.T, signed []byte) []byte {
	t.Helper()
	var data, algorithms, content, kind, wrapped, octets, keys, key cryptobyte.String
	var version int64
	zero := asn1.Tag(0).ContextSpecific().Constructed()
	input := cryptobyte.String(signed)
	if !input.ReadASN1(&data, asn1.SEQUENCE) || !data.ReadASN1Integer(&version) || version != 3 || !data.ReadASN1(&algorithms, asn1.SET) ||
		!data.ReadASN1(&content, asn1.SEQUENCE) || !content.ReadASN1(&kind, asn1.OBJECT_IDENTIFIER) || string(kind) != string(cms.KeyPackage) ||
		!content.ReadASN1(&wrapped, zero) || !wrapped.ReadASN1(&octets, asn1.OCTET_STRING) ||
		!octets.ReadASN1(&keys, asn1.SEQUENCE) || !keys.ReadASN1Element(&key, asn1.SEQUENCE) || !keys.Empty() {
		t.Fatalf("not a signed key package: %x", signed)
	}
	return key
}
