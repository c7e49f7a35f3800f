package station

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/birthmark/birthmark/internal/edge/refusal"
	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
)

// Block is what a line without a link needs of the server: nonces of one order,
// signed, and the order's terms as they were.
type Block struct {
	Order  station.Order  `json:"order"`
	Nonces station.Nonces `json:"nonces"`
}

// DrawBlock draws a block while there is a link, and keeps it in the state
// folder.
func (h *Home) DrawBlock(ctx context.Context, l Link, orderNumber string, count int) (*Block, error) {
	s, err := l.Status(ctx)
	if err != nil {
		return nil, err
	}
	order, err := pick(s, orderNumber)
	if err != nil {
		return nil, err
	}
	got, err := l.Nonces(ctx, &station.NoncesRequest{Order: order.Number, Count: count, Offline: true})
	if err != nil {
		return nil, err
	}
	b := &Block{Order: *order, Nonces: *got}
	// A unit that waits for its certificate must not be forgotten.
	if err := h.finished(order.Number); err != nil {
		return nil, err
	}
	if err := b.check(h.settings.Station); err != nil {
		return nil, err
	}
	text, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	return b, h.write(blockFile(order.Number), text)
}

// finished refuses to replace a batch with units that have no certificate yet.
func (h *Home) finished(orderNumber string) error {
	if _, err := os.Stat(filepath.Join(h.dir, blockFile(orderNumber))); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	b, err := OpenBatch(BatchConfig{Home: h, Now: time.Now, Order: orderNumber})
	if err != nil {
		return err
	}
	defer b.Close()
	done, err := b.readApplied()
	if err != nil {
		return err
	}
	defer done.Close()
	waiting := 0
	for i := range b.units {
		if !done.units[b.units[i].ID] {
			waiting++
		}
	}
	if waiting > 0 {
		return fault.New(fault.BundleInvalid, waiting, "units of the batch before have no certificate yet: apply the reply to it, or discard it")
	}
	return nil
}

// DiscardBatch forgets the batch of an order. Its units can be collected anew.
func (h *Home) DiscardBatch(orderNumber string) error {
	for _, name := range []string{blockFile(orderNumber), unitsFile(orderNumber), appliedFile(orderNumber)} {
		if err := os.Remove(filepath.Join(h.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return durable.SyncFolder(h.dir)
}

// check refuses a block that is not the server's, or not for this station.
func (b *Block) check(name string) error {
	unsigned := b.Nonces
	unsigned.Signature = nil
	if err := verifyStatement(b.Order.StatementKey, unsigned, b.Nonces.Signature); err != nil {
		return err
	}
	if b.Nonces.Station != name || b.Nonces.Order != b.Order.Number || len(b.Nonces.Nonces) == 0 {
		return fault.New(fault.BundleInvalid, "the nonces are not for this station and order")
	}
	return nil
}

// verifyStatement checks the server's signature over an object of the protocol.
func verifyStatement(spki []byte, v any, signature []byte) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fault.Wrap(fault.BundleInvalid, err)
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return fault.Wrap(fault.BundleSignature, err, "there is no statement key")
	}
	public, ok := key.(*ecdsa.PublicKey)
	digest := sha256.Sum256(text)
	if !ok || !ecdsa.VerifyASN1(public, digest[:], signature) {
		return fault.New(fault.BundleSignature)
	}
	return nil
}

// Files of a batch in the state folder, named by a digest of the order's number,
// which may hold any characters.
func blockFile(orderNumber string) string { return "batch-" + shortName(orderNumber) + ".block" }
func unitsFile(orderNumber string) string { return "batch-" + shortName(orderNumber) + ".units" }
func appliedFile(orderNumber string) string {
	return "batch-" + shortName(orderNumber) + ".applied"
}

func shortName(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:8])
}

// Batch collects units without a link and gives them their certificates later.
// Every unit that is collected is on the disk before the next one begins, and no
// nonce is used twice, whenever the power fails.
type Batch struct {
	h       *Home
	adapter fixture.Adapter
	queue   *queue.Queue
	now     func() time.Time
	block   Block
	journal *os.File
	units   []station.Unit
	used    int // nonces given out
}

// BatchConfig names what a batch needs.
type BatchConfig struct {
	Home    *Home
	Adapter fixture.Adapter
	Queue   *queue.Queue // for confirmations
	Now     func() time.Time
	Order   string
}

// OpenBatch opens the batch of an order for which a block was drawn, with the
// units that were collected already.
func OpenBatch(c BatchConfig) (*Batch, error) {
	b := &Batch{h: c.Home, adapter: c.Adapter, queue: c.Queue, now: c.Now}
	text, err := os.ReadFile(filepath.Join(c.Home.dir, blockFile(c.Order)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.BundleInvalid, "no nonces were drawn for order", c.Order)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &b.block); err != nil {
		return nil, fault.Wrap(fault.BundleInvalid, err, "the block of nonces is damaged")
	}
	if err := b.block.check(c.Home.settings.Station); err != nil {
		return nil, err
	}
	path := filepath.Join(c.Home.dir, unitsFile(c.Order))
	if b.journal, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if !durable.TryLock(b.journal) {
		b.Close()
		return nil, fault.New(fault.StationQueue, "another process is at work on this batch")
	}
	if err := b.readJournal(); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Close lets go of the journal.
func (b *Batch) Close() { _ = b.journal.Close() } // every line of it was synced

// entry is a line of the journal: a nonce that is given out, or a unit. Block
// says of which block, so that a new block begins anew.
type entry struct {
	Block string        `json:"block"`
	Nonce int           `json:"nonce,omitempty"` // its index plus one
	Unit  *station.Unit `json:"unit,omitempty"`
}

func (b *Batch) blockName() string { return hex.EncodeToString(b.block.Nonces.Nonces[0]) }

func (b *Batch) readJournal() error {
	text, err := os.ReadFile(b.journal.Name())
	if err != nil {
		return err
	}
	good := 0
	for line := range bytes.Lines(text) {
		var e entry
		if !bytes.HasSuffix(line, []byte("\n")) || json.Unmarshal(line, &e) != nil {
			break // the end that a power cut leaves
		}
		good += len(line)
		if e.Block != b.blockName() {
			continue
		}
		if e.Unit != nil {
			b.units = append(b.units, *e.Unit)
		}
		b.used = max(b.used, e.Nonce)
	}
	if rest := text[good:]; bytes.Count(rest, []byte("\n")) > 1 {
		return fault.New(fault.BundleInvalid, "the journal of the batch is damaged at octet", good)
	}
	if err := b.journal.Truncate(int64(good)); err != nil {
		return err
	}
	_, err = b.journal.Seek(int64(good), 0)
	return err
}

func (b *Batch) note(e *entry) error {
	e.Block = b.blockName()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err = b.journal.Write(append(line, '\n')); err == nil {
		err = b.journal.Sync()
	}
	if err != nil {
		return fault.Wrap(fault.StationQueue, err, "the disk does not take the unit")
	}
	return nil
}

// Len returns how many units were collected, and for how many more there are
// nonces.
func (b *Batch) Len() (collected, left int) {
	return len(b.units), len(b.block.Nonces.Nonces) - b.used
}

// Collect takes the request and proof of one unit. PASS means that it is on the
// disk; the unit has no certificate yet.
func (b *Batch) Collect(ctx context.Context, job Job) Outcome {
	begin := b.now()
	o := Outcome{Nest: job.Nest, Order: b.block.Order.Number, DeviceSerial: job.DeviceSerial, Reference: job.Reference, Attempts: 1}
	u, err := b.collect(ctx, job)
	if u != nil {
		o.DeviceSerial = u.DeviceSerial
	}
	o.CycleMillis = b.now().Sub(begin).Milliseconds()
	if err != nil {
		o.fail(err)
		return o
	}
	o.Result, o.Message = Pass, "collected; it gets its certificate when the reply is applied"
	return o
}

func (b *Batch) collect(ctx context.Context, job Job) (_ *station.Unit, err error) {
	if b.block.Nonces.ExpiresAt.Before(b.now()) {
		return nil, fault.New(fault.NonceExpired, "the block of nonces ended at", b.block.Nonces.ExpiresAt.Format(time.RFC3339))
	}
	job.Order = b.block.Order.Number
	// The link of this line knows one nonce and keeps the request.
	keep := &keeper{batch: b}
	l, err := New(Config{Link: keep, Queue: b.queue, Adapter: b.adapter, Now: b.now})
	if err != nil {
		return nil, err
	}
	w := &work{l: l, job: job, order: &b.block.Order, attempts: 1}
	unit, err := b.adapter.Open(ctx, fixture.Job{Nest: job.Nest, Order: job.Order, DeviceSerial: job.DeviceSerial, KeyModel: w.order.KeyModel})
	if err != nil {
		return nil, atDevice(err)
	}
	defer func() {
		if cause := unit.Close(err == nil); cause != nil && err == nil {
			err = atDevice(cause)
		}
	}()
	if err := w.issue(ctx, unit); !errors.Is(err, errKept) {
		return nil, err
	}
	for _, one := range b.units {
		if one.DeviceSerial == keep.unit.DeviceSerial {
			return nil, fault.New(fault.UnitSerialTaken, "it is in the batch already")
		}
	}
	if err := b.note(&entry{Unit: keep.unit}); err != nil {
		return nil, err
	}
	b.units = append(b.units, *keep.unit)
	return keep.unit, nil
}

// errKept ends a unit's work where the server would have its turn.
var errKept = errors.New("kept for the batch")

// keeper is the link of a batch: the nonce comes from the block, the request is
// kept.
type keeper struct {
	Link

	batch *Batch
	unit  *station.Unit
}

// Nonces implements Link. The nonce is used before it is given out.
func (k *keeper) Nonces(context.Context, *station.NoncesRequest) (*station.Nonces, error) {
	b := k.batch
	if b.used >= len(b.block.Nonces.Nonces) {
		return nil, fault.New(fault.BundleInvalid, "all", b.used, "nonces of the block are used")
	}
	if err := b.note(&entry{Nonce: b.used + 1}); err != nil {
		return nil, err
	}
	b.used++
	return &station.Nonces{Nonces: b.block.Nonces.Nonces[b.used-1 : b.used], ExpiresAt: b.block.Nonces.ExpiresAt}, nil
}

// Challenge implements Link: a challenge is the server's, and lasts for minutes.
func (k *keeper) Challenge(context.Context, *station.ChallengeRequest) (station.Result, error) {
	return station.Result{}, fault.New(fault.BundleInvalid, "a TPM answers the server itself: units with a TPM need a link")
}

// Unit implements Link.
func (k *keeper) Unit(_ context.Context, u *station.Unit) (station.Result, error) {
	k.unit = u
	return station.Result{}, errKept
}

// Bundle returns what was collected, signed by the station.
func (b *Batch) Bundle() ([]byte, error) {
	if len(b.units) == 0 {
		return nil, fault.New(fault.BundleInvalid, "nothing was collected")
	}
	own := b.h.Credential()
	bundle := station.Bundle{
		Station: b.h.settings.Station, Order: b.block.Order.Number, Certificate: own.Certificate[0], Units: b.units,
	}
	text, err := json.Marshal(&bundle)
	if err != nil {
		return nil, err
	}
	signer, ok := own.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.StationCertificate, "the station's key cannot sign")
	}
	digest := sha256.Sum256(text)
	if bundle.Signature, err = signer.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		return nil, err
	}
	return json.Marshal(&bundle)
}

// maxReply is the largest reply to a batch.
const maxReply = 1 << 30

// Apply writes the certificates of a reply into the devices, which come to the
// nest again, and puts their confirmations into the queue. bundle is the file
// that the reply answers. A unit that was done is passed over, so that applying
// may be interrupted and repeated. Each outcome is told.
func (b *Batch) Apply(ctx context.Context, bundle, reply []byte, only string, tell func(Outcome)) error {
	var r station.Reply
	if len(reply) > maxReply || json.Unmarshal(reply, &r) != nil {
		return fault.New(fault.BundleInvalid, "the reply is not one of a batch")
	}
	unsigned := r
	unsigned.Signature = nil
	if err := verifyStatement(b.block.Order.StatementKey, unsigned, r.Signature); err != nil {
		return err
	}
	digest := sha256.Sum256(bundle)
	if r.Station != b.h.settings.Station || r.Order != b.block.Order.Number || !bytes.Equal(r.Bundle, digest[:]) {
		return fault.New(fault.BundleInvalid, "the reply is to another bundle")
	}
	var sent station.Bundle
	if err := json.Unmarshal(bundle, &sent); err != nil {
		return fault.Wrap(fault.BundleInvalid, err)
	}
	requests := map[string]*station.Unit{}
	for i := range sent.Units {
		requests[sent.Units[i].ID] = &sent.Units[i]
	}
	done, err := b.readApplied()
	if err != nil {
		return err
	}
	defer done.Close()
	for i := range r.Results {
		result := &r.Results[i]
		if done.units[result.ID] || only != "" && result.ID != only {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		o := b.apply(ctx, requests[result.ID], result)
		if o.Passed() {
			if err := done.add(result.ID); err != nil {
				return err
			}
		}
		tell(o)
	}
	return nil
}

func (b *Batch) apply(ctx context.Context, request *station.Unit, result *station.Result) Outcome {
	begin := b.now()
	o := Outcome{Order: b.block.Order.Number, DeviceSerial: refusal.Printable(result.ID), Attempts: 1, Replayed: result.Replayed}
	err := b.install(ctx, request, result)
	o.CycleMillis = b.now().Sub(begin).Milliseconds()
	if err != nil {
		o.fail(err)
		return o
	}
	o.Result, o.Certificate = Queued, result.Certificate
	o.Message = "the identity is in the device; its confirmation waits in the queue"
	return o
}

func (b *Batch) install(ctx context.Context, request *station.Unit, result *station.Result) (err error) {
	if err := refusalOf(result); err != nil {
		return err
	}
	if request == nil {
		return fault.New(fault.BundleInvalid, "the reply names a unit that was not collected")
	}
	w := &work{order: &b.block.Order, deviceSerial: request.DeviceSerial, form: request.Form, password: request.Password, result: *result}
	if w.spki, err = b.keyOf(request); err != nil {
		return err
	}
	if err := w.check(result); err != nil {
		return err
	}
	unit, err := b.adapter.Open(ctx, fixture.Job{Order: w.order.Number, DeviceSerial: request.DeviceSerial, KeyModel: w.order.KeyModel})
	if err != nil {
		return atDevice(err)
	}
	defer func() {
		if cause := unit.Close(err == nil); cause != nil && err == nil {
			err = atDevice(cause)
		}
	}()
	c, err := w.place(ctx, unit)
	if err != nil {
		return err
	}
	digest := proof.Confirm(w.result.ConfirmNonce, w.deviceSerial, c.Certificate)
	if err := proof.Verify(w.spki, digest, c.Signature, fault.ReadBackWrong); err != nil {
		return err
	}
	c.ID, c.Order, c.DeviceSerial = request.DeviceSerial, w.order.Number, request.DeviceSerial
	return b.queue.Append(queue.Item{Confirm: c})
}

// keyOf returns the key that must be in the certificate, nil where the server
// makes it. A pre-provisioned key is known to the server alone by now; the
// confirmation shows that the device has it.
func (b *Batch) keyOf(request *station.Unit) ([]byte, error) {
	if len(request.CSR) == 0 {
		return nil, nil
	}
	return requestKey(request.CSR)
}

// applied is which units of the batch have their certificate.
type applied struct {
	file  *os.File
	units map[string]bool
}

func (b *Batch) readApplied() (*applied, error) {
	path := filepath.Join(b.h.dir, appliedFile(b.block.Order.Number))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	a := &applied{file: f, units: map[string]bool{}}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		a.units[lines.Text()] = true
	}
	return a, lines.Err()
}

// add needs no sync: a unit that is forgotten is applied again.
func (a *applied) add(deviceSerial string) error {
	_, err := a.file.WriteString(deviceSerial + "\n")
	return err
}

// Close lets go of the file.
func (a *applied) Close() { _ = a.file.Close() }
