package manifest_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/manifesttest"
)

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// chipData is a key of the simulated maker in the forms that files have it in.
type chipData struct{ uid, spki, x, y, cert string }

func data(t testing.TB, m *manifesttest.Maker, i int64) chipData {
	t.Helper()
	spki, err := m.SPKI(i)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := m.Certificate(i)
	if err != nil {
		t.Fatal(err)
	}
	return chipData{
		m.UID(i), base64.StdEncoding.EncodeToString(spki),
		hex.EncodeToString(spki[27:59]), hex.EncodeToString(spki[59:]), base64.StdEncoding.EncodeToString(cert),
	}
}

func TestPlainFilesNameKeysInSeveralWays(t *testing.T) {
	m := maker(t)
	c := data(t, m, 7)
	raw, _ := base64.StdEncoding.DecodeString(c.spki)
	spkiPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: raw}))
	cert, _ := base64.StdEncoding.DecodeString(c.cert)
	chain := pemOf(cert) + pemOf(m.Issuing())
	jsonText := func(s string) string { return strings.ReplaceAll(s, "\n", `\n`) }
	for name, test := range map[string]struct {
		format manifest.Format
		file   string
		proof  bool
	}{
		"spki":           {manifest.CSV, "uid,spki\n" + c.uid + "," + c.spki + "\n", false},
		"spki PEM":       {manifest.CSV, "uid,spki\n" + c.uid + ",\"" + spkiPEM + "\"\n", false},
		"x, y":           {manifest.CSV, "\ufeffy,x,uid\n" + c.y + "," + c.x + "," + strings.ToUpper(c.uid) + "\n", false},
		"cert":           {manifest.CSV, "uid,cert\r\n" + c.uid + "," + c.cert + "\r\n", false},
		"all":            {manifest.CSV, "uid,spki,x,y,cert\n" + strings.Join([]string{c.uid, c.spki, c.x, c.y, c.cert}, ",") + "\n", false},
		"chain":          {manifest.CSV, "uid,cert\n" + c.uid + ",\"" + chain + "\"\n", true},
		"JSON spki":      {manifest.NDJSON, `{"uid":"` + c.uid + `","spki":"` + c.spki + `"}`, false},
		"JSON x, y":      {manifest.NDJSON, "\n" + `{"uid":"` + c.uid + `","x":"` + c.x + `","y":"` + c.y + `"}` + "\r\n\n", false},
		"JSON chain":     {manifest.NDJSON, `{"uid":"` + c.uid + `","cert":"` + jsonText(chain) + `"}`, true},
		"JSON of keys":   {manifest.NDJSON, `{"uid":"` + c.uid + `","keys":[{"slot":"0","spki":"` + c.spki + `"}]}`, false},
		"JSON all names": {manifest.NDJSON, `{"uid":"` + c.uid + `","vendor":"Acme","chip_type":"X1","slot":"0","serial":"S1","spki":"` + c.spki + `"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(m, test.format)
			o.Vendor, o.ChipType = "acme", "X1"
			chips, summary, err := collect(t, strings.NewReader(test.file), o)
			if err != nil {
				t.Fatal(err)
			}
			k := chips[0].Keys[0]
			if chips[0].UID != c.uid || chips[0].Vendor != "acme" || chips[0].ChipType != "X1" || k.Slot != "0" ||
				!bytes.Equal(k.SPKI, raw) || k.VendorProof != test.proof {
				t.Errorf("chip %s of %s, slot %s, proof %v", chips[0].UID, chips[0].Vendor, k.Slot, k.VendorProof)
			}
			if !strings.Contains(fmt.Sprint(summary.Findings), "unsigned") {
				t.Errorf("findings %v", summary.Findings)
			}
		})
	}
}

func TestBadPlainFilesAreRefused(t *testing.T) {
	m := maker(t)
	a, b := data(t, m, 1), data(t, m, 2)
	for name, test := range map[string]struct {
		format manifest.Format
		file   string
		code   fault.Code
		word   string
	}{
		"empty":             {manifest.CSV, "", fault.ManifestFormat, "empty"},
		"header alone":      {manifest.CSV, "uid,spki\n", fault.ManifestFormat, "no chip"},
		"no uid":            {manifest.CSV, "spki\n" + a.spki + "\n", fault.ManifestFormat, "uid"},
		"unknown column":    {manifest.CSV, "uid,spky\n" + a.uid + ",\n", fault.ManifestFormat, "unknown"},
		"column twice":      {manifest.CSV, "uid,uid\n1,2\n", fault.ManifestFormat, "repeated"},
		"missing cell":      {manifest.CSV, "uid,spki\n" + a.uid + "," + a.spki + "\n" + b.uid + "\n", fault.ManifestEntry, "entry 2:"},
		"bad uid":           {manifest.CSV, "uid\na b\n", fault.ManifestEntry, "uid"},
		"empty uid":         {manifest.CSV, "uid,slot\n,0\n", fault.ManifestEntry, "uid"},
		"script as uid":     {manifest.CSV, "uid\n<script>\n", fault.ManifestEntry, "uid"},
		"bad base64":        {manifest.CSV, "uid,spki\n1," + a.spki[:50] + "\n", fault.ManifestEntry, ""},
		"not a key":         {manifest.CSV, "uid,spki\n1,AAAA\n", fault.ManifestEntry, "malformed"},
		"off the curve":     {manifest.CSV, "uid,x,y\n1," + a.x + "," + b.y + "\n", fault.ManifestEntry, "curve"},
		"short x":           {manifest.CSV, "uid,x,y\n1,aa,bb\n", fault.ManifestEntry, "32 octets"},
		"two keys":          {manifest.CSV, "uid,spki,x,y\n1," + a.spki + "," + b.x + "," + b.y + "\n", fault.ManifestEntry, "different"},
		"other certificate": {manifest.CSV, "uid,spki,cert\n1," + a.spki + "," + b.cert + "\n", fault.ManifestEntry, "another key"},
		"open quote":        {manifest.CSV, "uid,spki\n1,\"" + strings.Repeat("A", 1<<20), fault.ManifestLimit, "entry 1"},
		"cut in a quote":    {manifest.CSV, "uid,spki\n1,\"AAAA", fault.ManifestEntry, "entry 1"},
		"no vendor":         {manifest.CSV, "uid,vendor\n1,\n", fault.ManifestEntry, "vendor"},
		"JSON member twice": {manifest.NDJSON, `{"uid":"1","uid":"2"}`, fault.ManifestEntry, "twice"},
		"JSON other case":   {manifest.NDJSON, `{"UID":"1"}`, fault.ManifestEntry, "UID"},
		"JSON two in line":  {manifest.NDJSON, `{"uid":"1"}{"uid":"2"}`, fault.ManifestEntry, "malformed"},
		"JSON unknown":      {manifest.NDJSON, `{"uid":"1","pubkey":"x"}`, fault.ManifestEntry, "pubkey"},
		"JSON both ways":    {manifest.NDJSON, `{"uid":"1","spki":"x","keys":[]}`, fault.ManifestEntry, "malformed"},
		"JSON cut":          {manifest.NDJSON, `{"uid":"1"}` + "\n" + `{"uid":"2"`, fault.ManifestEntry, "entry 2"},
		"JSON long line":    {manifest.NDJSON, `{"uid":"` + strings.Repeat("1", 1<<19), fault.ManifestLimit, "entry 1"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(m, test.format)
			if name != "no vendor" {
				o.Vendor = "acme"
			}
			_, _, err := collect(t, strings.NewReader(test.file), o)
			refused(t, err, test.code, test.word)
		})
	}
}

func TestChipsWithoutKeyInPlainFiles(t *testing.T) {
	o := options(maker(t), manifest.CSV)
	o.Vendor = "acme"
	_, summary, err := collect(t, strings.NewReader("uid\nA1\nA2\n"), o)
	if err != nil || summary.NotProvable != 2 {
		t.Errorf("%v, %d not provable", err, summary.NotProvable)
	}
}

func TestEspressifCSVIsRead(t *testing.T) {
	m := maker(t)
	row := func(i int64, mac string) string {
		cert, err := m.Certificate(i)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s,sn%s,\"%s\"\n", mac, strings.ToUpper(m.UID(i)), pemOf(cert))
	}
	good := "MAC,cn,cert\n" + row(1, "7CDFA1E20001") + row(2, "7cdfa1e20002")
	o := options(m, manifest.Espressif)
	o.VendorRoots = [][]byte{m.Issuing()}
	chips, _, err := collect(t, strings.NewReader(good), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(chips) != 2 || chips[0].UID != "7cdfa1e20001" || chips[0].Vendor != "espressif" || !chips[0].Keys[0].VendorProof {
		t.Errorf("%d chips, first %s", len(chips), chips[0].UID)
	}
	for name, file := range map[string]string{
		"no MAC":       "cn,cert\n",
		"short MAC":    "MAC,cn,cert\n" + row(1, "7CDFA1"),
		"MAC twice":    good + row(3, "7CDFA1E20001"),
		"key twice":    good + row(2, "7CDFA1E20003"),
		"other name":   "MAC,cn,cert\n" + strings.Replace(row(1, "7CDFA1E20001"), "sn0123", "sn9999", 1),
		"no cert":      "MAC,cn,cert\n7CDFA1E20001,x,\n",
		"private key":  "MAC,cn,cert\n7CDFA1E20001,x,\"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\"\n",
		"cut in quote": good[:len(good)-20],
	} {
		if _, _, err := collect(t, strings.NewReader(file), o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// ekCertificate returns a certificate as TPM makers issue them.
func ekCertificate(t *testing.T, m *manifesttest.Maker, i int64, change func(*x509.Certificate)) []byte {
	t.Helper()
	attribute := func(arc byte, value string) []byte {
		oid := []byte{0x06, 0x05, 0x67, 0x81, 0x05, 0x02, arc}
		text := append([]byte{0x0c, byte(len(value))}, value...)
		return append([]byte{0x30, byte(len(oid) + len(text))}, append(oid, text...)...)
	}
	wrap := func(tag byte, b []byte) []byte { return append([]byte{tag, byte(len(b))}, b...) }
	var name []byte
	for arc, value := range []string{1: "id:49465800", 2: "SLB9672", 3: "id:00001014"} {
		if value != "" {
			name = append(name, wrap(0x31, attribute(byte(arc), value))...)
		}
	}
	san := wrap(0x30, wrap(0xa4, wrap(0x30, name)))
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(100 + i), NotBefore: made, NotAfter: made.AddDate(20, 0, 0),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyAgreement,
		UnknownExtKeyUsage: oids("2.23.133.8.1"),
		ExtraExtensions:    []pkix.Extension{{Id: oids("2.5.29.17")[0], Critical: true, Value: san}},
	}
	if change != nil {
		change(cert)
	}
	key, err := m.Key(i)
	if err != nil {
		t.Fatal(err)
	}
	der, err := m.Issue(cert, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestEndorsementKeysAreReadFromPEM(t *testing.T) {
	m := maker(t)
	file := "# shipped in May\n" + pemOf(ekCertificate(t, m, 1, nil)) + "\n" + pemOf(ekCertificate(t, m, 2, nil))
	o := options(m, manifest.TPMEK)
	o.VendorRoots = [][]byte{m.Issuing()}
	chips, summary, err := collect(t, strings.NewReader(file), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(chips) != 2 || chips[0].Vendor != "ifx" || chips[0].Model != "SLB9672" || chips[0].Keys[0].Slot != "ek" ||
		!chips[0].Keys[0].VendorProof || len(summary.Findings) != 1 {
		t.Errorf("%d chips, vendor %s, model %s, findings %v", len(chips), chips[0].Vendor, chips[0].Model, summary.Findings)
	}
	digits := ekCertificate(t, m, 4, func(c *x509.Certificate) {
		c.ExtraExtensions[0].Value = bytes.Replace(c.ExtraExtensions[0].Value, []byte("id:49465800"), []byte("id:00001014"), 1)
	})
	chips, summary, err = collect(t, strings.NewReader(pemOf(digits)), o)
	if err != nil || chips[0].Vendor != "00001014" || len(summary.Findings) != 1 {
		t.Errorf("a number without letters: vendor %s, findings %v, %v", chips[0].Vendor, summary.Findings, err)
	}
	authority := ekCertificate(t, m, 3, func(c *x509.Certificate) { c.IsCA = true })
	for name, bad := range map[string]string{
		"cut off":     file[:len(file)-40],
		"CA":          pemOf(authority),
		"stray text":  file + "hello\n",
		"bad frame":   strings.Replace(file, "-----BEGIN CERT", "----BEGIN CERT", 1),
		"twice":       file + pemOf(ekCertificate(t, m, 2, nil)),
		"private key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"empty":       "",
	} {
		if _, _, err := collect(t, strings.NewReader(bad), o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestEndorsementKeysAreReadFromNDJSON(t *testing.T) {
	m := maker(t)
	cert := ekCertificate(t, m, 1, nil)
	spki, err := m.SPKI(1)
	if err != nil {
		t.Fatal(err)
	}
	ecc := eccPublic(spki)
	o := options(m, manifest.TPMEK)
	var uid string
	for i, line := range []string{
		`{"ekCert":"` + base64.StdEncoding.EncodeToString(cert) + `","extra":{"a":[1]}}`,
		`{"ekCert":"` + hex.EncodeToString(cert) + `","ekPub":"` + hex.EncodeToString(spki) + `"}`,
		`{"ekPub":"` + base64.StdEncoding.EncodeToString(spki) + `","vendor":"IFX"}`,
		`{"ekPub":"` + hex.EncodeToString(ecc) + `","vendor":"ifx","chipType":"SLB"}`,
		`{"ekPub":"` + hex.EncodeToString(binary.BigEndian.AppendUint16(nil, uint16(len(ecc)))) + hex.EncodeToString(ecc) + `"}`,
	} {
		chips, _, err := collect(t, strings.NewReader(line), o)
		if err != nil {
			t.Fatalf("line %d: %v", i, err)
		}
		if !bytes.Equal(chips[0].Keys[0].SPKI, spki) {
			t.Errorf("line %d has another key", i)
		}
		if uid == "" {
			uid = chips[0].UID
		}
		if chips[0].UID != uid {
			t.Errorf("line %d has another uid", i)
		}
	}
	other, err := m.SPKI(9)
	if err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{
		"two keys":   `{"ekCert":"` + hex.EncodeToString(cert) + `","ekPub":"` + hex.EncodeToString(other) + `"}`,
		"nothing":    `{"vendor":"ifx"}`,
		"bare chain": `{"chain":["` + hex.EncodeToString(cert) + `"]}`,
		"cut TPMT":   `{"ekPub":"` + hex.EncodeToString(ecc[:20]) + `"}`,
		"not hex":    `{"ekPub":"????"}`,
	} {
		if _, _, err := collect(t, strings.NewReader(line), o); !fault.Has(err, fault.ManifestEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// eccPublic returns TPMT_PUBLIC of a P-256 endorsement key.
func eccPublic(spki []byte) []byte {
	b := []byte{0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20}
	b = append(b, make([]byte, 32)...)                       // policy
	b = append(b, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43)        // AES 128 CFB
	b = append(b, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10, 0, 32) // no scheme, P-256, no derivation
	b = append(b, spki[27:59]...)
	b = append(b, 0, 32)
	return append(b, spki[59:]...)
}

func TestRSAEndorsementKeysHaveOneName(t *testing.T) {
	block, _ := pem.Decode([]byte(rsaCertificate))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := cert.PublicKey.(*rsa.PublicKey)
	tpmt := []byte{0x00, 0x01, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x00, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x08, 0x00, 0, 0, 0, 0, 0x01, 0x00}
	tpmt = append(tpmt, key.N.Bytes()...)
	oaep := bytes.Replace(cert.RawSubjectPublicKeyInfo, []byte{0xf7, 0x0d, 1, 1, 1}, []byte{0xf7, 0x0d, 1, 1, 7}, 1)
	for name, pub := range map[string][]byte{"RSA": cert.RawSubjectPublicKeyInfo, "OAEP": oaep, "TPMT_PUBLIC": tpmt} {
		chips, _, err := collect(t, strings.NewReader(`{"ekPub":"`+hex.EncodeToString(pub)+`"}`), options(maker(t), manifest.TPMEK))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(chips[0].Keys[0].SPKI, cert.RawSubjectPublicKeyInfo) {
			t.Errorf("%s has another key", name)
		}
	}
}
