package main

import (
	"bytes"
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
	"strings"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// The quickstart's factory.
const (
	quickstartProduct = "gateway"
	quickstartBoard   = "prototype" // what a person enrolls without a line
	quickstartSite    = "Brno"
	quickstartMaker   = "simulated-chips"
	quickstartSpares  = 5
	nestsPerStation   = 8
)

var quickstartStations = []string{"line-1", "line-2"}

// production is a production order of the quickstart under way.
type production struct {
	*story
	run      string // names the reel of this run's chips
	order    factory.Order
	stations []*workplace
	made     []station.Outcome // one for each device, in order of chips
}

// workplace is a station with its link and queue.
type workplace struct {
	home  *station.Home
	link  *link.Client
	queue *queue.Queue
}

func (w *workplace) close() {
	w.link.Close()
	w.queue.Close()
}

// produce runs an order: chips delivered, stations, units, and those who try to
// get one that they must not have.
func (s *story) produce(ctx context.Context) (*production, error) {
	p := &production{story: s, run: strings.ToUpper(rand.Text()[:6])}
	for _, step := range []func(context.Context) error{
		p.deliver, p.addProducts, p.addStations, p.openOrder, p.provision, p.clone, p.oneTooMany,
	} {
		if err := step(ctx); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (p *production) close() {
	for _, w := range p.stations {
		w.close()
	}
}

// deliver is the chip maker: a reel of chips and the manifest that lists them,
// imported by an operator who trusts the maker's signer.
func (p *production) deliver(ctx context.Context) error {
	begin := time.Now()
	cert, key, err := p.maker()
	if err != nil {
		return err
	}
	_, err = p.node.line.factory.PinSigner(ctx, p.caller, quickstartMaker, "birthmark", cert)
	if err != nil && !fault.Has(err, fault.SignerExists) {
		return err
	}
	reel := p.cmd.Devices + quickstartSpares
	var file bytes.Buffer
	w, err := manifest.NewWriter(&file, manifest.Header{
		Maker: quickstartMaker, Created: time.Now(), Vendor: sim.Vendor, ChipType: sim.ChipType, Count: int64(reel),
	}, cert, key)
	if err != nil {
		return err
	}
	for i := range reel {
		chip, err := sim.NewChip(p.run, i)
		if err != nil {
			return err
		}
		if err := w.Write(&manifest.Entry{UID: chip.UID, Keys: []manifest.Key{{Slot: "0", SPKI: chip.SPKI}}}); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	in, err := p.node.line.factory.ImportManifest(ctx, p.caller, factory.ImportRequest{
		Name: "reel-" + p.run + ".birthmark", Format: "birthmark", Spool: p.cmd.Data, Body: &file,
	}, func(factory.ImportProgress) {})
	if err != nil {
		return err
	}
	p.say("Imported the chip maker's manifest: %d chips with their public keys, signed by a signer that is pinned (%s).", in.Manifest.Chips, since(begin))
	return nil
}

// maker returns the simulated chip maker's signer, made on the first run.
func (p *production) maker() (cert []byte, key *ecdsa.PrivateKey, err error) {
	path := filepath.Join(p.cmd.Data, "secrets", "chip-maker.pem")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return makeMaker(path)
	}
	if err != nil {
		return nil, nil, err
	}
	certBlock, rest := pem.Decode(text)
	keyBlock, _ := pem.Decode(rest)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, fault.New(fault.DataFolderState, path, "is damaged")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fault.New(fault.DataFolderState, path, "is damaged")
	}
	return certBlock.Bytes, key, nil
}

func makeMaker(path string) (cert []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	own := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Simulated Chip Maker, manifest signer"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if cert, err = x509.CreateCertificate(rand.Reader, own, own, &key.PublicKey, key); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	return cert, key, writeFile(path, text, 0o600)
}

func (p *production) addProducts(ctx context.Context) error {
	for _, product := range []device.Product{
		{
			Name: quickstartProduct, Description: "made by the quickstart", Profiles: []string{"ldevid-cloud", "idevid"},
			ChipTypes: []string{sim.ChipType}, KeyModel: device.KeyModelOnDevice, IDevIDProfile: "idevid", LeastEvidence: "chip",
		},
		{Name: quickstartBoard, Description: "boards on a bench, without a chip", Profiles: []string{"ldevid-cloud"}},
	} {
		if _, err := p.node.authority.AddProduct(ctx, p.caller.Name, product); err != nil && !fault.Has(err, fault.ProductExists) {
			return err
		}
	}
	return nil
}

// addStations gives each station a certificate for a one-time code, once.
func (p *production) addStations(ctx context.Context) error {
	begin := time.Now()
	_, err := p.node.line.factory.AddSite(ctx, p.caller, quickstartSite)
	if err != nil && !fault.Has(err, fault.SiteExists) {
		return err
	}
	enrolled := 0
	for _, name := range quickstartStations {
		folder := filepath.Join(p.cmd.Data, "stations", name)
		home, err := station.OpenHome(folder)
		if fault.Has(err, fault.StationCertificate) {
			home, err = p.enrollStation(ctx, name, folder)
			enrolled++
		}
		if err != nil {
			return err
		}
		if err := p.work(home, folder); err != nil {
			return err
		}
	}
	if enrolled > 0 {
		p.say("Enrolled stations %s at site %s with one-time codes (%s).", strings.Join(quickstartStations, " and "), quickstartSite, since(begin))
	}
	return nil
}

func (p *production) enrollStation(ctx context.Context, name, folder string) (*station.Home, error) {
	_, code, err := p.node.line.factory.AddStation(ctx, p.caller, name, quickstartSite)
	if fault.Has(err, fault.StationExists) {
		_, code, err = p.node.line.factory.NewStationCode(ctx, p.caller, name)
	}
	if err != nil {
		return nil, err
	}
	trust, err := os.ReadFile(p.node.folder.bundle())
	if err != nil {
		return nil, err
	}
	return station.Enroll(ctx, station.Enrollment{Dir: folder, Server: "https://" + p.at.device, Code: code, Trust: trust})
}

// work opens a station for business. The server may listen on another port than
// when the station enrolled.
func (p *production) work(home *station.Home, folder string) error {
	client, err := home.ConnectTo("https://" + p.at.device)
	if err != nil {
		return err
	}
	q, err := queue.Open(queue.Config{Dir: folder})
	if err != nil {
		client.Close()
		return err
	}
	p.stations = append(p.stations, &workplace{home, client, q})
	return nil
}

func (p *production) openOrder(ctx context.Context) (err error) {
	p.order, _, err = p.node.line.factory.CreateOrder(ctx, p.caller, factory.OrderTerms{
		Number: "PO-" + p.run, Product: quickstartProduct, Site: quickstartSite, Quantity: int64(p.cmd.Devices), Spares: quickstartSpares, Stations: quickstartStations,
	})
	if err != nil {
		return err
	}
	if p.order, err = p.node.line.factory.OpenOrder(ctx, p.caller, p.order.Number, ""); err != nil {
		return err
	}
	p.say("Opened production order %s: %d units of %s, %d spares.", p.order.Number, p.order.Quantity, quickstartProduct, p.order.Spares)
	return nil
}

// simulated returns a line of the station with simulated devices, whose chips
// are those of the reel from first on.
func (p *production) simulated(w *workplace, serials string, first, count int) (*station.Line, error) {
	adapter, err := sim.New(sim.Config{Seed: p.run, First: first, Count: count, SerialPrefix: serials, Random: rand.Reader})
	if err != nil {
		return nil, err
	}
	return station.New(station.Config{Link: w.link, Queue: w.queue, Adapter: adapter, Now: time.Now, Ahead: 4 * nestsPerStation})
}

func (p *production) deviceSerials() string { return "QS-" + p.run + "-" }

// provision gives each unit its identity, at all stations at once.
func (p *production) provision(ctx context.Context) error {
	bar := newProgress(p.io, "Provisioning", p.cmd.Devices)
	begin := time.Now()
	var mu sync.Mutex
	var failed *station.Outcome
	var lines sync.WaitGroup
	part := (p.cmd.Devices + len(p.stations) - 1) / len(p.stations)
	for i, w := range p.stations {
		count := min(part, p.cmd.Devices-i*part)
		if count <= 0 {
			break
		}
		l, err := p.simulated(w, p.deviceSerials(), i*part, count)
		if err != nil {
			return err
		}
		lines.Go(func() {
			l.Provision(ctx, station.Loop{Order: p.order.Number, Count: count, Nests: nestsPerStation, Tell: func(o station.Outcome) {
				bar.add(1)
				mu.Lock()
				defer mu.Unlock()
				if o.Result == station.Pass {
					p.made = append(p.made, o)
				} else {
					failed = &o
				}
			}})
		})
	}
	lines.Wait()
	bar.done()
	if failed != nil {
		return fmt.Errorf("unit %s: %s %s %s", failed.DeviceSerial, failed.Code, failed.Message, failed.Detail)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	slices.SortFunc(p.made, func(a, b station.Outcome) int { return strings.Compare(a.DeviceSerial, b.DeviceSerial) })
	all := time.Since(begin)
	p.say("Provisioned %d units at %d stations over TLS in %s: %.0f a second. Each chip proved its request, each certificate was read back.",
		len(p.made), len(p.stations), all.Round(time.Millisecond), float64(len(p.made))/all.Seconds())
	return nil
}

// refused runs one unit that must be refused with a code, and says so.
func (p *production) refused(ctx context.Context, what, serials string, chip int, code fault.Code) error {
	l, err := p.simulated(p.stations[0], serials, chip, 1)
	if err != nil {
		return err
	}
	o := l.Do(ctx, station.Job{Nest: "1", Order: p.order.Number, DeviceSerial: fmt.Sprintf("%s%08d", serials, chip)})
	if o.Passed() || o.Code != code.String() {
		return fmt.Errorf("%s: got %s %s, want %s", what, o.Result, o.Code, code)
	}
	p.say("%s is refused: %s, %s.", what, o.Code, o.Message)
	return nil
}

// clone is another device with a chip that is in use.
func (p *production) clone(ctx context.Context) error {
	return p.refused(ctx, "A clone of "+p.made[0].DeviceSerial, "CLONE-", 0, fault.ChipUsed)
}

// oneTooMany is a unit beyond the order, with a good chip.
func (p *production) oneTooMany(ctx context.Context) error {
	return p.refused(ctx, "One unit too many", p.deviceSerials(), p.cmd.Devices, fault.OrderFull)
}

// ship hands half of the devices over and closes the order.
func (p *production) ship(ctx context.Context) error {
	var serials []string
	for i := range p.made {
		if i%2 == 0 {
			serials = append(serials, p.made[i].DeviceSerial)
		}
	}
	for some := range slices.Chunk(serials, 500) {
		if _, _, err := p.node.line.factory.Ship(ctx, p.caller, some); err != nil {
			return err
		}
	}
	_, err := p.node.line.factory.CloseOrder(ctx, p.caller, p.order.Number, "")
	return err
}

// report prints the order's account and KPIs.
func (p *production) report(ctx context.Context) error {
	a, err := p.node.line.factory.Account(ctx, p.caller, p.order.Number)
	if err != nil {
		return err
	}
	p.say("The account of %s: %d ordered, %d issued, %d confirmed, %d scrapped, %d of %d spares used, %d shipped, %d active, %d unaccounted for.",
		p.order.Number, a.Ordered, a.Issued, a.Confirmed, a.Scrapped, a.SparesUsed, a.Spares, a.Shipped, a.Activated, a.Unaccounted)
	k, err := p.node.line.factory.KPIs(ctx, p.caller, factory.KPIQuery{Order: p.order.Number})
	if err != nil {
		return err
	}
	p.say("KPIs: %.2f %% provisioned (goal %.1f %%), first-pass yield %.2f %%, issuing p50 %s and p99 %s, whole unit p50 %s and p99 %s.",
		100*k.Success, 100*k.SuccessGoal, 100*k.FirstPassYield, short(k.IssueP50), short(k.IssueP99), short(k.CycleP50), short(k.CycleP99))
	if err := p.node.line.factory.Flush(ctx); err != nil {
		return err
	}
	alarms, _, err := p.node.line.factory.Alarms(ctx, p.caller, factory.AlarmQuery{Page: factory.Page{Limit: 10}, State: factory.AlarmRaised})
	if err != nil {
		return err
	}
	for _, a := range alarms {
		if a.Order == p.order.ID {
			p.say("Alarm %d, %s: %s.", a.ID, a.Kind, a.Message)
		}
	}
	return nil
}

func short(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
