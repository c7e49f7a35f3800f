package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/store"
)

// aimTPM is the most that a TPM enrollment may cost the server beyond EST, in
// milliseconds of processor time.
const aimTPM = 1.0

// makerFile is what the TPMs' process writes of their maker.
const makerFile = "maker.json"

// tpmFigures are what devices with TPMs have shown.
type tpmFigures struct{ est, tpm *series }

// beyond is what a TPM costs the server more than EST, in milliseconds.
func (f tpmFigures) beyond() float64 { return median(f.tpm.cpu) - median(f.est.cpu) }

// tpmOrder is what the process with the TPMs is told to do.
type tpmOrder struct {
	Do string // "make", "connect" or "run"

	Folder string // make: for what is to be known of the TPMs' maker
	First  int    // make: first seeded device
	Count  int

	Clients int    // connect, run
	Address string // connect, run
	Anchors []byte // connect: DER certificate that the server's must chain to
	Issuer  []byte // run: DER certificate that signs the devices'
}

// tpms is the process that plays devices with TPMs.
type tpms struct {
	devices []*tpmDevice
	client  *http.Client
}

// tpmDevice is a device whose TPM made its keys already.
type tpmDevice struct {
	number               int
	deviceSerial, secret string
	tpm                  *tpmtest.TPM
	ak, subject          *tpmtest.Key
	csr                  []byte
	claim                wire.Claim
}

// bystander lets TPMs be made outside of a test.
type bystander struct{ testing.TB }

func (bystander) Helper()                         {}
func (bystander) Fatal(args ...any)               { panic(fmt.Sprint(args...)) }
func (bystander) Fatalf(text string, args ...any) { panic(fmt.Sprintf(text, args...)) }

func runTPMs(ctx context.Context, in io.Reader, out io.Writer) error {
	t := &tpms{}
	return obeyAll(ctx, in, out, t.obey)
}

func (t *tpms) obey(ctx context.Context, o *tpmOrder) (cell, error) {
	switch o.Do {
	case "make":
		return cell{}, t.make(o)
	case "connect":
		return cell{}, t.connect(ctx, o)
	case "run":
		return t.run(ctx, o)
	}
	return cell{}, fmt.Errorf("no such order: %q", o.Do)
}

// connect opens the connections, as EST's are before its clock starts.
func (t *tpms) connect(ctx context.Context, o *tpmOrder) error {
	anchor, err := x509.ParseCertificate(o.Anchors)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(anchor)
	t.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "localhost", RootCAs: roots},
		MaxIdleConnsPerHost: o.Clients, MaxIdleConns: o.Clients,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+o.Address+"/.well-known/est/cacerts", nil)
	if err != nil {
		return err
	}
	errs := make([]error, o.Clients)
	answers := make([]*http.Response, o.Clients)
	var all sync.WaitGroup
	for i := range o.Clients {
		all.Go(func() { answers[i], errs[i] = t.client.Do(req.Clone(ctx)) })
	}
	all.Wait() // each has a connection of its own until it is read
	for i, a := range answers {
		if errs[i] == nil {
			_, errs[i] = io.Copy(io.Discard, a.Body)
			_ = a.Body.Close() // it was read
		}
	}
	return errors.Join(errs...)
}

// make makes a maker and TPMs with an AK and a key each, on all cores.
func (t *tpms) make(o *tpmOrder) error {
	maker := tpmtest.NewMaker(bystander{}, "Bench", tpmtest.MakerOptions{RSA: true, Now: time.Now()})
	bundle, err := json.Marshal(maker.Trusted())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.Folder, makerFile), bundle, 0o600); err != nil {
		return err
	}
	t.devices = make([]*tpmDevice, o.Count)
	return onAllCores(o.Count, func(i int) error {
		t.devices[i] = newTPMDevice(maker, o.First+i)
		return nil
	})
}

func newTPMDevice(maker *tpmtest.Maker, number int) *tpmDevice {
	x := tpmtest.New(bystander{}, maker, tpmtest.Options{})
	d := &tpmDevice{
		number: number, deviceSerial: store.SeedSerial(number), tpm: x,
		ak: x.NewAK(wire.ECP256), subject: x.NewSubject(wire.ECP256),
	}
	d.secret = store.SeedSecret(d.deviceSerial)
	d.csr = d.subject.CSR(bystander{}, &x509.CertificateRequest{})
	d.claim = x.Claim(d.ak)
	return d
}

// run enrolls every device once, so many at a time.
func (t *tpms) run(ctx context.Context, o *tpmOrder) (cell, error) {
	issuer, err := x509.ParseCertificate(o.Issuer)
	if err != nil {
		return cell{}, err
	}
	defer t.client.CloseIdleConnections()
	var total tally
	var next atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for range o.Clients {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(t.devices) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				t.devices[i].enroll(ctx, t.client, o.Address, &total)
			}
		})
	}
	all.Wait()
	return total.sum(issuer, time.Since(begin))
}

// enroll answers a challenge and asks for the certificate.
func (d *tpmDevice) enroll(ctx context.Context, client *http.Client, address string, total *tally) {
	before := time.Now()
	certificate, err := d.certificate(ctx, client, address)
	if err != nil {
		total.fail(fmt.Errorf("device %d: %w", d.number, err))
		return
	}
	total.pass(time.Since(before), certificate, d.subject.SPKI())
}

func (d *tpmDevice) certificate(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	challenged, err := d.post(ctx, client, "https://"+address+wire.ChallengePath, &wire.ChallengeRequest{ID: "1", Claim: d.claim})
	if err != nil {
		return nil, err
	}
	answer, err := d.tpm.Answer(d.ak, d.subject, challenged.Challenge)
	if err != nil {
		return nil, err
	}
	enrolled, err := d.post(ctx, client, "https://"+address+wire.EnrollPath, &wire.EnrollRequest{ID: "1", CSR: d.csr, Answer: answer})
	if err != nil {
		return nil, err
	}
	return enrolled.Certificate, nil
}

func (d *tpmDevice) post(ctx context.Context, client *http.Client, url string, line any) (*wire.Result, error) {
	body, err := json.Marshal(line)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(append(body, '\n')))
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(d.deviceSerial, d.secret)
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	var r wire.Result
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", resp.Status, err, text)
	}
	if !r.OK {
		return nil, fmt.Errorf("%s %s %s", r.Code, r.Message, r.Detail)
	}
	return &r, nil
}

// tpm measures devices with TPMs beside EST on the SQLite installation.
func (b *bench) tpm(ctx context.Context) error {
	from := b.targets[1]
	est := &target{letter: from.letter, name: from.name, pid: from.pid, pprof: from.pprof, order: from.order, next: from.next, stats: map[int]*series{}}
	b.figures.tpm = tpmFigures{tpm: &series{}}
	part, err := b.startPart(ctx, "tpm")
	if err != nil {
		return err
	}
	count := 600
	if !b.plan.quick {
		count = 6000
	}
	for pass := range b.plan.passes {
		first := b.plan.stored + b.plan.spare - (pass+1)*count + 1 // EST takes devices from the other end
		b.step("%d TPMs", count)
		if err := askTPMs(part, tpmOrder{Do: "make", Folder: b.folder, First: first, Count: count}, nil); err != nil {
			return err
		}
		if err := b.trustMade(ctx, pass); err != nil {
			return err
		}
		if err := b.makeRequests(b.most(), est); err != nil {
			return err
		}
		if err := b.cell(ctx, est, b.most()); err != nil {
			return err
		}
		if err := b.tpmPass(ctx, part, est, count); err != nil {
			return err
		}
	}
	from.next = est.next
	b.figures.tpm.est = est.stats[b.most()]
	return nil
}

func askTPMs(p *process, o tpmOrder, c *cell) error {
	if c == nil {
		c = &cell{}
	}
	return errors.Join(p.ask(o, c), c.err())
}

// trustMade trusts the maker of the TPMs of this pass.
func (b *bench) trustMade(ctx context.Context, pass int) error {
	text, err := os.ReadFile(filepath.Join(b.folder, makerFile))
	if err != nil {
		return err
	}
	bundle := &attest.RootsFile{Name: "bench", Version: int64(pass) + 1, IssuedAt: time.Now(), Makers: make([]attest.Maker, 1)}
	if err := json.Unmarshal(text, &bundle.Makers[0]); err != nil {
		return err
	}
	return b.trustMakers(ctx, bundle)
}

// trustMakers has an operator import a bundle, with a signature of its own.
func (b *bench) trustMakers(ctx context.Context, bundle *attest.RootsFile) error {
	content, err := json.Marshal(bundle)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(b.folder, name) }
	for name, block := range map[string]*pem.Block{"makers.key": {Type: "PRIVATE KEY", Bytes: private}, "makers.pub": {Type: "PUBLIC KEY", Bytes: public}} {
		if err := os.WriteFile(at(name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(at("makers.json"), content, 0o600); err != nil {
		return err
	}
	signed, err := b.sqlite.tool(ctx, "tpm", "roots", "sign", at("makers.json"), "--key", at("makers.key"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(at("makers.signed"), signed, 0o600); err != nil {
		return err
	}
	return b.sqlite.command(ctx, "tpm", "roots", "import", at("makers.signed"), "--signer", at("makers.pub"), "--repin")
}

func (b *bench) tpmPass(ctx context.Context, part *process, est *target, count int) error {
	t := &target{letter: "b-tpm", pid: est.pid, pprof: est.pprof, by: part}
	o := tpmOrder{Do: "connect", Clients: b.most(), Address: est.order.Address, Anchors: est.order.Anchors, Issuer: est.order.Issuer}
	if err := askTPMs(part, o, nil); err != nil {
		return err
	}
	before, err := b.spent(t)
	if err != nil {
		return err
	}
	profiled := b.profile(ctx, t, b.most())
	var c cell
	o.Do = "run"
	err = askTPMs(part, o, &c)
	if err := errors.Join(err, profiled()); err != nil {
		return err
	}
	if c.Failed > 0 || c.Done != count {
		return fmt.Errorf("%d of %d TPMs enrolled, %d failed, the first: %s", c.Done, count, c.Failed, c.Why)
	}
	after, err := b.spent(t)
	if err != nil {
		return err
	}
	used := after.minus(before)
	b.figures.tpm.tpm.add(&c, used)
	b.step("(b) TPM, %2d clients: %6.0f/s, p50 %.2f ms, p99 %.2f ms, server %.3f s and TPMs %.3f s per 1,000; %d verified", b.most(),
		float64(c.Done)/c.Took.Seconds(), ms(c.P50), ms(c.P99), per1000(used.server, c.Done), per1000(used.load, c.Done), c.Checked)
	return nil
}

func (b *bench) tpmTable() *table {
	f := &b.figures.tpm
	t := &table{
		title: fmt.Sprintf("Enrollment with a TPM on SQLite, %d clients: challenge, then certificate", b.most()),
		head:  []string{"", "certificates/s", "p50 ms", "p99 ms", "server CPU s/1000", "devices CPU s/1000"},
	}
	for _, row := range []struct {
		name string
		of   *series
	}{{"EST in the same passes", f.est}, {"TPM: activation, certified key", f.tpm}} {
		t.add(row.name, fmt.Sprintf("%.0f", median(row.of.rate)), fmt.Sprintf("%.2f", median(row.of.p50)), fmt.Sprintf("%.1f", median(row.of.p99)),
			fmt.Sprintf("%.3f", median(row.of.cpu)), fmt.Sprintf("%.3f", median(row.of.load)))
	}
	verdict := "met"
	if f.beyond() > aimTPM {
		verdict = "missed"
	}
	t.add(fmt.Sprintf("server's ms beyond EST, at most %.1f: %s", aimTPM, verdict), "", "", "", fmt.Sprintf("%.3f", f.beyond()), "")
	return t
}
