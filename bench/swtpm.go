package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/edge/agent"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/store"
)

// The devices that enroll at once, each with a swtpm of its own, and how long all
// of them may take together.
const (
	swtpms    = 50
	aimSwtpms = 3 * time.Second
)

// runSwtpms measures how long agents on so many TPMs take from nothing to a
// certificate, keys made in the TPMs included, server and TPMs on this machine.
func runSwtpms(ctx context.Context, out io.Writer) (err error) {
	b, err := begin(ctx, plan{stored: 1_000, spare: 1_000}, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.end()) }()
	b.sqlite = &installation{binary: filepath.Join(b.folder, "birthmark"), data: filepath.Join(b.folder, "data")}
	b.sqlite.database = "sqlite:" + filepath.Join(b.sqlite.data, "birthmark.db")
	if err := b.sqlite.make(ctx, b.plan); err != nil {
		return err
	}
	if _, err := b.sqlite.start(ctx); err != nil {
		return err
	}
	b.ends = append(b.ends, b.sqlite.stop)
	all, err := b.startSwtpms(ctx)
	if err != nil {
		return b.explain(err)
	}
	trust, err := b.sqlite.output(ctx, "authority", "bundle")
	if err != nil {
		return err
	}
	took := make([]time.Duration, len(all))
	errs := make([]error, len(all))
	before, err := processCPU(b.sqlite.server.pid())
	if err != nil {
		return err
	}
	var devices sync.WaitGroup
	begin := time.Now()
	for i, one := range all {
		devices.Go(func() {
			errs[i] = b.enrollSwtpm(ctx, one, i, trust)
			took[i] = time.Since(begin)
		})
	}
	devices.Wait()
	whole := time.Since(begin)
	if err := errors.Join(errs...); err != nil {
		return b.explain(err)
	}
	after, err := processCPU(b.sqlite.server.pid())
	if err != nil {
		return err
	}
	slices.Sort(took)
	verdict := "met"
	if whole > aimSwtpms {
		verdict = "missed"
	}
	t := &table{title: fmt.Sprintf("%d devices with a swtpm each, at once, on this machine with the server", swtpms), head: []string{"", "s"}}
	t.add("all have their certificates", fmt.Sprintf("%.2f", whole.Seconds()))
	t.add(fmt.Sprintf("at most %.0f: %s", aimSwtpms.Seconds(), verdict), "")
	t.add("half of them have", fmt.Sprintf("%.2f", took[len(took)/2].Seconds()))
	t.add("server CPU, all of them", fmt.Sprintf("%.2f", (after-before).Seconds()))
	t.text(out)
	return nil
}

// startSwtpms makes the TPMs and has the server trust their maker.
func (b *bench) startSwtpms(ctx context.Context) ([]*tpmtest.TPM, error) {
	b.step("%d swtpms", swtpms)
	dir := filepath.Join(b.folder, "tpms")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	maker, err := tpmtest.NewMaker(dir)
	if err != nil {
		return nil, err
	}
	all, err := maker.Make(swtpms)
	b.ends = append(b.ends, func() error {
		for _, one := range all {
			if one != nil {
				one.Stop()
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, b.trustMakers(ctx, &attest.RootsFile{Name: "bench", Version: 1, IssuedAt: time.Now(), Makers: []attest.Maker{{
		Name: "swtpm", Roots: [][]byte{maker.Root.Raw}, Intermediates: [][]byte{maker.Issuing.Raw},
	}}})
}

// enrollSwtpm is what birthmark-agent does on a new device.
func (b *bench) enrollSwtpm(ctx context.Context, one *tpmtest.TPM, i int, trust []byte) error {
	chip, err := tpm.Open(ctx, tpm.Config{Path: one.Path})
	if err != nil {
		return err
	}
	deviceSerial := store.SeedSerial(b.plan.stored + 1 + i)
	a, err := agent.New(agent.Config{
		Dir: filepath.Join(b.folder, "device", deviceSerial), Server: "https://" + b.sqlite.device, Trust: trust,
		Key: agent.InTPM, Kind: wire.ECP256, TPM: chip, Now: time.Now,
		Requester: agent.Requester{DeviceSerial: deviceSerial, Secret: store.SeedSecret(deviceSerial)},
	})
	if err != nil {
		return err
	}
	out, err := a.Enroll(ctx)
	if err == nil && out.Did != agent.Enrolled {
		err = fmt.Errorf("%s: %s", deviceSerial, out.Did)
	}
	return err
}
