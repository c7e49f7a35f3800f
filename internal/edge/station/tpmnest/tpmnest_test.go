package tpmnest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	edge "github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/edge/station/stationtest"
	"github.com/birthmark/birthmark/internal/edge/station/tpmnest"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// place is a line with a server and TPMs in its nests.
type place struct {
	server *stationtest.Server
	line   *edge.Line
	tpms   []*tpmtest.TPM
}

func newPlace(t *testing.T, n int, c tpmnest.Config, wrap func(fixture.Adapter) fixture.Adapter) *place {
	t.Helper()
	p := &place{server: stationtest.New(t)}
	_, p.tpms = tpmtest.Start(t, n)
	p.server.AddOrder(station.Order{Number: "PO-1", KeyModel: "on-device", Evidence: "tpm", Quantity: int64(n)})
	c.TPMs = map[string]string{}
	for i, one := range p.tpms {
		c.TPMs[fmt.Sprint(i+1)] = one.Path
	}
	adapter, err := tpmnest.New(c)
	if err != nil {
		t.Fatal(err)
	}
	var used fixture.Adapter = adapter
	if wrap != nil {
		used = wrap(adapter)
	}
	own := p.server.Credential()
	client, err := link.New(link.Config{URL: p.server.URL(), Trust: p.server.Trust(), Credential: func() *tls.Certificate { return own }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	q, err := queue.Open(queue.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	if p.line, err = edge.New(edge.Config{Link: client, Queue: q, Adapter: used, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	return p
}

// nothingLoaded fails if a TPM holds objects or sessions.
func (p *place) nothingLoaded(t *testing.T) {
	t.Helper()
	for i, one := range p.tpms {
		d, err := tpm.Open(t.Context(), tpm.Config{Path: one.Path})
		if err != nil {
			t.Fatal(err)
		}
		if h, err := d.Handles(t.Context()); err != nil || len(h.Objects)+len(h.Sessions) > 0 {
			t.Errorf("TPM %d still holds objects %x and sessions %x, %v", i, h.Objects, h.Sessions, err)
		}
	}
}

func TestEightTPMsGetIdentitiesAtOnce(t *testing.T) {
	p := newPlace(t, 8, tpmnest.Config{}, nil)
	var nests sync.WaitGroup
	for i := range p.tpms {
		nests.Go(func() {
			job := edge.Job{Nest: fmt.Sprint(i + 1), DeviceSerial: fmt.Sprintf("SN%d", i)}
			o := p.line.Do(t.Context(), job)
			if o.Result != edge.Pass {
				t.Errorf("%+v", o)
				return
			}
			// The same unit again has the same certificate.
			if again := p.line.Do(t.Context(), job); again.Result != edge.Pass || string(again.Certificate) != string(o.Certificate) {
				t.Errorf("again: %+v", again)
			}
		})
	}
	nests.Wait()
	if a := p.server.Account("PO-1"); a != (stationtest.Account{Issued: 8, Live: 8, Confirmed: 8}) {
		t.Errorf("%+v", a)
	}
	p.nothingLoaded(t)
}

func TestIdentitiesAsFilesAreLoadedByTheTPM(t *testing.T) {
	dir := t.TempDir()
	p := newPlace(t, 2, tpmnest.Config{Dir: dir, Kind: format.RSA2048}, nil)
	if o := p.line.Do(t.Context(), edge.Job{Nest: "1", DeviceSerial: "A/../1"}); o.Result != edge.Pass {
		t.Fatalf("%+v", o)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.pem"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, one := range files {
		if info, err := os.Stat(one); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", one, info.Mode(), err)
		}
	}
	// A unit without a device serial has no folder; another TPM does not load the key.
	if o := p.line.Do(t.Context(), edge.Job{Nest: "1"}); o.Code != fault.FixtureFailed.String() {
		t.Errorf("%+v", o)
	}
	if o := p.line.Do(t.Context(), edge.Job{Nest: "2", DeviceSerial: "A/../1"}); o.Code != fault.TPMFailed.String() {
		t.Errorf("%+v", o)
	}
	p.nothingLoaded(t)
}

// stumble fails a step of a unit once.
type stumble struct {
	fixture.Adapter

	mu    sync.Mutex
	steps map[string]bool // to fail
}

func (s *stumble) Open(ctx context.Context, job fixture.Job) (fixture.Unit, error) {
	u, err := s.Adapter.Open(ctx, job)
	if err != nil {
		return nil, err
	}
	return &stumbling{u, u.(fixture.Attester), s}, nil
}

func (s *stumble) fail(step string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.steps[step] {
		delete(s.steps, step)
		return errors.New("stumbled at " + step)
	}
	return nil
}

type stumbling struct {
	fixture.Unit
	fixture.Attester

	s *stumble
}

func (u *stumbling) Request(ctx context.Context) ([]byte, error) {
	b, err := u.Unit.Request(ctx)
	return b, errors.Join(err, u.s.fail("request"))
}

func (u *stumbling) Claim(ctx context.Context) (format.Claim, error) {
	c, err := u.Attester.Claim(ctx)
	return c, errors.Join(err, u.s.fail("claim"))
}

func (u *stumbling) Answer(ctx context.Context, c *format.Challenge) (*format.Answer, error) {
	a, err := u.Attester.Answer(ctx, c)
	return a, errors.Join(err, u.s.fail("answer"))
}

func (u *stumbling) Install(ctx context.Context, c fixture.Credential) error {
	return errors.Join(u.Unit.Install(ctx, c), u.s.fail("install"))
}

func (u *stumbling) ReadBack(ctx context.Context) ([]byte, error) {
	b, err := u.Unit.ReadBack(ctx)
	return b, errors.Join(err, u.s.fail("readback"))
}

func (u *stumbling) Confirm(ctx context.Context, s fixture.Statement) ([]byte, error) {
	b, err := u.Unit.Confirm(ctx, s)
	return b, errors.Join(err, u.s.fail("confirm"))
}

func TestAUnitThatStumblesAtAnyStepGoesOnWithItsKey(t *testing.T) {
	s := &stumble{steps: map[string]bool{}}
	p := newPlace(t, 1, tpmnest.Config{}, func(a fixture.Adapter) fixture.Adapter { s.Adapter = a; return s })
	var certificate []byte
	for _, step := range []string{"request", "claim", "answer", "install", "readback", "confirm"} {
		s.steps[step] = true
		o := p.line.Do(t.Context(), edge.Job{Nest: "1", DeviceSerial: "SN1"})
		if o.Result != edge.Pass || o.Attempts != 2 {
			t.Fatalf("%s: %+v", step, o)
		}
		if certificate == nil {
			certificate = o.Certificate
		}
		if string(certificate) != string(o.Certificate) {
			t.Errorf("%s: another certificate", step)
		}
	}
	if a := p.server.Account("PO-1"); a != (stationtest.Account{Issued: 1, Live: 1, Confirmed: 1}) {
		t.Errorf("%+v", a)
	}
	p.nothingLoaded(t)
}

func TestADeadTPMIsAFailureOfTheUnit(t *testing.T) {
	p := newPlace(t, 1, tpmnest.Config{}, nil)
	p.tpms[0].Stop()
	if o := p.line.Do(t.Context(), edge.Job{Nest: "1", DeviceSerial: "SN1"}); o.Code != fault.TPMUnreachable.String() || o.Attempts != 2 {
		t.Errorf("%+v", o)
	}
	if o := p.line.Do(t.Context(), edge.Job{Nest: "7", DeviceSerial: "SN1"}); o.Code != fault.ParameterInvalid.String() {
		t.Errorf("%+v", o)
	}
}

func TestAStaleTicketIsAskedForAnew(t *testing.T) {
	p := newPlace(t, 1, tpmnest.Config{}, nil)
	stale := 2
	p.server.Spoil = func(path string, r *station.Result) {
		if path == station.ChallengePath && stale > 0 {
			stale--
			r.Challenge.Ticket = []byte("of yesterday")
		}
	}
	if o := p.line.Do(t.Context(), edge.Job{Nest: "1", DeviceSerial: "SN1"}); o.Result != edge.Pass || o.Attempts != 1 || stale != 0 {
		t.Errorf("%+v", o)
	}
}

func TestAServerThatKnowsNoChallengesIsNoPass(t *testing.T) {
	p := newPlace(t, 1, tpmnest.Config{}, nil)
	p.server.Hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != station.ChallengePath {
			return false
		}
		stationtest.Refuse(w, http.StatusForbidden, fault.EKUntrusted, "")
		return true
	}
	if o := p.line.Do(t.Context(), edge.Job{Nest: "1", DeviceSerial: "SN1"}); o.Code != fault.EKUntrusted.String() {
		t.Errorf("%+v", o)
	}
}

// TestAHandleWithAnotherKeyIsRefused puts a key of another kind where ours would be.
func TestAHandleWithAnotherKeyIsRefused(t *testing.T) {
	p := newPlace(t, 1, tpmnest.Config{Handle: 0x81010001}, nil) // the endorsement key
	if o := p.line.Do(t.Context(), edge.Job{Nest: "1", DeviceSerial: "SN1"}); o.Code != fault.TPMHandle.String() {
		t.Errorf("%+v", o)
	}
}

func TestTheCertificateIsForTheKeyInTheTPM(t *testing.T) {
	p := newPlace(t, 1, tpmnest.Config{Handle: 0x81000123, Index: 0x01800123}, nil)
	o := p.line.Do(t.Context(), edge.Job{Nest: "1", DeviceSerial: "SN1"})
	if o.Result != edge.Pass {
		t.Fatalf("%+v", o)
	}
	d, err := tpm.Open(t.Context(), tpm.Config{Path: p.tpms[0].Path})
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.KeyAt(t.Context(), 0x81000123)
	if err != nil || key == nil {
		t.Fatal(key, err)
	}
	der, err := d.ReadNV(t.Context(), 0x01800123)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil || string(c.RawSubjectPublicKeyInfo) != string(key.Parsed().SPKI) {
		t.Errorf("%v", err)
	}
}
