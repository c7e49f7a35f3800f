package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/agent"
	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/edge/station/tpmnest"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/needs"
)

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// typed runs birthmark-agent as a person would and returns what it says.
func typed(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	code := run(t.Context(), args, &streams{out: &out, err: &out})
	return out.String(), code
}

// TestFromTheFactoryToTheField is a device's life so far: a station gives it its
// initial identity in the TPM, with which the agent gets the certificates that the
// device works with.
func TestFromTheFactoryToTheField(t *testing.T) {
	needs.Time(t)
	maker, all := tpmtest.Start(t, 2)
	s := newServer(t, maker)
	unit := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(s.bin, "birthmark-station"), append(args, "--state", s.path("station"))...).CombinedOutput()
		return string(out), err
	}
	if out, err := unit("enroll", "--server", s.url(), "--code", s.order("PO", 2), "--trust", s.path("trust.pem")); err != nil {
		t.Fatal(out)
	}
	if out, err := unit("unit", "--adapter", "tpm", "--tpm", all[0].Path, "--serial", "GW1"); err != nil || !strings.HasPrefix(out, "PASS") {
		t.Fatal(out)
	}
	if out, err := unit("unit", "--adapter", "tpm", "--tpm", all[0].Path, "--serial", "GW2"); err == nil || !strings.Contains(out, "BM-9060") {
		t.Errorf("a second serial for one TPM: %s", out)
	}

	common := []string{"--server", s.url(), "--ca", s.path("trust.pem"), "--tpm", all[0].Path, "--out", s.path("gw1")}
	enroll := append([]string{"enroll", "--ak", "--label", "ldevid-cloud"}, common...)
	if out, code := typed(t, append(enroll, "--idevid", "tpm")...); code != 0 || !strings.HasPrefix(out, "Enrolled") {
		t.Fatal(out)
	}
	if out, code := typed(t, enroll...); code != 0 || !strings.HasPrefix(out, "Nothing to do") {
		t.Error(out)
	}
	if out, code := typed(t, "status", "--out", s.path("gw1")); code != 0 || !strings.Contains(out, "CN=GW1") || !strings.Contains(out, "attestation key") {
		t.Error(out)
	}
	if out, code := typed(t, append([]string{"doctor"}, common...)...); code != 0 || strings.Contains(out, "FAIL") {
		t.Error(out)
	}

	// Another device's TPM does not get in with this one's secret-less certificate file.
	other := []string{"enroll", "--server", s.url(), "--ca", s.path("trust.pem"), "--tpm", all[1].Path, "--out", s.path("gw2"), "--idevid", "tpm"}
	if out, code := typed(t, other...); code == 0 || !strings.Contains(out, "BM-9084") {
		t.Error(out)
	}
	if out, code := typed(t, "enroll", "--server", s.url(), "--ca", s.path("trust.pem"), "--out", s.path("gw3"), "--key", "file"); code == 0 || !strings.Contains(out, "BM-") {
		t.Errorf("nobody enrolled: %s", out)
	}

	// In time it renews: the same key, a later certificate.
	d, err := tpm.Open(t.Context(), tpm.Config{Path: all[0].Path})
	if err != nil {
		t.Fatal(err)
	}
	before := s.read("gw1/" + agent.KeyFile)
	a, err := agent.New(agent.Config{
		Dir: s.path("gw1"), Server: s.url(), Trust: s.read("trust.pem"), Label: "ldevid-cloud", Key: agent.InTPM, TPM: d,
		Now: func() time.Time { return time.Now().Add(300 * 24 * time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := a.Enroll(t.Context()); err != nil || out.Did != agent.Renewed {
		t.Errorf("%+v, %v", out, err)
	}
	if !bytes.Equal(before, s.read("gw1/"+agent.KeyFile)) {
		t.Error("renewing changed the key")
	}
}

// TestATPMThatNobodyVouchesForMustBeListed lets a TPM without certificates in once
// its endorsement key is in an imported list, and a quote decide on its firmware.
func TestATPMThatNobodyVouchesForMustBeListed(t *testing.T) {
	needs.Time(t)
	maker, _ := tpmtest.Start(t, 1)
	bare := tpmtest.StartBare(t, 1)
	s := newServer(t, maker)
	s.run(nil, "product", "add", "--name", "measured", "--least-evidence", "tpm")
	var added struct{ Secret string }
	s.run(&added, "device", "add", "--product", "measured", "--serial", "M1")
	s.write("secret", []byte(added.Secret+"\n"))
	enroll := []string{"enroll", "--server", s.url(), "--ca", s.path("trust.pem"), "--tpm", bare[0].Path, "--out", s.path("m1"), "--serial", "M1", "--secret-file", s.path("secret")}
	if out, code := typed(t, enroll...); code == 0 || !strings.Contains(out, "BM-9016") {
		t.Fatalf("not listed: %s", out)
	}
	line, code := typed(t, "ek", "--tpm", bare[0].Path, "--list")
	if code != 0 {
		t.Fatal(line)
	}
	s.write("eks.ndjson", []byte(line))
	s.run(nil, "manifest", "import", s.path("eks.ndjson"), "--format", "tpm-ek")

	// A policy asks for a state that this firmware is not in.
	policy := func(event string) {
		zeros := make([]byte, 32)
		digest := sha256.Sum256([]byte(event))
		value := sha256.Sum256(append(zeros, digest[:]...))
		s.write("policy.json", fmt.Appendf(nil, `{"bank":"sha256","states":[{"name":"release","pcrs":{"16":"%x"}}]}`, value))
		s.run(nil, "tpm", "policy", "set", "--product", "measured", s.path("policy.json"))
	}
	policy("release 2")
	d, err := tpm.Open(t.Context(), tpm.Config{Path: bare[0].Path})
	if err != nil {
		t.Fatal(err)
	}
	build := sha256.Sum256([]byte("release 1"))
	if err := d.ExtendPCR(t.Context(), "sha256", 16, build[:]); err != nil {
		t.Fatal(err)
	}
	if out, code := typed(t, enroll...); code == 0 || !strings.Contains(out, "BM-9054") {
		t.Fatalf("another release: %s", out)
	}
	policy("release 1")
	if out, code := typed(t, enroll...); code != 0 || !strings.HasPrefix(out, "Enrolled") {
		t.Fatal(out)
	}
	if out := string(s.run(nil, "device", "show", "M1")); !strings.Contains(out, "a TPM proved") {
		t.Error(out)
	}
}

// TestADeviceWithoutATPMEnrollsByItsSecret keeps its key in a file.
func TestADeviceWithoutATPMEnrollsByItsSecret(t *testing.T) {
	needs.Time(t)
	maker, _ := tpmtest.Start(t, 1)
	s := newServer(t, maker)
	s.run(nil, "product", "add", "--name", "plain")
	var added struct{ Secret string }
	s.run(&added, "device", "add", "--product", "plain", "--serial", "P1")
	s.write("secret", []byte(added.Secret+"\n"))
	args := []string{"enroll", "--server", s.url(), "--ca", s.path("trust.pem"), "--out", s.path("p1"), "--key", "file"}
	if out, code := typed(t, append(args, "--serial", "P1", "--secret-file", s.path("secret"))...); code != 0 || !strings.HasPrefix(out, "Enrolled") {
		t.Fatal(out)
	}
	if out, code := typed(t, args...); code != 0 || !strings.HasPrefix(out, "Nothing to do") {
		t.Error(out)
	}
	a, err := agent.New(agent.Config{
		Dir: s.path("p1"), Server: s.url(), Trust: s.read("trust.pem"), Key: agent.InFile,
		Now: func() time.Time { return time.Now().Add(300 * 24 * time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := a.Enroll(t.Context()); err != nil || out.Did != agent.Renewed {
		t.Errorf("%+v, %v", out, err)
	}
	s.write("secret", []byte("guessed"))
	if out, code := typed(t, append(args[:5:5], "--out", s.path("p2"), "--key", "file", "--serial", "P1", "--secret-file", s.path("secret"))...); code == 0 || !strings.Contains(out, "BM-201") {
		t.Errorf("a guessed secret: %s", out)
	}
}

// The load test: so many TPMs at once, the server killed in the middle.
const fleet = 50

// TestFiftyTPMsWhileTheServerDies provisions a fleet at once while the server is
// killed and started again: every unit passes, each has one certificate, and the
// order's account is exact.
func TestFiftyTPMsWhileTheServerDies(t *testing.T) {
	needs.Time(t)
	maker, all := tpmtest.Start(t, fleet)
	s := newServer(t, maker)
	home, err := station.Enroll(t.Context(), station.Enrollment{Dir: s.path("station"), Server: s.url(), Code: s.order("PO", fleet), Trust: s.read("trust.pem")})
	if err != nil {
		t.Fatal(err)
	}
	client, err := home.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	q, err := queue.Open(queue.Config{Dir: s.path("station")})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	paths := map[string]string{}
	for i, one := range all {
		paths[fmt.Sprint(i)] = one.Path
	}
	adapter, err := tpmnest.New(tpmnest.Config{TPMs: paths})
	if err != nil {
		t.Fatal(err)
	}
	line, err := station.New(station.Config{Link: client, Queue: q, Adapter: adapter, Now: time.Now, Patience: time.Minute, ConfirmPatience: time.Minute, Attempts: 5})
	if err != nil {
		t.Fatal(err)
	}
	background, stop := context.WithCancel(t.Context())
	defer stop()
	go line.Run(background)

	begin := time.Now()
	var once, nests sync.WaitGroup
	passed := make(chan struct{}, fleet)
	once.Go(func() { s.dieAfter(fleet/5, passed) })
	outcomes := make([]station.Outcome, fleet)
	for i := range all {
		nests.Go(func() {
			outcomes[i] = line.Do(t.Context(), station.Job{Nest: fmt.Sprint(i), DeviceSerial: fmt.Sprintf("GW%02d", i)})
			passed <- struct{}{}
		})
	}
	nests.Wait()
	once.Wait()
	if _, err := line.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("%d TPMs in %v, the server's death and start included", fleet, time.Since(begin).Round(time.Millisecond))
	seen := map[string]int{}
	for i, o := range outcomes {
		if !o.Passed() {
			t.Errorf("%+v", o)
		}
		seen[string(o.Certificate)]++
		held, err := certificateIn(t, all[i])
		if err != nil || !bytes.Equal(held, o.Certificate) {
			t.Errorf("GW%02d holds another certificate than it was given, %v", i, err)
		}
	}
	if len(seen) != fleet {
		t.Errorf("%d certificates for %d units", len(seen), fleet)
	}
	if a := s.account("PO"); a.Issued != fleet || a.Live != fleet || a.Confirmed != fleet || a.Left != 0 {
		t.Errorf("the order's account: %+v", a)
	}
	// A unit more is one too many.
	if o := line.Do(t.Context(), station.Job{Nest: "0", DeviceSerial: "GW99"}); o.Passed() {
		t.Errorf("one too many: %+v", o)
	}
	s.fieldWhileTheServerDies(all)
	s.run(nil, "ledger", "verify")
}

// dieAfter kills the server when so many are through, and starts it again.
func (s *server) dieAfter(n int, through <-chan struct{}) {
	for range n {
		<-through
	}
	s.kill()
	s.start()
}

// fieldWhileTheServerDies lets the agents of the whole fleet enroll at once with
// what the factory gave them, while the server dies again: one certificate each.
func (s *server) fieldWhileTheServerDies(all []*tpmtest.TPM) {
	s.t.Helper()
	begin := time.Now()
	through := make(chan struct{}, len(all))
	var once, devices sync.WaitGroup
	once.Go(func() { s.dieAfter(len(all)/5, through) })
	trust := s.read("trust.pem")
	for i, one := range all {
		devices.Go(func() {
			defer func() { through <- struct{}{} }()
			c := enrollCmd{tpmFlags: tpmFlags{TPM: one.Path}, IDevID: fromTPM, NV: "0x01C90000", Handle: "0x81020000"}
			d, err := c.open(s.t.Context())
			if err != nil {
				s.t.Error(err)
				return
			}
			by, err := c.requester(s.t.Context(), d)
			if err != nil {
				s.t.Error(err)
				return
			}
			a, err := agent.New(agent.Config{
				Dir: s.path(fmt.Sprintf("field-%d", i)), Server: s.url(), Trust: trust, Label: "ldevid-cloud", Key: agent.InTPM, TPM: d,
				Requester: by, Patience: time.Minute, Now: time.Now,
			})
			if err != nil {
				s.t.Error(err)
				return
			}
			if out, err := a.Enroll(s.t.Context()); err != nil || out.Did != agent.Enrolled {
				s.t.Errorf("device %d: %+v, %v", i, out, err)
			}
		})
	}
	devices.Wait()
	once.Wait()
	s.t.Logf("%d agents in %v, the server's death and start included", len(all), time.Since(begin).Round(time.Millisecond))
	var list []struct{ Device, Profile string }
	s.run(&list, "certificate", "list", "--kind", "ldevid", "--state", "issued", "--limit", "0")
	seen := map[string]int{}
	for _, one := range list {
		seen[one.Device]++
	}
	if len(list) != len(all) || len(seen) != len(all) {
		s.t.Errorf("%d certificates for %d devices of %d", len(list), len(seen), len(all))
	}
}

// certificateIn reads the certificate that a TPM holds, and fails if anything is
// left loaded in it.
func certificateIn(t *testing.T, one *tpmtest.TPM) ([]byte, error) {
	t.Helper()
	d, err := tpm.Open(t.Context(), tpm.Config{Path: one.Path})
	if err != nil {
		return nil, err
	}
	h, err := d.Handles(t.Context())
	if err != nil {
		return nil, err
	}
	if len(h.Objects)+len(h.Sessions) > 0 {
		t.Errorf("a TPM holds objects %x and sessions %x", h.Objects, h.Sessions)
	}
	text, err := d.ReadNV(t.Context(), tpmnest.DefaultIndex)
	return text, err
}
