package signer_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

// many signs devices' certificates.
func (w *world) many(key string, a *authority, n int) {
	w.t.Helper()
	requests := make([]signer.Request, n)
	for i := range requests {
		requests[i] = signer.Request{Key: key, TBS: a.edited(func(*x509.Certificate) {})}
	}
	for _, o := range w.engine.Sign(w.t.Context(), uid, requests) {
		if o.Err != nil {
			w.t.Fatal(o.Err)
		}
	}
}

// files returns the journal's files, oldest first.
func (w *world) files() []string {
	w.t.Helper()
	all, err := filepath.Glob(filepath.Join(w.dir, "*.journal"))
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// What one key has signed is not forgotten because another signs much, or because
// much is refused.
func TestABusyKeyDoesNotMakeAnotherForget(t *testing.T) {
	a, b := newAuthority(t, "Issuing CA", nil), newAuthority(t, "Other CA", nil)
	w := newWorld(t, a.keyConfig("quiet", nil), b.keyConfig("busy", nil))
	w.config.Remember = 20
	w.restart()
	w.signs("once", "quiet", a.tbs(leaf(7)))
	for range 4 {
		w.many("busy", b, 30)
	}
	for i := range 200 {
		w.clock.advance(time.Second / 40)
		w.refuses("nonsense", []string{"quiet", "none"}[i%2], []byte{0x30, 0}, []fault.Code{fault.SignerContent, fault.SignerKeyUnknown}[i%2])
	}
	if n := len(w.files()); n < 4 {
		t.Fatalf("only %d files", n)
	}
	w.restart()
	w.refuses("the same serial after a restart", "quiet", a.tbs(leaf(7)), fault.SignerRefused)
}

// Power goes while a new file is begun. What must be remembered is not lost, then
// or later.
func TestPowerGoesWhileAFileIsBegun(t *testing.T) {
	a, b := newAuthority(t, "Issuing CA", nil), newAuthority(t, "Other CA", nil)
	for cut := 29; ; cut += 29 { // 58 octets are the head
		w := newWorld(t, a.keyConfig("issuing", nil), b.keyConfig("other", nil))
		w.config.Remember = 5
		w.restart()
		w.signs("CRL 5", "issuing", a.crl(5, 1, nil))
		for len(w.files()) < 2 {
			w.many("issuing", a, 2)
		}
		newest := w.files()[1]
		if err := w.journal.Close(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(newest)
		if err != nil {
			t.Fatal(err)
		}
		whole := info.Size() <= int64(cut)
		if err := os.Truncate(newest, min(int64(cut), info.Size())); err != nil {
			t.Fatal(err)
		}
		w.open()
		w.many("issuing", a, 10)
		w.many("other", b, 10)
		w.restart()
		w.refuses("CRL 5 again", "issuing", a.crl(5, 1, nil), fault.SignerRefused)
		w.signs("CRL 6", "issuing", a.crl(6, 1, nil))
		if whole || t.Failed() {
			return
		}
	}
}

// Refusals do not fill the disk.
func TestAFloodOfRefusalsIsShort(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", nil))
	requests := make([]signer.Request, 100)
	for i := range requests {
		requests[i] = signer.Request{Key: "issuing", TBS: []byte{0x30, 0}}
	}
	for range 100 {
		w.clock.advance(time.Second)
		w.engine.Sign(t.Context(), uid, requests)
	}
	if err := w.journal.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := signer.ReadJournal(w.dir, func(r *signer.Record) error {
		if r.Outcome == signer.Refused {
			n++
		}
		return nil
	}); err != nil || n < 1000 || n > 2000 {
		t.Errorf("%d of 10,000 refusals in less than two minutes are journaled, %v", n, err)
	}
	w.open()
	w.clock.advance(time.Hour)
	w.signs("a good one", "issuing", a.tbs(shifted(leaf(1), time.Hour)))
}

// As many scopes of CRLs as keys may have make records that can be read again.
func TestManyScopesAreRemembered(t *testing.T) {
	needs.Time(t)
	const mark = "markmark"
	var keys []signer.KeyConfig
	lists := map[string][]byte{}
	for _, name := range []string{"one", "two", "three"} {
		a := newAuthority(t, name, nil)
		keys = append(keys, a.keyConfig(name, nil))
		lists[name] = a.crl(1<<62, 0, func(l *x509.RevocationList) {
			l.Number.Lsh(l.Number, 90)
			value := append([]byte{0x30, 14, 0xa0, 12, 0xa0, 10, 0x86, 8}, mark...)
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: value}}
		})
	}
	w := newWorld(t, keys...)
	large := func() {
		t.Helper()
		if err := w.journal.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if w.journal, err = signer.OpenJournal(signer.JournalConfig{Dir: w.dir, Segment: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		w.config.Journal = w.journal
		if w.engine, err = signer.New(w.config); err != nil {
			t.Fatal(err)
		}
	}
	large()
	scoped := func(list []byte, scope int) []byte {
		return bytes.Replace(list, []byte(mark), binary.BigEndian.AppendUint64(nil, uint64(scope)|1<<63), 1)
	}
	for name, list := range lists {
		for from := 0; from < 4096; from += 1024 {
			requests := make([]signer.Request, 1024)
			for i := range requests {
				requests[i] = signer.Request{Key: name, TBS: scoped(list, from+i)}
			}
			for _, o := range w.engine.Sign(t.Context(), uid, requests) {
				if o.Err != nil {
					t.Fatal(o.Err)
				}
			}
		}
		w.refuses("one scope more", name, scoped(list, 4096), fault.SignerLimit)
	}
	large()
	for name, list := range lists {
		w.refuses("a number again", name, scoped(list, 17), fault.SignerRefused)
	}
}

func TestAJournalThatOthersMayWriteIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.OpenJournal(signer.JournalConfig{Dir: dir}); !fault.Has(err, fault.SignerJournal) {
		t.Errorf("%v", err)
	}
}

// A serial is signed once, however it is asked for.
func TestASerialIsSignedOnce(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	b := &backend{key: a.key.PrivateKey}
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Backend = b }))
	var group sync.WaitGroup
	start := make(chan struct{})
	for range 8 {
		requests := []signer.Request{{Key: "issuing", TBS: a.tbs(leaf(7))}, {Key: "issuing", TBS: a.tbs(leaf(7))}, {Key: "issuing", TBS: a.tbs(leaf(7))}}
		group.Go(func() {
			<-start
			w.engine.Sign(t.Context(), uid, requests)
		})
	}
	close(start)
	group.Wait()
	if n := b.calls.Load(); n != 1 {
		t.Errorf("%d signatures with one serial", n)
	}
	// Later files begin with a state; the serial is in an earlier one.
	for len(w.files()) < 4 {
		w.many("issuing", a, 10)
	}
	w.restart()
	w.refuses("after files were begun, and a restart", "issuing", a.tbs(leaf(7)), fault.SignerRefused)
}
