package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/format/manifest"
)

// reel is the chip maker, whose manifests list simulated chips.
type reel struct {
	signer string // file with the certificate, PEM
	cert   []byte
	key    *ecdsa.PrivateKey
}

func newReel(folder string) (*reel, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	own := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Bench chips"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	r := &reel{signer: filepath.Join(folder, "signer.pem"), key: key}
	if r.cert, err = x509.CreateCertificate(rand.Reader, own, own, &key.PublicKey, key); err != nil {
		return nil, err
	}
	return r, os.WriteFile(r.signer, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert}), 0o600)
}

// reelPart is how many chips are made before they are written.
const reelPart = 1 << 13

// write writes the manifest of chips from first on.
func (r *reel) write(path string, first, count int) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w, err := manifest.NewWriter(f, manifest.Header{
		Maker: "bench", Created: time.Now(), Vendor: sim.Vendor, ChipType: sim.ChipType, Count: int64(count),
	}, r.cert, r.key)
	if err != nil {
		return err
	}
	entries := make([]manifest.Entry, reelPart)
	for done := 0; done < count; done += len(entries) {
		entries = entries[:min(len(entries), count-done)]
		err := onAllCores(len(entries), func(n int) error {
			chip, err := sim.NewChip(reelSeed, first+done+n)
			if err != nil {
				return err
			}
			entries[n] = manifest.Entry{UID: chip.UID, Keys: []manifest.Key{{Slot: "0", SPKI: chip.SPKI}}}
			return nil
		})
		if err != nil {
			return err
		}
		for n := range entries {
			if err := w.Write(&entries[n]); err != nil {
				return err
			}
		}
	}
	return w.Close()
}

// importFigures are what the import of a large manifest costs.
type importFigures struct {
	Chips      int
	Seconds    float64
	Peak       int64   // of the server
	Idle, Busy float64 // p99 of enrollment before and during the import, ms
	Asked      int     // certificates during the import
}

const (
	importClients = 16
	// importStride is how often devices ask for a while during an import: asking all
	// the time takes more devices than are stored.
	importStride = 6 * time.Second
	importWindow = 2 * time.Second
)

// importing imports a large manifest while devices enroll now and then.
func (f *factory) importing(ctx context.Context) error {
	if f.plan.chips == 0 {
		return nil
	}
	f.step("writing a manifest of %d chips", f.plan.chips)
	path := filepath.Join(f.folder, "large.manifest")
	const apart = 1 << 24 // the first reel's chips are listed already
	if err := f.reel.write(path, apart, f.plan.chips); err != nil {
		return err
	}
	var made cell
	if err := errors.Join(f.load.ask(order{Do: "make", First: f.est.next, Last: f.plan.stored + f.plan.spare}, &made), made.err()); err != nil {
		return err
	}
	if err := f.sqlite.settle(ctx); err != nil {
		return err
	}
	im := &importFigures{Chips: f.plan.chips}
	f.figures.factory.imported = im
	idle, err := f.window(ctx, f.plan.cell)
	if err != nil {
		return err
	}
	im.Idle = ms(idle.P99)
	f.step("importing it; before, p99 with %d clients was %.2f ms", importClients, im.Idle)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", f.est.pid), []byte("5"), 0); err != nil { // VmHWM begins anew
		return err
	}
	begin := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- f.sqlite.command(ctx, "manifest", "import", path, "--format", "birthmark") }()
	busy, err := f.during(ctx, ended)
	im.Seconds = time.Since(begin).Seconds()
	if err != nil {
		return err
	}
	if im.Peak, err = memory(f.est.pid, "VmHWM"); err != nil {
		return err
	}
	if len(busy) == 0 {
		return errors.New("the import ended before anybody had enrolled")
	}
	slices.Sort(busy)
	im.Busy, im.Asked = ms(busy[len(busy)*99/100]), len(busy)
	f.step("imported in %.1f s, peak %.0f MB, p99 meanwhile %.2f ms of %d certificates", im.Seconds, megabytes(im.Peak), im.Busy, im.Asked)
	return nil
}

// during has devices enroll now and then until something has ended, and returns
// how long each took.
func (f *factory) during(ctx context.Context, ended <-chan error) (took []time.Duration, err error) {
	for {
		var c cell
		if f.est.next < f.plan.stored+f.plan.spare {
			if c, err = f.window(ctx, importWindow); err != nil {
				return took, errors.Join(err, <-ended)
			}
		}
		select {
		case err := <-ended:
			return took, err // the window may have outlasted it
		case <-time.After(importStride - importWindow):
			took = append(took, c.All...)
		}
	}
}

// window has devices enroll for a while.
func (f *factory) window(ctx context.Context, d time.Duration) (cell, error) {
	t := *f.est
	t.order.All = true
	c, _, err := f.run(ctx, &t, importClients, d)
	f.est.next = max(f.est.next, c.Next)
	return c, err
}
