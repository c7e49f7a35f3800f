package manifest_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/manifesttest"
)

// fuzz runs an importer over whatever comes. It must end without a panic, with a
// refusal or with chips that are numbered and named.
func fuzz(f *testing.F, format manifest.Format, seeds ...[]byte) {
	m := maker(f)
	for _, seed := range seeds {
		f.Add(seed)
		f.Add(seed[:len(seed)/2])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) {
		o := options(m, format)
		o.Vendor, o.Workers = "fuzz", 1
		o.Limits = manifest.Limits{Entries: 1000, Member: 1 << 20, Unpacked: 1 << 22}
		if format == manifest.Infineon {
			o.TempDir = t.TempDir()
		}
		chips, summary, err := collect(t, bytes.NewReader(file), o)
		if err != nil {
			return
		}
		if summary.Bytes != int64(len(file)) || summary.Chips != int64(len(chips)) || len(chips) == 0 {
			t.Fatalf("%d of %d octets, %d of %d chips", summary.Bytes, len(file), len(chips), summary.Chips)
		}
		for i, c := range chips {
			if c.Entry != int64(i)+1 || c.UID == "" || c.Vendor == "" {
				t.Fatalf("chip %d has number %d, uid %q, vendor %q", i, c.Entry, c.UID, c.Vendor)
			}
			for _, k := range c.Keys {
				if len(k.SPKI) == 0 || k.VendorProof && len(k.Chain) == 0 {
					t.Fatalf("chip %d has a key without octets, or proved by nothing", i)
				}
			}
		}
	})
}

func seed(f *testing.F, write func(*manifesttest.Maker, io.Writer, int64, int64) error) []byte {
	var file bytes.Buffer
	if err := write(maker(f), &file, 0, 2); err != nil {
		f.Fatal(err)
	}
	return file.Bytes()
}

func FuzzMicrochip(f *testing.F) {
	fuzz(f, manifest.Microchip, seed(f, (*manifesttest.Maker).WriteMicrochip), []byte(`[{"header":{"uniqueId":"\u0030"}}]`))
}

func FuzzBirthmark(f *testing.F) {
	fuzz(f, manifest.Birthmark, seed(f, (*manifesttest.Maker).Write))
}

func FuzzCSV(f *testing.F) {
	c := data(f, maker(f), 1)
	fuzz(f, manifest.CSV, seed(f, (*manifesttest.Maker).WriteCSV), []byte("uid,x,y,cert\n1,"+c.x+","+c.y+","+c.cert+"\n"))
}

func FuzzNDJSON(f *testing.F) {
	c := data(f, maker(f), 1)
	fuzz(f, manifest.NDJSON, []byte(`{"uid":"1","spki":"`+c.spki+`"}`+"\n"+`{"uid":"2","keys":[]}`))
}

func FuzzEspressif(f *testing.F) {
	cert, err := maker(f).Certificate(1)
	if err != nil {
		f.Fatal(err)
	}
	fuzz(f, manifest.Espressif, []byte("MAC,cn,cert\n7CDFA1E20001,sn,\""+pemOf(cert)+"\"\n"))
}

func FuzzTPMEK(f *testing.F) {
	m := maker(f)
	spki, err := m.SPKI(1)
	if err != nil {
		f.Fatal(err)
	}
	cert, err := m.Certificate(1)
	if err != nil {
		f.Fatal(err)
	}
	fuzz(f, manifest.TPMEK, []byte(pemOf(cert)), []byte(`{"ekPub":"`+string(hexOf(eccPublic(spki)))+`"}`), []byte(`{"ekCert":"`+string(hexOf(cert))+`"}`))
}

func FuzzInfineon(f *testing.F) {
	m := maker(f)
	fuzz(f, manifest.Infineon, readFile(f, bundleFile), one(opid(m, 0)+"_E0E0.pem", optigaPEM(f, m, 0)).archive())
}
