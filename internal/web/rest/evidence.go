package rest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// EvidenceKind is a kind of evidence and what it proves.
type EvidenceKind struct {
	Kind     string   `json:"kind"`
	Proves   []string `json:"proves" doc:"What evidence of this kind always proves"`
	May      []string `json:"may_prove" doc:"What it may prove besides"`
	Words    string   `json:"words"`
	Suffices []string `json:"suffices" doc:"Levels that evidence of this kind may reach"`
}

// EvidenceLevel is a level that a product or profile may demand.
type EvidenceLevel struct {
	Level   string   `json:"level"`
	Demands []string `json:"demands"`
	Words   []string `json:"words"`
}

// EvidenceTable is the one table of kinds of evidence, with the levels made of it.
type EvidenceTable struct {
	Kinds  []EvidenceKind  `json:"kinds"`
	Levels []EvidenceLevel `json:"levels" doc:"Weakest first"`
}

// Proof is what was proven of the hardware for one certificate.
type Proof struct {
	Slot        string    `json:"slot" doc:"idevid, or ldevid/ and a purpose"`
	Certificate string    `json:"certificate" doc:"Certificate serial, hexadecimal"`
	Kind        string    `json:"kind" enum:"none,listed,chip,tpm"`
	Claims      []string  `json:"claims" doc:"What was proven"`
	Chip        string    `json:"chip,omitempty" doc:"By which chip"`
	At          time.Time `json:"at"`
	Words       []string  `json:"words" doc:"All that in sentences"`
}

// Evidence is what was proven with what was shown.
type Evidence struct {
	Proof
	Device  string          `json:"device,omitempty" doc:"Device id"`
	Digest  string          `json:"sha256,omitempty" doc:"Of the content, as the ledger has it, hex"`
	Content json.RawMessage `json:"content,omitempty" doc:"What was shown, as it was kept; absent where nothing is kept"`
}

func (a *API) evidence() {
	add(a, op{method: http.MethodGet, path: "/evidence/kinds", action: access.AttestRead, summary: "Show what each kind of evidence proves, and the levels that may be demanded"}, a.evidenceTable)
	add(a, op{method: http.MethodGet, path: "/certificates/{serial}/evidence", action: access.AttestRead, summary: "Show what the hardware showed for a certificate"}, a.certificateEvidence)
	add(a, op{method: http.MethodGet, path: "/devices/{device}/evidence", action: access.AttestRead, summary: "Show what the hardware showed for the current certificates of a device"}, a.deviceEvidence)
}

// NewEvidenceTable returns the table that this program was built with.
func NewEvidenceTable() EvidenceTable {
	var t EvidenceTable
	for _, r := range attest.Table() {
		k := EvidenceKind{Kind: string(r.Kind), Proves: some(r.Always.Names()), May: some(r.Possible.Names()), Words: r.Words, Suffices: []string{}}
		for _, l := range attest.Levels() {
			if attest.Missing(l.Claims, r.Always|r.Possible) == 0 {
				k.Suffices = append(k.Suffices, l.Name)
			}
		}
		t.Kinds = append(t.Kinds, k)
	}
	for _, l := range attest.Levels() {
		t.Levels = append(t.Levels, EvidenceLevel{Level: l.Name, Demands: some(l.Claims.Names()), Words: some(l.Claims.Words())})
	}
	return t
}

// some writes no list as an empty one.
func some(list []string) []string { return append([]string{}, list...) }

func (a *API) evidenceTable(context.Context, *access.Caller, *nothing) (*one[EvidenceTable], error) {
	return &one[EvidenceTable]{NewEvidenceTable()}, nil
}

func (a *API) certificateEvidence(ctx context.Context, c *access.Caller, in *SerialPath) (*one[Evidence], error) {
	raw, err := in.parse()
	if err != nil {
		return nil, err
	}
	row, err := a.cfg.Devices.CredentialBySerial(ctx, c.Scope, raw)
	if err != nil {
		return nil, err
	}
	out, err := a.evidenceFor(ctx, c, &row)
	return &one[Evidence]{out}, err
}

func (a *API) deviceEvidence(ctx context.Context, c *access.Caller, in *DevicePath) (*list[Evidence], error) {
	d, err := a.cfg.Register.Find(ctx, c, in.Device)
	if err != nil {
		return nil, err
	}
	items, err := a.currentEvidence(ctx, c, &d)
	if err != nil {
		return nil, err
	}
	return newList(items, ""), nil
}

// currentEvidence is what was shown for each current credential, in order of
// slots.
func (a *API) currentEvidence(ctx context.Context, c *access.Caller, d *device.Device) ([]Evidence, error) {
	var all []Evidence
	for slot, id := range d.Current {
		row, err := a.cfg.Devices.Credential(ctx, c.Scope, id)
		if err != nil {
			return nil, err
		}
		shown, err := a.evidenceFor(ctx, c, &row)
		if err != nil {
			return nil, err
		}
		shown.Slot = string(slot)
		all = append(all, shown)
	}
	slices.SortFunc(all, func(x, y Evidence) int { return strings.Compare(x.Slot, y.Slot) })
	return all, nil
}

// evidenceFor looks for what was kept, then for the unit that the credential is
// of: a chip's proof is on record there.
func (a *API) evidenceFor(ctx context.Context, c *access.Caller, row *device.Credential) (Evidence, error) {
	out := Evidence{Proof: Proof{
		Slot: string(row.Slot()), Certificate: hexSerial(row.CertSerial), At: row.IssuedAt,
	}}
	if row.Device != 0 {
		out.Device = row.Device.String()
	}
	kept, err := a.cfg.Attest.Evidence(ctx, *c, row.ID)
	if err == nil {
		return out, out.kept(&kept)
	}
	if !fault.Has(err, fault.CredentialUnknown) {
		return out, err
	}
	u, err := a.cfg.Factory.UnitByID(ctx, *c, row.ID)
	if err != nil && !notFound(err) {
		return out, err
	}
	return out, a.fromUnit(ctx, &out, &u)
}

// kept fills in what was kept.
func (e *Evidence) kept(k *attest.Evidence) error {
	e.Kind, e.Claims, e.At = string(k.Kind), some(k.Claims.Names()), k.At
	e.Digest, e.Content = hex.EncodeToString(k.Digest[:]), k.Content
	if k.Kind != attest.TPM {
		e.Words = wordsOf(k.Kind)
		return nil
	}
	shown, err := tpm.ParseKept(k.Content)
	if err != nil {
		return err
	}
	e.Words, e.Chip = shown.Words(), strings.TrimSpace(shown.TPM.Vendor+" "+shown.TPM.Model)
	return nil
}

func wordsOf(k attest.Kind) []string {
	if r, ok := attest.RowOf(k); ok {
		return []string{r.Words}
	}
	return []string{}
}

// fromUnit fills in what a production order's record says; a credential without a
// unit proved nothing.
func (a *API) fromUnit(ctx context.Context, e *Evidence, u *factory.Unit) error {
	row, ok := attest.RowOf(attest.Kind(u.Evidence))
	if !ok { // no unit, or one that showed nothing
		row, _ = attest.RowOf(attest.None)
	}
	e.Kind, e.Claims, e.Words = string(row.Kind), some(row.Always.Names()), []string{row.Words}
	if u.Chip == 0 {
		return nil
	}
	chip, err := a.cfg.Factory.ChipByID(ctx, u.Chip)
	if err != nil {
		return err
	}
	e.Chip = chip.UID
	e.Words = append(e.Words, fmt.Sprintf("the chip is %s (%s of %s): entry %d of manifest %d", chip.UID, chip.ChipType, chip.Vendor, chip.Entry, chip.Manifest))
	return nil
}
