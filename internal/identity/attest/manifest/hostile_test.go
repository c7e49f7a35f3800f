package manifest_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/manifesttest"
)

// microchipFile writes entries 0 to n-1, of which change alters the signed
// statement of entry number bad (from 1).
func microchipFile(t testing.TB, m *manifesttest.Maker, n, bad int64, change func(*manifesttest.MicrochipEntry)) []byte {
	t.Helper()
	lines := make([]string, n)
	for i := range n {
		e, err := m.MicrochipEntry(i)
		if err != nil {
			t.Fatal(err)
		}
		if i == bad-1 {
			change(e)
		}
		line, err := m.Sign(e)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = string(line)
	}
	return []byte("[" + strings.Join(lines, ",") + "]")
}

func TestSimulatedMicrochipManifestIsRead(t *testing.T) {
	m := maker(t)
	var file bytes.Buffer
	if err := m.WriteMicrochip(&file, 0, 300); err != nil {
		t.Fatal(err)
	}
	chips, summary, err := collect(t, &file, options(m, manifest.Microchip))
	if err != nil {
		t.Fatal(err)
	}
	if len(chips) != 300 || len(summary.Findings) != 0 || summary.Keys != 1500 {
		t.Errorf("%d chips, %d keys, findings %v", len(chips), summary.Keys, summary.Findings)
	}
	for i, c := range chips {
		spki, err := m.SPKI(int64(i))
		if err != nil {
			t.Fatal(err)
		}
		if c.UID != m.UID(int64(i)) || !bytes.Equal(c.Keys[0].SPKI, spki) || !c.Keys[0].VendorProof || c.Keys[1].VendorProof {
			t.Fatalf("chip %d is %s with proof %v", i, c.UID, c.Keys[0].VendorProof)
		}
	}
}

// slot0 returns the JWK of slot 0 to change.
func slot0(t *testing.T, e *manifesttest.MicrochipEntry) map[string]any {
	t.Helper()
	raw, err := json.Marshal(e.Payload["publicKeySet"])
	if err != nil {
		t.Fatal(err)
	}
	var set map[string]any
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	e.Payload["publicKeySet"] = set
	return set["keys"].([]any)[0].(map[string]any)
}

func TestStatementsThatASignerMustNotMakeAreRefused(t *testing.T) {
	m := maker(t)
	other, err := m.MicrochipEntry(99)
	if err != nil {
		t.Fatal(err)
	}
	type entry = manifesttest.MicrochipEntry
	for name, test := range map[string]struct {
		change func(*entry)
		code   fault.Code
		word   string
	}{
		"alg none":                 {func(e *entry) { e.Header["alg"] = "none" }, fault.ManifestSignature, "none"},
		"alg HS256":                {func(e *entry) { e.Header["alg"] = "HS256" }, fault.ManifestSignature, "HS256"},
		"alg of another key":       {func(e *entry) { e.Header["alg"] = "ES384" }, fault.ManifestSignature, "ES384"},
		"alg RS256 with an EC key": {func(e *entry) { e.Header["alg"] = "RS256" }, fault.ManifestSignature, "RS256"},
		"kid of another signer":    {func(e *entry) { e.Header["kid"] = "AAAA" }, fault.ManifestSigner, "kid"},
		"no kid":                   {func(e *entry) { delete(e.Header, "kid") }, fault.ManifestSigner, "kid"},
		"no fingerprint":           {func(e *entry) { delete(e.Header, "x5t#S256") }, fault.ManifestEntry, "x5t#S256"},
		"unknown fingerprint": {func(e *entry) {
			e.Header["x5t#S256"] = base64.RawURLEncoding.EncodeToString(make([]byte, 32))
		}, fault.ManifestSigner, "000000"},
		"critical extension": {func(e *entry) { e.Header["crit"] = []string{"exp"} }, fault.ManifestEntry, "crit"},
		"swapped header":     {func(e *entry) { e.UID = other.UID }, fault.ManifestEntry, "unsigned header"},
		"swapped payload":    {func(e *entry) { e.Payload["uniqueId"] = other.UID }, fault.ManifestEntry, "unsigned header"},
		"another chip's certificate": {func(e *entry) {
			e.UID, e.Payload["uniqueId"] = "0123aaaaaaaaaaaa01", "0123aaaaaaaaaaaa01"
		}, fault.ManifestEntry, "not sn0123AAAAAAAAAAAA01"},
		"before the signer":  {func(e *entry) { e.Payload["provisioningTimestamp"] = "2019-01-01T00:00:00Z" }, fault.ManifestSigner, "2019"},
		"after the signer":   {func(e *entry) { e.Payload["provisioningTimestamp"] = "2099-01-01T00:00:00Z" }, fault.ManifestSigner, "2099"},
		"no time":            {func(e *entry) { delete(e.Payload, "provisioningTimestamp") }, fault.ManifestEntry, "provisioningTimestamp"},
		"unknown version":    {func(e *entry) { e.Payload["version"] = 7 }, fault.ManifestEntry, "version"},
		"upper case id":      {func(e *entry) { e.UID = strings.ToUpper(e.UID); e.Payload["uniqueId"] = e.UID }, fault.ManifestEntry, "uniqueId"},
		"id of other length": {func(e *entry) { e.UID = "0123"; e.Payload["uniqueId"] = e.UID }, fault.ManifestEntry, "uniqueId"},
		"private key":        {func(e *entry) { slot0(t, e)["d"] = "AAAA" }, fault.ManifestEntry, "private key"},
		"JWK of another key": {func(e *entry) { k := slot0(t, e); o := slot0(t, other); k["x"], k["y"] = o["x"], o["y"] }, fault.ManifestEntry, "another key"},
		"point off the curve": {func(e *entry) {
			k := slot0(t, e)
			k["x"] = k["y"]
		}, fault.ManifestEntry, "curve"},
		"slot twice":   {func(e *entry) { slot0(t, e)["kid"] = "1" }, fault.ManifestEntry, "slot 1"},
		"no slot":      {func(e *entry) { slot0(t, e)["kid"] = "a" }, fault.ManifestEntry, "slot"},
		"RSA":          {func(e *entry) { slot0(t, e)["kty"] = "RSA" }, fault.ManifestEntry, "P-256"},
		"broken chain": {func(e *entry) { k := slot0(t, e); c := k["x5c"].([]any); k["x5c"] = []any{c[0], c[0]} }, fault.ManifestEntry, "chain"},
		"certificate that is none": {func(e *entry) {
			slot0(t, e)["x5c"] = []string{"AAAA"}
		}, fault.ManifestEntry, "malformed"},
		"too long a chain": {func(e *entry) {
			k := slot0(t, e)
			c := k["x5c"].([]any)
			for range 8 {
				c = append(c, c[1])
			}
			k["x5c"] = c
		}, fault.ManifestLimit, "certificates"},
		"too many keys": {func(e *entry) {
			k := slot0(t, e)
			keys := make([]any, 40)
			for i := range keys {
				keys[i] = map[string]any{"kid": strconv.Itoa(i), "kty": "EC", "crv": "P-256", "x": k["x"], "y": k["y"]}
			}
			e.Payload["publicKeySet"] = map[string]any{"keys": keys}
		}, fault.ManifestLimit, "keys"},
		"chip twice": {func(e *entry) {
			o, err := m.MicrochipEntry(0)
			if err != nil {
				t.Fatal(err)
			}
			*e = *o
		}, fault.ManifestDuplicate, "that of entry 1"},
	} {
		t.Run(name, func(t *testing.T) {
			file := microchipFile(t, m, 4, 3, test.change)
			_, _, err := collect(t, bytes.NewReader(file), options(m, manifest.Microchip))
			refused(t, err, test.code, "entry 3:", test.word)
		})
	}
}

func TestEntriesWithoutKeysAreNotProvable(t *testing.T) {
	m := maker(t)
	file := microchipFile(t, m, 3, 2, func(e *manifesttest.MicrochipEntry) {
		delete(e.Payload, "publicKeySet")
		e.Payload["version"] = 2
		e.Payload["encryptedSecretKeySet"] = map[string]any{"keys": []any{}}
	})
	chips, summary, err := collect(t, bytes.NewReader(file), options(m, manifest.Microchip))
	if err != nil {
		t.Fatal(err)
	}
	if summary.NotProvable != 1 || len(chips[1].Keys) != 0 || len(summary.Findings) != 2 {
		t.Errorf("not provable %d, findings %v", summary.NotProvable, summary.Findings)
	}
}

func TestAnyFlippedOctetOfAnEntryIsRefused(t *testing.T) {
	m := maker(t)
	file := microchipFile(t, m, 1, 0, nil)
	o := options(m, manifest.Microchip)
	if _, _, err := collect(t, bytes.NewReader(file), o); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(file); i += 3 {
		broken := bytes.Clone(file)
		broken[i] ^= 1
		if _, _, err := collect(t, bytes.NewReader(broken), o); err == nil {
			t.Fatalf("octet %d (%q to %q) was changed and nobody saw it", i, file[i], broken[i])
		}
	}
	for i := 0; i < len(file); i += 5 {
		if _, _, err := collect(t, bytes.NewReader(file[:i]), o); err == nil {
			t.Fatalf("the file was cut at octet %d and nobody saw it", i)
		}
	}
}

func TestArraysThatAreNoManifestAreRefused(t *testing.T) {
	m := maker(t)
	good := strings.Trim(string(microchipFile(t, m, 1, 0, nil)), "[]")
	for name, test := range map[string]struct {
		file string
		code fault.Code
	}{
		"empty":           {"", fault.ManifestFormat},
		"no array":        {good, fault.ManifestFormat},
		"no entry":        {"[]", fault.ManifestFormat},
		"no bracket":      {"[" + good, fault.ManifestFormat},
		"no comma":        {"[" + good + good + "]", fault.ManifestFormat},
		"two commas":      {"[" + good + ",," + good + "]", fault.ManifestFormat},
		"comma at end":    {"[" + good + ",]", fault.ManifestFormat},
		"a number":        {"[1]", fault.ManifestFormat},
		"two arrays":      {"[" + good + "][" + good + "]", fault.ManifestFormat},
		"text after":      {"[" + good + "]x", fault.ManifestFormat},
		"text far behind": {"[" + good + "]" + strings.Repeat(" ", 1<<18) + "x", fault.ManifestFormat},
		"endless entry":   {"[{\"payload\":\"" + strings.Repeat("a", 1<<19), fault.ManifestLimit},
		"endless nesting": {"[" + strings.Repeat("{\"a\":", 1<<17), fault.ManifestLimit},
		"deep":            {"[" + strings.Repeat("{\"a\":", 99) + "1" + strings.Repeat("}", 99) + "]", fault.ManifestEntry},
		"member twice":    {"[" + strings.Replace(good, "{", `{"signature":"AA",`, 1) + "]", fault.ManifestEntry},
		"other member":    {"[" + strings.Replace(good, "{", `{"x":"AA",`, 1) + "]", fault.ManifestEntry},
		"wrong brackets":  {`[{"header":[}]}]`, fault.ManifestEntry},
		"member missing":  {`[{"header":{"uniqueId":"0123"}}]`, fault.ManifestEntry},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := collect(t, strings.NewReader(test.file), options(m, manifest.Microchip))
			refused(t, err, test.code)
		})
	}
	if _, _, err := collect(t, strings.NewReader(" [ "+good+" ] \n"), options(m, manifest.Microchip)); err != nil {
		t.Errorf("white space: %v", err)
	}
}

func TestOneBadEntryAmongManyRefusesTheFile(t *testing.T) {
	m := maker(t)
	n, bad := int64(3000), int64(2777)
	file := microchipFile(t, m, n, bad, func(e *manifesttest.MicrochipEntry) { e.Header["alg"] = "none" })
	_, summary, err := collect(t, bytes.NewReader(file), options(m, manifest.Microchip))
	refused(t, err, fault.ManifestSignature, "entry 2777:")
	if summary.Chips >= bad {
		t.Errorf("%d chips before entry %d", summary.Chips, bad)
	}
}

func TestLimitsRefuseLargeFiles(t *testing.T) {
	m := maker(t)
	var file bytes.Buffer
	if err := m.Write(&file, 0, 50); err != nil {
		t.Fatal(err)
	}
	for name, limits := range map[string]manifest.Limits{
		"octets": {Bytes: 2000}, "entries": {Entries: 49}, "entry": {Entry: 100},
	} {
		o := options(m, manifest.Birthmark)
		o.Limits = limits
		if _, _, err := collect(t, bytes.NewReader(file.Bytes()), o); !fault.Has(err, fault.ManifestLimit) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
