package station_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/statement"
	protocol "github.com/birthmark/birthmark/internal/protocol/station"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// A batch without a link goes the same road, under the same limits; a bundle
// that was tampered with gets nothing, and the same one again the same answer.
func TestBatch(t *testing.T) {
	f := newFloor(t)
	f.station(t, "ST-1")
	f.station(t, "ST-2")
	f.Order(t, "PO-1", 3, 1, "ST-1")
	f.Order(t, "PO-2", 3, 1, "ST-2")
	var block station.Nonces
	if code := f.call(t, "ST-1", http.MethodPost, station.NoncesPath, station.NoncesRequest{Order: "PO-1", Count: 4, Offline: true}, &block); code != "" {
		t.Fatal(code)
	}
	must(t, statement.VerifyNonces(f.Statements.PublicKey(), &block))
	chips := f.Chips(t, 4)
	var units []station.Unit
	for i, nonce := range block.Nonces {
		units = append(units, webtest.Unit(t, "PO-1", serialOf(i), nonce, chips[i]).Unit)
	}
	batches := protocol.NewBatches(f.handlers, f.Statements)
	file := bundle(t, f.tls["ST-1"], station.Bundle{Station: "ST-1", Order: "PO-1", Units: units})
	reply := f.issue(t, batches, "PO-1", file)
	good := 0
	for i, r := range reply.Results {
		if r.ID != units[i].ID {
			t.Errorf("result %d is of %s", i, r.ID)
		}
		if r.OK {
			good++
		}
	}
	if c := f.counts(t, "PO-1"); good != 3 || c.Issued != 3 {
		t.Errorf("%d of 3 were issued, %+v", good, c)
	}
	for i, r := range f.issue(t, batches, "PO-1", file).Results {
		if r.OK != reply.Results[i].OK || !bytes.Equal(r.Certificate, reply.Results[i].Certificate) {
			t.Errorf("again: %+v", r)
		}
	}
	if c := f.counts(t, "PO-1"); c.Issued != 3 {
		t.Errorf("after a replay: %+v", c)
	}
	for name, c := range map[string]struct {
		file []byte
		code fault.Code
	}{
		"a changed unit":     {bytes.Replace(file, []byte(serialOf(0)), []byte(serialOf(9)), 1), fault.BundleSignature},
		"cut off":            {file[:len(file)/2], fault.BundleInvalid},
		"empty":              {nil, fault.BundleInvalid},
		"no units":           {bundle(t, f.tls["ST-1"], station.Bundle{Station: "ST-1", Order: "PO-1"}), fault.BundleInvalid},
		"another's order":    {bundle(t, f.tls["ST-1"], station.Bundle{Station: "ST-1", Order: "PO-2", Units: units}), fault.BundleInvalid},
		"another's name":     {bundle(t, f.tls["ST-1"], station.Bundle{Station: "ST-2", Order: "PO-1", Units: units}), fault.BundleInvalid},
		"a stranger's":       {bundle(t, webtest.SelfSigned(t, "ST-1", time.Now().Add(time.Hour)), station.Bundle{Station: "ST-1", Order: "PO-1", Units: units}), 0},
		"no certificate":     {bytes.Replace(file, []byte(`"certificate":"`), []byte(`"certificate":"AA`), 1), fault.BundleInvalid},
		"a signature of air": {bytes.Replace(file, []byte(`"signature":"`), []byte(`"signature":"AA`), 1), fault.BundleInvalid},
	} {
		_, err := batches.IssueBatch(t.Context(), "PO-1", c.file)
		if err == nil || c.code != 0 && !fault.Has(err, c.code) && !fault.Has(err, fault.BundleSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mixed := slices.Clone(units)
	mixed[0].Order = "PO-2"
	if r := f.issue(t, batches, "PO-1", bundle(t, f.tls["ST-1"], station.Bundle{Station: "ST-1", Order: "PO-1", Units: mixed})).Results; r[0].Code != "BM-8070" || r[1].Code == "BM-8070" {
		t.Errorf("a unit of another order: %+v", r[:2])
	}
	// ST-2 signs units of an order that is not its own: each is refused.
	stolen := f.issue(t, batches, "PO-1", bundle(t, f.tls["ST-2"], station.Bundle{Station: "ST-2", Order: "PO-1", Units: units}))
	for _, r := range stolen.Results {
		if r.OK || r.Code != "BM-8014" {
			t.Errorf("stolen: %+v", r)
		}
	}
}

func bundle(t testing.TB, cert *tls.Certificate, b station.Bundle) []byte {
	t.Helper()
	b.Certificate = cert.Certificate[0]
	text, err := json.Marshal(&b)
	must(t, err)
	digest := sha256.Sum256(text)
	b.Signature, err = cert.PrivateKey.(crypto.Signer).Sign(rand.Reader, digest[:], crypto.SHA256)
	must(t, err)
	file, err := json.Marshal(&b)
	must(t, err)
	return file
}

func (f *floor) issue(t testing.TB, b *protocol.Batches, number string, file []byte) (reply station.Reply) {
	t.Helper()
	text, err := b.IssueBatch(context.WithoutCancel(t.Context()), number, file)
	must(t, err)
	must(t, json.Unmarshal(text, &reply))
	must(t, statement.VerifyReply(f.Statements.PublicKey(), &reply))
	digest := sha256.Sum256(file)
	if !bytes.Equal(reply.Bundle, digest[:]) || reply.Order != number {
		t.Errorf("the reply is to another bundle")
	}
	return reply
}
